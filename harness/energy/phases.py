"""Energy of prefills and decodes by regression of a trace's readings on the time that each phase took in them. Pure.

Each step of a counter, or reading of power, is a sum over phases of power times the phase's time in it, plus noise.
Generalised least squares give each phase's power; fluctuations that a reading saw of one phase alone are counted
to it. Power may rise or fall within a phase, in the same way in all requests. When exactly a sensor updates is told by
polls to some milliseconds only; several courses of its updates are tried, moved where the readings say so, and weighed
by their likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.statistics import student_95
from harness.energy.integrate import Energy, quiet_energy
from harness.energy.nodes import NS, Unknown
from harness.energy.phase_fit import Noise, PhaseFit, Prior, best_fit
from harness.energy.phase_readings import PhaseRows, noise_bands, regression_rows
from harness.energy.phase_shares import COLUMNS, DECODE, DECODE_SLOPE, LEVELS, PAUSE, PREFILL, PREFILL_SLOPE, Course
from harness.energy.phase_updates import WIDE_S, Updates, delay_sd_s, placements, updates_of
from harness.energy.readings import Domain, Trace, Window

_SLOPE_SD = 0.1
"""Standard deviation of how far power at a phase's ends lies from its mean, relative, before any reading is seen."""
_MOST_POWER = 10.0
"""The same for a phase's power, in mean powers: all but nothing is known of it."""
_JITTER = 0.02
"""Standard deviation of the time between two updates, in periods, of a sensor that updates every 0.1 s or more rarely;
faster ones are taken to keep their pace better, by how much faster they are: judged."""
_UNEVEN_S = 0.1
"""The period that is meant."""
_KNOTS = 16
"""At so many times at most the sensor's delay may change its course."""
_TURNS = 3
"""So often the updates are moved and all is fitted again."""
_UNLIKELY = 12.0
"""Courses of updates whose likelihood is less by this (logarithm) are dropped before the last turn."""
_STEADIEST = 0.003
"""No load is steadier than this from reading to reading (standard deviation, relative)."""
_SAME_SHARES = 0.03
"""Readings whose shares of a phase differ by less (standard deviation) hold the same."""
_CHOSEN = {"counter": 1.12, "power": 1.5}
"""By so much intervals are wider for what is chosen from the same readings: the noise's shares, the courses of updates.
Found on simulated sensors: without it intervals of 95 % hold 88 to 92 % where updates' times are unsure."""
_PHASES = (PREFILL, DECODE, PAUSE)


@dataclass(frozen=True)
class PhaseEnergies:
    """Energy of all prefills, of all decodes and of all pauses between a window's requests, in J."""

    prefill: Energy
    decode: Energy
    pauses: Energy


def phase_energies(trace: Trace, window: Window, whole: Energy) -> PhaseEnergies:
    """Energy of each phase of a window; ``whole`` is the energy from the first request's start to the last one's end.

    Their sum lies within the interval of ``whole``. An energy is None, with the reason, where ``whole`` is or readings
    are too few; otherwise its half-width tells how well the phases can be told apart. A phase without any time has 0 J.
    """
    if whole.joules is None or whole.ci95_j is None:
        return PhaseEnergies(*(Energy(None, None, whole.reason) for _ in _PHASES))
    origin_ns = int(trace.times_ns[0])
    edges_s = (np.column_stack((window.start_ns, window.prefill_end_ns, window.end_ns)).ravel() - origin_ns) / NS
    course = Course(edges_s, trace.domain.filter_s)
    took_s = course.phase_s()[list(_PHASES)]
    if np.count_nonzero(took_s) <= 1:
        return PhaseEnergies(*(whole if took > 0.0 else Energy(0.0, 0.0) for took in took_s))
    try:
        off = quiet_energy(trace, int(window.start_ns[0]), int(window.end_ns[-1]))
        if off is not None or whole.joules == 0.0:
            return PhaseEnergies(*(Energy(whole.joules * share, whole.ci95_j) for share in took_s / took_s.sum()))
        updates = updates_of(trace).near(trace.domain, edges_s[0], edges_s[-1])
        joint = _weighed(updates, course, trace.domain)
        return _made_to_fit(joint, _CHOSEN[trace.domain.kind], whole.joules, whole.ci95_j)
    except (Unknown, np.linalg.LinAlgError) as unknown:
        return PhaseEnergies(*(Energy(None, None, str(unknown)) for _ in _PHASES))


@dataclass(frozen=True)
class _Joint:
    """Energies of prefills, decodes and pauses, the covariance of their errors in J², and its degrees of freedom."""

    joules: Floats
    covariance: Floats
    freedom: float

    def along(self) -> Floats:
        """How much each has of an error of their sum."""
        total = float(self.covariance.sum())
        return self.covariance.sum(axis=1) / total if total > 0.0 else np.zeros(self.joules.size)


def _made_to_fit(joint: _Joint, chosen: float, whole_j: float, ci95_j: float) -> PhaseEnergies:
    """Moved along their errors just so far that the sum lies in the whole's interval; half-widths hold the move."""
    total = float(joint.joules.sum())
    moved = joint.along() * (min(max(total, whole_j - ci95_j), whole_j + ci95_j) - total)
    sds = np.sqrt(np.maximum(np.diag(joint.covariance), 0.0))
    half_widths = np.hypot(chosen * student_95(joint.freedom) * sds, moved)
    energies = zip((joint.joules + moved).tolist(), half_widths.tolist(), strict=True)
    return PhaseEnergies(*(Energy(joules, half_width) for joules, half_width in energies))


def _weighed(updates: Updates, course: Course, domain: Domain) -> _Joint:
    """The mean over several courses of updates, each weighed by its likelihood."""
    first = _State.begun(updates, course, domain)
    places = placements(updates, domain.period_s) if domain.period_s and _unsure(updates) else []
    states = [first, *(first.placed(each) for each in places)]
    for turn in range(_TURNS):
        if turn == _TURNS - 1:
            likeliest = max(each.fit.likelihood for each in states)
            least = likeliest - _UNLIKELY / updates.times_s.size
            states = [each for each in states if each.fit.likelihood > least]
        states = [each.turned() for each in states]
    logs = updates.times_s.size * np.array([each.fit.likelihood for each in states])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    found = [each.predicted() for each in states]
    joules = np.asarray(weights @ np.array([each.joules for each in found]))
    apart = [each.covariance + np.outer(each.joules - joules, each.joules - joules) for each in found]
    freedom = float(weights @ np.array([each.freedom for each in found]))
    return _Joint(joules, np.tensordot(weights, np.array(apart), axes=1), freedom)


@dataclass(frozen=True)
class _State:
    """A fit on its way: one course of updates, moved by what earlier turns found."""

    updates: Updates
    """Where they were before any move."""
    course: Course
    domain: Domain
    rows: PhaseRows
    fit: PhaseFit
    levels: NDArray[np.intp]
    """Which of the columns that are powers take part."""
    mean_w: float
    power_w: Floats
    """Of each column, shape (7,)."""
    delays: Floats
    """Courses of delay, shape (updates, ·)."""
    moved: Floats
    """By how much of each the updates have been moved, in s."""

    @classmethod
    def begun(cls, updates: Updates, course: Course, domain: Domain) -> _State:
        """With each phase's mean power alone, from a fit of these."""
        rows = regression_rows(updates, course, domain)
        mean_w, power_w = _mean_power(rows), np.zeros(COLUMNS)
        power_w[list(LEVELS)] = mean_w
        levels = np.flatnonzero(rows.shares[:, list(LEVELS)].any(axis=0))
        delays = _delays(updates, _unsure(updates))
        prior = _level_prior(mean_w, levels)
        guess = (0.05 * float(np.median(np.abs(rows.values)))) ** 2
        noise = _noise(rows, domain, power_w, np.sign(power_w))
        fit = best_fit(rows.shares[:, levels], rows.values, noise, prior, guess)
        moved = np.zeros(delays.shape[1])
        return cls(updates, course, domain, rows, fit, levels, mean_w, power_w, delays, moved).with_powers()

    def placed(self, updates: Updates) -> _State:
        """The same with the updates at other times."""
        delays = _delays(updates, unsure=True)
        moved, rows = np.zeros(delays.shape[1]), regression_rows(updates, self.course, self.domain)
        return replace(self, updates=updates, rows=rows, delays=delays, moved=moved)

    def with_powers(self) -> _State:
        """The same with the powers that the fit has found."""
        power_w, found = self.power_w.copy(), self.fit.coefficients[: self.levels.size]
        power_w[self.levels] = np.clip(found, 0.1 * self.mean_w, 4.0 * self.mean_w)
        return replace(self, power_w=power_w)

    @property
    def _intensity(self) -> Floats:
        """Of fluctuations in each column: relative ones are alike."""
        return np.asarray((self.power_w / self.mean_w) ** 2)

    @property
    def _slopes(self) -> NDArray[np.intp]:
        return np.array([PREFILL_SLOPE, DECODE_SLOPE])[np.isin((PREFILL, DECODE), self.levels)]

    def turned(self) -> _State:
        """After one more turn: moved as the fit before says, and fitted with slopes and delays."""
        slopes, moved, rows = self._slopes, self.moved, self.rows
        before = self.levels.size + slopes.size
        begins = self.fit.coefficients.size == before - slopes.size
        if not begins:
            moved = moved + self.fit.coefficients[before:]
            rows = regression_rows(self.updates.moved(self.delays @ moved), self.course, self.domain)
        levels = _level_prior(self.mean_w, self.levels)
        slope_sds = [_SLOPE_SD * self.power_w[PREFILL if each == PREFILL_SLOPE else DECODE] for each in slopes]
        prior = Prior(
            np.concatenate((levels.means, np.zeros(slopes.size), -moved)),
            np.concatenate((levels.sds, slope_sds, self._delay_sds())),
        )
        design = np.column_stack((rows.shares[:, [*self.levels, *slopes]], rows.by_delay(self.power_w, self.delays)))
        noise = _noise(rows, self.domain, self.power_w, self._intensity)
        fit = best_fit(design, rows.values, noise, prior, self.fit.variance, None if begins else self.fit.choice)
        return replace(self, rows=rows, fit=fit, moved=moved).with_powers()

    def _delay_sds(self) -> Floats:
        """Standard deviations of the delays, in s: the first is common to all, the others add up as updates drift."""
        drifts = self.delays.shape[1] - 1
        drift_s = _jitter_s(self.domain) * math.sqrt(self.updates.times_s.size / max(drifts, 1))
        return np.array([delay_sd_s(self.domain, self.updates.unsure_s), *[max(drift_s, 1e-6)] * drifts])

    def predicted(self) -> _Joint:
        """The phases' energies by this fit."""
        took, intensity, phases = self.course.phase_s()[list(_PHASES)], self._intensity, list(_PHASES)
        by_power, _ = noise_bands(self.rows, self.domain, self.power_w, self._intensity)
        unit = self.fit.power_share / float(by_power[-1].mean())
        wanted = np.zeros((self.fit.coefficients.size, len(phases)))
        for row, column in enumerate(self.levels):
            if column in phases:
                wanted[row, column] = took[column]
        with_readings = unit * self.rows.shares[:, phases] * intensity[phases]
        own = np.diag(unit * intensity[phases] * took)
        apart = np.array([took[1], -took[0], 0.0])
        telling = self.fit.telling(wanted, with_readings, apart) if _told_inside(self.rows) else 1.0
        freedom = min(self.fit.freedom, max(telling - 1.0, 1.0))
        joint = _Joint(*self.fit.predicted(wanted, with_readings, own), freedom)
        if not self.rows.steps or self.domain.age_s <= WIDE_S:
            return joint
        part = 1.0 - self._timing()
        doubted = _Joint(*self.fit.predicted(wanted, part * with_readings, part * own), freedom)
        return _doubted(joint, doubted, np.diag(own) / float(np.trace(own)))

    def _timing(self) -> float:
        """Of what looks like fluctuations of power the part that may be jitter of updates' times: half at most."""
        late_s = _jitter_s(self.domain) * np.sqrt(np.diff(self.updates.times_s) / (self.domain.period_s or 1.0))
        late_j = late_s * (self.rows.shares @ self.power_w) / np.diff(self.updates.times_s)
        seen = self.fit.power_share * self.fit.variance
        part = float(np.mean(late_j**2)) / seen if seen > 0.0 else 1.0
        return 0.5 * min(part, 1.0)


def _jitter_s(domain: Domain) -> float:
    """Standard deviation of the time between two updates, in s."""
    period_s = domain.period_s or 0.0
    return _JITTER * period_s * min(period_s / _UNEVEN_S, 1.0)


def _doubted(joint: _Joint, doubted: _Joint, shares: Floats) -> _Joint:
    """What may as well be times of updates moves energy from one phase to another, and leaves the phases' sum."""
    moves = np.eye(shares.size) - np.outer(shares, np.ones(shares.size))
    sizes, axes = np.linalg.eigh(moves @ (doubted.covariance - joint.covariance) @ moves.T)
    covariance = joint.covariance + axes @ np.diag(np.maximum(sizes, 0.0)) @ axes.T
    return _Joint(joint.joules + moves @ (doubted.joules - joint.joules), covariance, joint.freedom)


def _noise(rows: PhaseRows, domain: Domain, power_w: Floats, intensity: Floats) -> Noise:
    """The shapes of the readings' noise, given each column's power and the intensity of its fluctuations."""
    rounding = domain.resolution**2 * (2.0 if rows.steps else 1.0) / 12.0
    least = max(rounding, (_STEADIEST * float(np.median(np.abs(rows.values)))) ** 2)
    counted = np.sign(rows.shares[:, list(_PHASES)].sum(axis=1))
    return Noise.of(*noise_bands(rows, domain, power_w, intensity), counted, least)


def _level_prior(mean_w: float, levels: NDArray[np.intp]) -> Prior:
    """All but nothing is known of powers; a pause, which may be too short to be seen, draws less than a request."""
    means, sds = np.full(levels.size, mean_w), np.full(levels.size, _MOST_POWER * mean_w)
    means[levels == PAUSE] = sds[levels == PAUSE] = mean_w / 2.0
    return Prior(means, sds)


def _unsure(updates: Updates) -> bool:
    """Whether it is unsure to milliseconds when updates were made."""
    return float(np.median(updates.unsure_s)) > WIDE_S


def _delays(updates: Updates, unsure: bool) -> Floats:
    """Courses of delay: all alike; of unsure updates from each of several on more and more up to the next of these."""
    count = updates.times_s.size
    number = min(_KNOTS, count // 6) if unsure else 0
    along = np.linspace(0.0, number, count)
    ramps = np.clip(along[:, None] - np.arange(number), 0.0, 1.0)
    return np.column_stack((np.ones(count), ramps))


def _told_inside(rows: PhaseRows) -> bool:
    """Whether readings inside the window hold different shares of its phases, or those at its edges alone tell them."""
    inside = rows.shares[:, list(_PHASES)].sum(axis=1) >= 0.99 * rows.shares[:, list(LEVELS)].sum(axis=1)
    own = rows.shares[inside][:, list(_PHASES)]
    return inside.any() and float((own / own.sum(axis=1, keepdims=True)).std(axis=0).max()) > _SAME_SHARES


def _mean_power(rows: PhaseRows) -> float:
    """Mean power of the readings that lie in the window, or else of all that see it, in W."""
    inside, whole = rows.shares[:, list(_PHASES)].sum(axis=1), rows.shares[:, list(LEVELS)].sum(axis=1)
    kept = inside >= 0.99 * whole
    kept = kept if kept.any() else inside > 0.0
    mean_w = float(rows.values[kept].sum() / whole[kept].sum()) if kept.any() else 0.0
    if not mean_w > 0.0:
        raise Unknown("the readings did not move during the window")
    return mean_w
