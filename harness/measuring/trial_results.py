"""From a worker's answer and the metered window around it to the fields of a trial. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.energy.loop_marks import LoopMarks
from harness.energy.metered_window import MeteredWindow
from harness.energy.readings import Window
from harness.measuring.server_doubts import cache_doubts, server_doubts
from harness.runs.load_figures import LoadFigures, doubts
from harness.runs.load_stamps import LoopRun


def batch_marks(answer: Mapping[str, Any]) -> Window:
    """When each batch of a window began, had its first tokens, and ended."""
    return Window(*(np.array(answer[key], dtype=np.int64) for key in ("start_ns", "prefill_end_ns", "end_ns")))


def batch_result(answer: Mapping[str, Any], window: MeteredWindow, concurrency: int) -> dict[str, Any]:
    """What a window of static batches of ``concurrency`` requests measured, by the names of a trial's fields."""
    marks = window.marks
    single_s = (marks.end_ns - marks.start_ns) / 1e9
    window_s = float(marks.end_ns[-1] - marks.start_ns[0]) / 1e9
    paused_s = float((marks.start_ns[1:] - marks.end_ns[:-1]).sum()) / 1e9 if window.paused else None
    return {
        "repeats": len(single_s),
        "requests": float(len(single_s) * concurrency),
        "window_s": window_s,
        "runtime_s": (window_s - (paused_s or 0.0)) / len(single_s),
        "pauses": len(single_s) - 1 if window.paused else None,
        "paused_s": paused_s,
        "prefill_s": float((marks.prefill_end_ns - marks.start_ns).mean()) / 1e9,
        "decode_s": float((marks.end_ns - marks.prefill_end_ns).mean()) / 1e9,
        "runtime_sd_s": float(single_s.std(ddof=1)) if len(single_s) > 1 else None,
        "output_tokens_produced": answer["output_tokens"],
        "compile_s": answer["prepared"]["compile_s"],
        "capture_s": answer["prepared"]["capture_s"],
        "check_s": answer["prepared"]["check_s"],
        "energy": window.energy.over(concurrency),
    }


def loop_marks(loop: LoopRun, load: LoadFigures) -> tuple[LoopMarks, Window | None]:
    """The parts of a loop, and the marks of its requests where one was in flight at a time."""
    marks = LoopMarks(loop.begun_ns, *loop.window_ns, loop.ended_ns, load.requests)
    if loop.kind == "open loop" or loop.concurrency > 1:
        return marks, None
    inside = loop.stamps.among(loop.stamps.counted)
    return marks, Window(inside.start_ns, inside.first_token_ns, inside.end_ns)


def loop_doubts(loop: LoopRun, load: LoadFigures) -> list[str]:
    """Why a loop's trial must be marked, in words: by what its clients did, and by what the server says of itself."""
    # How many requests of an open loop are in flight is up to the server.
    ours = loop.concurrency if loop.kind == "closed loop" else None
    return [*doubts(load), *server_doubts(load.server, ours), *cache_doubts(loop.stamps.cached_tokens.tolist())]


def loop_result(load: LoadFigures, window: MeteredWindow) -> dict[str, Any]:
    """What the window of a loop measured, by the names of a trial's fields."""
    latency, first, whole = load.e2e_s, load.ttft_s, load.whole_requests
    return {
        "repeats": whole,
        "requests": load.requests,
        "window_s": load.window_s,
        "runtime_s": load.runtime_s,
        "prefill_s": first.mean_s if first else None,
        "decode_s": latency.mean_s - first.mean_s if latency and first else None,
        "runtime_sd_s": latency.sd_s if latency else None,
        "output_tokens_produced": round(load.output_tokens / load.requests),
        "energy": window.energy,
        "stretches": window.stretches,
        "load": load,
    }
