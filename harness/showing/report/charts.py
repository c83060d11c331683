"""The charts of the report page: Figures 1 and 2 as plain lists and numbers, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.core.statistics import Estimate
from harness.showing.panels import AXES, FAILED, PANELS, Options
from harness.showing.points import Axis, SweepPoint, System, failures_on, sweep
from harness.showing.sources import DrawnSystem


def charts(sources: Sequence[DrawnSystem], options: Options) -> list[dict[str, Any]]:
    """A chart for each axis and panel in which something was measured or failed; the sources' systems are distinct."""
    drawn = []
    for axis in AXES:
        other = f"{options.fixed_output} output" if axis == "input" else f"about {options.fixed_input} input"
        for label, _, value in PANELS:
            series = [
                {"source": at} | _series(source.system, axis, options, value, "energy" in label)
                for at, source in enumerate(sources)
            ]
            # Each keeps the place of its source, and with it the colour, where another shows nothing.
            series = [one for one in series if one["x"] or one["failures"]]
            if series:
                drawn.append({"title": label, "x_label": f"{axis} tokens, at {other} tokens", "series": series})
    return drawn


def absent(sources: Sequence[DrawnSystem], options: Options) -> list[str]:
    """Which sweeps no source has, and the option that would show another one."""
    places = {
        "input": f"at {options.fixed_output} output tokens; --fixed-output",
        "output": f"near {options.fixed_input} input tokens; --fixed-input",
    }
    found = {
        axis
        for axis in AXES
        for source in sources
        if sweep(source.system, axis, options.fixed_input, options.fixed_output)
        or failures_on(source.system, axis, options.fixed_input, options.fixed_output)
    }
    return [f"no {axis} sweep was measured {places[axis]} chooses another" for axis in AXES if axis not in found]


def _series(
    system: System, axis: Axis, options: Options, value: Callable[[SweepPoint], Estimate | None], energy: bool
) -> dict[str, Any]:
    """One system's points on a panel and, beside them unless it shows energy, the sizes that failed."""
    place = (axis, options.fixed_input, options.fixed_output)
    points = [
        (point, found) for point in sweep(system, *place, options.boundary) if (found := value(point)) is not None
    ]
    failed = [] if energy else failures_on(system, *place)
    return {
        "name": f"{system.identity.system}, {system.identity.model}",
        "x": [point.input_tokens if axis == "input" else point.output_tokens for point, _ in points],
        "y": [estimate.mean for _, estimate in points],
        "half_width": [estimate.half_width for _, estimate in points],
        "estimated": energy and system.method == "estimated",
        "failures": [
            [failure.input_tokens if axis == "input" else failure.output_tokens, FAILED.get(failure.status, "failed")]
            for failure in failed
        ],
    }
