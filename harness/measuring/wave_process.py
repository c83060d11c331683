"""Runs the square wave in a process of its own and tells what it did."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from harness.core.processes import module_command, module_environment
from harness.energy.readings import Domain
from harness.energy.step_model import LoadSteps
from harness.measuring.square_wave import CPU

_SPARE_S = 30.0
"""How much longer than asked for a wave may take before it is ended."""
_NVIDIA = "gpu:GPU-"
"""How the sources of NVIDIA GPUs begin; those of AMD name a place on the bus, which no variable takes."""

Devices = Literal["cpu", "gpu", "all"]


@dataclass(frozen=True)
class Wave:
    """What a load did; ``device`` is None, with the reason, where it did not run."""

    device: str | None = None
    reason: str | None = None
    start_ns: int = 0
    end_ns: int = 0
    gpus: tuple[str, ...] = ()
    """The sources of the power domains of the GPUs that were loaded."""
    gpus_reason: str | None = None
    """Why none was."""
    steps: Mapping[str, LoadSteps] = field(default_factory=dict)
    """When it ran, by source of power or ``CPU``."""

    def loads(self, domain: Domain) -> bool:
        """Whether the load ran on what a domain reads; hashing leaves memory and the neural engine at rest."""
        return domain.component in ("cpu", "system") or domain.source in self.gpus

    def steps_on(self, domain: Domain) -> LoadSteps | None:
        """When the load ran on what a domain reads; None where it did not."""
        if not self.loads(domain):
            return None
        return self.steps.get(domain.source) or self.steps.get(CPU) or next(iter(self.steps.values()), None)


def run_wave(
    devices: Devices,
    halves: Callable[[float], Sequence[float]],
    start_timeout_s: float,
    started: Callable[[int], None] = lambda pid: None,
    only_gpus: Sequence[str] = (),
) -> Wave:
    """Run a wave to its end; blocks.

    ``halves`` tells the lengths of its halves, idle first, in s, when asked how long the load took to get ready.
    ``started`` hears its process. ``only_gpus`` are the sources of the GPUs to load; all where none is named.
    """
    environment = module_environment()
    uuids = [source.removeprefix("gpu:") for source in only_gpus if source.startswith(_NVIDIA)]
    if uuids:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(uuids)
    begin = time.monotonic()
    command = module_command("harness.measuring.square_wave", devices)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        started(child.pid)
        try:
            with _ended_after(child, start_timeout_s):
                ready = _line(child)
            if ready.get("device") is None:
                reason = ready.get("gpus_reason") if ready else f"the load did not start within {start_timeout_s:g} s"
                return Wave(reason=reason, gpus_reason=ready.get("gpus_reason"))
            lengths = [float(length) for length in halves(time.monotonic() - begin)]
            _ask(child, lengths)
            with _ended_after(child, sum(lengths) + _SPARE_S):
                told = _line(child) | _line(child)
        finally:
            child.kill()
    if "work" not in told:
        return Wave(reason="the load ended too early")
    start_ns = told["start_ns"]
    busy = len(lengths) // 2
    return Wave(
        device=ready["device"],
        start_ns=start_ns,
        end_ns=start_ns + int(sum(lengths) * 1e9),
        gpus=tuple(ready["gpus"]),
        gpus_reason=ready["gpus_reason"],
        steps={source: steps_of(start_ns, stretches, busy) for source, stretches in told["work"].items()},
    )


def steps_of(start_ns: int, stretches: Sequence[Sequence[int]], busy: int) -> LoadSteps:
    """How many of the threads worked when, as a share, from the begin and end of all stretches in ``busy`` halves."""
    times = np.array(stretches, dtype=np.int64).reshape(-1, 2)
    moves = np.repeat([[1.0, -1.0]], len(times), axis=0).ravel() * busy / len(times)
    order = np.argsort(times.ravel(), kind="stable")
    at = np.concatenate(([min(start_ns, int(times.min())) - 1], times.ravel()[order]))
    return LoadSteps(at, np.concatenate(([0.0], np.cumsum(moves[order]))).round(9))


def _ask(child: subprocess.Popen[str], lengths_s: Sequence[float]) -> None:
    """Tell the load its halves; one that has ended hears nothing, and says nothing later."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(lengths_s) + "\n")
    with suppress(BrokenPipeError):  # closing writes what is left once more
        child.stdin.close()


def _line(child: subprocess.Popen[str]) -> dict[str, Any]:
    """What the load says next; nothing where it has ended, were it in the midst of a line."""
    assert child.stdout is not None
    line = child.stdout.readline()
    told: dict[str, Any] = json.loads(line) if line.endswith("\n") else {}
    return told


@contextmanager
def _ended_after(child: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """End the load where the block takes longer: a driver may hang."""
    timer = threading.Timer(seconds, child.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
