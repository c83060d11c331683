"""What is recorded of a server beside what it counts: on the stub, and on llama-server where it is installed."""

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import served

from backends.base import NotInstalled
from backends.openai.servers.base import find_program
from harness.runs.load_figures import ServerFigures
from harness.runs.load_stamps import LoopStamps
from tests.helpers import ROOT, environment


def script(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "served.py"), *options]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=250)


def rows(*options: str) -> list[dict[str, Any]]:
    done = script("--json", "--seconds", "0.3", "--runs", "1", *options)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == (0 if all(row["ok"] for row in found["rows"]) else 1)
    assert found["unavailable"] == {}
    return found["rows"]


def every_loop_stalled(row: dict[str, Any]) -> bool:
    """Whether others had the processor all the time, so that nothing but the counts is compared."""
    return row["ttft_diff_ms"] is None and any("kept from the processor" in fault for fault in row["faults"])


def test_a_stub_with_known_delays() -> None:
    """Margins are wide: others may use the machine that tests run on."""
    (row,) = rows("--server", "stub", "-n", "16", "-c", "20")
    assert (row["server"], row["m"], row["n"], row["c"]) == ("stub", 8, 16, 20)
    assert row["exact"]
    assert row["requests"] > 60
    if every_loop_stalled(row):
        return
    assert row["decode_ratio"] == pytest.approx(1.0, abs=0.1)
    p50_ms, p99_ms = row["ttft_error_ms"]
    assert 0 < p50_ms <= p99_ms < 200
    assert row["tpot_error_ms"][0] < 1.0


def test_llama_server() -> None:
    try:
        find_program("llama-server")
    except NotInstalled as absent:
        pytest.skip(str(absent))
    found = rows("--server", "llama-server", "-m", "tiny-test", "-p", "8", "-n", "1,12", "-c", "1,3")
    assert [(row["n"], row["c"]) for row in found] == [(1, 1), (12, 1), (1, 3), (12, 3)]
    for row in found:
        assert row["exact"]
        if every_loop_stalled(row):
            continue
        assert (row["decode_ratio"] is None) == (row["n"] == 1)
        assert (row["step_ms"] is None) == (row["c"] == 1)
        # The first token can't come before it was made.
        assert row["ttft_diff_ms"] > 0


def stamps(starts_ms: list[float], prompts_ms: list[float], tokens_ms: list[list[float]]) -> LoopStamps:
    """Requests of 8 input tokens by the times of their starts, prompts and tokens; all counted."""
    starts = np.array(starts_ms) * 1e6
    order, pieces = np.arange(len(starts)), np.array([len(times) for times in tokens_ms])
    return LoopStamps(
        client=order,
        number=order,
        due_ns=starts.astype(np.int64),
        start_ns=starts.astype(np.int64),
        end_ns=np.array([times[-1] * 1e6 for times in tokens_ms]).astype(np.int64),
        input_tokens=np.full(len(starts), 8),
        output_tokens=pieces,
        cached_tokens=np.zeros(len(starts), dtype=np.int64),
        counted=np.ones(len(starts), dtype=np.bool_),
        told=np.ones(len(starts), dtype=np.bool_),
        pieces=pieces,
        piece_ns=np.array([time * 1e6 for times in tokens_ms for time in times]).astype(np.int64),
        piece_tokens=np.ones(pieces.sum(), dtype=np.int64),
        said={"prompt_s": np.array(prompts_ms) / 1e3},
    )


def test_the_step_under_way() -> None:
    # The first decodes every 20 ms; the second comes at 105, waits until 120, and has its token after 60 ms of prompt.
    first = [100.0, 120.0, 180.0, 200.0]
    loop = stamps([50.0, 105.0], [50.0, 60.0], [first, [180.0, 200.0]])
    assert served.steps_under_way_ms(loop).round(6).tolist() == [0.0, 20.0]


def test_waits_longer_than_a_step_and_tokens_before_their_time_are_faults() -> None:
    ttft, said = np.array([80.0, 80.0]), np.array([60.0, 60.0])
    assert served.beside_prompts(ttft, said, np.array([20.0, 20.0]))[1] == []
    assert served.beside_prompts(ttft, said, None)[1] == ["time to first token is +20.0 ms off"]
    assert served.beside_prompts(ttft, said, np.array([10.0, 10.0]))[1] == ["time to first token is +20.0 ms off"]
    assert "1 of 2 requests" in served.beside_prompts(np.array([59.0, 65.0]), said, None)[1][0]


def test_other_sizes_are_faults() -> None:
    loop = stamps([0.0, 0.0], [1.0, 1.0], [[5.0, 6.0, 7.0, 8.0], [5.0, 6.0, 7.0, 8.0]])

    def faults(n: int, generated: float) -> list[str]:
        after = {"prompt_tokens_total": 1016.0, "generation_tokens_total": generated}
        server = ServerFigures(before={"prompt_tokens_total": 1000.0}, after=after)
        trial: Any = SimpleNamespace(id=3, load=SimpleNamespace(server=server))
        return served.wrong_counts([trial], [loop], 8, n)

    assert faults(4, 8.0) == []
    assert faults(5, 8.0) == ["trial 3: 2 of 2 requests have other sizes"]
    assert faults(4, 9.0) == ["trial 3: the server's generation_tokens_total grew by 9, not 8"]


def test_bad_options_are_one_line() -> None:
    done = script("--url", "http://127.0.0.1:1", "--server", "stub")
    assert done.returncode == 2
    assert done.stderr == "served.py: error: --url and --server are two ways to say which server; give one\n"
