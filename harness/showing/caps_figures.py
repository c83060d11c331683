"""Energy per token and speed against the power cap: runs of one system and model that were measured at several caps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.sizes import Point
from harness.core.statistics import Estimate
from harness.core.wording import percent
from harness.modelling.power_caps import POWER_LIMIT
from harness.modelling.profile_schema import Measurement
from harness.showing.colours import OWN
from harness.showing.figures import CsvRow, foot, head, lay_out, new_figure
from harness.showing.names import model_words, system_words
from harness.showing.panels import BY_THESE_METERS, PANELS, DrawnSystem, Options, SweepPoint, point_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = ("energy_per_token_j", "total_tokens_per_s")
CAPS_HEADER = (
    *("system", "model", "power_limit_w", "input_tokens", "output_tokens", "trials"),
    *(part for column in _COLUMNS for part in (column, f"{column}_ci95")),
    "energy_method",
)

_MOST_TICKS = 8


@dataclass(frozen=True)
class Caps:
    """One system with one model at several power caps, all at one request size."""

    system: str
    model: str
    size: Point
    points: Sequence[tuple[float, DrawnSystem, SweepPoint]]
    """By ascending cap, in W."""


def capped(sources: Sequence[DrawnSystem], options: Options) -> list[Caps]:
    """Those of the sources that differ in nothing but their power cap and have a request size in common.

    The size is where the sweeps cross, or the common one that is nearest to that.
    """
    groups: dict[str, list[DrawnSystem]] = {}
    for source in sources:
        if isinstance(source.identity.settings.get(POWER_LIMIT), int | float):
            settings = {key: value for key, value in source.identity.settings.items() if key != POWER_LIMIT}
            same = source.identity.model_copy(update={"settings": settings}).model_dump_json()
            groups.setdefault(same, []).append(source)
    return [caps for group in groups.values() for caps in _caps(group, options)]


def _caps(group: Sequence[DrawnSystem], options: Options) -> Iterator[Caps]:
    by_cap = {_cap(source): source for source in group}
    common = set.intersection(*({_size(m) for m in source.measurements} for source in by_cap.values()))
    if len(by_cap) < 2 or not common:
        return
    size = min(common, key=lambda size: _distance(size, Point(options.fixed_input, options.fixed_output)))
    points = [(cap, source, point_at(source, size, options)) for cap, source in sorted(by_cap.items())]
    identity = group[0].identity
    yield Caps(identity.system, identity.model, size, points)


def _cap(source: DrawnSystem) -> float:
    return float(source.identity.settings[POWER_LIMIT] or 0.0)


def _size(measurement: Measurement) -> Point:
    return Point(round(measurement.input_tokens), measurement.output_tokens_requested)


def _distance(size: Point, wanted: Point) -> float:
    return math.hypot(
        math.log(size.input_tokens / wanted.input_tokens), math.log(size.output_tokens / wanted.output_tokens)
    )


def caps_rows(caps: Caps) -> list[CsvRow]:
    """The points, in the columns of ``CAPS_HEADER``; what was not measured is None."""
    rows: list[CsvRow] = []
    for cap, source, point in caps.points:
        size = (point.input_tokens, point.output_tokens, point.trials)
        values = [part for column in _COLUMNS for part in _mean_and_width(getattr(point, column))]
        method = source.method if point.energy_per_token_j else None
        rows.append((caps.system, caps.model, cap, *size, *values, method))
    return rows


def _mean_and_width(value: Estimate | None) -> tuple[float | None, float | None]:
    return (None, None) if value is None else (value.mean, value.half_width)


def caps_figure(caps: Caps, mark: str = "") -> Figure:
    """Energy per token and total tokens/s against the power cap, the finding as the title."""
    figure, axes = new_figure(1, len(_COLUMNS), 7.2, 3.0)
    for ax, column in zip(axes[0], _COLUMNS, strict=True):
        _draw(ax, caps, column)
    head(figure, _title(caps), mark)
    m, n = caps.size.input_tokens, caps.size.output_tokens
    notes = [
        f"{model_words(caps.model)} on {system_words(caps.system)}, {m} in, {n} out",
        f"Bars: {BY_THESE_METERS}",
    ]
    if any(source.method == "estimated" for _, source, _ in caps.points):
        notes.append("Hollow points: energy estimated, not measured")
    foot(figure, notes)
    lay_out(figure)
    return figure


def _draw(ax: Axes, caps: Caps, column: str) -> None:
    found = [(cap, source, value) for cap, source, point in caps.points if (value := getattr(point, column))]
    ax.set_xlabel("power cap, W")
    if len(caps.points) <= _MOST_TICKS:
        ax.set_xticks([cap for cap, _, _ in caps.points])
    ax.set_ylabel(PANELS[column])
    if not found:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
        return
    means = np.array([value.mean for _, _, value in found])
    # An unknown interval has no bar.
    widths = np.array([np.nan if value.half_width is None else value.half_width for _, _, value in found])
    hollow = "energy" in column and any(source.method == "estimated" for _, source, _ in found)
    style: dict[str, Any] = {
        "color": OWN,
        "marker": "o",
        "markersize": 4,
        "linewidth": 1.6,
        "elinewidth": 0.8,
        "capsize": 1.5,
    }
    ax.errorbar([cap for cap, _, _ in found], means, yerr=widths, markerfacecolor="white" if hollow else OWN, **style)
    # From 0 on, so that a saving looks as large as it is.
    ax.set_ylim(0, 1.1 * float(np.nanmax(means + np.nan_to_num(widths))))


def _title(caps: Caps) -> str:
    """What a lower cap than the highest saves for certain, and what that costs in speed."""
    metered = [
        (cap, point.energy_per_token_j, point.total_tokens_per_s.mean)
        for cap, source, point in caps.points
        if point.energy_per_token_j and source.method != "estimated"
    ]
    if len(metered) < 2:
        return "Speed and energy against the power cap"
    highest, most, full_speed = metered[-1]
    saving = [found for found in metered[:-1] if _clearly_less(found[1], most)]
    if not saving:
        return f"No lower power cap than {highest:g} W clearly saves energy per token"
    cap, energy, speed = min(saving, key=lambda found: found[1].mean)
    less, share = percent(1 - energy.mean / most.mean, digits=0), percent(speed / full_speed, digits=0)
    return f"At {cap:g} W a token costs {less} less energy than at {highest:g} W, at {share} of the speed"


def _clearly_less(one: Estimate, other: Estimate) -> bool:
    """Whether the difference is more than both half-widths leave open."""
    widths = (one.half_width, other.half_width)
    return None not in widths and other.mean - one.mean > math.hypot(*(width or 0.0 for width in widths))
