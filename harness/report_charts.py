"""The charts of the report page: Figures 1 and 2 as plain lists and numbers, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.summary import Estimate
from harness.sweep_figures import AXES, FAILED, PANELS
from harness.sweep_points import Axis, SweepPoint, System, failures, sweep
from harness.sweep_sources import Source


@dataclass(frozen=True)
class FixedSizes:
    """Where the sweeps lie: input tokens of the output sweep, output tokens of the input sweep."""

    input_tokens: int = 32
    output_tokens: int = 32


def charts(sources: Sequence[Source], fixed: FixedSizes) -> list[dict[str, Any]]:
    """A chart for each axis and panel in which something was measured; the sources' systems must be distinct."""
    drawn = []
    for axis in AXES:
        other = f"{fixed.output_tokens} output" if axis == "input" else f"about {fixed.input_tokens} input"
        for label, _, value in PANELS:
            series = [
                {"source": at} | _series(source.system, axis, fixed, value, "energy" in label)
                for at, source in enumerate(sources)
            ]
            # Each keeps the place of its source, and with it the colour, where another shows nothing.
            series = [one for one in series if one["x"]]
            if series:
                x_label = f"{axis} tokens, at {other} tokens"
                drawn.append({"title": label, "x_label": x_label, "series": series})
    return drawn


def absent(sources: Sequence[Source], fixed: FixedSizes) -> list[str]:
    """Which sweeps no source has, and the option that would show another one."""
    places = {
        "input": f"at {fixed.output_tokens} output tokens; --fixed-output",
        "output": f"near {fixed.input_tokens} input tokens; --fixed-input",
    }
    return [
        f"no {axis} sweep was measured {places[axis]} chooses another"
        for axis in AXES
        if not any(sweep(source.system, axis, fixed.input_tokens, fixed.output_tokens) for source in sources)
    ]


def _series(
    system: System, axis: Axis, fixed: FixedSizes, value: Callable[[SweepPoint], Estimate | None], energy: bool
) -> dict[str, Any]:
    """One system's points on a panel and, beside them unless it shows energy, the sizes that failed."""
    place = (axis, fixed.input_tokens, fixed.output_tokens)
    points = [(point, found) for point in sweep(system, *place) if (found := value(point)) is not None]
    failed = [] if energy else failures(system, *place)
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
