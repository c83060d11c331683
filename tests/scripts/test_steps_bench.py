"""The bench of step costs from request logs, and times to first and between tokens in the bench of tables."""

import json
import subprocess
import sys

import numpy as np
import pytest

from harness.modelling.served.form import ServedForm
from harness.modelling.served.station import PromptStation
from tests.helpers import ROOT

LOAD = ROOT.parent / "shared" / "data" / "load"
VLLM = LOAD / "vllm-requests-rtxpro6000-llama-3.1-8b.csv"


def bench(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "bench" / script, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.mark.skipif(not VLLM.exists(), reason="the published run is not here")
def test_the_second_half_of_a_real_run() -> None:
    done = bench("steps.py", VLLM, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["requests"], row["fitted"], row["slots"]) == (300, 150, 128)
    assert row["e2e_error"] <= 0.04
    assert row["tpot_error"] <= 0.06
    assert row["ttft_error"] <= 0.05


def test_a_file_that_is_no_log_is_one_line(tmp_path) -> None:
    (tmp_path / "few.csv").write_text("input_tokens,output_tokens\n8,8\n")
    done = bench("steps.py", tmp_path / "few.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_tables_with_times_to_and_between_tokens_have_rows(tmp_path) -> None:
    m, n, c = (v.ravel() for v in np.meshgrid([128.0, 512.0, 2048.0], [32.0, 128.0], [1.0, 2.0, 4.0]))
    theta = np.array([0.02, 1e-4, 3e-9, 0.015, 5e-5, 1e-7, 2048.0, 0.5, 0.3, 0.1])
    ttft, tpot = PromptStation(ServedForm(prefill_joined=True)).times(theta, m, n, c)
    lines = [
        "system,model,m,n,c,ttft_s,tpot_s",
        *("a,b,{:g},{:g},{:g},{:.6g},{:.6g}".format(*row) for row in zip(m, n, c, ttft, tpot, strict=True)),
    ]
    (tmp_path / "loop.csv").write_text("\n".join(lines) + "\n")
    done = bench("load.py", tmp_path / "loop.csv", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {(row["quantity"], row["kind"]) for row in rows} == {
        (quantity, kind) for quantity in ("ttft", "tpot") for kind in ("sizes", "inner", "outermost")
    }
    for row in rows:
        assert row["error"] <= (0.05 if row["quantity"] == "ttft" else 0.02), row
