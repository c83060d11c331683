"""The client's table: its structure, and floors that a machine which others use too must reach."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import rival_clients

from tests.helpers import ROOT, environment

ROW = {"concurrency", "tokens", "requests_per_s", "ttft_error_ms_p50", "ttft_error_ms_p99"}


def script(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "client.py"), *options]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=250)


def test_the_clients_table() -> None:
    done = script("--short", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["concurrency"], row["tokens"]) for row in found["rows"]] == [
        (c, tokens) for tokens in (1, 64) for c in (1, 32, 256)
    ]
    for row in found["rows"]:
        assert set(row) == ROW
        # The client can't see a token before the server wrote it.
        assert 0 < row["ttft_error_ms_p50"] <= row["ttft_error_ms_p99"]
    many = [row for row in found["rows"] if row["concurrency"] > 1 and row["tokens"] == 1]
    assert min(row["requests_per_s"] for row in many) > 300
    assert max(row["ttft_error_ms_p50"] for row in many) < 30
    assert found["known_delays"]["tpot_error_ms_p50"] < 1
    assert 300 < found["open_loop_1000_per_s"]["requests_per_s"] < 1200
    assert found["rivals"] == []


def test_bad_options_are_one_line() -> None:
    done = script("--rounds", "0")
    assert done.returncode == 2
    assert done.stderr == "client.py: error: --rounds must be at least 1\n"


def test_a_program_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed program of another version may refuse its options; the table goes on without it."""
    broken = tmp_path / "aiperf"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rival_clients, "_server_ttft", lambda url: (0.0, 0.0))
    (row,) = rival_clients.rows("http://127.0.0.1:1", [32], [1])
    assert (row["client"], row["concurrency"], row["tokens"]) == ("AIPerf", 32, 1)
    assert "returned non-zero exit status 3" in row["unavailable"]
