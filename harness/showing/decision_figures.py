"""Figures of workloads and routing: histograms of lengths, the trade-off of energy and runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.wording import estimated as about
from harness.core.wording import number, percent
from harness.deciding.answers import RoutingAnswer
from harness.deciding.costs import Costs
from harness.deciding.scales import JOULES_PER_KWH, SECONDS_PER_HOUR
from harness.deciding.workload import Workload, marginal
from harness.showing.colours import styles
from harness.showing.figures import (
    SMALL_PT,
    EndLabel,
    foot,
    head,
    label_ends,
    lay_out,
    new_figure,
    token_axis,
    write_figure,
)
from harness.showing.names import system_words
from harness.showing.panels import boundary_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE = "#1f4e79"
BINS_PER_OCTAVE = 2
WORKLOAD_HEADER = ("axis", "tokens", "requests")
BEYOND = 1.5
"""A system alone is drawn up to this many times the largest routed energy and runtime: it would hide the curve."""


def workload_figure(workload: Workload) -> Figure:
    """Histograms of input and output lengths (Figure 3), with their medians."""
    figure, axes = new_figure(1, 2, 7.2, 2.8)
    medians = {}
    for ax, (axis, lengths, count) in zip(axes[0], _marginals(workload), strict=True):
        octaves = int(np.ceil(BINS_PER_OCTAVE * np.log2(lengths.max() + 1)))
        # Between whole numbers of tokens.
        edges = np.unique(np.round(2 ** (np.arange(octaves + 1) / BINS_PER_OCTAVE))) - 0.5
        ax.hist(lengths, bins=np.append(edges, max(edges[-1], lengths.max()) + 0.5), weights=count, color=LINE)
        medians[axis] = median = float(lengths[np.searchsorted(np.cumsum(count), count.sum() / 2)])
        ax.axvline(median, color="black", linestyle="--", linewidth=1)
        beside: dict[str, Any] = {
            "textcoords": "offset points",
            "xycoords": ("data", "axes fraction"),
            "fontsize": SMALL_PT,
        }
        ax.annotate(f"median {median:,.0f}", (median, 1), (3, 3), annotation_clip=False, **beside)
        ax.set_ylabel("requests")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_xscale("log", base=2)
        ax.set_xlim(max(0.8, lengths.min() / 1.5), lengths.max() * 1.5)
        token_axis(ax.xaxis, f"{axis} tokens")
    middle = " and ".join(f"{median:,.0f} {axis}" for axis, median in medians.items())
    head(figure, f"The median request of {workload.name} has {middle} tokens")
    foot(figure, [f"{workload.requests:,.0f} requests", "Medians of each length alone"])
    return figure


def write_trade_off(answer: RoutingAnswer, path: Path) -> list[Path]:
    """Draw the trade-off of energy and runtime. Returns the paths. Raises UserError."""
    sweep = answer.trade_off
    header = ("weight", "energy_kwh", "runtime_s", *(f"share_{label}" for label in answer.costs.labels))
    columns = [sweep.weight, sweep.energy_j / JOULES_PER_KWH, sweep.runtime_s, *sweep.share]
    rows = [tuple(float(value) for value in row) for row in zip(*columns, strict=True)]
    return write_figure(trade_off_figure(answer), path, header, rows)


def write_workload(workload: Workload, path: Path) -> list[Path]:
    """Draw histograms of a workload's lengths. Returns the paths. Raises UserError."""
    rows = [
        (axis, int(length), float(requests))
        for axis, lengths, count in _marginals(workload)
        for length, requests in zip(lengths, count, strict=True)
    ]
    return write_figure(workload_figure(workload), path, WORKLOAD_HEADER, rows)


def _marginals(workload: Workload) -> list[tuple[str, NDArray[np.int64], Floats]]:
    return [
        ("input", *marginal(workload.input_tokens, workload.count)),
        ("output", *marginal(workload.output_tokens, workload.count)),
    ]


def trade_off_figure(answer: RoutingAnswer) -> Figure:
    """Energy against runtime as λ goes from 0 to 1, with each system alone as a point."""
    sweep, labels = answer.trade_off, answer.costs.labels
    figure, axes = new_figure(1, 1, 5.4, 3.6)
    ax = axes[0, 0]
    hours, kwh = sweep.runtime_s / SECONDS_PER_HOUR, sweep.energy_j / JOULES_PER_KWH
    ax.plot(hours, kwh, color=LINE, linewidth=1.5, zorder=2)
    for at in (0, -1):
        ax.plot(hours[at], kwh[at], "o", color=LINE, markersize=5, zorder=3)
    ends = [EndLabel("λ = 0: least runtime", (float(hours[0]), float(kwh[0])), LINE)]
    ends.append(EndLabel("λ = 1: least energy", (float(hours[-1]), float(kwh[-1])), LINE))
    style, notes = styles(labels), []
    for label in labels:
        alone = answer.decision.baselines[label]
        x, y = alone.runtime_s / SECONDS_PER_HOUR, alone.energy_j / JOULES_PER_KWH
        colour, marker = style[label]
        if y <= BEYOND * kwh.max() and x <= BEYOND * hours.max():
            ax.plot(x, y, marker, color=colour, markersize=6, zorder=4)
            ends.append(EndLabel(f"{system_words(label)} alone", (x, y), colour))
        else:
            notes.append(f"Off the scale: {system_words(label)} alone, {number(y, 3)} kWh and {number(x, 3)} h")
    ax.set_xlabel("total runtime, h")
    ax.set_ylabel("total energy, kWh")
    head(figure, _trade_off_title(answer), answer.costs.mark)
    limit = [] if answer.slo_s is None else [f"Within {answer.slo_s:g} s a request"]
    foot(figure, ["λ weighs energy against runtime", *limit, *notes, *decision_notes(answer.costs, answer.workload)])
    lay_out(figure)
    label_ends(ax, ends)
    return figure


def _trade_off_title(answer: RoutingAnswer) -> str:
    """What the least energy costs in runtime against the least runtime."""
    sweep = answer.trade_off
    saved = 1 - float(sweep.energy_j[-1] / sweep.energy_j[0])
    longer = float(sweep.runtime_s[-1] / sweep.runtime_s[0])
    if saved < 0.0005:
        return "Energy and runtime don't trade off here: the same plan is best for both"
    size = about(100 * saved, "%") if answer.costs.estimated else percent(saved)
    return f"Saving {size} of the energy takes {number(longer, 3)} times the runtime"


def decision_notes(costs: Costs, workload: Workload) -> list[str]:
    """What the figure was worked out from."""
    parts = boundary_words(costs.components) if costs.components else "all measured parts"
    idle = "" if costs.idle == "included" else ", idle power subtracted"
    estimated = ", estimated, not measured" if costs.estimated else ""
    return [f"Workload: {workload.name}, {workload.requests:,.0f} requests", f"Energy of {parts}{idle}{estimated}"]
