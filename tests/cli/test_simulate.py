"""``joulebench simulate``: a rate or a trace through profiles, alone or under a rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.deciding.followed_rule import followed, read_rule
from harness.modelling.profile import Profile
from harness.serving.simulation import Requests, simulate
from tests.helpers import ROOT, joulebench, refused

LOADED = ROOT / "tests" / "data" / "profile-schema-3.json"
SMALL, LARGE = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
FEW = ("--rate", "2/s", "--requests", "3000")


def simulated(*arguments: object) -> dict[str, Any]:
    done = joulebench("simulate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """A workload within the sizes that the profile was measured at."""
    path = tmp_path / "sizes.csv"
    path.write_text("input_tokens,output_tokens\n" + "64,32\n128,100\n512,16\n" * 10)
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [(f"2024-05-10 {hour:02}:{minute:02}:00", 64 + minute, 40) for hour in range(3) for minute in range(60)]
    path.write_text("timestamp,input_tokens,output_tokens\n" + "".join(f"{t},{m},{n}\n" for t, m, n in rows))
    return path


def test_a_trace_is_sent_at_its_own_times(trace: Path) -> None:
    found = simulated(LOADED, "-w", trace)
    (system,) = found["systems"]
    engine = Profile.load(LOADED).engine()
    m = np.array([64 + minute for _ in range(3) for minute in range(60)])
    by_hand = simulate(engine, Requests(60.0 * np.arange(180), m, np.full(180, 40)))
    assert found["duration_s"] == pytest.approx(by_hand.duration_s)
    assert found["workload"] == {"name": "trace.csv", "requests": 180, "rate_per_s": None, "seed": None}
    assert [hour["requests"] for hour in system["hours"]] == [60, 60, 60]
    figures = system["figures"]
    for name, times in by_hand.times().items():
        assert figures[f"{name}_mean_s"]["value"] == pytest.approx(times.mean())
        assert figures[f"{name}_mean_s"]["low"] <= times.mean() <= figures[f"{name}_mean_s"]["high"]
    assert by_hand.joules is not None
    assert engine.idle_power_w is not None
    energy_j = by_hand.joules + engine.idle_power_w * by_hand.idle_s()
    assert found["energy_j"]["value"] == figures["energy_j"]["value"] == pytest.approx(energy_j)
    assert found["energy_j"]["low"] < energy_j < found["energy_j"]["high"]
    off = simulated(LOADED, "-w", trace, "--off-when-idle")
    assert off["energy_j"]["value"] == pytest.approx(by_hand.joules)


def test_a_rate_draws_sizes_and_times(sizes: Path) -> None:
    found, again, other = (simulated(LOADED, "-w", sizes, *FEW, "--seed", seed) for seed in (1, 1, 2))
    assert found == again != other
    (system,) = found["systems"]
    assert system["requests"] == 3000
    assert found["duration_s"] == pytest.approx(1500, rel=0.1)
    assert system["output_tokens"] == pytest.approx(3000 * 148 / 3, rel=0.05)
    assert (system["slots"], system["saturated"]) == (16, False)
    timed = simulated(LOADED, "-w", sizes, "--rate", "120/min", "--duration", "500")
    assert timed["systems"][0]["requests"] == pytest.approx(1000, rel=0.12)
    values = system["figures"].values()
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in values)


def test_what_people_see_has_intervals_and_says_what_limits_it(sizes: Path) -> None:
    shown = joulebench("simulate", LOADED, "-w", sizes, *FEW)
    assert shown.returncode == 0, shown.stderr
    assert "sizes.csv at 2.000/s, seed 0: 3,000 requests in " in shown.stdout
    for heading in ("busy", "running", "per output token", "p99", "TTFT", "in brackets 95 % intervals"):
        assert heading in shown.stdout
    rows = [line for line in shown.stdout.splitlines() if line.strip().startswith(("wait", "TTFT", "TPOT", "E2E"))]
    assert [row.count("–") for row in rows] == [4, 4, 4, 4], "each figure has both ends"
    saturated = joulebench("simulate", LOADED, "-w", sizes, "--rate", "50/s", "--requests", "3000")
    assert ": saturated: " in saturated.stdout
    assert "it can serve about" in saturated.stdout


def test_limits_by_name_change_the_engine(sizes: Path) -> None:
    name = Profile.load(LOADED).name
    free = simulated(LOADED, "-w", sizes, "--rate", "8/s", "--requests", "2000")
    bound = simulated(
        *(LOADED, "-w", sizes, "--rate", "8/s", "--requests", "2000", "--slots", f"{name}=2"),
        *("--chunk-tokens", f"{name}=64", "--kv-tokens", f"{LOADED}=700"),
    )
    two = simulated(LOADED, "-w", sizes, "--rate", "8/s", "--requests", "2000", "--replicas", f"{name}=2")
    limits = [
        tuple(each["systems"][0][key] for key in ("slots", "chunk_tokens", "kv_tokens")) for each in (free, bound)
    ]
    assert limits[1] == (2, 64, 700) != limits[0]
    e2e_s = [each["systems"][0]["figures"]["e2e_mean_s"]["value"] for each in (bound, free, two)]
    assert e2e_s[0] > 1.2 * e2e_s[1] > 1.2 * e2e_s[2]
    assert two["systems"][0]["replicas"] == 2


def test_a_profile_of_one_request_in_flight_works_on_one_at_a_time() -> None:
    found = simulated(LARGE, "--rate", "1/min", "--requests", "1000", "--off-when-idle")
    (system,) = found["systems"]
    assert system["slots"] == 1
    assert any("works on one at a time" in warning for warning in found["warnings"])
    figures = system["figures"]
    assert figures["energy_request_j"]["value"] > 0
    assert figures["running_mean"]["value"] == pytest.approx(figures["busy_share"]["value"])


def test_without_idle_power_there_is_no_energy_and_a_reason() -> None:
    found = simulated(LARGE, "--rate", "1/min", "--requests", "100")
    assert found["energy_j"] is None
    assert not {"energy_j", "power_w"} & set(found["systems"][0]["figures"])
    assert any("its idle power was not measured" in warning for warning in found["warnings"])


@pytest.mark.parametrize("kind", ["threshold", "route"])
def test_a_rule_says_who_serves_what(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rule.json"
    options = ("--key", "total") if kind == "threshold" else ("--weight", "0.7")
    written = joulebench(kind, SMALL, LARGE, *options, "--export", path)
    assert written.returncode == 0, written.stderr
    found = simulated(LARGE, SMALL, "--rate", "1/min", "--requests", "2000", "--rule", path, "--off-when-idle")
    rule = read_rule(path)
    labels = {system.profile: label for label, system in rule.systems.items()}
    large, small = found["systems"]
    assert [small["system"], large["system"]] == [labels[SMALL], labels[LARGE]]
    assert small["requests"] + large["requests"] + found["unserved"] == 2000
    assert min(small["requests"], large["requests"]) > 0
    parts = [system["figures"]["energy_j"]["value"] for system in found["systems"]]
    assert found["energy_j"]["value"] == pytest.approx(sum(parts))


def test_a_rule_is_followed_row_by_row(tmp_path: Path) -> None:
    """Against the look-up that docs/integrating.md shows."""
    path, unknown = tmp_path / "rule.json", tmp_path / "unknown.json"
    joulebench("route", SMALL, LARGE, "--weight", "0.7", "--slo", "20", "--export", path)
    joulebench("route", SMALL, LARGE, "--output-unknown", "--weight", "0.7", "--export", unknown)
    rng = np.random.default_rng(0)
    m, n = rng.lognormal(4, 1.5, 500).astype(int) + 1, rng.lognormal(4, 1.5, 500).astype(int) + 1

    def last(rows: list[dict[str, Any]], field: str, tokens: int) -> dict[str, Any]:
        return [row for row in rows if row[field] <= tokens][-1]

    regions, by_input = (json.loads(each.read_text()) for each in (path, unknown))
    expected = [
        last(last(regions["regions"], "from_input_tokens", a)["routes"], "from_output_tokens", b)["system"]
        for a, b in zip(m, n, strict=True)
    ]
    assert followed(read_rule(path), m, n).tolist() == expected
    assert None in expected
    assert len(set(expected)) > 2
    chosen = [last(by_input["by_input"], "from_input_tokens", a)["system"] for a in m]
    assert followed(read_rule(unknown), m, n).tolist() == chosen


def test_what_cannot_be_simulated_is_refused_in_one_line(sizes: Path, trace: Path, tmp_path: Path) -> None:
    name = Profile.load(LOADED).name
    rule = tmp_path / "rule.json"
    joulebench("threshold", SMALL, LARGE, "--export", rule)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(json.loads(rule.read_text()) | {"threshold": -1}))
    for arguments, said in [
        ((), "name a system"),
        ((LOADED,), "alpaca is no file with arrival times; for random arrivals give --rate 2/s"),
        ((LOADED, "-w", sizes), "doesn't say when requests came"),
        ((LOADED, "-w", trace, "--requests", 5), "give --rate too"),
        ((LOADED, *FEW, "--duration", 5), "give one of them"),
        ((LOADED, "--rate", "2"), "write requests per second as 2/s"),
        ((LOADED, "--rate", "1/s,2/s"), "one rate"),
        ((LOADED, "--rate", "1/s", "--requests", 10**7), "at most"),
        ((SMALL, LARGE, *FEW), "need a rule"),
        ((SMALL, SMALL, *FEW), "are one profile"),
        ((SMALL, *FEW, "--rule", rule), f"sends requests to {LARGE} too"),
        ((LOADED, *FEW, "--rule", rule), "the rule is about"),
        ((LOADED, *FEW, "--rule", broken), "is not a rule"),
        ((LOADED, *FEW, "--rule", tmp_path / "none.json"), "can't be read"),
        ((LOADED, *FEW, "--replicas", "x=2"), "no such system"),
        ((LOADED, *FEW, "--replicas", f"{name}=1.5"), "whole number"),
        ((LOADED, *FEW, "--kv-tokens", f"{name}=20"), "never fits into memory"),
        ((SMALL, *FEW, "--slots", f"{SMALL}=4"), "measure with -c"),
    ]:
        line = refused(joulebench("simulate", *arguments))
        assert said in line, (arguments, line)
