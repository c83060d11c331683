"""The trade-off of ``route`` keeps the limits of its answer, in the table, the JSON and the picture."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import joulebench, refused

BOTH = ("--profile", "m1-pro-llama-2-7b", "--profile", "swing-a100-llama-2-7b")
LIMITS = {
    "none": (),
    "slo": ("--slo", 20),
    "share": ("--share", "m1-pro=0.3"),
    "capacity": ("--capacity", "m1-pro=100"),
    "both": ("--slo", 60, "--share", "m1-pro=0.05"),
    "unknown outputs": ("--output-unknown",),
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    m, n = rng.integers(1, 300, 600), rng.integers(1, 120, 600)
    path = tmp_path_factory.mktemp("trade_off") / "trace.csv"
    path.write_text("\n".join(["input_tokens,output_tokens", *(f"{i},{o}" for i, o in zip(m, n, strict=True))]) + "\n")
    return path


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_the_trade_off_at_the_answers_weight_is_the_answer(limit: str, weight: float, trace: Path, tmp_path) -> None:
    options = (*LIMITS[limit], "--weight", weight, "--weight-sweep", "-o", tmp_path / "trade_off", "--json")
    done = joulebench("route", *BOTH, "-w", trace, *options)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    (row,) = [row for row in facts["weight_sweep"] if abs(row["weight"] - weight) < 1e-9]
    assert row["energy_j"] == pytest.approx(facts["plan"]["energy_j"], rel=1e-9)
    assert row["runtime_s"] == pytest.approx(facts["plan"]["runtime_s"], rel=1e-9)
    total = sum(route["requests"] for route in facts["routes"])
    for route in facts["routes"]:
        assert row["shares"][route["system"]] == pytest.approx(route["requests"] / total, abs=1e-9)
    with (tmp_path / "trade_off.csv").open() as file:
        (drawn,) = [line for line in csv.DictReader(file) if abs(float(line["weight"]) - weight) < 1e-9]
    assert float(drawn["energy_kwh"]) * 3.6e6 == pytest.approx(row["energy_j"])


def test_under_limits_the_table_has_its_eleven_weights(trace: Path) -> None:
    done = joulebench("route", *BOTH, "-w", trace, *LIMITS["capacity"], "--weight-sweep")
    table = done.stdout[done.stdout.index("λ") :].splitlines()
    assert [line.split()[0] for line in table[2:13]] == [f"{step / 10:.1f}" for step in range(11)]


def test_a_trade_off_without_any_plan_is_refused(trace: Path) -> None:
    options = ("--capacity", "m1-pro=1", "--capacity", "swing-a100=1", "--weight-sweep")
    assert "no assignment" in refused(joulebench("route", *BOTH, "-w", trace, *options))
