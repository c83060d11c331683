"""Figures of workloads and decisions: histograms, saving against the threshold, the trade-off of energy and runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.wording import number, percent, plus_minus_percent
from harness.deciding.answers import RoutingAnswer, ThresholdAnswer
from harness.deciding.costs import Costs
from harness.deciding.paper_accounting import PaperCurve
from harness.deciding.scales import JOULES_PER_KWH, SECONDS_PER_HOUR
from harness.deciding.threshold import Curve
from harness.deciding.uncertainty import Interval, SavingBand
from harness.deciding.workload import Workload, marginal
from harness.showing.colours import MARKERS, PALETTE, places, written
from harness.showing.figures import (
    SMALL_PT,
    EndLabel,
    cost_axis,
    foot,
    head,
    label_ends,
    lay_out,
    new_figure,
    token_axis,
    write_figure,
)
from harness.showing.panels import boundary_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LINE, GREY, SHADE = "#1f4e79", "#555555", "#d9d9d9"
BINS_PER_OCTAVE = 2
THRESHOLD_HEADER = (
    *("accounting", "threshold", "energy_kwh", "runtime_s", "small_only_kwh", "large_only_kwh"),
    *("saving", "saving_ci95", "runtime_ratio"),
)
WORKLOAD_HEADER = ("axis", "tokens", "requests")
BEYOND = 1.5
"""A system alone is drawn up to this many times the largest routed energy and runtime: it would hide the curve."""
LOWEST = 4.0
"""Losses are drawn down to this many times the largest saving with its interval, …"""
LEAST = 0.1
"""… and at least to this share of the energy, so that a saving stays readable beside them."""
KEYS = {"input": "input tokens", "output": "output tokens", "total": "tokens", "product": "input × output tokens"}


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
    """Thresholds that can't be told from the best; None without uncertainty."""

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
        """``8.0 % ± 3.5 %``, ``8.2 %`` without an interval, or ``none`` where it may be nothing."""
        saving = self.saving
        if saving.value <= 0 or not saving.significant:
            return "none"
        return plus_minus_percent(saving.value, saving.high - saving.value) if self.band else percent(saving.value)


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
    return ThresholdPanel(
        accounting, title, decision.curve, (small, large), decision.best, uncertain.saving, answer.band, plateau
    )


def paper_panel(result: PaperCurve) -> ThresholdPanel:
    """The curve of the published accounting."""
    (small_j, small_s), (large_j, large_s) = result.small_only, result.large_only
    alone = (result.small, small_j / JOULES_PER_KWH, small_s), (result.large, large_j / JOULES_PER_KWH, large_s)
    saving = Interval(*[result.saving] * 3)
    return ThresholdPanel("paper", "published accounting", result.curve, alone, result.best, saving)


def _marginals(workload: Workload) -> list[tuple[str, NDArray[np.int64], Floats]]:
    return [
        ("input", *marginal(workload.input_tokens, workload.count)),
        ("output", *marginal(workload.output_tokens, workload.count)),
    ]


def threshold_figure(panel: ThresholdPanel, answer: ThresholdAnswer) -> Figure:
    """Energy saved against the threshold with its 95 % band, and below it the runtime."""
    costs, key = answer.costs, answer.decision.key
    figure, axes = new_figure(2, 1, 4.8, 4.2, share_x="all")
    (above,), (below,) = axes
    _draw_saving(above, panel)
    _draw_ratio(below, panel)
    _scale([panel], [above], [below], key)
    below.set_xlabel(f"threshold: requests of up to so many {KEYS[key]} on the {written(panel.alone[0][0])}")
    head(figure, _threshold_title(panel, answer), costs.mark)
    foot(figure, [*_legend([panel]), *_basis(costs, answer.workload)])
    return figure


def accountings_figure(panels: Sequence[ThresholdPanel], key: str) -> Figure:
    """A row for each accounting on the same axes: energy saved at the left, runtime at the right (Figures 4 and 5)."""
    figure, axes = new_figure(len(panels), 2, 7.2, 1.5 * len(panels) + 1.2, share_x="all", share_y="col")
    for (left, right), panel in zip(axes, panels, strict=True):
        _draw_saving(left, panel)
        _draw_ratio(right, panel)
        left.set_title(panel.title, loc="left", fontsize=SMALL_PT + 1, fontweight="bold")
    _scale(panels, axes[:, 0].tolist(), axes[:, 1].tolist(), key)
    small, large = (written(label) for label, *_ in panels[0].alone)
    for ax in axes[-1]:
        ax.set_xlabel(f"threshold, {KEYS[key]}")
    said = savings_words(panels)
    head(figure, f"{said[0].upper()}{said[1:]}")
    foot(figure, [f"Requests of up to the threshold on the {small}, the others on the {large}", *_legend(panels)])
    return figure


def _legend(panels: Sequence[ThresholdPanel]) -> list[str]:
    notes = [f"Saving and ratio: against all requests on the {written(panels[0].alone[1][0])}"]
    if any(panel.band for panel in panels):
        notes.append("Band: 95 % interval")
    marked = [panel for panel in panels if panel.curve.threshold[panel.best] > 0]
    if marked:
        shaded = any(panel.plateau and panel.plateau[1] > 0 for panel in marked)
        notes.append("Ring: the best threshold" + ("; shaded: thresholds about as good" if shaded else ""))
    return notes


def savings_words(panels: Sequence[ThresholdPanel]) -> str:
    """``published accounting: 8.2 % saved; whole requests: none``."""
    return "; ".join(f"{p.title}: {'none' if p.words == 'none' else f'{p.words} saved'}" for p in panels)


def _threshold_title(panel: ThresholdPanel, answer: ThresholdAnswer) -> str:
    """What the best threshold does, or that none does any good."""
    decision, (small, large) = answer.decision, [written(label) for label in answer.costs.labels]
    scales, uncertain = decision.scales, decision.uncertainty
    costly = scales.name == "price" or scales.runtime_weight > 0
    gain, what = (uncertain.cost_saving, "of the cost") if costly else (uncertain.saving, "of the energy")
    if decision.threshold == 0:
        return f"No threshold {'costs less' if costly else 'saves energy'}: send all requests to the {large}"
    every = decision.best == decision.curve.threshold.size - 1
    which = "All requests" if every else f"Requests of up to {decision.threshold:,} {KEYS[decision.key]}"
    size = plus_minus_percent(gain.value, gain.high - gain.value)
    if not gain.significant:
        return f"No significant saving: {which[0].lower()}{which[1:]} on the {small} save {size} {what}"
    return f"{which} on the {small} save {size} {what}"


def _basis(costs: Costs, workload: Workload) -> list[str]:
    """What the figure was worked out from."""
    energy = f"Energy of {boundary_words(costs.components)}" if costs.components else "Energy of all measured parts"
    idle = "" if costs.idle == "included" else ", idle power subtracted"
    return [f"Workload: {workload.name}, {workload.requests:,.0f} requests", energy + idle]


def _draw_saving(ax: Axes, panel: ThresholdPanel) -> None:
    threshold, saving = panel.curve.threshold, 100 * panel.savings
    ax.axhline(0, color=GREY, linewidth=0.9, zorder=1)
    if panel.band:
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
    size = plus_minus_percent(panel.saving.value, panel.saving.high - panel.saving.value)
    words = panel.words if panel.words != "none" else f"{size}, not significant"
    _mark(ax, at_best, float(saving[panel.best]), f"{at_best:,}: {words}")


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
    place, notes = places(labels), []
    for label in labels:
        alone = answer.decision.baselines[label]
        x, y = alone.runtime_s / SECONDS_PER_HOUR, alone.energy_j / JOULES_PER_KWH
        colour, marker = PALETTE[place[label] % len(PALETTE)], MARKERS[place[label] % len(MARKERS)]
        if y <= BEYOND * kwh.max() and x <= BEYOND * hours.max():
            ax.plot(x, y, marker, color=colour, markersize=6, zorder=4)
            ends.append(EndLabel(f"{written(label)} alone", (x, y), colour))
        else:
            notes.append(f"Off the scale: {written(label)} alone, {number(y, 3)} kWh and {number(x, 3)} h")
    ax.set_xlabel("total runtime, h")
    ax.set_ylabel("total energy, kWh")
    head(figure, _trade_off_title(answer), answer.costs.mark)
    limit = [] if answer.slo_s is None else [f"Within {answer.slo_s:g} s a request"]
    foot(figure, ["λ weighs energy against runtime", *limit, *notes, *_basis(answer.costs, answer.workload)])
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
    return f"Saving {percent(saved)} of the energy takes {number(longer, 3)} times the runtime"
