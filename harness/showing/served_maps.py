"""Lines of equal energy of a request, over input or output tokens and the requests in flight, by the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.sizes import Point
from harness.core.wording import number
from harness.modelling.profile import Boundary, Profile
from harness.showing.figures import SMALL_PT, CsvRow, foot, head, new_figure, plain, token_axis
from harness.showing.names import model_words, system_words
from harness.showing.panels import Axis
from harness.showing.served_figures import drawn_loads, served_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP_HEADER = ("system", "model", "input_tokens", "output_tokens", "concurrency", "energy_j", "energy_mean_ci95_j")
CELLS = 60
"""Tokens, and requests in flight, at which the map is evaluated; between whole numbers too."""
LEAST_LEVELS, MOST_LEVELS = 6, 12
"""Lines of equal energy."""


@dataclass(frozen=True)
class _Map:
    """Energy of a request on a grid of tokens along one axis and requests in flight."""

    axis: Axis
    fixed: Point
    """Whose other length all requests have."""
    tokens: Floats
    concurrency: Floats
    energy_j: Floats
    """Shape (concurrency, tokens)."""
    outside: NDArray[np.bool_]
    """Which of the tokens lie outside what was measured."""
    measured: list[tuple[float, int]]
    """Tokens along the axis and requests in flight of the points measured at these other lengths."""

    def sizes(self, tokens: Floats) -> tuple[Floats, Floats]:
        """Input and output tokens at some along the axis."""
        if self.axis == "input":
            return tokens, np.full_like(tokens, self.fixed.output_tokens)
        return np.full_like(tokens, self.fixed.input_tokens), tokens


def map_rows(profile: Profile, boundary: Boundary = None) -> list[CsvRow]:
    """Energies by the model along both axes of the maps at octaves, in the columns of ``MAP_HEADER``."""
    rows: list[CsvRow] = []
    pair = profile.identity.system, profile.identity.model
    for one in _maps(profile, boundary):
        m, n = one.sizes(_octaves(one.tokens))
        for c in _octaves(one.concurrency).astype(int).tolist():
            found = profile.served_at(c).predict_energy(m, n, boundary)
            halves = [half if np.isfinite(half) else None for half in found.mean_95.tolist()]
            columns = m.astype(int).tolist(), n.astype(int).tolist(), [c] * m.size, found.value.tolist(), halves
            rows += [(*pair, *row) for row in zip(*columns, strict=True)]
    return rows


def _octaves(axis: Floats) -> Floats:
    """Whole numbers an octave apart from the first of an axis to its last, which is one of them."""
    steps = int(np.log2(axis[-1] / axis[0]))
    return np.unique(np.round([*(axis[0] * 2.0 ** np.arange(steps + 1)), axis[-1]]))


def map_figure(profile: Profile, boundary: Boundary = None) -> Figure | None:
    """The maps over input and over output tokens; None where energy under load isn't known, or of one size."""
    maps = list(_maps(profile, boundary))
    if not maps:
        return None
    figure, axes = new_figure(1, len(maps), 3.7 * len(maps), 3.4, share_y="all")
    low = min(float(one.energy_j.min()) for one in maps)
    high = max(float(one.energy_j.max()) for one in maps)
    levels = _levels(low, high)
    for ax, one in zip(axes[0], maps, strict=True):
        _draw(ax, one, levels)
    head(figure, _finding(maps))
    identity = profile.identity
    notes = [f"{model_words(identity.model)} on {system_words(identity.system)}"]
    notes.append("Lines: equal energy of a request, J, by the model under load; circles: measured")
    if any(one.outside.any() for one in maps):
        notes.append("Pale: sizes outside what was measured")
    if profile.energy_method(boundary) == "estimated":
        notes.append("Energy is estimated, not measured")
    foot(figure, notes)
    return figure


def _maps(profile: Profile, boundary: Boundary) -> Iterator[_Map]:
    """One for each axis along which several sizes were measured."""
    load = profile.under_load
    if load is None or load.energy is None:
        return
    wanted = profile.components_within(boundary)
    models = [load.energy] if wanted is None else [load.components[component] for component in wanted]
    fixed = list(drawn_loads(profile))[-1]
    points = [point for point in served_points(profile) if point.energy_j is not None]
    counts = [point.concurrency for point in points]
    concurrency = np.geomspace(min(counts), max(counts), CELLS)
    axes: tuple[Axis, ...] = ("input", "output")
    for axis in axes:
        lengths = [point.input_tokens if axis == "input" else point.output_tokens for point in points]
        if min(lengths) == max(lengths):
            continue
        others = [point.output_tokens_requested if axis == "input" else round(point.input_tokens) for point in points]
        here = fixed.output_tokens if axis == "input" else fixed.input_tokens
        measured = [
            (length, point.concurrency)
            for point, length, other in zip(points, lengths, others, strict=True)
            if other == here
        ]
        tokens = np.geomspace(min(lengths), max(lengths), CELLS)
        one = _Map(axis, fixed, tokens, concurrency, np.empty(0), np.empty(0, dtype=bool), measured)
        m, n = one.sizes(tokens)
        costs = [model.function.cost(m, n, concurrency[:, None]) for model in models]
        outside = ~models[0].function.loads.at(concurrency[0]).covers(m, n)
        yield replace(one, energy_j=np.add.reduce(costs), outside=outside)


def _levels(low: float, high: float) -> Floats:
    """Round energies between two, evenly on a logarithmic scale: 1, 2, 5 of each decade, or between them."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(np.arange(1, 10, 0.5))):
        decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        found = np.array(sorted(step * 10.0**decade for decade in decades for step in steps))
        found = found[(found > low) & (found < high)]
        if found.size >= LEAST_LEVELS:
            break
    return found[:: max(1, -(-found.size // MOST_LEVELS))]


def _draw(ax: Axes, one: _Map, levels: Floats) -> None:
    import matplotlib as mpl

    ax.set_yscale("log", base=2)
    ax.set_xscale("log", base=2)
    grid = one.tokens, one.concurrency, one.energy_j
    # Light enough for what is written on it.
    colours = mpl.colormaps["Blues"](np.linspace(0.05, 0.6, levels.size + 1))
    ax.contourf(*grid, [0.0, *levels, np.inf], colors=colours)
    ax.grid(False)
    if one.outside.any():
        outside = np.broadcast_to(one.outside, one.energy_j.shape).astype(float)
        ax.contourf(one.tokens, one.concurrency, outside, [0.5, 1.5], colors="white", alpha=0.6)
    lines = ax.contour(*grid, levels, colors="#333333", linewidths=0.8)
    ax.clabel(lines, fmt=lambda level: plain(float(level)), fontsize=SMALL_PT, inline_spacing=3)
    if one.measured:
        x, y = np.array(one.measured).T
        ax.plot(x, y, "o", color="black", markersize=3, markerfacecolor="white", zorder=4, clip_on=False)
    other = f"{one.fixed.output_tokens} output" if one.axis == "input" else f"{one.fixed.input_tokens} input"
    ax.set_xlim(one.tokens[0], one.tokens[-1])
    ax.set_ylim(one.concurrency[0], one.concurrency[-1])
    # This one first: it also makes the other axis anew.
    token_axis(ax.yaxis, "requests in flight", 7)
    token_axis(ax.xaxis, f"{one.axis} tokens (with {other})", 7)


def _finding(maps: list[_Map]) -> str:
    """Which request under load needs what the shortest does alone."""
    one = maps[0]
    alone, loaded = one.energy_j[0], one.energy_j[-1]
    low, high = (plain(round(float(c))) for c in one.concurrency[[0, -1]])
    longest, ratio = one.tokens[-1], float(alone[-1] / loaded[-1])
    if ratio > 1 and alone[0] < loaded[-1] < alone[-1]:
        same = float(np.exp(np.interp(np.log(loaded[-1]), np.log(alone), np.log(one.tokens))))
        return (
            f"A request of {plain(float(longest))} {one.axis} tokens needs with {high} in flight "
            f"what one of {number(same, 2)} needs with {low}"
        )
    moves = f"{number(ratio, 2)} times less" if ratio > 1 else f"{number(1 / ratio, 2)} times more"
    return (
        f"A request of {plain(float(longest))} {one.axis} tokens needs {moves} energy with {high} in flight than {low}"
    )
