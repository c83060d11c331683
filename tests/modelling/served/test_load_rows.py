"""scripts/bench/load.py on others' tables, on generic ones, and on what is no table. Skips without the data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.modelling.served.form import ServedForm
from tests.helpers import ROOT, environment

DATA = ROOT.parent / "shared" / "data" / "load"
TABLES = [DATA / f"{name}.csv" for name in ("llama-batched-bench-dgx-spark", "splitwise-static-batch")]
needs_tables = pytest.mark.skipif(not all(table.exists() for table in TABLES), reason="the tables are not here")


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "bench" / "load.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment())


@needs_tables
def test_tables_of_others_are_predicted_as_well_as_is_claimed() -> None:
    done = bench(*TABLES, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    limits = {
        ("runtime", "sizes"): 0.04,
        ("runtime", "inner"): 0.06,
        ("runtime", "outermost"): 0.12,
        ("energy", "inner"): 0.06,
        ("energy", "outermost"): 0.12,
    }
    judged = [row for row in rows if row["quantity"] in ("runtime", "energy")]
    assert {(row["quantity"], row["kind"]) for row in judged} >= limits.keys()
    for row in judged:
        assert row["error"] <= limits.get((row["quantity"], row["kind"]), 0.05), row
    assert np.mean([row["error"] / row["rival_error"] for row in judged]) <= 1.1
    assert "76 rows of power-capped systems are left out" in done.stderr


def test_a_generic_table_has_a_row_for_what_it_tells(tmp_path: Path) -> None:
    """Two systems of one size at eight numbers in flight: energy of a request, no latencies; a third is too small."""
    form, theta = ServedForm(True), np.array([0.02, 2e-4, 1e-8, 0.02, 4e-4, 3e-7])
    lines = ["system,model,tp,m,n,c,runtime_s,energy_j"]
    for tp, speed in ((1, 1.0), (2, 0.6)):
        for c in 2.0 ** np.arange(8):
            cycle = speed * float(form.design(np.array(500.0), np.array(300.0), np.array(c)) @ theta)
            lines.append(f"gpu,llama,{tp},500,300,{c:g},{cycle},{300 * cycle / c}")
    lines += ["gpu,tiny,1,500,300,1,1.0,", "gpu,tiny,1,500,300,2,,"]
    table = tmp_path / "curves.csv"
    table.write_text("\n".join(lines))
    done = bench(table, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["quantity"], row["kind"], row["points"]) for row in rows] == [
        ("runtime", "inner", 12),
        ("runtime", "outermost", 2),
        ("energy", "inner", 12),
        ("energy", "outermost", 2),
    ]
    assert all(row["error"] < 0.01 and row["best_rival"] and row["file"] == str(table) for row in rows)
    assert "runtime: 1 of 3 groups don't tell enough" in done.stderr


def test_what_is_no_table_of_measurements_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    done = bench(other, "--json")
    assert done.returncode == 2
    assert "it needs the columns m, n, c and one of runtime_s" in done.stderr
    assert bench(tmp_path / "absent.csv").returncode == 2


def test_costs_that_are_not_finite_are_not_known(tmp_path: Path) -> None:
    lines = ["m,n,c,runtime_s", *(f"{m},{n},{c},inf" for m in (32, 256) for n in (16, 64) for c in (1, 2, 4))]
    table = tmp_path / "endless.csv"
    table.write_text("\n".join(lines))
    done = bench(table, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"rows": []}
    assert "runtime: 1 of 1 groups don't tell enough" in done.stderr
