"""A run at several numbers of requests in flight: which points tables and figures show, and what they are. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.core.sizes import Point
from harness.runs.records import RecordedRun
from harness.runs.summary import PointSummary, summarise


def loaded_points(run: RecordedRun) -> list[PointSummary]:
    """The measured points of a run by size and concurrency; none where it never had more than one request in flight."""
    found = sorted((point for point in summarise(run.trials, run.facts) if point.trials), key=lambda point: point.point)
    return found if any(point.point.concurrency > 1 for point in found) else []


def has_several(points: Sequence[PointSummary]) -> bool:
    """Whether some size was measured at several concurrencies, so that one can be drawn against it."""
    return any(len(of) > 1 for of in by_size(points).values())


def by_size(points: Iterable[PointSummary]) -> dict[Point, list[PointSummary]]:
    """The points of each request size, whose key has a concurrency of 1, by ascending concurrency."""
    sizes: dict[Point, list[PointSummary]] = {}
    for point in sorted(points, key=lambda each: each.point):
        sizes.setdefault(Point(point.point.input_tokens, point.point.output_tokens), []).append(point)
    return sizes


def in_flight_words(run: RecordedRun) -> str:
    """``1 in flight`` or ``1–8 in flight, closed loop``, by the plan; ``open loop`` where it has no concurrency."""
    if not run.facts.plan.points:
        return "open loop"
    return flight_words([c for _, _, c in run.facts.plan.points], run.facts.backend.concurrency)


def flight_words(concurrencies: Sequence[int], kind: str) -> str:
    """``1 in flight`` or ``1–8 in flight, closed loop``."""
    low, high = min(concurrencies, default=1), max(concurrencies, default=1)
    span = f"{low}" if low == high else f"{low}–{high}"
    return f"{span} in flight" + (f", {kind}" if high > 1 else "")


def typical_size(points: Sequence[PointSummary], fixed_input: int, fixed_output: int) -> Point:
    """The size that sentences are about: of those at several concurrencies the one nearest to where sweeps cross."""
    sizes = by_size(points)
    several = [size for size, of in sizes.items() if len(of) > 1]

    def distance(size: Point) -> float:
        return math.hypot(math.log(size.input_tokens / fixed_input), math.log(size.output_tokens / fixed_output))

    return min(several or sizes, key=lambda size: (distance(size), size))
