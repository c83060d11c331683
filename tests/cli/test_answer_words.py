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


def said(*arguments: object, workload: object = "alpaca") -> list[str]:
    done = joulebench(*arguments, "-w", workload)
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
        r"requests of at most \d\d output tokens to m1-pro: no significant saving \(0\.\d+ % ± [01]\.\d+ % less energy "
        r"than swing-a100 alone, mean runtime 1\.6\d× \(1\.4\d–1\.[78]\d×\)\)$",
        lines[0],
    )
    assert re.match(
        r"Best threshold: \d\d \(95 % interval \d+–\d+\)\. Any threshold from 0 to \d+ is about as good\.$", lines[1]
    )
    assert re.match(
        r"The saving would vanish if m1-pro's meter read 1\d\.\d % too low against swing-a100's: "
        r"their gains are known to ± 26\.1 %\.$",
        lines[2],
    )


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


@pytest.mark.parametrize("command", COMMANDS)
def test_requests_far_outside_what_was_measured_are_summed(command: str, tmp_path: Path) -> None:
    """Few of them are said; where they need much of the energy, nothing is significant, and it is said why."""
    trace = tmp_path / "trace.csv"
    rows = ["40,30"] * 900 + ["200,16"] * 100
    for long, doubtful in ((1, False), (100, True)):
        trace.write_text("\n".join(["input_tokens,output_tokens", *rows, *["9000,8"] * long]) + "\n")
        lines = said(*COMMANDS[command](SMALL, LARGE), workload=trace)
        (warning,) = [line for line in lines if "octaves outside" in line]
        assert warning.startswith(
            "warning: more than 2 octaves outside what was measured, where no interval is known: "
        )
        assert ("above 5 % of the energy nothing is called significant" in warning) is doubtful
        facts = json.loads("\n".join(said(*COMMANDS[command](SMALL, LARGE), "--json", workload=trace)))
        assert facts["too_far"]["requests"] == pytest.approx(long / (1000 + long))
        assert (facts["too_far"]["energy"] > facts["too_far"]["most_energy"]) is doubtful
        if doubtful:
            found = facts.get("best", facts)
            assert not found["saving"]["significant"]
            assert not found["cost_saving"]["significant"]


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
    assert re.search(r"\(≈ 0\.\d+ % less energy than swing-a100 alone, mean runtime \d", lines[0])
    assert not any("meter" in line for line in lines[:4])
    (alone,) = [line for line in lines if line.startswith(" swing-a100") and "%" in line]
    # The runtime was measured.
    assert re.match(r" swing-a100 +≈ 20 +\+0\.0 % +7\d\.\d ± \d\.\d", alone)
