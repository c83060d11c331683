"""Figures of thresholds: energy saved and runtime against the threshold, in one accounting or in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.arrays import Floats
from harness.core.wording import number, percent
from harness.deciding.answers import ThresholdAnswer
from harness.deciding.paper_accounting import PaperCurve
from harness.deciding.scales import JOULES_PER_KWH
from harness.deciding.threshold import Curve
from harness.deciding.uncertainty import Interval, SavingBand
from harness.showing.decision_figures import LINE, decision_notes
from harness.showing.decisions import KEY_WORDS, share_words
from harness.showing.figures import SMALL_PT, cost_axis, foot, head, new_figure, token_axis, write_figure
from harness.showing.names import system_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, SHADE = "#555555", "#d9d9d9"
THRESHOLD_HEADER = (
    *("accounting", "threshold", "energy_kwh", "runtime_s", "small_only_kwh", "large_only_kwh"),
    *("saving", "saving_ci95", "runtime_ratio"),
)
LOWEST = 4.0
"""Losses are drawn down to this many times the largest saving with its interval, …"""
LEAST = 0.1
"""… and at least to this share of the energy, so that a saving stays readable beside them."""


@dataclass(frozen=True)
class ThresholdPanel:
    """Energy saved and runtime against the threshold, in one accounting."""

    accounting: str
    """Its name in the CSV."""
    title: str
    curve: Curve
    alone: tuple[tuple[str, float, float], tuple[str, float, float]]
    """(label, energy in kWh, runtime) of the small and of the large system alone."""
    best: int
    """Index of the best threshold."""
    saving: Interval
    """Of energy at the best threshold; without uncertainty its ends are the value."""
    band: SavingBand | None = None
    """None without uncertainty."""
    plateau: tuple[int, int] | None = None
    """Thresholds about as good as the best; None without uncertainty."""
    estimated: bool = False
    """Whether energy is estimated, so that its saving has no interval like that of something measured."""

    @property
    def savings(self) -> Floats:
        """Share of the energy saved at every threshold of the curve."""
        return np.asarray(1 - self.curve.energy_j / JOULES_PER_KWH / self.alone[1][1])

    @property
    def ratios(self) -> Floats:
        """Runtime divided by that of the large system alone, at every threshold of the curve."""
        return np.asarray(self.curve.runtime_s / self.alone[1][2])

    @property
    def words(self) -> str:
        """``8.0 % ± 3.5 % saved``, ``8.2 % saved`` without an interval, or ``none`` where it may be nothing."""
        return f"{self.size} saved" if self.saving.value > 0 and self.saving.significant else "none"

    @property
    def size(self) -> str:
        """The saving without its sign."""
        return share_words(self.saving, self.estimated) if self.band else percent(abs(self.saving.value))


def write_threshold(answer: ThresholdAnswer, path: Path) -> list[Path]:
    """Draw saving and runtime against the threshold; PDF, SVG, PNG and CSV. Returns the paths. Raises UserError."""
    panel = threshold_panel(answer)
    figure = threshold_figure(panel, answer)
    return write_figure(figure, path, THRESHOLD_HEADER, threshold_rows([panel]))


def write_panels(
    panels: Sequence[ThresholdPanel], key: str, path: Path, listed: Sequence[ThresholdPanel]
) -> list[Path]:
    """Draw panels of several accountings; ``listed`` are those of the CSV. As ``write_threshold``."""
    return write_figure(accountings_figure(panels, key), path, THRESHOLD_HEADER, threshold_rows(listed))


def threshold_rows(panels: Sequence[ThresholdPanel]) -> list[tuple[object, ...]]:
    """Every threshold of every panel, in the columns of ``THRESHOLD_HEADER``."""
    rows: list[tuple[object, ...]] = []
    for panel in panels:
        curve, band = panel.curve, panel.band
        known = band is not None
        widths = (
            np.interp(curve.threshold, band.threshold, band.saving_ci95) if band else np.zeros(curve.threshold.size)
        )
        columns = (
            curve.threshold,
            curve.energy_j / JOULES_PER_KWH,
            curve.runtime_s,
            panel.savings,
            widths,
            panel.ratios,
        )
        for t, energy, runtime, saving, width, ratio in zip(*columns, strict=True):
            totals = (int(t), float(energy), float(runtime), panel.alone[0][1], panel.alone[1][1])
            rows.append((panel.accounting, *totals, float(saving), float(width) if known else None, float(ratio)))
    return rows


def threshold_panel(
    answer: ThresholdAnswer, accounting: str = "query", title: str = "whole requests"
) -> ThresholdPanel:
    """The curve of a decided threshold."""
    decision, uncertain = answer.decision, answer.decision.uncertainty
    plans = [(label, decision.baselines[label]) for label in answer.costs.labels]
    small, large = ((label, plan.energy_j / JOULES_PER_KWH, plan.runtime_s) for label, plan in plans)
    plateau = uncertain.plateau_low, uncertain.plateau_high
    return ThresholdPanel(
        accounting,
        title,
        decision.curve,
        (small, large),
        decision.best,
        uncertain.saving,
        answer.band,
        plateau,
        answer.costs.estimated,
    )


def paper_panel(result: PaperCurve) -> ThresholdPanel:
    """The curve of the published accounting."""
    (small_j, small_s), (large_j, large_s) = result.small_only, result.large_only
    alone = (result.small, small_j / JOULES_PER_KWH, small_s), (result.large, large_j / JOULES_PER_KWH, large_s)
    saving = Interval(result.saving, result.saving, result.saving)
    return ThresholdPanel("paper", "published accounting", result.curve, alone, result.best, saving)


def threshold_figure(panel: ThresholdPanel, answer: ThresholdAnswer) -> Figure:
    """Energy saved against the threshold with its 95 % band, and below it the runtime."""
    costs, key = answer.costs, answer.decision.key
    figure, axes = new_figure(2, 1, 4.8, 4.2, share_x="all")
    (above,), (below,) = axes
    _draw_saving(above, panel)
    _draw_ratio(below, panel)
    _scale([panel], [above], [below], key)
    below.set_xlabel(f"threshold: requests of up to so many {KEY_WORDS[key]} on the {system_words(panel.alone[0][0])}")
    head(figure, _threshold_title(panel, answer), costs.mark)
    foot(figure, [*_legend([panel]), *decision_notes(costs, answer.workload)])
    return figure


def accountings_figure(panels: Sequence[ThresholdPanel], key: str) -> Figure:
    """A row for each accounting on the same axes: energy saved at the left, runtime at the right (Figures 4 and 5)."""
    figure, axes = new_figure(len(panels), 2, 7.2, 1.5 * len(panels) + 1.2, share_x="all", share_y="col")
    for (left, right), panel in zip(axes, panels, strict=True):
        _draw_saving(left, panel)
        _draw_ratio(right, panel)
        left.set_title(panel.title, loc="left", fontsize=SMALL_PT + 1, fontweight="bold")
    _scale(panels, axes[:, 0].tolist(), axes[:, 1].tolist(), key)
    small, large = (system_words(label) for label, *_ in panels[0].alone)
    for ax in axes[-1]:
        ax.set_xlabel(f"threshold, {KEY_WORDS[key]}")
    said = savings_words(panels)
    head(figure, f"{said[0].upper()}{said[1:]}")
    foot(figure, [f"Requests of up to the threshold on the {small}, the others on the {large}", *_legend(panels)])
    return figure


def _legend(panels: Sequence[ThresholdPanel]) -> list[str]:
    notes = [f"Saving and ratio: against all requests on the {system_words(panels[0].alone[1][0])}"]
    if any(panel.band for panel in panels):
        notes.append("Band: 95 % interval" + (" of the measured runtime" if panels[0].estimated else ""))
    marked = [panel for panel in panels if panel.curve.threshold[panel.best] > 0]
    if marked:
        shaded = any(panel.plateau and panel.plateau[1] > 0 for panel in marked)
        notes.append("Ring: the best threshold" + ("; shaded: thresholds about as good" if shaded else ""))
    return notes


def savings_words(panels: Sequence[ThresholdPanel]) -> str:
    """``published accounting: 8.2 % saved; whole requests: none``."""
    return "; ".join(f"{panel.title}: {panel.words}" for panel in panels)


def _threshold_title(panel: ThresholdPanel, answer: ThresholdAnswer) -> str:
    """What the best threshold does, or that none does any good."""
    decision, (small, large) = answer.decision, [system_words(label) for label in answer.costs.labels]
    scales, uncertain = decision.scales, decision.uncertainty
    costly = scales.name == "price" or scales.runtime_weight > 0
    gain, what = (uncertain.cost_saving, "of the cost") if costly else (uncertain.saving, "of the energy")
    if decision.threshold == 0:
        return f"No threshold {'costs less' if costly else 'saves energy'}: send all requests to the {large}"
    every = decision.best == decision.curve.threshold.size - 1
    which = "All requests" if every else f"Requests of up to {decision.threshold:,} {KEY_WORDS[decision.key]}"
    size = share_words(gain, panel.estimated and scales.energy_weight > 0)
    if not gain.significant:
        return f"No significant saving: {which[0].lower()}{which[1:]} on the {small} save {size} {what}"
    return f"{which} on the {small} save {size} {what}"


def _draw_saving(ax: Axes, panel: ThresholdPanel) -> None:
    threshold, saving = panel.curve.threshold, 100 * panel.savings
    ax.axhline(0, color=GREY, linewidth=0.9, zorder=1)
    if panel.band and not panel.estimated:
        at = panel.band.threshold > 0
        middle, half = 100 * panel.band.saving[at], 100 * panel.band.saving_ci95[at]
        ax.fill_between(panel.band.threshold[at], middle - half, middle + half, color=LINE, alpha=0.18, linewidth=0)
    _draw_line(ax, panel, saving)
    at_best = int(threshold[panel.best])
    if panel.savings.max() < 0.0005:
        nothing: dict[str, Any] = {
            "transform": ax.get_yaxis_transform(),
            "ha": "right",
            "va": "bottom",
            "fontsize": SMALL_PT,
        }
        ax.text(0.99, 0, "no threshold saves energy", fontweight="bold", **nothing)
    if at_best == 0:
        return
    way = "" if panel.saving.value >= 0 else " lost"
    doubt = "" if panel.saving.significant else ", not significant"
    _mark(ax, at_best, float(saving[panel.best]), f"{at_best:,}: {panel.size}{way}{doubt}")


def _draw_ratio(ax: Axes, panel: ThresholdPanel) -> None:
    threshold, ratio = panel.curve.threshold, panel.ratios
    ax.axhline(1, color=GREY, linewidth=0.9, zorder=1)
    if panel.band:
        at = panel.band.threshold > 0
        ends = panel.band.runtime_ratio_low[at], panel.band.runtime_ratio_high[at]
        ax.fill_between(panel.band.threshold[at], *ends, color=LINE, alpha=0.18, linewidth=0)
    _draw_line(ax, panel, ratio)
    at_best = int(threshold[panel.best])
    if at_best > 0:
        _mark(ax, at_best, float(ratio[panel.best]), f"{number(float(ratio[panel.best]), 3)}×", "right")


def _draw_line(ax: Axes, panel: ThresholdPanel, values: Floats) -> None:
    threshold = panel.curve.threshold
    positive = threshold > 0
    marker = "o" if positive.sum() <= 20 else None
    ax.plot(threshold[positive], values[positive], color=LINE, marker=marker, markersize=3, linewidth=1.5)
    if panel.plateau and threshold[panel.best] > 0:
        ax.axvspan(max(panel.plateau[0], 1), panel.plateau[1], color=SHADE, alpha=0.5, zorder=0, linewidth=0)


def _mark(ax: Axes, x: float, y: float, words: str, side: str = "center") -> None:
    """A ring around the best threshold, and its values above it."""
    ax.plot(x, y, "o", color="black", markersize=7, fillstyle="none", zorder=4)
    # Of a rising line the left is free.
    offset = (0, 8) if side == "center" else (-6, 5)
    style: dict[str, Any] = {
        "textcoords": "offset points",
        "fontsize": SMALL_PT,
        "fontweight": "bold",
        "ha": side,
        "va": "bottom",
    }
    ax.annotate(words, (x, y), offset, zorder=5, **style)


def _scale(panels: Sequence[ThresholdPanel], savings: Sequence[Axes], ratios: Sequence[Axes], key: str) -> None:
    """The same axes for all panels."""
    thresholds = np.concatenate([panel.curve.threshold[panel.curve.threshold > 0] for panel in panels])
    highest = [float((p.band.saving + p.band.saving_ci95).max()) if p.band else float(p.savings.max()) for p in panels]
    lowest = [float((p.band.saving - p.band.saving_ci95).min()) if p.band else float(p.savings.min()) for p in panels]
    top = max(*highest, 0.01)
    bottom = max(min(lowest), -max(LOWEST * top, LEAST))
    for ax in savings:
        # Above the highest is room for its label.
        ax.set_ylim(100 * bottom - 1, 100 * (top + 0.2 * (top - bottom)))
        ax.set_ylabel("energy saved, %")
    reach = [float(p.ratios.max()) for p in panels]
    for ax in ratios:
        ax.set_yscale("log")
        ax.set_ylim(min(0.9, *(0.9 * float(p.ratios.min()) for p in panels)), 1.8 * max(reach))
        cost_axis(ax.yaxis, "runtime ratio")
    for ax in (*savings, *ratios):
        ax.set_xscale("log", base=2)
        ax.set_xlim(thresholds.min() / 1.15, thresholds.max() * 1.15)
        token_axis(ax.xaxis, "")
