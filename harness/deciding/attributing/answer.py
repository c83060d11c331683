"""Joules of each request of a mixed load: the shares of the model's steps, scaled to what a meter counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.statistics import Estimate
from harness.core.wording import number, percent
from harness.deciding.attributing.metered_energy import MeteredEnergy
from harness.deciding.attributing.timed_log import TimedLog
from harness.modelling.cost_function import TOO_FAR
from harness.modelling.served.engine import Engine
from harness.serving.shares import SHARE_TERMS, coefficients_of, step_shares
from harness.serving.shares_doubt import GroupEnergy, ShareDoubt, TotalEnergy, group_energies, size_cells
from harness.serving.shares_over_time import TimeShares, shares_over_time
from harness.serving.shares_times import CompletedTimes, complete_times
from harness.serving.step_records import read_steps

if TYPE_CHECKING:
    from harness.modelling.profile import Boundary, Profile

_PHASE_NAMES = ("prefill_floor", "per_prefill_token", "per_prefill_token2", "floor", "per_context")
_FAR_OFF = 0.25
"""Part of the meter's energy by which the model's sum may differ before that is said."""
_PHASE_TERMS = [SHARE_TERMS.index(name) for name in _PHASE_NAMES]
"""Where the coefficients of the phase form stand among those of steps."""
_SLOW = 0.10
"""The same of the speed of decode steps."""


@dataclass(frozen=True, eq=False)
class Attributed:
    """What each request of a log used; arrays of one entry a request, in the log's order."""

    log: TimedLog
    profile: str
    energy_j: Floats
    """They add up to ``total``, or to the model's own sum where there is no meter."""
    ci95_j: Floats | None
    """Half-widths of 95 % intervals: of the division, and of the total without its gain. None without their doubt."""
    total: Estimate
    """What was shared out: the meter's energy less what the machine drew while it had no request; or the model's."""
    modelled: Estimate | None
    """The model's own sum; None where the profile has no energy and time was shared."""
    metered: MeteredEnergy | None
    gain_ci95: float | None
    """Relative half-width of the gain that all joules have in common: of the meter, or else of the profile's; None
    where it is unknown."""
    idle_s: float
    """In which no request was in the engine."""
    idle_j: float | None
    """What the machine drew meanwhile; None where its idle power isn't known and nothing was taken off."""
    busy_s: float
    most_at_once: int
    notes: list[str]
    terms: Floats
    """The requests' shares as multiples of the coefficients, shape (requests, 7)."""
    coefficients: Floats
    doubt: ShareDoubt | None

    def by_label(self) -> tuple[list[str], NDArray[np.int64], GroupEnergy]:
        """The labels of the log's column in the order of their energy, requests of each, and what they used."""
        assert self.log.labels is not None
        labels, group = np.unique(np.array(self.log.labels, dtype=object).astype(str), return_inverse=True)
        found = self._grouped(group.astype(np.int64))
        order = np.argsort(-found.energy_j, kind="stable")
        half_widths = None if found.ci95_j is None else found.ci95_j[order]
        requests = np.bincount(group)[order]
        return labels[order].tolist(), requests, GroupEnergy(found.energy_j[order], half_widths)

    def _grouped(self, groups: NDArray[np.int64]) -> GroupEnergy:
        total = None if self.metered is None else TotalEnergy(self.total.mean, self.total.half_width)
        cells = size_cells(self.log.times.input_tokens, self.log.times.output_tokens)
        return group_energies(self.terms, self.coefficients, groups, cells, self.doubt, total)


def attribute_requests(
    log: TimedLog,
    profile: Profile,
    metered: MeteredEnergy | None = None,
    steps: Path | None = None,
    boundary: Boundary = None,
) -> Attributed:
    """Share out a meter's energy among the requests of a log, or without one the model's.

    ``steps`` is a file of the server's own steps; without it they are worked out from the times. Raises UserError.
    """
    engine = profile.engine(boundary)
    if engine.joules is None and metered is None:
        raise UserError(
            f"profile {profile.name} has no energy: give what a meter counted, by --energy or --meter, to be shared out"
        )
    completed = complete_times(log.times, engine)
    shares = shares_over_time(completed.times, engine)
    terms = shares.terms if steps is None else _recorded(steps, log, engine)
    coefficients = coefficients_of(engine.joules or engine.seconds)
    if not float((terms @ coefficients).sum()) > 0:
        raise UserError(f"profile {profile.name} says that these requests need no energy: nothing can be divided by it")
    doubt = _doubt(profile, boundary, log, shares) if engine.joules else None
    everything = np.zeros(len(log.rows), dtype=np.int64)
    cells = size_cells(log.times.input_tokens, log.times.output_tokens)
    own = group_energies(terms, coefficients, everything, cells, doubt)
    modelled = Estimate(float(own.energy_j[0]), None if own.ci95_j is None else _known(float(own.ci95_j[0])))
    span_s = shares.span_s if metered is None or metered.duration_s is None else metered.duration_s
    idle_s = max(span_s - shares.busy_s, 0.0)
    idle_j = None if engine.idle_power_w is None else engine.idle_power_w * idle_s
    total = modelled if metered is None else _less_idle(metered, idle_j, shares)
    found = Attributed(
        log=log,
        profile=profile.name,
        energy_j=np.empty(0),
        ci95_j=None,
        total=total,
        modelled=modelled if engine.joules else None,
        metered=metered,
        gain_ci95=profile.gain_ci95(boundary) if metered is None else metered.gain_ci95,
        idle_s=idle_s,
        idle_j=idle_j if metered is not None else None,
        busy_s=shares.busy_s,
        most_at_once=shares.most_at_once,
        notes=_notes(log, completed, shares, engine, steps is not None),
        terms=terms,
        coefficients=coefficients,
        doubt=doubt,
    )
    each = found._grouped(np.arange(len(log.rows)))
    found.notes.extend(_total_notes(found, profile))
    return replace(found, energy_j=each.energy_j, ci95_j=each.ci95_j)


def _known(half_width: float) -> float | None:
    return half_width if math.isfinite(half_width) else None


def _recorded(steps: Path, log: TimedLog, engine: Engine) -> Floats:
    """Shares by the server's own steps. Raises UserError."""
    if log.ids is None:
        raise UserError(f"{log.path} has no column of request ids (request_id, id) by which its steps are known")
    counts = (log.times.input_tokens, log.times.output_tokens, log.times.cached_tokens)
    parts = read_steps(steps, log.ids, *(column.astype(int).tolist() for column in counts))
    return step_shares(parts, len(log.rows), engine.joules or engine.seconds)


def _less_idle(metered: MeteredEnergy, idle_j: float | None, shares: TimeShares) -> Estimate:
    """What requests used of a meter's energy. Raises UserError where nothing is left or the meter ran too short."""
    if metered.duration_s is not None and metered.duration_s < 0.99 * shares.busy_s:
        raise UserError(
            f"{metered.source} is of {metered.duration_s:,.1f} s, but requests ran for {shares.busy_s:,.1f} s: "
            "give the energy of their whole time, or the requests of the meter's time alone"
        )
    left_j = metered.energy_j - (idle_j or 0.0)
    if left_j <= 0:
        raise UserError(
            f"the profile's machine alone draws {number(idle_j or 0.0)} J while idle, more than the "
            f"{number(metered.energy_j)} J of {metered.source}: is it of the same machine and time?"
        )
    return Estimate(left_j, metered.ci95_j)


def _doubt(profile: Profile, boundary: Boundary, log: TimedLog, shares: TimeShares) -> ShareDoubt:
    """What the profile says of the doubt in its joules, with as many requests in flight as there were on average."""
    load, m, n = profile.under_load, log.times.input_tokens, log.times.output_tokens
    covariance = np.zeros((len(SHARE_TERMS), len(SHARE_TERMS)))
    if load is None:
        functions, places = profile.energy_functions(boundary), np.ix_(_PHASE_TERMS, _PHASE_TERMS)
        for function in functions:
            covariance[places] += function.covariance
    else:
        wanted = profile.components_within(boundary)
        models = [load.energy] if wanted is None else [load.components[name] for name in wanted]
        served = [model.function for model in models if model is not None]
        functions = [each.at(shares.mean_at_once) for each in served]
        for each in served:
            size = each.coefficients.size
            covariance[:size, :size] += each.covariance
    costs = [function.cost(m, n) for function in functions]
    sds = [
        cost * function.misfit.relative_sd(function.octaves_away(m, n), cost)
        for function, cost in zip(functions, costs, strict=True)
    ]
    return ShareDoubt(
        covariance=covariance,
        freedom=min(function.freedom for function in functions),
        misfit_sd=np.sum(sds, axis=0) / np.maximum(np.sum(costs, axis=0), np.finfo(float).tiny),
        too_far=np.logical_or.reduce([each.range.octaves_outside(m, n) > TOO_FAR for each in functions]),
        misfit_freedom=min(function.misfit.freedom for function in functions),
        session_sd=max(function.session.sd for function in functions),
        session_freedom=min(function.session.freedom for function in functions),
    )


def _notes(log: TimedLog, completed: CompletedTimes, shares: TimeShares, engine: Engine, recorded: bool) -> list[str]:
    """What must be known to read the figures."""
    notes = []
    count = len(log.rows)
    if log.left_out:
        reasons = "; ".join(f"{rows:,} {reason}" for reason, rows in log.left_out.items())
        notes.append(
            f"{sum(log.left_out.values()):,} rows were left out ({reasons}): what they used is in the others' joules"
        )
    if not recorded and completed.scheduled_guessed:
        notes.append(
            f"the log doesn't say when {completed.scheduled_guessed:,} of {count:,} requests were begun: when they "
            "came, or the first slot was free"
        )
    if not recorded and completed.first_token_guessed:
        notes.append(
            f"the log doesn't say when {completed.first_token_guessed:,} of {count:,} requests had their first token: "
            "the model says for which part of their time they were in prefill"
        )
    if completed.without_slot or (engine.slots is not None and shares.most_at_once > engine.slots):
        notes.append(
            f"up to {shares.most_at_once:,} requests were in the engine at once, the profile's has {engine.slots} "
            "slots: is this the log of several replicas, or of a server with other limits?"
        )
    if not recorded and shares.speed is not None and abs(shares.speed - 1) > _SLOW:
        how = "faster" if shares.speed > 1 else "more slowly"
        notes.append(
            f"decode steps came {percent(abs(shares.speed - 1), digits=0)} {how} than the profile says: "
            "is it of this machine, server and model?"
        )
    return notes


def _total_notes(found: Attributed, profile: Profile) -> Sequence[str]:
    notes = []
    if found.doubt is not None and (far := int(found.doubt.too_far.sum())):
        notes.append(
            f"{far:,} requests lie more than {TOO_FAR:g} octaves beyond the sizes, or the numbers in flight, that the "
            "profile was measured at: no interval is known of them"
        )
    if found.modelled is None:
        notes.append(f"profile {profile.name} has no energy: joules are shared by the time that each request took")
    if found.metered is None:
        notes.append("no meter: all joules are the model's")
        return notes
    if found.idle_s > 0 and found.idle_j is None:
        notes.append(
            f"nothing was in the engine for {number(found.idle_s)} s, and the profile knows no idle power: what was "
            "drawn then is shared out too"
        )
    if found.total.half_width is None:
        notes.append(f"{found.metered.source} doesn't say how sure it is: the intervals are of the division alone")
    if found.modelled is not None and not math.isclose(found.modelled.mean, found.total.mean, rel_tol=_FAR_OFF):
        notes.append(
            f"the model's own sum is {percent(found.modelled.mean / found.total.mean, digits=0)} of the meter's: does "
            "the meter measure what the profile's did, and is the log whole?"
        )
    return notes
