"""Figures of workloads and decisions: histograms, threshold curves, the trade-off of energy and runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.deciding.answers import RoutingAnswer, ThresholdAnswer
from harness.deciding.paper_accounting import PaperCurve
from harness.deciding.scales import JOULES_PER_KWH
from harness.deciding.threshold import Curve
from harness.deciding.workload import Workload, marginal
from harness.showing.figures import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


HYBRID, SMALL, LARGE, SHADE = "#1f4e79", "#b3541e", "#3d7a4a", "#d9d9d9"
SYSTEMS = (SMALL, LARGE, "#6b4c9a", "#8c6d1f")
HISTOGRAM_BINS = 50
THRESHOLD_HEADER = ("accounting", "threshold", "energy_kwh", "runtime_s", "small_only_kwh", "large_only_kwh")
WORKLOAD_HEADER = ("axis", "tokens", "requests")
BEYOND = 1.5
"""A system alone is drawn up to this many times the largest routed energy and runtime: it would hide the curve."""


@dataclass(frozen=True)
class ThresholdPanel:
    """One pair of curves: energy and runtime against the threshold."""

    accounting: str
    """Its name in the CSV."""
    title: str
    curve: Curve
    runtime_unit: str
    alone: tuple[tuple[str, float, float], tuple[str, float, float]]
    """(label, energy in kWh, runtime) of the small and of the large system alone."""
    best: int
    """Index of the best threshold."""
    plateau: tuple[int, int] | None = None
    """Thresholds that can't be told from the best; None without uncertainty."""


def workload_figure(workload: Workload) -> Figure:
    """Histograms of input and output lengths (Figure 3)."""
    figure, axes = new_figure(1, 2, 9, 3.2)
    for ax, (axis, lengths, count) in zip(axes[0], _marginals(workload), strict=True):
        ax.hist(lengths, bins=min(HISTOGRAM_BINS, lengths.size), weights=count, color=HYBRID)
        ax.set_xlabel(f"{axis} tokens")
        ax.set_ylabel("requests")
    figure.suptitle(f"{workload.name}: {workload.requests:,.0f} requests", fontsize=11)
    return figure


def write_threshold(answer: ThresholdAnswer, path: Path) -> list[Path]:
    """Draw energy and runtime against the threshold; PDF, SVG, PNG and CSV. Returns the paths. Raises UserError."""
    panels = [threshold_panel(answer)]
    return write_panels(panels, answer.decision.key, path, panels)


def write_panels(
    panels: Sequence[ThresholdPanel], key: str, path: Path, listed: Sequence[ThresholdPanel]
) -> list[Path]:
    """Draw panels; ``listed`` are those of the CSV. As ``write_threshold``."""
    rows = [
        (panel.accounting, int(t), float(e), float(r), panel.alone[0][1], panel.alone[1][1])
        for panel in listed
        for t, e, r in zip(
            panel.curve.threshold, panel.curve.energy_j / JOULES_PER_KWH, panel.curve.runtime_s, strict=True
        )
    ]
    return write_figure(threshold_figure(panels, key), path, THRESHOLD_HEADER, rows)


def write_trade_off(answer: RoutingAnswer, path: Path) -> list[Path]:
    """Draw the trade-off of energy and runtime. As ``write_threshold``."""
    sweep = answer.trade_off
    header = ("weight", "energy_kwh", "runtime_s", *(f"share_{label}" for label in answer.costs.labels))
    columns = [sweep.weight, sweep.energy_j / JOULES_PER_KWH, sweep.runtime_s, *sweep.share]
    rows = [tuple(float(value) for value in row) for row in zip(*columns, strict=True)]
    return write_figure(trade_off_figure(answer), path, header, rows)


def write_workload(workload: Workload, path: Path) -> list[Path]:
    """Draw histograms of a workload's lengths. As ``write_threshold``."""
    rows = [
        (axis, int(length), float(requests))
        for axis, lengths, count in _marginals(workload)
        for length, requests in zip(lengths, count, strict=True)
    ]
    return write_figure(workload_figure(workload), path, WORKLOAD_HEADER, rows)


def threshold_panel(
    answer: ThresholdAnswer, accounting: str = "query", title: str = "whole requests"
) -> ThresholdPanel:
    """The curve of a decided threshold."""
    decision, uncertain = answer.decision, answer.decision.uncertainty
    plans = [(label, decision.baselines[label]) for label in answer.costs.labels]
    small, large = ((label, plan.energy_j / JOULES_PER_KWH, plan.runtime_s) for label, plan in plans)
    plateau = uncertain.plateau_low, uncertain.plateau_high
    return ThresholdPanel(accounting, title, decision.curve, "s", (small, large), decision.best, plateau)


def paper_panel(result: PaperCurve) -> ThresholdPanel:
    """The curve of the published accounting."""
    (small_j, small_s), (large_j, large_s) = result.small_only, result.large_only
    alone = (result.small, small_j / JOULES_PER_KWH, small_s), (result.large, large_j / JOULES_PER_KWH, large_s)
    return ThresholdPanel("paper", "published accounting", result.curve, "token-seconds", alone, result.best)


def _marginals(workload: Workload) -> list[tuple[str, NDArray[np.int64], Floats]]:
    return [
        ("input", *marginal(workload.input_tokens, workload.count)),
        ("output", *marginal(workload.output_tokens, workload.count)),
    ]


def threshold_figure(panels: Sequence[ThresholdPanel], key: str) -> Figure:
    """Energy (left) and runtime (right) against the threshold, one row per panel (Figures 4 and 5)."""
    figure, axes = new_figure(len(panels), 2, 9.5, 3.1 * len(panels) + 0.3)
    for (energy_ax, runtime_ax), panel in zip(axes, panels, strict=True):
        _draw_curve(energy_ax, panel, panel.curve.energy_j / JOULES_PER_KWH, [alone[1] for alone in panel.alone])
        _draw_curve(runtime_ax, panel, panel.curve.runtime_s, [alone[2] for alone in panel.alone])
        energy_ax.set_ylabel("energy (kWh)")
        runtime_ax.set_ylabel(f"runtime ({panel.runtime_unit})")
        runtime_ax.set_yscale("log")
        energy_ax.set_title(panel.title, fontsize=10, loc="left")
        energy_ax.legend(fontsize=8, edgecolor="none")
        for ax in (energy_ax, runtime_ax):
            ax.set_xlabel(f"threshold ({key} tokens)")
    return figure


def _draw_curve(ax: Axes, panel: ThresholdPanel, values: Floats, alone: list[float]) -> None:
    threshold = panel.curve.threshold
    positive, best = threshold > 0, threshold[panel.best]
    marker = "o" if positive.sum() <= 20 else None
    label = "both, split at the threshold"
    ax.plot(threshold[positive], values[positive], color=HYBRID, marker=marker, markersize=4, label=label)
    for (label, *_), level, colour in zip(panel.alone, alone, (SMALL, LARGE), strict=True):
        ax.axhline(level, color=colour, linestyle="--", linewidth=1.2, label=f"{label} alone")
    if panel.plateau and panel.plateau[1] > 0:
        ax.axvspan(max(panel.plateau[0], 1), panel.plateau[1], color=SHADE, alpha=0.6, zorder=0, label="plateau")
    if best > 0:
        ax.plot(best, values[panel.best], "o", color="black", markersize=6, fillstyle="none")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def trade_off_figure(answer: RoutingAnswer) -> Figure:
    """Energy against runtime as λ goes from 0 to 1, with each system alone as a point."""
    sweep = answer.trade_off
    figure, axes = new_figure(1, 1, 6, 4)
    ax = axes[0, 0]
    ax.plot(sweep.runtime_s / 3600, sweep.energy_j / JOULES_PER_KWH, color=HYBRID, label="routed by λ")
    for at, name in ((0, "λ = 0"), (-1, "λ = 1")):
        point = (float(sweep.runtime_s[at]) / 3600, float(sweep.energy_j[at]) / JOULES_PER_KWH)
        ax.plot(*point, "o", color=HYBRID, markersize=4)
        ax.annotate(name, point, textcoords="offset points", xytext=(6, 6), fontsize=8)
    energy_limit, runtime_limit = (BEYOND * float(values.max()) for values in (sweep.energy_j, sweep.runtime_s))
    for i, label in enumerate(answer.costs.labels):
        colour, alone = SYSTEMS[i % len(SYSTEMS)], answer.decision.baselines[label]
        x, y = alone.runtime_s / 3600, alone.energy_j / JOULES_PER_KWH
        if alone.energy_j <= energy_limit and alone.runtime_s <= runtime_limit:
            ax.plot(x, y, "s", color=colour, label=f"{label} alone")
        else:
            ax.plot([], [], "s", color=colour, label=f"{label} alone, off the scale: {y:.3g} kWh, {x:.4g} h")
    ax.set_xlabel("total runtime (h)")
    ax.set_ylabel("total energy (kWh)")
    ax.legend(fontsize=8, frameon=False)
    return figure
