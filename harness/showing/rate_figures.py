"""Figures of decisions at an arrival rate: energy of a request, and who serves how much, against the rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.wording import percent
from harness.deciding.rates.plans import AtRate
from harness.showing.colours import styles
from harness.showing.decision_figures import LINE, decision_notes
from harness.showing.figures import SMALL_PT, cost_axis, foot, head, new_figure, write_figure
from harness.showing.names import system_words
from harness.showing.rate_answers import rate_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, SHADE = "#555555", "#d9d9d9"


def write_rate_curve(answer: AtRate, path: Path) -> list[Path]:
    """Draw energy and shares against the rate; PDF, SVG, PNG and CSV. Returns the paths. Raises UserError."""
    curve, labels = answer.by_rate, [system.label for system in answer.fleet.systems]
    header = ["rate_per_s", "energy_request_j", "e2e_s", *(f"share_{label}" for label in labels)]
    header += [f"alone_{label}_request_j" for label in labels]
    columns = [curve.rate_per_s, curve.energy_j, curve.e2e_s, *curve.shares, *curve.alone_j]
    if curve.threshold is not None:
        header, columns = [*header, "threshold"], [*columns, curve.threshold]
    rows = [tuple("" if np.isnan(value) else float(value) for value in row) for row in zip(*columns, strict=True)]
    return write_figure(rate_figure(answer), path, [*header, "saturated"], [(*r, _over(answer, r[0])) for r in rows])


def _over(answer: AtRate, rate: object) -> str:
    return "yes" if float(str(rate)) > answer.by_rate.capacity_per_s else "no"


def rate_figure(answer: AtRate) -> Figure:
    """Energy of a request against the rate with the best plan and with each system alone, and below it the shares."""
    curve, labels = answer.by_rate, [system.label for system in answer.fleet.systems]
    figure, axes = new_figure(2, 1, 4.8, 4.6, share_x="all")
    (above,), (below,) = axes
    style = styles(labels)
    for label, alone, share in zip(labels, curve.alone_j, curve.shares, strict=True):
        colour, _ = style[label]
        name = system_words(label)
        above.plot(curve.rate_per_s, alone, color=colour, linewidth=1.2, linestyle="--", label=f"{name} alone")
        below.plot(curve.rate_per_s, 100 * share, color=colour, linewidth=1.5, label=name)
    above.plot(curve.rate_per_s, curve.energy_j, color=LINE, linewidth=2.0, label="best plan", zorder=3)
    known = np.concatenate([curve.energy_j, *curve.alone_j])
    known = known[np.isfinite(known) & (known > 0)]
    above.set_yscale("log")
    if known.size:
        above.set_ylim(known.min() / 1.3, known.max() * 1.3)
    cost_axis(above.yaxis, "J per request")
    below.set_ylabel("share of requests, %")
    below.set_ylim(-3, 103)
    for ax in (above, below):
        _mark_rates(ax, answer)
        ax.legend(fontsize=SMALL_PT, frameon=False)
    below.set_xscale("log")
    below.set_xlim(curve.rate_per_s.min(), curve.rate_per_s.max())
    cost_axis(below.xaxis, "requests per second")
    head(figure, _title(answer), answer.costs.mark)
    notes = ["Shaded: more requests than all systems together can serve (saturated)", "Dotted: the rate asked for"]
    foot(figure, [*notes, *decision_notes(answer.costs, answer.workload)])
    return figure


def _mark_rates(ax: Axes, answer: AtRate) -> None:
    curve = answer.by_rate
    ax.axvspan(
        curve.capacity_per_s, max(curve.rate_per_s.max(), curve.capacity_per_s), color=SHADE, zorder=0, linewidth=0
    )
    ax.axvline(answer.fleet.rate_per_s, color=GREY, linewidth=0.9, linestyle=":")
    if curve.pays_from_per_s is not None:
        ax.axvline(curve.pays_from_per_s, color="black", linewidth=0.8)


def _title(answer: AtRate) -> str:
    """From which rate on more than one system pays, and what the plan at the rate asked for saves."""
    curve, found = answer.by_rate, answer.plans.effects
    if curve.pays_from_per_s is None:
        first = "At no rate do several systems cost less than one"
    else:
        first = f"A second system pays from {rate_words(curve.pays_from_per_s)} on"
    if answer.saturated:
        return f"{first}; at {rate_words(answer.fleet.rate_per_s)} all are saturated"
    if found is None or not found.cost_saving.significant or answer.costs.estimated:
        return f"{first}; saturated above {rate_words(curve.capacity_per_s)}"
    return (
        f"{first}; at {rate_words(answer.fleet.rate_per_s)} the plan saves {percent(found.saving.value)} of the energy"
    )
