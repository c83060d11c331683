"""Time and energy per token of each phase: drawn, and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.statistics import Estimate
from harness.core.wording import number
from harness.modelling.profile_schema import Measurement
from harness.showing.colours import OWN, styles
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
from harness.showing.names import several_words, system_words
from harness.showing.panels import BY_THESE_METERS, DrawnSystem, Options, mean_95, mean_and_width, per

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHASES = ("prefill", "decode")
PHASE_HEADER = (
    *("system", "model", "phase", "input_tokens", "output_tokens"),
    *("time_per_token_s", "time_ci95_s", "energy_per_token_j", "energy_ci95_j", "method"),
)


def phase_rows(sources: Sequence[DrawnSystem], without_energy: Sequence[DrawnSystem] = ()) -> list[CsvRow]:
    """Time and energy per token of each phase at every point where they are known, in the columns of
    ``PHASE_HEADER``; None where one isn't."""
    rows: list[CsvRow] = []
    for source in (source for source in sources if not source.mixes_phases):
        for m in source.measurements:
            for phase in PHASES:
                time_s, energy_j = _costs(source, m, phase)
                energy_j = None if source in without_energy else energy_j
                if time_s or energy_j:
                    widths = [part for cost in (time_s, energy_j) for part in mean_and_width(cost)]
                    method = source.method if energy_j else None
                    rows.append((*source.pair, phase, m.input_tokens, m.output_tokens, *widths, method))
    return rows


def _costs(source: DrawnSystem, m: Measurement, phase: str) -> tuple[Estimate | None, Estimate | None]:
    """Seconds and joules per token of a phase: prefill works on input tokens, decode on all output tokens but one."""
    if phase == "prefill":
        statistics, tokens = (m.prefill_s, m.prefill_energy_j), m.input_tokens
    else:
        statistics, tokens = (m.decode_s, m.decode_energy_j), m.output_tokens - 1
    time_s, energy_j = (None if one is None else per(mean_95(one), tokens) for one in statistics)
    # A batch works on the tokens of all its requests at the same time.
    return time_s and time_s.over(source.concurrency), energy_j


def phase_figure(
    sources: Sequence[DrawnSystem], options: Options, mark: str = "", without_energy: Sequence[DrawnSystem] = ()
) -> Figure:
    """Prefill and decode per token in one panel, against input tokens: time and, where known, energy."""
    lines = {id(source): _along(source, options) for source in sources}
    metered = [
        s
        for s in sources
        if s not in without_energy and any(_costs(s, m, p)[1] for m in s.measurements for p in PHASES)
    ]
    panels = [("time per token, ms", sources, 0, 1e3), *([("energy per token, J", metered, 1, 1.0)] if metered else [])]
    figure, axes = new_figure(1, len(panels), 4.6 if len(panels) == 1 else 7.2, 3.0)
    look = {id(s): _look(s, sources) for s in sources}
    ends: list[list[EndLabel]] = []
    for ax, (label, shown, at, unit) in zip(axes[0], panels, strict=True):
        ends.append([])
        absent = set(PHASES)
        for source in shown:
            for phase in PHASES:
                points = [(m.input_tokens, cost) for m in lines[id(source)] if (cost := _costs(source, m, phase)[at])]
                if points:
                    absent.discard(phase)
                    ends[-1].append(_draw(ax, source, phase, points, unit, look[id(source)], at == 1, len(sources) > 1))
        # Not in the axes, where a line may lie.
        ends[-1] += [EndLabel(f"{phase} too short\nfor these sensors", None, "#444444") for phase in sorted(absent)]
        _scale(ax, label)
    head(figure, _title(sources, lines), mark)
    foot(figure, _notes(sources, metered))
    lay_out(figure)
    for ax, labels in zip(axes[0], ends, strict=True):
        label_ends(ax, labels)
    return figure


def _along(source: DrawnSystem, options: Options) -> list[Measurement]:
    """The points of the input sweep; all points where it has none."""
    chosen = [m for m in source.measurements if m.output_tokens_requested == options.fixed_output]
    return sorted(chosen or source.measurements, key=lambda m: (m.input_tokens, m.output_tokens))


def _look(source: DrawnSystem, sources: Sequence[DrawnSystem]) -> tuple[str, str]:
    if source.own and sum(one.own for one in sources) == 1:
        return OWN, "o"
    return styles([one.identity.system for one in sources])[source.identity.system]


def _draw(
    ax: Axes,
    source: DrawnSystem,
    phase: str,
    points: Sequence[tuple[float, Estimate]],
    unit: float,
    look: tuple[str, str],
    energy: bool,
    several: bool,
) -> EndLabel:
    """One line, and its label."""
    colour, marker = look
    x = [size for size, _ in points]
    y = np.array([unit * cost.mean for _, cost in points])
    hollow = energy and source.method == "estimated"
    # An estimate has no bar that looks like a measurement's.
    widths = np.array([np.nan if hollow or c.half_width is None else unit * c.half_width for _, c in points])
    style: dict[str, Any] = {
        "color": colour,
        "marker": marker,
        "markersize": 4,
        "linewidth": 1.4,
        "elinewidth": 0.8,
        "capsize": 1.5,
    }
    style |= {"markerfacecolor": "white" if hollow else colour, "linestyle": "-" if phase == "decode" else "--"}
    ax.errorbar(x, y, yerr=[np.minimum(widths, 0.999 * y), widths], **style)
    name = f"{phase}, {system_words(source.identity.system)}" if several else phase
    return EndLabel(name + (" (estimated)" if hollow else ""), (x[-1], float(y[-1])), colour, bold=True)


def _scale(ax: Axes, label: str) -> None:
    ax.set_yscale("log")
    ax.set_xscale("log", base=2)
    cost_axis(ax.yaxis, label)
    token_axis(ax.xaxis, "input tokens")


def _title(sources: Sequence[DrawnSystem], lines: dict[int, list[Measurement]]) -> str:
    """How much longer a token takes in decode than in prefill, at the longest input at which both are known."""
    for source in sources:
        for m in reversed(lines[id(source)]):
            prefill, decode = (_costs(source, m, phase)[0] for phase in PHASES)
            if prefill and decode:
                ratio = decode.mean / prefill.mean
                tokens = f"at {m.input_tokens:,.0f} input tokens"
                if ratio >= 1:
                    return f"A token takes {number(ratio, 2)} times as long to decode as to prefill, {tokens}"
                return f"A token takes {number(1 / ratio, 2)} times as long to prefill as to decode, {tokens}"
    return "Cost of a token in each phase"


def _notes(sources: Sequence[DrawnSystem], metered: Sequence[DrawnSystem]) -> list[str]:
    notes = ["Prefill per input token, decode per output token after the first", f"Bars: {BY_THESE_METERS}"]
    for source in sources:
        if words := several_words(source.concurrency, source.kind):
            which = f": {system_words(source.identity.system)}" if len(sources) > 1 else ""
            notes.append(f"{words}, whose tokens are computed together{which}")
    estimated = [source for source in metered if source.method == "estimated"]
    if estimated:
        notes.append("Hollow points: energy estimated, not measured, so without intervals")
    if not metered:
        known = any(m.energy_j for source in sources for m in source.measurements)
        notes.append("Energy: phases too short for these sensors" if known else "Energy was not measured")
    return notes
