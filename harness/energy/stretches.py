"""Energies of a loop of requests that overlap: of its window by request, and of every stretch of its time. Pure.

The stretches are each integrated from the readings, and add up to what the meter counted over the whole: domain by
domain, component by component, and in all. A sum takes the worst method of its parts and is null when a part is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from harness.core.quantities import Method, weakest
from harness.energy.attribution import (
    NO_SOURCE,
    STUCK,
    EnergyFigure,
    EnergyReport,
    choose,
    disagreements,
    innermost,
    known_together,
    summed,
    summed_gain,
)
from harness.energy.integrate import Energy, stretch_energies, window_energy
from harness.energy.loop_marks import LoopMarks
from harness.energy.readings import AS_IT_STANDS, Trace

OVERLAP = "prefill and decode of different requests overlap"
"""Why a loop's energy has no phases."""
_WINDOW = 2
"""Which of a loop's stretches is its window."""


@dataclass(frozen=True)
class StretchFigure:
    """Joules of a domain, a component or a sum over a stretch of time, with the 95 % half-width; None with the reason.

    Of a stretch that is short for the sensor joules may be below 0, by less than the half-width.
    """

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    energy_j: float | None
    ci95_j: float | None
    method: Method | None = None
    reason: str | None = None
    gain_ci95: float | None = None
    """As in ``EnergyFigure``."""

    def __post_init__(self) -> None:
        known_together(self.energy_j, self.ci95_j, "energy_j")


@dataclass(frozen=True)
class Stretch:
    """A length of time between two CLOCK_MONOTONIC times, and what was spent in it."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    start_ns: int
    end_ns: int
    total: StretchFigure
    components: dict[str, StretchFigure] = field(default_factory=dict)
    domains: dict[str, StretchFigure] = field(default_factory=dict)


@dataclass(frozen=True)
class LoopStretches:
    """The block under the meter in parts, which add up to ``whole``: before, in and after the loop."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    idle_before: Stretch
    ramp: Stretch
    window: Stretch
    drain: Stretch
    idle_after: Stretch
    whole: Stretch
    """By the same readings, from the first time to the last."""


def stretches(
    traces: Sequence[Trace], edges_ns: Sequence[int], rank: Sequence[str] = (), absent: str = NO_SOURCE
) -> list[Stretch]:
    """The energy between each two consecutive times, which are in order, and last that of the whole.

    ``rank`` and ``absent`` as in ``attribution.attribute``. Raises ValueError for fewer than two times or out of order.
    """
    if len(edges_ns) < 2 or any(after < before for before, after in pairwise(edges_ns)):
        raise ValueError("stretches need at least two times, in order")
    return _reports(traces, _energies(traces, edges_ns), edges_ns, rank, absent)


def attribute_loop(
    traces: Sequence[Trace],
    marks: LoopMarks,
    start_ns: int,
    end_ns: int,
    rank: Sequence[str] = (),
    working: Collection[str] = ("cpu", "system"),
    absent: str = NO_SOURCE,
) -> tuple[EnergyReport, LoopStretches]:
    """Energy per request of a loop's window, and the energies of all of the block from ``start_ns`` to ``end_ns``.

    Energy per request is the window's ÷ the requests inside it; it has no phases. ``rank``, ``working`` and
    ``absent`` as in ``attribution.attribute``.
    """
    edges_ns = (min(start_ns, marks.ramp_start_ns), *marks.edges_ns, max(end_ns, marks.drain_end_ns))
    energies = _energies(traces, edges_ns)
    for trace in traces:
        found = energies[trace.domain.name]
        if trace.domain.component in working and found[_WINDOW].joules == 0.0:
            found[_WINDOW] = Energy(None, None, STUCK)
    parts = LoopStretches(*_reports(traces, energies, edges_ns, rank, absent))
    window = parts.window
    report = EnergyReport(
        components={name: _without_phases(figure) for name, figure in window.components.items()},
        total=_without_phases(window.total),
        domains={name: _without_phases(figure) for name, figure in window.domains.items()},
        warnings=disagreements(
            {trace.domain: energies[trace.domain.name][_WINDOW] for trace in traces},
            (marks.window_end_ns - marks.window_start_ns) / 1e9,
        ),
    )
    return report.over(marks.requests), parts


def _energies(traces: Sequence[Trace], edges_ns: Sequence[int]) -> dict[str, list[Energy]]:
    """By domain the energies of all stretches, and of the whole."""
    first_ns, last_ns = edges_ns[0], edges_ns[-1]
    return {
        trace.domain.name: [*stretch_energies(trace, edges_ns), window_energy(trace, first_ns, last_ns)]
        for trace in traces
    }


def _reports(
    traces: Sequence[Trace],
    energies: Mapping[str, Sequence[Energy]],
    edges_ns: Sequence[int],
    rank: Sequence[str],
    absent: str,
) -> list[Stretch]:
    domains = [trace.domain for trace in traces]
    chosen = choose(domains, rank)
    total = innermost(domains, chosen)
    known = {domain.name: domain for domain in domains}

    def figure(names: Sequence[str], number: int) -> StretchFigure:
        parts = {name: energies[name][number] for name in names}
        energy, method = summed(parts, absent), weakest(known[name].method for name in names)
        return StretchFigure(energy.joules, energy.ci95_j, method, energy.reason, summed_gain(parts, known))

    return [
        Stretch(
            start_ns,
            end_ns,
            figure(total, number),
            {component: figure(names, number) for component, names in chosen.items()},
            {name: figure([name], number) for name in energies},
        )
        for number, (start_ns, end_ns) in enumerate([*pairwise(edges_ns), (edges_ns[0], edges_ns[-1])])
    ]


def _without_phases(figure: StretchFigure) -> EnergyFigure:
    """The stretch as one request."""
    energy = (figure.energy_j, figure.ci95_j)
    return EnergyFigure(figure.method, *energy, None, None, None, None, figure.reason, OVERLAP, figure.gain_ci95)
