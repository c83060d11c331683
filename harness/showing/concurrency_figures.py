"""What several requests in flight do: throughput, energy, time to first token and per token against concurrency."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.sizes import Point
from harness.core.statistics import Estimate
from harness.runs.load_summary import Latency
from harness.runs.summary import PointSummary
from harness.showing.colours import MARKERS, OWN, PALETTE
from harness.showing.figures import (
    CsvRow,
    EndLabel,
    cost_axis,
    foot,
    head,
    label_ends,
    lay_out,
    new_figure,
    token_axis,
)
from harness.showing.findings import load_finding
from harness.showing.names import model_words, system_words
from harness.showing.panels import BY_THESE_METERS, DrawnSystem, Options, mean_and_width
from harness.showing.under_load import by_size, typical_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Value = Callable[[PointSummary], Estimate | None]

_ENERGIES = ("energy_j", "energy_per_output_token_j", "energy_per_token_j", "tokens_per_j")
_MEANS = {"ttft_s": "prefill_s", "tpot_s": "tpot_s"}
"""By latency the field of a point that has its mean over all requests."""
_PERCENTILES = ("p50_s", "p90_s", "p99_s")

MOST_SIZES = 5
"""Lines that a panel still shows apart."""


@dataclass(frozen=True)
class Trend:
    """One line of a panel for each request size."""

    value: Value
    style: str = "-"
    """The line that is drawn through has markers and intervals; percentiles above it are broken."""


@dataclass(frozen=True)
class LoadPanel:
    """One quantity against the requests in flight."""

    label: str
    curves: tuple[Trend, ...]
    energy: bool = False
    unit: float = 1.0
    """What the values are divided by."""

    def known(self, points: Sequence[PointSummary]) -> list[PointSummary]:
        """The points whose value of its first curve a logarithmic axis can show."""
        return [point for point in points if (value := self.curves[0].value(point)) is not None and value.mean > 0]


def _field(name: str) -> Value:
    return lambda point: getattr(point, name)


def _percentile(latency: str, name: str) -> Value:
    def value(point: PointSummary) -> Estimate | None:
        found: Latency | None = getattr(point.load, latency, None)
        return getattr(found, name, None)

    return value


def _latency_panel(latency: str, label: str, unit: str, served: bool) -> LoadPanel:
    """Percentiles of single requests, or the mean where a process of ours computes them as one batch."""
    each = 1e-3 if unit == "ms" else 1.0
    if not served:
        return LoadPanel(f"{label}, {unit}", (Trend(_field(_MEANS[latency])),), unit=each)
    curves = (Trend(_percentile(latency, "p50_s")), Trend(_percentile(latency, "p99_s"), "--"))
    return LoadPanel(f"{label},\np50 and p99, {unit}", curves, unit=each)


def load_panels(points: Sequence[PointSummary], without_energy: bool = False) -> list[LoadPanel]:
    """The panels of which anything was measured."""
    served = any(point.load for point in points)
    panels = [LoadPanel("output tokens/s", (Trend(_field("output_tokens_per_s")),))]
    if not without_energy:
        panels += [
            LoadPanel("output tokens per joule", (Trend(_field("tokens_per_j")),), energy=True),
            LoadPanel("energy per request, J", (Trend(_field("energy_j")),), energy=True),
            LoadPanel("energy per output token, J", (Trend(_field("energy_per_output_token_j")),), energy=True),
        ]
    panels += [
        _latency_panel("ttft_s", "time to first token", "s", served),
        _latency_panel("tpot_s", "time per output token", "ms", served),
    ]
    return [panel for panel in panels if panel.known(points)]


_CELLS: dict[str, Value] = {
    "output_tokens_per_s": _field("output_tokens_per_s"),
    **{name: _field(name) for name in _ENERGIES},
    **{name: _field(mean) for name, mean in _MEANS.items()},
    **{f"{name[:-2]}_{of}": _percentile(name, of) for name in _MEANS for of in _PERCENTILES},
}
LOAD_HEADER = (
    *("system", "model", "in_flight_as", "input_tokens", "output_tokens", "concurrency", "trials"),
    *(part for name in _CELLS for part in (name, f"{name}_ci95")),
    "energy_method",
)


def load_rows(source: DrawnSystem, without_energy: bool = False) -> list[CsvRow]:
    """Every point of a system measured under load, in the columns of ``LOAD_HEADER``; what isn't known is None."""
    rows: list[CsvRow] = []
    for point in source.loaded:
        known = [None if without_energy and name in _ENERGIES else value(point) for name, value in _CELLS.items()]
        values = [part for value in known for part in mean_and_width(value)]
        size = point.point
        place = (size.input_tokens, size.output_tokens, size.concurrency, point.trials)
        rows.append((*source.pair, source.kind, *place, *values, None if without_energy else point.energy_method))
    return rows


def load_figure(source: DrawnSystem, options: Options, without_energy: bool = False) -> Figure:
    """One system against its requests in flight, a line a request size, the finding as the title."""
    shown = drawn_sizes(source, options)
    panels = load_panels([point for points in shown.values() for point in points], without_energy)
    columns = len(panels) if len(panels) < 4 else 2
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, 7.2, 1.2 + 1.7 * rows, share_x="all")
    looks = size_looks(source, shown, options)
    used = [ax for row in axes for ax in row][: len(panels)]
    for ax, panel in zip(used, panels, strict=True):
        for size, points in shown.items():
            for curve in panel.curves:
                _draw(ax, points, curve, panel, looks[size])
        _scale(ax, panel, source, shown)
    for at, ax in enumerate(used):
        # Those of the panel below stand for it.
        ax.tick_params(labelbottom=at + columns >= len(used))
        ax.xaxis.label.set_visible(at + columns >= len(used))
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    head(figure, load_title(source, options))
    foot(figure, load_cautions(source, shown, panels, without_energy))
    lay_out(figure)
    if len(shown) > 1:
        for at, (ax, panel) in enumerate(zip(used, panels, strict=True)):
            if at % columns == columns - 1 or at == len(panels) - 1:
                label_ends(ax, _labels(panel, shown, looks))
    return figure


def drawn_sizes(source: DrawnSystem, options: Options) -> dict[Point, list[PointSummary]]:
    """The sizes that are drawn, shortest first: the typical one, and of the others as many as can be told apart.

    Those that were measured at most concurrencies come first; of these the shortest, the longest and some between.
    """
    sizes = by_size(source.loaded)
    typical = typical_size(source.loaded, options.fixed_input, options.fixed_output)
    others = sorted((size for size in sizes if size != typical), key=_length)
    most = max((len(sizes[size]) for size in others), default=0)
    others = [size for size in others if len(sizes[size]) == most > 1]
    if len(others) > MOST_SIZES - 1:
        others = [others[round(at)] for at in np.linspace(0, len(others) - 1, MOST_SIZES - 1)]
    return {size: sizes[size] for size in sorted([typical, *others], key=_length)}


def _length(size: Point) -> tuple[int, int]:
    return size.input_tokens + size.output_tokens, size.input_tokens


def size_looks(
    source: DrawnSystem, shown: Mapping[Point, Sequence[PointSummary]], options: Options
) -> dict[Point, tuple[str, str]]:
    """Colour and marker of each size; the typical one is black."""
    typical = typical_size(source.loaded, options.fixed_input, options.fixed_output)
    others = [size for size in shown if size != typical]
    found = {size: (PALETTE[at % len(PALETTE)], MARKERS[1 + at % (len(MARKERS) - 1)]) for at, size in enumerate(others)}
    return {**found, typical: (OWN, MARKERS[0])}


def load_title(source: DrawnSystem, options: Options) -> str:
    """What more requests in flight do at the typical size."""
    typical = typical_size(source.loaded, options.fixed_input, options.fixed_output)
    said = load_finding(by_size(source.loaded)[typical])
    return f"{said} ({typical.words()})"


def load_cautions(
    source: DrawnSystem,
    shown: Mapping[Point, object],
    panels: Sequence[LoadPanel],
    without_energy: bool,
    all_in: str = "the CSV file",
) -> list[str]:
    """What the reader must know: what was loaded how, what the lines are, what is estimated or left out.

    ``all_in`` says where the sizes are that aren't drawn.
    """
    notes = [f"{model_words(source.identity.model)} on {system_words(source.identity.system)}, {source.kind}"]
    notes.append(f"Points: means of trials with {BY_THESE_METERS}")
    if any(len(panel.curves) > 1 for panel in panels):
        notes.append("Latencies are percentiles of single requests: p50 drawn through, p99 dashed")
    estimated = any(point.energy_method == "estimated" for point in source.loaded)
    if estimated and any(panel.energy for panel in panels):
        notes.append("Hollow points: energy estimated, not measured, so without intervals")
    if without_energy:
        notes.append("Energy is left out: it is known as the sum of all components alone")
    elif not any(panel.energy for panel in panels):
        notes.append("Energy was not measured")
    sizes = len(by_size(source.loaded))
    if sizes > len(shown):
        notes.append(f"{len(shown)} of {sizes} request sizes are drawn; {all_in} has all")
    return notes


def _draw(ax: Axes, points: Sequence[PointSummary], curve: Trend, panel: LoadPanel, look: tuple[str, str]) -> None:
    known = [(point, value) for point in points if (value := curve.value(point)) is not None and value.mean > 0]
    if not known:
        return
    colour, marker = look
    own = colour == OWN
    hollow = panel.energy and known[0][0].energy_method == "estimated"
    means = np.array([value.mean / panel.unit for _, value in known])
    # An unknown interval has no bar, and an estimate none that looks like a measurement's.
    widths = [np.nan if hollow or value.half_width is None else value.half_width / panel.unit for _, value in known]
    style: dict[str, Any] = {"color": colour, "linestyle": curve.style, "zorder": 5 if own else 3}
    if curve.style == "-":
        style |= {"marker": marker, "markersize": 4 if own else 3.2, "linewidth": 2.0 if own else 1.1}
        style |= {"markerfacecolor": "white" if hollow else colour, "elinewidth": 0.8, "capsize": 1.5}
    else:
        style |= {"linewidth": 1.2 if own else 0.8}
        widths = [np.nan] * len(widths)
    # A bar of more than the value has no lower end on a logarithmic axis.
    bars = [np.minimum(widths, 0.999 * means), np.array(widths)]
    ax.errorbar([point.point.concurrency for point, _ in known], means, yerr=bars, **style)


def _scale(ax: Axes, panel: LoadPanel, source: DrawnSystem, shown: Mapping[Point, Sequence[PointSummary]]) -> None:
    """Logarithmic axes that end shortly beyond the means."""
    points = [point for one in shown.values() for point in one]
    counts = [point.point.concurrency for point in points]
    values = [value for curve in panel.curves for point in points if (value := curve.value(point)) is not None]
    means = [value.mean / panel.unit for value in values if value.mean > 0]
    ax.set_xscale("log", base=2)
    ax.set_xlim(min(counts) / 1.15, max(counts) * 1.15)
    ax.set_yscale("log")
    ax.set_ylim(min(means) / 1.25, max(means) * 1.25)
    estimated = panel.energy and any(point.energy_method == "estimated" for point in points)
    cost_axis(ax.yaxis, f"{panel.label}\n(estimated)" if estimated else panel.label)
    token_axis(ax.xaxis, f"requests in flight ({source.kind})")


def _labels(
    panel: LoadPanel, shown: Mapping[Point, Sequence[PointSummary]], looks: Mapping[Point, tuple[str, str]]
) -> list[EndLabel]:
    """Each size beside the end of its line."""
    labels = []
    for size, points in shown.items():
        known = panel.known(points)
        if known:
            value = panel.curves[0].value(known[-1])
            end = (known[-1].point.concurrency, value.mean / panel.unit if value else math.nan)
            labels.append(EndLabel(size.words(), end, looks[size][0], looks[size][0] == OWN))
    return labels
