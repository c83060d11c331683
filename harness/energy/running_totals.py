"""Joules that a meter counted since it was opened, and what it reads now: by domain, by component and in all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from harness.core.quantities import Method, weakest
from harness.energy.attribution import PowerFigure, innermost, summed
from harness.energy.integrate import Energy, margin_s, part_energy
from harness.energy.metered_window import MeterDescription
from harness.energy.readings import Domain, Trace

_NS = 1e9
_STEP_S = 1.0
_POWER_S, _POWER_PERIODS = 1.0, 10.0
"""Power is the mean over so long, or so many updates of a slow sensor."""
_PATIENCE_S = 60.0
"""A stretch that can't be told for so long is given up."""


@dataclass(frozen=True)
class RunningTotal:
    """What was counted so far and is drawn now. Absent joules are of what could not be read yet, or fell silent."""

    energy_j: float | None
    power: PowerFigure
    method: Method | None
    lost_s: float = 0.0
    """Seconds whose energy could not be told and is missing from ``energy_j``."""
    failure: str | None = None


_NOTHING = Energy(None, None, "no readings yet")


@dataclass
class _State:
    until_ns: int | None = None
    joules: float = 0.0
    lost_s: float = 0.0
    power: Energy = _NOTHING
    failure: str | None = None


class RunningTotals:
    """Counts on in steps of a second, in a thread of its own from ``start`` to ``stop``.

    Each stretch of time is integrated once, when the readings after it are there: figures lag by a few of the
    sensor's updates. ``traces`` gives a meter's calibrated readings between two times.
    """

    def __init__(self, description: MeterDescription, poll_s: float, traces: Callable[[int, int], list[Trace]]) -> None:
        self._domains = list(description.domains.values())
        self._chosen = description.components
        self._poll_s = poll_s
        self._traces = traces
        self._states = {domain.name: _State() for domain in self._domains}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="totals", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Safe to call twice."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
            self._thread = None

    def advance(self) -> None:
        """Count what was spent up to now, as far as readings tell."""
        now_ns = time.monotonic_ns()
        since_ns = [self._since_ns(domain, now_ns) for domain in self._domains]
        for trace in self._traces(min(since_ns), now_ns) if since_ns else ():
            state = replace(self._states[trace.domain.name])
            try:
                self._step(trace, state, now_ns)
            except Exception as error:  # a fault in here must be seen, and not end the thread in silence
                state.failure = f"the energy could not be worked out: {type(error).__name__}: {error}"
            with self._lock:
                self._states[trace.domain.name] = state

    def domains(self) -> dict[str, RunningTotal]:
        return {domain.name: self._total([domain]) for domain in self._domains}

    def components(self) -> dict[str, RunningTotal]:
        """What is added up for each component."""
        return {name: self._total(self._named(names)) for name, names in self._chosen.items()}

    def whole(self) -> RunningTotal:
        """All components, nothing counted twice."""
        return self._total(self._named(innermost(self._domains, self._chosen)))

    def _named(self, names: list[str]) -> list[Domain]:
        return [domain for domain in self._domains if domain.name in names]

    def _total(self, domains: list[Domain]) -> RunningTotal:
        with self._lock:
            states = {domain.name: replace(self._states[domain.name]) for domain in domains}
        method = weakest(domain.method for domain in domains)
        power = summed({name: state.power for name, state in states.items()})
        failures = [state.failure for state in states.values() if state.failure]
        known = states and not failures and all(state.until_ns is not None for state in states.values())
        return RunningTotal(
            sum(state.joules for state in states.values()) if known else None,
            PowerFigure(power.joules, power.ci95_j, method, power.reason),
            method,
            sum(state.lost_s for state in states.values()),
            "; ".join(dict.fromkeys(failures)) or None,
        )

    def _run(self) -> None:
        while not self._stopping.wait(_STEP_S):
            self.advance()

    def _since_ns(self, domain: Domain, now_ns: int) -> int:
        """From when on readings of a domain are needed."""
        until_ns = self._states[domain.name].until_ns
        power_ns = now_ns - self._lag_ns(domain) - _power_ns(domain)
        return (power_ns if until_ns is None else min(until_ns, power_ns)) - 2 * self._lag_ns(domain)

    def _lag_ns(self, domain: Domain) -> int:
        """How old an edge must be for the readings after it to be there."""
        return int(margin_s(domain, self._poll_s) * _NS)

    def _step(self, trace: Trace, state: _State, now_ns: int) -> None:
        if trace.failure is not None:
            state.failure, state.power = trace.failure, Energy(None, None, trace.failure)
            return
        if trace.times_ns.size < 2:
            return
        until_ns = min(now_ns, int(trace.times_ns[-1])) - self._lag_ns(trace.domain)
        if state.until_ns is None:
            state.until_ns = max(until_ns, int(trace.times_ns[0]))
            return
        if until_ns <= state.until_ns:
            return
        self._count(trace, state, until_ns)
        state.power = _mean_power(trace, until_ns - _power_ns(trace.domain), until_ns)

    def _count(self, trace: Trace, state: _State, until_ns: int) -> None:
        assert state.until_ns is not None
        seconds = (until_ns - state.until_ns) / _NS
        energy = part_energy(trace, state.until_ns, until_ns)
        if energy.joules is not None:
            state.joules += max(energy.joules, 0.0)
        elif seconds < _PATIENCE_S and not np.isnan(trace.values).any():
            return  # a sensor that hardly moves shows later what it counted
        else:
            state.lost_s += seconds
        state.until_ns = until_ns


def _power_ns(domain: Domain) -> int:
    return int(max(_POWER_S, _POWER_PERIODS * (domain.period_s or 0.0)) * _NS)


def _mean_power(trace: Trace, start_ns: int, end_ns: int) -> Energy:
    """In W."""
    energy = part_energy(trace, max(start_ns, int(trace.times_ns[0])), end_ns)
    if energy.joules is None or energy.ci95_j is None:
        return energy
    seconds = (end_ns - max(start_ns, int(trace.times_ns[0]))) / _NS
    return Energy(energy.joules / seconds, energy.ci95_j / seconds)
