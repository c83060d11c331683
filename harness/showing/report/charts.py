"""Figures 1 and 2 of the report page as plain lists and numbers, ready for JSON; the page's script draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError
from harness.core.sizes import request_words
from harness.core.statistics import Estimate
from harness.core.wording import estimated, plus_minus
from harness.modelling.cost_function import Prediction
from harness.showing.colours import styles
from harness.showing.drawn_systems import differences
from harness.showing.names import model_words, processor_words, system_words
from harness.showing.panels import (
    AXES,
    Axis,
    DrawnSystem,
    Options,
    boundary_words,
    failures_on,
    sizes_along,
    sweep,
    tokens_along,
)
from harness.showing.sweep_figures import REACH, Drawing, title

QUANTITIES = {"runtime_s": ("Runtime", "s"), "energy_per_token_j": ("Energy per token, input and output", "J")}
"""By the field of a point that a chart shows, its title and unit."""


def sweep_charts(
    sources: Sequence[DrawnSystem], published: Sequence[DrawnSystem], options: Options, mark: str
) -> dict[str, Any]:
    """The charts of each sweep with what they show in a sentence; the sources' systems are distinct.

    With a ``mark``, because the sources can't be compared, the sentence is about the first one alone.
    Each chart has the series of the sources first, then those of the published systems, faint and off at first.
    """
    looks = system_looks(sources, published)
    found: dict[str, Any] = {}
    for axis in AXES:
        charts = [_chart(sources, published, axis, options, column, looks) for column in QUANTITIES]
        charts = [chart for chart in charts if chart["series"]]
        measured = [source for source in sources if sweep(source, axis, options)]
        other = f"{options.fixed_output} output" if axis == "input" else f"{options.fixed_input} input"
        counts = sorted({source.concurrency for source in sources})
        loaded = f", {' and '.join(map(str, counts))} in flight" if counts[-1:] > [1] else ""
        found[axis] = {
            "finding": title(Drawing(measured, axis, options, mark)) if measured else "",
            "label": f"{axis} tokens ({other} tokens each{loaded})",
            "charts": charts,
        }
    return found


def _chart(
    sources: Sequence[DrawnSystem],
    published: Sequence[DrawnSystem],
    axis: Axis,
    options: Options,
    column: str,
    looks: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """One quantity along a sweep. It has no series where none of the sources has any of it."""
    heading, unit = QUANTITIES[column]
    series = [
        *(_series(s, axis, options, column, look) for s, look in zip(sources, looks, strict=False)),
        *(_behind(s, axis, options, column, look) for s, look in zip(published, looks[len(sources) :], strict=True)),
    ]
    series = [one for one in series if one["points"] or one["failures"]]
    own = any("of" not in one for one in series)
    return {"title": heading, "unit": unit, "series": series if own else []}


def system_looks(sources: Sequence[DrawnSystem], published: Sequence[DrawnSystem] = ()) -> list[dict[str, Any]]:
    """Name, colour and marker of each source, then of each published system: those that figures have.

    A colour of None is the page's text colour, which the only run has for its own.
    """
    by_system = styles([source.pair[0] for source in (*published, *sources)])
    found = []
    for source in (*sources, *published):
        system, model = source.pair
        alone = len(sources) == 1 and source is sources[0]
        name = processor_words(system) if alone else system_words(system)
        colour, marker = (None, "o") if alone else by_system[system]
        found.append({"name": f"{name}, {model_words(model)}", "colour": colour, "marker": marker})
    return found


def absent(sources: Sequence[DrawnSystem], options: Options) -> list[str]:
    """Which sweeps no source has, and the option that would show another one."""
    wanted = {
        "input": f"at {options.fixed_output} output tokens; --fixed-output",
        "output": f"near {options.fixed_input} input tokens; --fixed-input",
    }
    return [
        f"No {axis} sweep was measured {wanted[axis]} chooses another."
        for axis in AXES
        if not any(sweep(source, axis, options) or failures_on(source, axis, options) for source in sources)
    ]


def differing(sources: Sequence[DrawnSystem], published: Sequence[DrawnSystem]) -> str:
    """What keeps the runs from being compared with the published systems; empty where nothing does."""
    found: dict[str, None] = {}
    for source in (differences(source, published) for source in sources):
        found |= dict.fromkeys(source.differs)
        if source.differing_boundary:
            found[f"energy of {boundary_words(source.differing_boundary)} only"] = None
    return ", ".join(found)


def value_words(value: Estimate, unit: str, is_estimate: bool) -> str:
    """A value as people read it."""
    return estimated(value.mean, unit) if is_estimate else plus_minus(value.mean, value.half_width, unit)


def _series(source: DrawnSystem, axis: Axis, options: Options, column: str, look: dict[str, Any]) -> dict[str, Any]:
    """One system's points on a chart, its model and, unless the chart shows energy, the sizes that failed."""
    energy = "energy" in column
    guess = energy and source.method == "estimated"
    points = [point for point in sweep(source, axis, options) if getattr(point, column) is not None]
    failed = [] if energy else failures_on(source, axis, options)
    drawn: list[tuple[float, float, float | None, str]] = []
    for point in points:
        value: Estimate = getattr(point, column)
        # An estimate has no interval that looks like a measurement's.
        width = None if guess else value.half_width
        words = value_words(value, "J per token" if energy else "s", guess)
        size = request_words(point.input_tokens, point.output_tokens, source.concurrency)
        drawn.append((tokens_along(axis, point), value.mean, width, f"{size}: {words}"))
    return {
        **look,
        "points": drawn,
        "hollow": guess,
        "failures": [
            [tokens_along(axis, failure), f"{tokens_along(axis, failure):,.0f} tokens: {failure.words}"]
            for failure in failed
        ],
        "model": _model(source, axis, options, energy, [x for x, *_ in drawn]),
    }


def _behind(source: DrawnSystem, axis: Axis, options: Options, column: str, look: dict[str, Any]) -> dict[str, Any]:
    """A published system's points alone: a background needs no model and no intervals."""
    series = _series(replace(source, profile=None), axis, replace(options, boundary=None), column, look)
    return series | {"of": model_words(source.pair[1])}


def _model(
    source: DrawnSystem, axis: Axis, options: Options, energy: bool, x: Sequence[float]
) -> list[list[float | bool | None]] | None:
    """The fitted curve: size, value, lower and upper end of the mean's 95 % interval, in range or not.

    The ends are None for estimates and too far outside what was measured.
    """
    profile = source.profile
    if profile is None or len(x) < 2 or (energy and profile.energy is None):
        return None
    sizes = np.unique(np.geomspace(min(x) / REACH, max(x) * REACH, 80).round().astype(np.int64))
    sizes = sizes[sizes >= 1]
    m, n = sizes_along(axis, sizes, options)
    try:
        found = profile.predict_energy(m, n, options.boundary) if energy else profile.predict_runtime(m, n)
    except UserError:
        return None
    tokens = m + n if energy else np.ones_like(m)
    return _curve(sizes, found, tokens, guess=energy and source.method == "estimated")


def _curve(
    sizes: NDArray[np.int64], found: Prediction, tokens: NDArray[np.int64], guess: bool
) -> list[list[float | bool | None]]:
    rows: list[list[float | bool | None]] = []
    columns = (sizes.tolist(), found.value / tokens, found.mean_95 / tokens, ~found.out_of_range)
    for size, value, width, inside in zip(*columns, strict=True):
        low, high = (
            (None, None) if guess or math.isnan(width) else (six_digits(value - width), six_digits(value + width))
        )
        rows.append([size, six_digits(value), low, high, bool(inside)])
    return rows


def six_digits(value: float) -> float:
    """More digits than the page shows, in few characters."""
    return float(f"{value:.6g}")
