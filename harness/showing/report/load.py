"""The part of the report page about several requests in flight: charts, a table and what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core.sizes import Point, request_words
from harness.core.statistics import Estimate
from harness.runs.records import RecordedRun
from harness.runs.summary import PointSummary
from harness.showing.colours import OWN
from harness.showing.concurrency_figures import (
    LoadPanel,
    drawn_sizes,
    load_cautions,
    load_panels,
    load_title,
    size_looks,
)
from harness.showing.load_table import load_cells, load_notes
from harness.showing.open_loops import OPEN_CELLS, open_loops, open_notes
from harness.showing.panels import DrawnSystem, Options
from harness.showing.report.charts import six_digits, value_words
from harness.showing.under_load import has_several

MOST_TICKS = 9


def loads(runs: Sequence[RecordedRun], sources: Sequence[DrawnSystem], options: Options) -> list[dict[str, Any]]:
    """For each run with several requests in flight, or with requests that came at a rate, what is shown of it."""
    return [
        _section(run, source, options)
        for run, source in zip(runs, sources, strict=True)
        if source.loaded or open_loops(run)
    ]


def _section(run: RecordedRun, source: DrawnSystem, options: Options) -> dict[str, Any]:
    drawn = has_several(source.loaded)
    shown = drawn_sizes(source, options) if drawn else {}
    partial = source.reaches_beyond(options.boundary)
    panels = load_panels(source.loaded, partial) if drawn else []
    looks = size_looks(source, shown, options) if drawn else {}
    notes = load_cautions(source, shown, panels, partial, all_in="the table") if drawn else []
    return {
        "name": source.name,
        "finding": load_title(source, options) if drawn else "",
        "label": f"requests in flight ({source.kind})",
        "ticks": _ticks(point.point.concurrency for point in source.loaded),
        "charts": [_chart(panel, shown, looks) for panel in panels],
        "note": " ".join(f"{note}." for note in notes[1:]),
        "tables": [*_load_table(source), *_open_table(run)],
    }


def _ticks(counts: Iterator[int]) -> list[int]:
    found = sorted(set(counts))
    return found if len(found) <= MOST_TICKS else [count for count in found if count & (count - 1) == 0]


def _chart(
    panel: LoadPanel, shown: Mapping[Point, Sequence[PointSummary]], looks: Mapping[Point, tuple[str, str]]
) -> dict[str, Any]:
    """One panel: of each size a line, and dashed ones for the percentiles above it."""
    title = panel.label.replace("\n", " ")
    unit = title.rpartition(", ")[2]
    # What comes first lies on top.
    typical_first = sorted(shown.items(), key=lambda item: looks[item[0]][0] != OWN)
    series = []
    for size, points in typical_first:
        colour, marker = looks[size]
        for at, curve in enumerate(panel.curves):
            known = [(point, value) for point in points if (value := curve.value(point)) is not None and value.mean > 0]
            guess = panel.energy and any(point.energy_method == "estimated" for point, _ in known)
            series.append(
                {
                    "name": size.words() + (", p99" if at else ""),
                    "colour": None if colour == OWN else colour,
                    "marker": None if at else marker,
                    "dashed": at > 0,
                    "hollow": guess,
                    "points": [_point(point, value.over(panel.unit), unit, guess, at > 0) for point, value in known],
                }
            )
    return {"title": title[:1].upper() + title[1:], "series": [one for one in series if one["points"]]}


def _point(point: PointSummary, value: Estimate, unit: str, guess: bool, bare: bool) -> list[Any]:
    """Place, value, half-width and words of one point; percentiles above the first have no bar."""
    size = request_words(point.point.input_tokens, point.point.output_tokens)
    words = f"{size}, {point.point.concurrency} in flight{', p99' if bare else ''}: {value_words(value, unit, guess)}"
    width = None if guess or bare or value.half_width is None else six_digits(value.half_width)
    return [point.point.concurrency, six_digits(value.mean), width, words]


def _load_table(source: DrawnSystem) -> Iterator[dict[str, Any]]:
    if source.loaded:
        cells = load_cells(source.loaded)
        yield {
            "columns": [heading.replace("\n", " ") for heading, _ in cells],
            "rows": [[cell(point) for _, cell in cells] for point in source.loaded],
            "note": f"{'; '.join(load_notes(source.loaded))}.",
        }


def _open_table(run: RecordedRun) -> Iterator[dict[str, Any]]:
    trials = open_loops(run)
    if trials:
        yield {
            "columns": [heading.replace("\n", " ") for heading, _ in OPEN_CELLS],
            "rows": [[cell(trial) for _, cell in OPEN_CELLS] for trial in trials],
            "note": f"Open loops: {'; '.join(open_notes(trials))}.",
        }
