"""Rows of the coverage table: savings of thresholds, the best threshold, and requests served in time.

Two simulated machines, a small one that spares energy on short inputs, are measured and fitted by the project's own
code. Their meters and sessions are off by constant factors, their costs follow no form exactly. Each draw asks what the
threshold that was decided on truly does: with new requests, on another day, by true meters. Errors and half-widths of
savings and of shares are in shares of the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from coverage_row import Row, row
from scipy.special import ndtr

from harness.core.arrays import Floats
from harness.deciding.answers import ThresholdAnswer, decide_threshold
from harness.deciding.workload import Workload, from_pairs
from harness.modelling.fit import fit_form
from harness.modelling.fitting import Power, Quantity, build_profile
from harness.modelling.forms import form_named
from harness.modelling.forms.base import Form, Sizes
from harness.modelling.measurements import observations
from harness.modelling.meters import Metering
from harness.modelling.profile import Profile
from harness.modelling.profile_schema import Identity, Measurement, Provenance, Record, SessionStatistic, Statistic

POINTS = (
    *((m, 64) for m in (16, 64, 256, 1024, 4096)),
    *((128, n) for n in (8, 32, 128, 512)),
    *((512, 256), (1024, 16), (32, 256), (2048, 256), (64, 16)),
)
TRIALS = 3
SCATTER = 0.02
"""Relative standard deviation of one request."""
MISFIT = 0.015
"""Of true costs about the form, at whole octaves."""
SESSION = 0.03
"""Relative standard deviation of what a session does to all its costs."""
GAIN_CI95 = 0.075
"""Relative half-width of the 95 % interval of a meter's gain."""
SLO_S = 4.0
POOL = 16
"""Measurements of each machine, of which draws take any two."""
COSTS = {
    "small": {"runtime": (0.08, 1.1e-3, 0.0, 0.034, 1.5e-6), "energy": (2.0, 0.055, 0.0, 0.75, 4e-5)},
    "large": {"runtime": (0.05, 9e-5, 0.0, 0.012, 3e-7), "energy": (30.0, 0.014, 0.0, 0.72, 2e-5)},
}
"""True coefficients of the phase form, in s and J."""


@dataclass(frozen=True)
class Measured:
    """One measurement of a machine, and what is true of it."""

    profile: Profile
    energy_j: Floats
    """True mean cost of every pair of the workload in the usual session, read by a true meter."""
    runtime_s: Floats
    session: Floats
    """What the sessions measured did on average to runtime and energy: factors."""

    @cached_property
    def by_one_meter(self) -> Profile:
        """The profile as if one meter had read every machine."""
        facts = json.loads(self.profile.dump())
        facts["energy"]["meters"] = ["0" * 16]
        return Profile.parse(json.dumps(facts))


def rows(draws: int, seed: int) -> Iterator[Row]:
    """Every row of this kind."""
    rng = np.random.default_rng(seed)
    workload = _workload(rng)
    once = {name: [_measured(name, workload, rng, sessions=1) for _ in range(POOL)] for name in COSTS}
    often = {name: [_measured(name, workload, rng, sessions=6) for _ in range(POOL)] for name in COSTS}
    own = _drawn(once, workload, rng, draws, shared=False)
    yield _saving("saving, meters of their own", own)
    common = _drawn(once, workload, rng, draws, shared=True)
    yield _saving("saving, a common gain", common)
    told = _drawn(often, workload, rng, draws, shared=True)
    yield _saving("saving, session gains of 3 % told by six sessions", told)
    yield _best("best threshold, a common gain", common)
    yield _in_time("share of requests in time", common)


@dataclass(frozen=True)
class Outcome:
    """What the threshold decided on does, and what would be the best one."""

    saving: float
    in_time: float
    best: int


@dataclass(frozen=True)
class Draw:
    """One decision and what becomes of it."""

    answer: ThresholdAnswer
    true: Outcome
    """With new requests, on another day, by true meters."""
    known: Outcome
    """What one would say who knows the costs in the sessions measured, as the meters read them, but no more."""


def _saving(name: str, found: list[Draw]) -> Row:
    stated = [each.answer.decision.uncertainty.saving for each in found]
    errors = [interval.value - each.true.saving for interval, each in zip(stated, found, strict=True)]
    known = np.abs([each.known.saving - each.true.saving for each in found])
    return row(name, errors, [each.high - each.value for each in stated], float(np.percentile(known, 95)))


def _best(name: str, found: list[Draw]) -> Row:
    """In octaves; thresholds of 0 and of a token are the same."""
    sure = [each.answer.decision.uncertainty for each in found]
    low, high = (np.log2(np.maximum([getattr(u, end) for u in sure], 1)) for end in ("threshold_low", "threshold_high"))
    best = np.log2(np.maximum([each.true.best for each in found], 1))
    known = np.log2(np.maximum([each.known.best for each in found], 1))
    apart = float(np.percentile(np.abs(best - known), 95))
    return row(name, best - (low + high) / 2, (high - low) / 2 + 1e-9, apart)


def _in_time(name: str, found: list[Draw]) -> Row:
    stated = [each.answer.decision.plan.in_time for each in found]
    errors, half_widths = [], []
    for interval, each in zip(stated, found, strict=True):
        assert interval is not None
        errors.append(interval.value - each.true.in_time)
        half_widths.append(interval.value - interval.low if errors[-1] > 0 else interval.high - interval.value)
    known = np.abs([each.known.in_time - each.true.in_time for each in found])
    return row(name, errors, half_widths, float(np.percentile(known, 95)))


def _workload(rng: np.random.Generator) -> Workload:
    m = np.exp2(np.rint(4 * np.clip(rng.normal(8, 1.6, 5000), 4, 12)) / 4).astype(int)
    n = np.exp2(np.rint(3 * np.clip(rng.normal(6, 1.2, 5000), 3, 9)) / 3).astype(int)
    return from_pairs("log-normal", "simulated", m, n)


def _truth(form: Form, theta: Floats, field: Floats, m: Floats, n: Floats) -> Floats:
    """The form times one and a smooth deviation, given at whole octaves."""
    cost = form.cost(theta, Sizes(m, n))
    i, j = np.log2(m), np.log2(n)
    a, b = np.floor(i).astype(int), np.floor(j).astype(int)
    x, y = i - a, j - b
    low, high = (field[at, b] * (1 - y) + field[at, b + 1] * y for at in (a, a + 1))
    return np.asarray(cost * (1 + low * (1 - x) + high * x))


def _measured(name: str, workload: Workload, rng: np.random.Generator, sessions: int) -> Measured:
    """A machine with deviations of its own, measured and fitted."""
    form = next(each for each in form_named("phase").candidates(True) if each.parameters["roofline_exponent"] == 1)
    sizes = [tokens.astype(float) for tokens in (workload.input_tokens, workload.output_tokens)]
    m, n = np.array(POINTS, dtype=float).T
    factors = 1 + SESSION * rng.standard_normal((2, sessions))
    true, measured = [], []
    for quantity, factor in zip(("runtime", "energy"), factors, strict=True):
        field = MISFIT * rng.standard_normal((16, 16))
        theta = np.array(COSTS[name][quantity])
        true.append(_truth(form, theta, field, *sizes))
        trials = 1 + SCATTER * rng.standard_normal((m.size, sessions, TRIALS))
        measured.append(_truth(form, theta, field, m, n)[:, None, None] * factor[:, None] * trials)
    points = [_point(size, runtime, energy) for size, runtime, energy in zip(POINTS, *measured, strict=True)]
    return Measured(_fitted(name, points), true[1], true[0], factors.mean(axis=1))


def _point(size: tuple[int, int], runtime: Floats, energy: Floats) -> Measurement:
    return Measurement(
        input_tokens=float(size[0]),
        output_tokens=float(size[1]),
        output_tokens_requested=size[1],
        trials=runtime.size,
        runtime_s=_statistic(runtime),
        prefill_s=None,
        decode_s=None,
        energy_j=_statistic(energy),
        prefill_energy_j=None,
        decode_energy_j=None,
        component_energy_j={},
        component_prefill_energy_j={},
        component_decode_energy_j={},
    )


def _statistic(trials: Floats) -> Statistic:
    """Of trials of shape (sessions, trials)."""
    by_session = [
        SessionStatistic(session=i, mean=float(each.mean()), sd=float(each.std(ddof=1)), trials=each.size)
        for i, each in enumerate(trials)
    ]
    spread = float(np.sqrt(trials.var(axis=1, ddof=1).mean()))
    return Statistic(
        mean=float(trials.mean()),
        sd=spread,
        trials=trials.size,
        ci95=None,
        sessions=by_session if len(by_session) > 1 else [],
    )


def _fitted(name: str, points: list[Measurement]) -> Profile:
    quantities = []
    for quantity, unit in (("runtime", "s"), ("energy", "J")):
        observed = observations(points, quantity)
        assert observed is not None
        fits = {"phase": fit_form(form_named("phase"), observed, kv_cache=True)}
        quantities.append(Quantity(quantity, unit, fits, observed, "phase", ()))
    metering = Metering(GAIN_CI95, "simulated", (f"{name:0>16}".encode().hex()[:16],))
    power = Power({"total": "counter"}, {}, {"total": metering})
    identity = Identity(
        system=name,
        model="simulated",
        kv_cache=True,
        concurrency=1,
        backend=None,
        device=None,
        device_names=[],
        dtype=None,
        random_weights=None,
    )
    provenance = Provenance(
        source="simulated",
        records=[Record(name="none", sha256="0" * 64)],
        tool_version="0",
        created="2026-01-01",
        excluded_trials=0,
        runtime_only_trials=0,
        versions={},
        notes=[],
    )
    return build_profile(name, identity, points, quantities, power, provenance)


def _drawn(
    measured: dict[str, list[Measured]], workload: Workload, rng: np.random.Generator, draws: int, shared: bool
) -> list[Draw]:
    """Any two measurements decided between, and what other days and true meters bring."""

    @cache
    def decided(first: int, second: int) -> ThresholdAnswer:
        small, large = measured["small"][first], measured["large"][second]
        profiles = (each.by_one_meter if shared else each.profile for each in (small, large))
        return decide_threshold(*profiles, workload, slo_s=SLO_S)

    found = []
    for first, second in rng.integers(POOL, size=(draws, 2)).tolist():
        pair, answer = [measured["small"][first], measured["large"][second]], decided(first, second)
        gains = 1 + GAIN_CI95 / 1.96 * rng.standard_normal(2)
        day = 1 + SESSION * rng.standard_normal((2, 2))
        day[:, 1] *= gains[0] if shared else gains
        true = _outcome(answer, pair, day, rng.poisson(workload.count))
        known = _outcome(answer, pair, np.stack([each.session for each in pair]), workload.count)
        found.append(Draw(answer, true, known))
    return found


def _outcome(answer: ThresholdAnswer, pair: list[Measured], factors: Floats, count: Floats) -> Outcome:
    """What a threshold does; ``factors`` are on runtime and energy of each system, shape (2, 2)."""
    tokens, thresholds = answer.workload.input_tokens, answer.decision.curve.threshold
    to_small = tokens <= answer.decision.threshold
    small_j, large_j = (each.energy_j * factor for each, factor in zip(pair, factors[:, 1], strict=True))
    runtime_s = np.where(to_small, *(each.runtime_s * factor for each, factor in zip(pair, factors[:, 0], strict=True)))
    saving = 1 - float(count @ np.where(to_small, small_j, large_j) / (count @ large_j))
    in_time = float(count @ ndtr((SLO_S / runtime_s - 1) / SCATTER) / count.sum())
    moved = np.bincount(np.searchsorted(thresholds, tokens), count * (small_j - large_j), thresholds.size)
    return Outcome(saving, in_time, int(thresholds[np.argmin(np.cumsum(moved))]))
