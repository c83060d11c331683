"""What the panels of Figures 1 and 2 show, for figures and for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.quantities import Component
from harness.core.statistics import Estimate
from harness.showing.points import Axis, SweepPoint

if TYPE_CHECKING:
    pass


FAILED = {
    "oom": "out of memory",
    "timeout": "timeout",
    "error": "error",
    "discarded": "disturbed",
    "skipped": "skipped",
}


PANELS: tuple[tuple[str, str, Callable[[SweepPoint], Estimate | None]], ...] = (
    ("runtime (s)", "runtime_s", lambda p: p.runtime_s),
    ("throughput (tokens/s, in + out)", "throughput_tokens_per_s", lambda p: p.throughput),
    ("energy per token (J, in + out)", "energy_per_token_j", lambda p: p.energy_per_token_j),
    ("total energy (J)", "energy_j", lambda p: p.energy_j),
)


AXES: dict[Axis, str] = {"input": "figure1", "output": "figure2"}


@dataclass(frozen=True)
class Options:
    """What is drawn of the sources."""

    fixed_input: int = 32
    fixed_output: int = 32
    boundary: tuple[Component, ...] | None = None
    models: bool = False
    """Whether fitted models are drawn as thin lines, dashed outside their range."""
    mixed: str = ""
    """What marks the figure: in what the systems differ, above all where that forbids comparing them."""
