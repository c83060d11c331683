"""The charts of the report page: Figures 1 and 2 as plain lists and numbers, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.showing.panels import AXES, PANELS, Axis, DrawnSystem, Options, failures_on, sweep, tokens_along


def charts(sources: Sequence[DrawnSystem], options: Options) -> list[dict[str, Any]]:
    """A chart for each axis and panel in which something was measured or failed; the sources' systems are distinct."""
    drawn = []
    for axis in AXES:
        for column, label in PANELS.items():
            series = [{"source": at} | _series(source, axis, options, column) for at, source in enumerate(sources)]
            # Each keeps the place of its source, and with it the colour, where another shows nothing.
            series = [one for one in series if one["x"] or one["failures"]]
            if series:
                x_label = f"{axis} tokens, at {options.fixed(axis)} tokens"
                drawn.append({"title": label, "x_label": x_label, "series": series})
    return drawn


def absent(sources: Sequence[DrawnSystem], options: Options) -> list[str]:
    """Which sweeps no source has, and the option that would show another one."""
    places = {
        "input": f"at {options.fixed_output} output tokens; --fixed-output",
        "output": f"near {options.fixed_input} input tokens; --fixed-input",
    }
    return [
        f"no {axis} sweep was measured {places[axis]} chooses another"
        for axis in AXES
        if not any(sweep(source, axis, options) or failures_on(source, axis, options) for source in sources)
    ]


def _series(source: DrawnSystem, axis: Axis, options: Options, column: str) -> dict[str, Any]:
    """One system's points on a panel and, beside them unless it shows energy, the sizes that failed."""
    energy = "energy" in column
    points = [point for point in sweep(source, axis, options) if getattr(point, column) is not None]
    failed = [] if energy else failures_on(source, axis, options)
    return {
        "name": ", ".join(source.pair),
        "x": [tokens_along(axis, point) for point in points],
        "y": [getattr(point, column).mean for point in points],
        "half_width": [getattr(point, column).half_width for point in points],
        "estimated": energy and source.method == "estimated",
        "failures": [[tokens_along(axis, failure), failure.words] for failure in failed],
    }
