"""How good a fitted model is: predicted against measured, and what is left by size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.core.arrays import Floats
from harness.core.wording import percent
from harness.modelling.cost_function import CostFunction
from harness.modelling.model_schema import CostModel
from harness.modelling.profile import Profile
from harness.modelling.profile_schema import IN_FLIGHT_AS, Measurement, Statistic
from harness.showing.colours import OWN
from harness.showing.figures import CsvRow, cost_axis, foot, head, new_figure, token_axis
from harness.showing.intervals import interval_parts
from harness.showing.names import several_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIT_HEADER = ("quantity", "unit", "input_tokens", "output_tokens", "measured", "predicted", "relative_error")
SHADE = "#d9d9d9"


@dataclass(frozen=True)
class _Fitted:
    """One quantity at the points measured; arrays have an entry per point."""

    name: str
    unit: str
    model: CostModel
    estimated: bool
    input_tokens: Floats
    output_tokens: Floats
    measured: Floats
    predicted: Floats
    mean_ci95: float
    """Half-width of the 95 % interval of mean costs, relative to them, median over the sizes measured."""

    @property
    def error(self) -> Floats:
        """(predicted − measured) / measured."""
        return self.predicted / self.measured - 1


def fit_rows(profile: Profile) -> list[CsvRow]:
    """What the model says at every point measured, in the columns of ``FIT_HEADER``."""
    rows: list[CsvRow] = []
    for one in _fitted(profile):
        columns = (one.input_tokens, one.output_tokens, one.measured, one.predicted, one.error)
        rows += [(one.name, one.unit, *map(float, row)) for row in zip(*columns, strict=True)]
    return rows


def fit_figure(profile: Profile) -> Figure:
    """Predicted against measured with the line of equality, and below it the errors by the size of the request."""
    fitted = _fitted(profile)
    figure, axes = new_figure(2, len(fitted), 3.6 * len(fitted), 4.6)
    for (above, below), one in zip(axes.T, fitted, strict=True):
        _draw_predictions(above, one)
        _draw_errors(below, one)
    errors = [f"{one.name} {percent(one.model.held_out.mape)}" for one in fitted]
    head(figure, f"Held-out error: {', '.join(errors)}")
    notes = ["Held-out error: mean relative error at points left out of the fit"]
    notes.append("Shaded: 95 % interval of mean costs, the median over the sizes")
    notes.append("▲ more output than input tokens, ● the others")
    kind = str(profile.identity.settings.get(IN_FLIGHT_AS) or "")
    notes += filter(None, [several_words(profile.requests_in_flight, kind)])
    if any(one.estimated for one in fitted):
        notes.append("Hollow: energy estimated, not measured")
    if profile.energy is None:
        notes.append("Energy was not measured")
    foot(figure, notes)
    return figure


def _fitted(profile: Profile) -> list[_Fitted]:
    """Runtime and, where measured, energy."""
    points = profile.measurements
    found = [_quantity("runtime", profile.runtime, profile.runtime_function, points, [m.runtime_s for m in points])]
    if profile.energy is not None:
        energies = [m.energy_j for m in points]
        estimated = profile.energy.method == "estimated"
        found.append(_quantity("energy", profile.energy.model, profile.energy.function, points, energies, estimated))
    return found


def _quantity(
    name: str,
    model: CostModel,
    function: CostFunction,
    measurements: Sequence[Measurement],
    statistics: Sequence[Statistic | None],
    estimated: bool = False,
) -> _Fitted:
    known = [(m, one) for m, one in zip(measurements, statistics, strict=True) if one is not None]
    columns = [(m.input_tokens, m.output_tokens, one.mean) for m, one in known]
    m, n, measured = np.array(columns, dtype=float).T
    # Measured sizes are means over the trials; a model is asked about whole tokens.
    predicted = function.cost(np.maximum(m.round(), 1), np.maximum(n.round(), 1))
    parts = interval_parts(function)
    return _Fitted(name, model.unit, model, estimated, m, n, measured, predicted, parts.mean_ci95 if parts else 0.0)


def _draw_predictions(ax: Axes, one: _Fitted) -> None:
    ends = np.array([min(one.measured.min(), one.predicted.min()), max(one.measured.max(), one.predicted.max())])
    ends *= [1 / 1.3, 1.3]
    ax.set_xscale("log")
    ax.set_yscale("log")
    spread = 1 + one.mean_ci95
    ax.fill_between(ends, ends / spread, ends * spread, color=SHADE, alpha=0.6, linewidth=0, zorder=0)
    ax.plot(ends, ends, color="#777777", linewidth=0.8, zorder=1)
    _scatter(ax, one, one.measured, one.predicted)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    cost_axis(ax.xaxis, f"measured {one.name}, {one.unit}")
    cost_axis(ax.yaxis, f"predicted {one.name}, {one.unit}")


def _draw_errors(ax: Axes, one: _Fitted) -> None:
    total, error = one.input_tokens + one.output_tokens, 100 * one.error
    half = 100 * one.mean_ci95
    ax.set_xscale("log", base=2)
    ax.axhspan(-half, half, color=SHADE, alpha=0.6, linewidth=0, zorder=0)
    ax.axhline(0, color="#777777", linewidth=0.8, zorder=1)
    _scatter(ax, one, total, error)
    reach = 1.15 * max(half, float(np.abs(error).max()), 0.1)
    ax.set_ylim(-reach, reach)
    ax.set_ylabel(f"error of {one.name}, %")
    token_axis(ax.xaxis, "input + output tokens")


def _scatter(ax: Axes, one: _Fitted, x: Floats, y: Floats) -> None:
    longer = one.output_tokens > one.input_tokens
    face = "white" if one.estimated else OWN
    for chosen, marker in ((~longer, "o"), (longer, "^")):
        ax.plot(x[chosen], y[chosen], marker, color=OWN, markerfacecolor=face, markersize=3.8, zorder=3)
