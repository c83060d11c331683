"""What ``threshold`` and ``route`` say first, what last, and how they write numbers."""

import json
import re
from pathlib import Path

import pytest

from harness.modelling.profile import Profile
from tests.helpers import joulebench
from tests.profile_variants import variant

SMALL, LARGE, OTHER = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b", "swing-a100-falcon-7b"
COMMANDS = {
    "threshold": lambda *pair: ("threshold", "--small", pair[0], "--large", pair[1]),
    "route": lambda *pair: ("route", "--profile", pair[0], "--profile", pair[1]),
}


def said(*arguments: object) -> list[str]:
    done = joulebench(*arguments, "-w", "alpaca")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_comparable_says_first_what_differs(command: str, tmp_path: Path) -> None:
    """The mark stood after the table and named nothing."""
    cached = variant("cached").model_dump(mode="json")
    cached["identity"]["model"] = "falcon-7b"
    for part in (cached["energy"], *cached["components"].values()):
        part["method"] = "estimated"
    Profile.parse(json.dumps(cached)).save(tmp_path / "cached.json")
    arguments = COMMANDS[command](SMALL, tmp_path / "cached.json")
    lines = said(*arguments, "--allow-mixed")
    assert lines[0] == "NOT COMPARABLE (--allow-mixed): different models, cache modes and energy methods"
    assert [line for line in lines if "NOT COMPARABLE" in line] == lines[:1]
    facts = json.loads("\n".join(said(*arguments, "--allow-mixed", "--json")))
    assert facts["mixed"] is True


@pytest.mark.parametrize("command", COMMANDS)
def test_warnings_come_once_and_after_the_answer(command: str) -> None:
    lines = said(*COMMANDS[command](SMALL, LARGE))
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(set(warnings)) == len(warnings) == 4
    assert lines.index(warnings[0]) > max(i for i, line in enumerate(lines) if line.startswith(" oracle"))
    # What wasn't asked for is unknown, not wrong: the last line, and no warning.
    assert lines[-1] == (
        f"idle power of {SMALL} and {LARGE} was not measured, so energy with the machines left on is unknown"
    )
    assert (
        "warning: this workload has separate input and output histograms, so joulebench assumes that the lengths are "
        "independent" in warnings
    )
    assert (
        f"warning: outside the measured range, so extrapolated: 15.0 % of the requests on {SMALL}, 12.9 % on {LARGE}"
        in warnings
    )


def test_the_best_threshold_is_said_with_its_interval_and_those_as_good() -> None:
    lines = said(*COMMANDS["threshold"](SMALL, LARGE), "--key", "output")
    assert re.match(
        r"requests of at most 72 output tokens to m1-pro: 0\.67 % ± 0\.29 % less energy than swing-a100 alone, "
        r"mean runtime 1\.65× \(1\.55–1\.79×\)$",
        lines[0],
    )
    assert lines[1] == "Best threshold: 72 (95 % interval 51–102). Any threshold from 39 to 127 is about as good."


@pytest.mark.parametrize(
    "options",
    [
        ("--capacity", "m1-pro=3600", "--weight-sweep"),
        ("--share", "m1-pro=0.00001", "--weight", "0"),
        ("--output-unknown",),
        ("--scale", "price", "--price-per-kwh", "0.3"),
    ],
)
def test_numbers_have_no_exponent_and_percentages_a_space(options: tuple[str, ...]) -> None:
    text = "\n".join(said(*COMMANDS["route"](SMALL, LARGE), *options))
    assert not re.search(r"\d[eE][-+]?\d", text)
    assert "%" in text
    assert not re.search(r"\d%", text)
    for value, half in re.findall(r"([\d,.]+) ± ([\d,.]+)", text):
        if half != "0":
            assert len(value.partition(".")[2]) == len(half.partition(".")[2]), f"{value} ± {half}"


def test_one_system_for_all_is_called_so() -> None:
    lines = said(*COMMANDS["route"](SMALL, LARGE), "--output-unknown")
    assert lines[0] == "all requests to swing-a100: no mix of systems costs less"


@pytest.mark.parametrize("command", COMMANDS)
def test_estimated_energy_has_no_interval_of_a_measurement(command: str, tmp_path: Path) -> None:
    paths = []
    for name in (SMALL, LARGE):
        facts = json.loads(Profile.load(name).dump())
        for part in (facts["energy"], *facts["components"].values()):
            part["method"] = "estimated"
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(facts))
    option = ("--key", "output") if command == "threshold" else ()
    lines = said(*COMMANDS[command](*paths), *option)
    assert re.search(r": ≈ 0\.\d+ % less energy than swing-a100 alone, mean runtime \d", lines[0])
    (alone,) = [line for line in lines if line.startswith(" swing-a100") and "%" in line]
    # The runtime was measured.
    assert re.match(r" swing-a100 +≈ 20 +\+0\.0 % +76\.4 ± 6\.5", alone)
