"""Joules of each request of a run's loops, beside what the trial's meter counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import UserError
from harness.core.quantities import weakest
from harness.deciding.attributing.answer import Attributed, attribute_requests
from harness.deciding.attributing.metered_energy import MeteredEnergy
from harness.deciding.attributing.timed_log import TimedLog
from harness.runs.load_stamps import UNKNOWN, LoopStamps
from harness.runs.records import load_run, read_stamps
from harness.runs.schema import Trial
from harness.serving.shares_times import LoggedTimes

if TYPE_CHECKING:
    from harness.modelling.profile import Boundary, Profile

_NS = 1e9


def attribute_run(directory: Path, profile: Profile, boundary: Boundary = None) -> list[tuple[str, Attributed]]:
    """The requests of each open loop of a run, or, where it has none, of each closed loop; by the trial's name.

    A trial without energy gets the model's joules. Raises UserError for a run without loops.
    """
    run = load_run(directory)
    loops = [trial for trial in run.trials if trial.usable_load and trial.trace]
    loops = loops or [trial for trial in run.trials if trial.usable and trial.load and trial.trace]
    if not loops:
        raise UserError(f"{directory} has no loop of requests at a server: give a log of requests")
    found = []
    for trial in loops:
        log = _log(directory, trial, read_stamps(directory, trial))
        metered, why = _metered(trial)
        attributed = attribute_requests(log, profile, metered, boundary=boundary)
        if why:
            attributed.notes.append(f"the trial has no energy: {why}")
        found.append((f"trial {trial.id}", attributed))
    return found


def _log(directory: Path, trial: Trial, stamps: LoopStamps) -> TimedLog:
    """All requests of a loop, ramp and drain included."""
    origin_ns = int(stamps.start_ns.min())
    start, first, last = (
        (column - origin_ns) / _NS for column in (stamps.start_ns, stamps.first_token_ns, stamps.end_ns)
    )
    cached = np.where(stamps.cached_tokens == UNKNOWN, 0, stamps.cached_tokens).astype(float)
    sizes = stamps.input_tokens.astype(float), stamps.output_tokens.astype(float), cached
    times = LoggedTimes(*sizes, start, np.full(len(stamps), math.nan), first, last)
    path = directory / (trial.trace or "")
    return TimedLog(path, np.arange(len(stamps)) + 1, times, None, None, {}, origin_ns / _NS)


def _metered(trial: Trial) -> tuple[MeteredEnergy | None, str | None]:
    """What a trial's meter counted from its first request to its last; or why it has nothing."""
    if trial.stretches is None:
        return None, "its loop was not metered"
    parts = [trial.stretches.ramp, trial.stretches.window, trial.stretches.drain]
    totals = [part.total for part in parts if part.end_ns > part.start_ns]
    joules = [total.energy_j for total in totals if total.energy_j is not None]
    if len(joules) < len(totals) or not sum(joules) > 0:
        return None, next((total.reason for total in totals if total.reason), "nothing was counted")
    return MeteredEnergy(
        energy_j=math.fsum(joules),
        ci95_j=math.hypot(*(total.ci95_j or 0.0 for total in totals)),
        gain_ci95=max((total.gain_ci95 for total in totals if total.gain_ci95 is not None), default=None),
        method=weakest(total.method for total in totals),
        duration_s=(parts[-1].end_ns - parts[0].start_ns) / _NS,
        source=f"the meter of trial {trial.id}",
    ), None
