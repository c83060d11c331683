"""Machines whose true cost of every size is known, and time that passes while they are measured.

A machine has a prefill and a decode step with what real ones show: a roofline, padding to tiles, slopes that change,
powers of the length. None can be written in the fit's own terms: a smooth ripple over the length and an irregular part
from size to size, as from the kernels that a library picks, lie on top of all of them.

What is assumed of the program: a point is measured as ``adaptive.Visit`` says. It warms up for 1 s and 2 requests at
least, or one where a request takes 5 s, then runs two trials of 1 s and one request at least, or one where a request
takes 5 s, with 0.1 s between them. Drawn points have more where trials are noisy, and are visited twice.
Loading a model and idle power count for nothing: every protocol needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.core.arrays import Floats
from harness.core.sizes import Point
from harness.modelling.adaptive import Proposal, Visit, trials_by_now
from harness.modelling.drawn_error import Seen

LONGEST = 4200
"""Longest m + n that a machine can compute, in tokens."""
PREFILL_W, DECODE_W, FLOOR_W = 340.0, 190.0, 60.0
"""Power of prefill and of decoding at full work, and of what runs all the time."""
METER_NOISE = 0.01
"""Relative standard deviation of a window's energy at least."""
STAYS, FALLS = 0.13, 0.75
"""Part of a window's noise that no length lessens, and the power of the length by which the rest falls: 6.2 % of energy
under 1 s, 2.2 % up to 5 s, 0.6 % up to 30 s and 0.5 % beyond (trials of single requests, Wilkins and others 2024)."""
DRIFT_S = 60.0
"""Time in which a machine's drift forgets where it was."""

Of = Callable[[Floats, np.random.Generator], Floats]
"""Seconds at every length from 0 to ``LONGEST``."""


@dataclass(frozen=True)
class Machine:
    """How a kind of machine is drawn at random, and how it behaves while it is measured."""

    name: str
    prefill: Of
    step: Of
    noise: float
    """Relative standard deviation of a window of 1 s, or of a shorter one. It falls with the window's length as that of
    the published energies does (see ``STAYS``)."""
    drift: float = 0.0
    """Relative standard deviation of its speed about the mean, wandering in ``DRIFT_S``."""
    ripple: float = 0.003
    """Relative amplitude of what is smooth over the length, and of no form."""
    irregular: float = 0.003
    """Relative standard deviation from size to size."""


def _spread(rng: np.random.Generator, value: float, factor: float = 1.3) -> float:
    """A value near this one."""
    return float(value * np.exp(rng.uniform(-np.log(factor), np.log(factor))))


def _roofline(x: Floats, rng: np.random.Generator) -> Floats:
    """A floor and work joined by an exponent that the fit doesn't try."""
    p = rng.uniform(1.6, 5.0)
    work = _spread(rng, 1.1e-4) * x + _spread(rng, 1.2e-8) * x**2
    return np.asarray((_spread(rng, 0.02) ** p + work**p) ** (1 / p))


def _tiled(x: Floats, rng: np.random.Generator, tokens: int) -> Floats:
    """Most of the work is on whole tiles, the rest and attention on tokens."""
    padded = np.ceil(np.maximum(x, 1) / tokens) * tokens
    per_token, whole = _spread(rng, 1.1e-4), rng.uniform(0.6, 0.95)
    return np.asarray(_spread(rng, 0.012) + per_token * (whole * padded + (1 - whole) * x) + 1.2e-8 * x**2)


def _kinks(x: Floats, rng: np.random.Generator) -> Floats:
    """The work per token changes twice, at sizes of no power of two."""
    first, second = _spread(rng, 110, 1.4), _spread(rng, 640, 1.4)
    slope = _spread(rng, 1.3e-4) * np.where(x < first, 1.0, np.where(x < second, 0.6, 1.25))
    return np.asarray(_spread(rng, 0.018) + np.cumsum(slope))


def _curved(x: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(_spread(rng, 0.015) + _spread(rng, 6e-5) * x ** rng.uniform(1.06, 1.16))


def _linear_step(x: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(_spread(rng, 0.019) + _spread(rng, 2.2e-6, 2.0) * x)


def _paged_step(x: Floats, rng: np.random.Generator) -> Floats:
    """Attention reads whole pages of 16 positions."""
    return np.asarray(_spread(rng, 0.019) + _spread(rng, 2.2e-6, 2.0) * np.ceil(x / 16) * 16)


def _kinked_step(x: Floats, rng: np.random.Generator) -> Floats:
    """Beyond some context the cached keys no longer fit nearer memory."""
    slope = _spread(rng, 1.5e-6, 1.5) * np.where(x < _spread(rng, 700, 1.4), 1.0, rng.uniform(2.0, 4.0))
    return np.asarray(_spread(rng, 0.018) + np.cumsum(slope))


def _curved_step(x: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(_spread(rng, 0.017) + _spread(rng, 4e-5, 1.5) * x ** rng.uniform(0.55, 0.75))


MACHINES = (
    Machine("ideal", _roofline, _linear_step, noise=0.01),
    Machine("tiles of 64", partial(_tiled, tokens=64), _paged_step, noise=0.01),
    Machine("tiles of 128", partial(_tiled, tokens=128), _paged_step, noise=0.01),
    Machine("kinks", _kinks, _kinked_step, noise=0.01),
    Machine("curvature", _curved, _curved_step, noise=0.01),
    Machine("noise 0.5 %", partial(_tiled, tokens=128), _curved_step, noise=0.005),
    Machine("noise 5 %", _roofline, _linear_step, noise=0.05),
    Machine("drift", _roofline, _linear_step, noise=0.01, drift=0.01),
)


class Session:
    """One machine drawn at random, and the time spent on it."""

    def __init__(self, machine: Machine, seed: int, metered: bool) -> None:
        self._machine = machine
        self._metered = metered
        self._rng = rng = np.random.default_rng([seed, 1])
        lengths = np.arange(LONGEST + 1.0)
        shape = np.random.default_rng([seed, 2])
        self._prefill_s = machine.prefill(lengths, shape) * self._rippled(lengths, shape)
        self._decoded_s = np.concatenate(
            ([0.0], np.cumsum(machine.step(lengths, shape) * self._rippled(lengths, shape)))
        )
        self._watts = [_spread(shape, watts, 1.2) for watts in (PREFILL_W, DECODE_W)]
        self._hash = shape.uniform(0, 1e3, 3)
        self._slow = machine.drift * rng.standard_normal()
        self._passed: list[tuple[float, float]] = []
        self.now_s = 0.0

    def _rippled(self, lengths: Floats, shape: np.random.Generator) -> Floats:
        octaves = np.log2(lengths + 1)
        waves = sum(np.sin(2 * np.pi * octaves / shape.uniform(1.5, 5) + shape.uniform(0, 6.3)) for _ in range(2))
        return np.asarray(1 + self._machine.ripple * waves)

    def true(self, quantity: str, m: Floats, n: Floats) -> Floats:
        """Mean cost of requests of a size on this machine, without what drift does to it: s or J."""
        m, n = np.asarray(m, dtype=np.int64), np.asarray(n, dtype=np.int64)
        at = np.sin(m * self._hash[0] + n * self._hash[1] + self._hash[2]) * 43758.5453
        # A uniform number for every size, of standard deviation 1.
        factor = 1 + self._machine.irregular * np.sqrt(12) * (at - np.floor(at) - 0.5)
        prefill_s, decode_s = self._prefill_s[m], self._decoded_s[m + n] - self._decoded_s[m + 1]
        if quantity == "prefill_s":
            return np.asarray(prefill_s * factor)
        if quantity == "decode_s":
            return np.asarray(decode_s * factor)
        if quantity == "runtime_s":
            return np.asarray((prefill_s + decode_s) * factor)
        busy = np.minimum(m / 512, 1.0)
        prefill_w = FLOOR_W + (self._watts[0] - FLOOR_W) * (0.35 + 0.65 * busy)
        return np.asarray((prefill_s * prefill_w + decode_s * self._watts[1]) * factor)

    def mean_drift(self) -> float:
        """Mean factor of all costs over the time passed."""
        if not self._passed:
            return 1.0
        lengths, factors = np.array(self._passed).T
        return float(np.average(factors, weights=lengths))

    def measure(self, proposed: Proposal, visit: Visit, before: Seen | None = None, later: int = 0) -> Seen:
        """Warm up and run the trials of a point that are due; time passes. ``before`` is what a first visit saw."""
        began_s, point = self.now_s, proposed.point
        self.warm_up(point, visit)
        trials = {name: list(values) for name, values in before.trials.items()} if before else {}
        while len(trials.get("runtime_s", ())) < trials_by_now(proposed, later):
            for name, value in self.trial(point, visit).items():
                trials.setdefault(name, []).append(value)
        return Seen(point, proposed.drawn, trials, self.now_s - began_s)

    def warm_up(self, point: Point, visit: Visit) -> None:
        """The requests before the first trial of a point."""
        request_s = self._at("runtime_s", point)
        self._pass(float(visit.warmups_of(np.array(request_s))) * request_s + visit.pause_s)

    def trial(self, point: Point, visit: Visit) -> dict[str, float]:
        """One window; what it measures per request."""
        request_s = self._at("runtime_s", point)
        window_s = max(visit.trial_requests, int(np.ceil(visit.trial_s / request_s))) * request_s
        slow = self._pass(window_s + visit.pause_s)
        noise = self._machine.noise * np.hypot(STAYS, max(window_s, 1.0) ** -FALLS)
        common = slow * (1 + noise * self._rng.standard_normal())
        split = 1 + 0.3 * noise * self._rng.standard_normal()
        prefill_s, decode_s = self._at("prefill_s", point) * common * split, self._at("decode_s", point) * common
        measured = {"runtime_s": prefill_s + decode_s, "prefill_s": prefill_s, "decode_s": decode_s}
        if self._metered:
            own = 1 + max(noise, METER_NOISE) * self._rng.standard_normal()
            measured["energy_j"] = self._at("energy_j", point) * slow * own
        return measured

    def _at(self, quantity: str, point: Point) -> float:
        return float(self.true(quantity, np.array([point.input_tokens]), np.array([point.output_tokens]))[0])

    def _pass(self, seconds: float) -> float:
        """Let time pass; the factor of costs meanwhile."""
        kept = np.exp(-seconds / DRIFT_S)
        fresh = self._machine.drift * np.sqrt(1 - kept**2) * self._rng.standard_normal()
        self._slow = kept * self._slow + fresh
        self._passed.append((seconds, 1 + self._slow))
        self.now_s += seconds
        return float(1 + self._slow)
