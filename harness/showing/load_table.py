"""What several requests in flight do to speed, latency and energy, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from harness.core.statistics import Estimate
from harness.core.wording import estimated, number, plus_minus
from harness.runs.load_summary import Latency
from harness.runs.records import RecordedRun
from harness.runs.summary import PointSummary
from harness.showing.terminal import narrow_table, print_whole
from harness.showing.under_load import loaded_points

IN_FLIGHT = "in\nflight"
"""Heading of the concurrency."""
NOT_MEASURED = "–"

_Cell = Callable[[PointSummary], str]
_WIDE_ONLY = ("J/token", "tokens/J")
"""What terminals of less than 100 columns go without."""


def _number(value: Estimate | None, unit: float = 1.0) -> str:
    return NOT_MEASURED if value is None else number(value.mean / unit, 3)


def _with_width(value: Estimate | None) -> str:
    return NOT_MEASURED if value is None else plus_minus(value.mean, value.half_width)


def _energy(value: Callable[[PointSummary], Estimate | None], whole: bool = False) -> _Cell:
    """Joules, or what is per joule; an estimate as such, ``whole`` with its interval."""

    def cell(point: PointSummary) -> str:
        found = value(point)
        if found is not None and point.energy_method == "estimated":
            return estimated(found.mean)
        return _with_width(found) if whole else _number(found)

    return cell


def _percentile(part: str, name: str, unit: float) -> _Cell:
    """A percentile of a latency of single requests."""

    def cell(point: PointSummary) -> str:
        latency: Latency | None = getattr(point.load, part, None)
        return _number(getattr(latency, name, None), unit)

    return cell


_SIZE: tuple[tuple[str, _Cell], ...] = (
    ("input", lambda point: str(point.point.input_tokens)),
    ("output", lambda point: str(point.point.output_tokens)),
    (IN_FLIGHT, lambda point: str(point.point.concurrency)),
    ("output\ntokens/s", lambda point: _with_width(point.output_tokens_per_s)),
)
_MEANS: tuple[tuple[str, _Cell], ...] = (
    ("TTFT\ns", lambda point: _number(point.prefill_s)),
    ("TPOT\nms", lambda point: _number(point.tpot_s, 1e-3)),
)
"""Of requests that a process of ours computes as one batch: they have their tokens at the same times."""
_PERCENTILES: tuple[tuple[str, _Cell], ...] = (
    ("TTFT p50\ns", _percentile("ttft_s", "p50_s", 1.0)),
    ("p99\ns", _percentile("ttft_s", "p99_s", 1.0)),
    ("TPOT p50\nms", _percentile("tpot_s", "p50_s", 1e-3)),
    ("p99\nms", _percentile("tpot_s", "p99_s", 1e-3)),
)
_ENERGIES: tuple[tuple[str, _Cell], ...] = (
    ("J/request", _energy(lambda point: point.energy_j, whole=True)),
    ("J/token", _energy(lambda point: point.energy_per_token_j)),
    ("tokens/J", _energy(lambda point: point.tokens_per_j)),
)


def load_cells(points: Sequence[PointSummary]) -> tuple[tuple[str, _Cell], ...]:
    """The columns that a table of these points has: headings of one or two lines, and cells."""
    served = any(point.load for point in points)
    energies = _ENERGIES if any(point.energy_j for point in points) else ()
    return (*_SIZE, *(_PERCENTILES if served else _MEANS), *energies)


def load_notes(points: Sequence[PointSummary]) -> list[str]:
    """What the columns mean."""
    notes = ["TTFT: time to first token; TPOT: time per output token after it"]
    if any(point.load for point in points):
        notes.append("p50, p99: percentiles of single requests, means over the trials")
    if any(point.energy_j for point in points):
        notes.append("J/token: input and output tokens; tokens/J: output tokens")
    return notes


def print_load(run: RecordedRun, console: Console) -> None:
    """The table by size and concurrency, and what it says; nothing for a run with one request in flight at a time."""
    points = loaded_points(run)
    if not points:
        return
    kind = run.facts.backend.concurrency
    columns = [column for column in load_cells(points) if console.width >= 100 or column[0] not in _WIDE_ONLY]
    console.print(f"\nUnder load ({kind}):", markup=False)
    table = narrow_table(*(heading for heading, _ in columns))
    for point in points:
        table.add_row(*(cell(point) for _, cell in columns))
    print_whole(table, console)
    console.print("; ".join(load_notes(points)) + ".", markup=False, soft_wrap=True)
