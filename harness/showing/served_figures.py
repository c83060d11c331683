"""What the models under load say, beside what was measured: energy per token and time per output token against c."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.sizes import Point
from harness.core.wording import number
from harness.modelling.cost_function import Prediction
from harness.modelling.load_schema import ServedModel, UnderLoad
from harness.modelling.profile import Boundary, Profile
from harness.modelling.profile_schema import Measurement, Statistic
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
from harness.showing.names import model_words, system_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SIZES = 4
"""Lines that a panel still shows apart, each with its band."""
REACH = 2.0
"""How far beyond the most requests in flight that were measured lines are drawn."""
SERVED_HEADER = (
    *("system", "model", "in_flight_as", "input_tokens", "output_tokens", "concurrency", "quantity", "unit"),
    *("measured", "predicted", "predicted_mean_ci95"),
)


@dataclass(frozen=True)
class _Panel:
    """One quantity of a request against the requests in flight."""

    name: str
    label: str
    unit: str
    each: float
    """What values are divided by."""
    measured: Callable[[Measurement], float | None]
    predicted: Callable[[int, int, int], tuple[float, float]]
    """Value and half-width of its mean's 95 % interval at m, n and c; NaN where no interval is known."""
    counts: tuple[int, int]
    """Fewest and most requests in flight at which it was measured."""
    estimated: bool = False


def served_points(profile: Profile) -> list[Measurement]:
    """All points behind the models under load."""
    load = _load(profile)
    return sorted(
        [*profile.measurements, *load.measurements],
        key=lambda point: (point.input_tokens, point.output_tokens, point.concurrency),
    )


def served_rows(profile: Profile, boundary: Boundary = None) -> list[CsvRow]:
    """What the models under load say at every point, in the columns of ``SERVED_HEADER``."""
    rows: list[CsvRow] = []
    points = served_points(profile)
    panels, identity = _panels(profile, boundary), profile.identity
    for point in points:
        m, n = _size(point)
        place = (point.input_tokens, point.output_tokens, point.concurrency)
        for panel in panels:
            measured = panel.measured(point)
            if measured is not None:
                value, half = panel.predicted(m, n, point.concurrency)
                values = measured, value, half if np.isfinite(half) else None
                rows.append((identity.system, identity.model, _kind(profile), *place, panel.name, panel.unit, *values))
    return rows


def served_figure(profile: Profile, boundary: Boundary = None) -> Figure:
    """Lines of the models under load with 95 % bands of mean costs, points as measured, a colour a size."""
    panels = _panels(profile, boundary)
    sizes = drawn_loads(profile)
    figure, axes = new_figure(1, len(panels), 7.2, 3.4)
    looks = _looks(sizes)
    for ax, panel in zip(axes[0], panels, strict=True):
        for size, points in sizes.items():
            _draw(ax, profile, panel, size, points, looks[size])
        _scale(ax, panel, profile, sizes)
    head(figure, served_title(profile, boundary))
    foot(figure, _cautions(profile, panels, sizes))
    lay_out(figure)
    if len(sizes) > 1:
        ends = _ends(axes[0][-1], panels[-1], profile, sizes, looks)
        label_ends(axes[0][-1], ends)
    return figure


def drawn_loads(profile: Profile) -> dict[Point, list[Measurement]]:
    """The sizes that are drawn, shortest first: those measured at most numbers in flight, spread over their lengths."""
    sizes: dict[Point, list[Measurement]] = {}
    for point in served_points(profile):
        sizes.setdefault(Point(round(point.input_tokens), point.output_tokens_requested), []).append(point)
    most = max(len({p.concurrency for p in of}) for of in sizes.values())
    full = [size for size, of in sizes.items() if len({p.concurrency for p in of}) == most]
    full.sort(key=lambda size: (size.input_tokens + size.output_tokens, size.input_tokens))
    if len(full) > MOST_SIZES:
        full = [full[round(at)] for at in np.linspace(0, len(full) - 1, MOST_SIZES)]
    return {size: sizes[size] for size in full}


def served_title(profile: Profile, boundary: Boundary = None) -> str:
    """``From 1 to 64 requests in flight energy per token falls 10.1-fold and … grows 3.2-fold (512 in, 128 out)``."""
    size = list(drawn_loads(profile))[-1]
    panels = _panels(profile, boundary)
    low, high = max(panel.counts[0] for panel in panels), min(panel.counts[1] for panel in panels)
    said = []
    for panel in panels:
        ends = [panel.predicted(size.input_tokens, size.output_tokens, c)[0] for c in (low, high)]
        ratio = ends[1] / ends[0]
        moves = f"falls {number(1 / ratio, 2)}-fold" if ratio < 1 else f"grows {number(ratio, 2)}-fold"
        said.append(f"{panel.label.partition(',')[0]} {moves}")
    return f"From {low} to {high} requests in flight {' and '.join(said)} ({size.words()})"


def _load(profile: Profile) -> UnderLoad:
    assert profile.under_load is not None
    return profile.under_load


def _kind(profile: Profile) -> str:
    return _load(profile).in_flight_as or ""


def _measured(profile: Profile) -> tuple[int, int]:
    """Fewest and most requests in flight that were measured."""
    return _ends_of(_load(profile).runtime.points)


def _ends_of(points: Sequence[tuple[float, float, int]]) -> tuple[int, int]:
    counts = [c for _, _, c in points]
    return min(counts), max(counts)


def _size(point: Measurement) -> tuple[int, int]:
    """Measured sizes are means over trials; a model is asked about whole tokens."""
    return max(round(point.input_tokens), 1), max(round(point.output_tokens), 1)


def _mean(found: Statistic | None) -> float | None:
    return None if found is None else found.mean


def _panels(profile: Profile, boundary: Boundary) -> list[_Panel]:
    """Energy per token where it is known, and time per output token, or where that isn't known runtime."""
    panels = []
    energy = _load(profile).energy
    if energy is not None:
        panels.append(_energy_panel(profile, energy, boundary))
    return [*panels, _time_panel(profile)]


def _energy_panel(profile: Profile, model: ServedModel, boundary: Boundary) -> _Panel:
    wanted, served_at = profile.components_within(boundary), cache(profile.served_at)

    def energy(point: Measurement) -> float | None:
        if wanted is None:
            return _mean(point.energy_j)
        parts = [_mean(point.component_energy_j.get(component)) for component in wanted]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def per_token(point: Measurement) -> float | None:
        found = energy(point)
        return None if found is None else found / (point.input_tokens + point.output_tokens)

    return _Panel(
        "energy_per_token",
        "energy per token, J",
        "J",
        1.0,
        per_token,
        lambda m, n, c: _shared(served_at(c).predict_energy(m, n, boundary), m + n),
        _ends_of(model.points),
        profile.energy_method(boundary) == "estimated",
    )


def _time_panel(profile: Profile) -> _Panel:
    def per_output(point: Measurement) -> float | None:
        decode = _mean(point.decode_s)
        return None if decode is None or point.output_tokens <= 1 else decode / (point.output_tokens - 1)

    latency = _load(profile).latency
    if latency is not None:

        def tpot(m: int, n: int, c: int) -> tuple[float, float]:
            value = float(latency.times(m, n, c)["tpot"])
            return value, value * latency.relative_95("tpot", c)

        return _Panel("tpot", "time per output token, ms", "s", 1e-3, per_output, tpot, _ends_of(latency.points))
    served_at = cache(profile.served_at)
    return _Panel(
        "runtime",
        "runtime per request, s",
        "s",
        1.0,
        lambda point: point.runtime_s.mean,
        lambda m, n, c: _shared(served_at(c).predict_runtime(m, n), 1.0),
        _measured(profile),
    )


def _shared(predicted: Prediction, share: float) -> tuple[float, float]:
    """Value and half-width of the mean's interval over a share."""
    return float(predicted.value) / share, float(predicted.mean_95) / share


def _looks(sizes: Mapping[Point, object]) -> dict[Point, tuple[str, str]]:
    """Colour and marker of each size; the longest is black."""
    *others, last = sizes
    return {**{size: (PALETTE[at], MARKERS[1 + at]) for at, size in enumerate(others)}, last: (OWN, MARKERS[0])}


def _grid(profile: Profile) -> NDArray[np.int64]:
    """Numbers of requests in flight at which lines are evaluated, those measured among them."""
    low, high = _measured(profile)
    measured = [point.concurrency for point in served_points(profile)]
    return np.unique(np.append(np.geomspace(low, REACH * high, 40).round(), measured).astype(np.int64))


def _draw(
    ax: Axes, profile: Profile, panel: _Panel, size: Point, points: Sequence[Measurement], look: tuple[str, str]
) -> None:
    colour, marker = look
    known = [(point.concurrency, value) for point in points if (value := panel.measured(point)) is not None]
    face = "white" if panel.estimated else colour
    own = colour == OWN
    if known:
        c, values = np.array(known).T
        style: dict[str, Any] = {"markersize": 4 if own else 3.4, "markerfacecolor": face, "zorder": 5 if own else 4}
        ax.plot(c, values / panel.each, marker, color=colour, **style)
    counts = _grid(profile)
    found = [panel.predicted(size.input_tokens, size.output_tokens, c) for c in counts.tolist()]
    value, half = np.array(found).T / panel.each
    inside, beyond = counts <= panel.counts[1], counts >= panel.counts[1]
    ax.plot(counts[inside], value[inside], color=colour, linewidth=1.8 if own else 1.1, zorder=3)
    ax.plot(counts[beyond], value[beyond], color=colour, linewidth=0.8, alpha=0.5, linestyle=(0, (3, 2)), zorder=3)
    if not panel.estimated:
        # A band of more than the value has no lower end on a logarithmic axis.
        low = np.maximum(value - half, 0.05 * value)
        ax.fill_between(counts[inside], low[inside], (value + half)[inside], color=colour, alpha=0.12, linewidth=0)


def _scale(ax: Axes, panel: _Panel, profile: Profile, sizes: Mapping[Point, Sequence[Measurement]]) -> None:
    """Logarithmic axes that end shortly beyond points and lines, whatever the bands reach."""
    low, high = _measured(profile)
    values = [line for ax_line in ax.get_lines() for line in np.asarray(ax_line.get_ydata(), dtype=float).tolist()]
    ax.set_xscale("log", base=2)
    ax.set_xlim(low / 1.15, REACH * high * 1.05)
    ax.set_yscale("log")
    ax.set_ylim(min(values) / 1.25, max(values) * 1.25)
    cost_axis(ax.yaxis, f"{panel.label}\n(estimated)" if panel.estimated else panel.label)
    kind = _kind(profile)
    token_axis(ax.xaxis, f"requests in flight ({kind})" if kind else "requests in flight", 7)


def _cautions(profile: Profile, panels: Sequence[_Panel], sizes: Mapping[Point, object]) -> list[str]:
    identity = profile.identity
    notes = [f"{model_words(identity.model)} on {system_words(identity.system)}"]
    notes.append("Points: measured; lines: the model under load with the mean's 95 % bands, dashed where extrapolated")
    if any(panel.estimated for panel in panels):
        notes.append("Hollow points: energy estimated, not measured, so without bands")
    if _load(profile).energy is None:
        notes.append("Energy was not measured")
    slots = _load(profile).runtime.slots
    if slots is not None:
        notes.append(f"{slots} requests are worked on at once: more of them wait")
    total = len({(point.input_tokens, point.output_tokens_requested) for point in served_points(profile)})
    if total > len(sizes):
        notes.append(f"{len(sizes)} of {total} request sizes are drawn; the CSV file has all")
    return notes


def _ends(
    ax: Axes,
    panel: _Panel,
    profile: Profile,
    sizes: Mapping[Point, object],
    looks: Mapping[Point, tuple[str, str]],
) -> list[EndLabel]:
    """Each size beside the end of its line."""
    last = int(_grid(profile)[-1])
    labels = []
    for size in sizes:
        value = panel.predicted(size.input_tokens, size.output_tokens, last)[0] / panel.each
        labels.append(EndLabel(size.words(), (last, value), looks[size][0], looks[size][0] == OWN))
    return labels
