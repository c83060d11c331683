"""Rows of the coverage table: energies of prefills and decodes.

Windows of about 10 s of requests of one size, whose prefill takes 0.3 s and whose decode takes about one. Power differs
between phases, rises or falls within them, differs from request to request, and fluctuates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from coverage_row import Row, row
from phase_oracle import half_widths
from request_trains import Train, train
from sensor_models import KINDS, RATE_HZ
from synthetic import Sensor

from harness.energy.attribution import PHASE_LIMIT
from harness.energy.integrate import margin_s, window_energy
from harness.energy.phases import phase_energies

SENSORS = (
    *(each for each in KINDS if each.period_s in (0.02, 0.1)),
    Sensor("RAPL 1 ms", True, 0.001, resolution=61e-6, wrap_j=262143.0, component="cpu"),
)
"""The kinds of sensors that phases are checked with."""
TRAINS = {"steady": 0.001, "jittered lengths": 0.1}
"""Standard deviation of each phase's length, relative, by kind of window."""
_ORACLES = 20
"""So many draws tell the oracle's median half-width."""


def rows(draws: int, seed: int) -> Iterator[Row]:
    """Every row of this kind."""
    for number, sensor in enumerate(SENSORS):
        for place, (name, spread) in enumerate(TRAINS.items()):
            yield from _rows_of(sensor, name, spread, draws, np.random.default_rng([seed, 1, number, place]))


def _rows_of(sensor: Sensor, name: str, spread: float, draws: int, rng: np.random.Generator) -> Iterator[Row]:
    errors, widths, oracles = np.full((draws, 2), np.nan), np.full((draws, 2), np.nan), []
    for draw in range(draws):
        requests = train(rng, spread)
        true_j = requests.true_j()
        for phase, (joules, ci95_j) in enumerate(measured(sensor, requests, rng)):
            if 0.0 <= ci95_j <= PHASE_LIMIT * joules:
                errors[draw, phase], widths[draw, phase] = joules / true_j[phase] - 1.0, ci95_j / true_j[phase]
        if draw < _ORACLES:
            oracles.append(half_widths(sensor, requests, rng) / true_j)
    for phase, what in enumerate(("prefill", "decode")):
        known = ~np.isnan(errors[:, phase])
        nulls = f" ({np.mean(~known):.1%} null)" if not known.all() else ""
        title = f"{what}: {sensor.name}, {name}{nulls}"
        found = row(title, errors[known, phase], widths[known, phase], np.array(oracles)[:, phase])
        yield replace(found, draws=int(known.sum()))


def measured(sensor: Sensor, requests: Train, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Energy and half-width of all prefills and of all decodes, from simulated readings."""
    margin = margin_s(sensor.domain(), 1.0 / RATE_HZ) + 0.3
    trace = sensor.observe(requests.load, -margin, float(requests.ends_s[-1]) + margin, rng, RATE_HZ)
    window = requests.window
    whole = window_energy(trace, int(window.start_ns[0]), int(window.end_ns[-1]))
    phases = phase_energies(trace, window, whole)
    return [
        (np.nan, np.nan) if each.joules is None or each.ci95_j is None else (each.joules, each.ci95_j)
        for each in (phases.prefill, phases.decode)
    ]
