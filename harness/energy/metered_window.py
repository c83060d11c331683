"""What a meter tells: of itself, and of a stretch of time under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from harness.core.quantities import Facts
from harness.energy.attribution import EnergyReport
from harness.energy.loop_marks import LoopMarks
from harness.energy.power_sources import LeftOut
from harness.energy.readings import Calibration, Domain, Trace, Window
from harness.energy.stretches import LoopStretches


@dataclass(frozen=True)
class MeterDescription:
    """What measures and how, as a run's sessions keep it."""

    __pydantic_config__: ClassVar[dict[str, bool]] = {"allow_inf_nan": False}

    attribution: str
    rate_hz: float = 0.0
    probes: dict[str, str] = field(default_factory=dict)
    """What the figures of each open probe are, in words."""
    domains: dict[str, Domain] = field(default_factory=dict)
    components: dict[str, list[str]] = field(default_factory=dict)
    """The domains that are added up for each component."""
    calibration: dict[str, Calibration] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    needed_window_s: float = 0.0


class MeteredWindow:
    """A stretch of time under the meter. All but the marks is there once its ``with`` block has ended."""

    marks: Window
    """When each request inside began and ended; the whole block as one request where nobody said, and of a loop its
    window as one where its requests overlapped."""
    paused: bool = False
    """Whether there were pauses between requests, which are part of none of them."""
    loop: LoopMarks | None = None
    """Of requests that overlapped: when they were ramped up, all in flight, and drained."""
    overlapped: bool = False
    """Whether requests of the loop were in flight at the same time."""
    stretches: LoopStretches | None = None
    """Joules of the parts of a loop and of the time around it, which add up to what the meter counted; None without a
    loop."""
    traces: list[Trace]
    """Raw readings around the window."""
    energy: EnergyReport
    """Joules per request, by domain, by component and in all."""
    conditions: Facts
    """What the machine was like: ``foreign_cpu_load``, the share of all processors that other programs took,
    ``foreign_programs``, those that took most, and by probe what it saw: numbers as ``{"min", "max"}``, anything else
    as the list of what was seen."""
    disturbed: str | None
    """What disturbed the window, so that its time or energy is not that of its requests alone; None where nothing."""

    def mark(self, marks: Window, paused: bool = False) -> None:
        """Say when the requests inside the block began and ended, and whether it was paused between them.

        Raises UserError for marks that make no sense.
        """
        marks.check()
        self.marks, self.paused = marks, paused

    def mark_loop(self, marks: LoopMarks, requests: Window | None = None) -> None:
        """Say when a loop of requests was begun, full and over. ``energy`` is then that of its window.

        ``requests`` are the marks of those inside where they did not overlap: only then has the energy phases. Raises
        UserError for marks that make no sense.
        """
        marks.check()
        if requests is None:
            self.marks, self.overlapped = Window.of_one(marks.window_start_ns, marks.window_end_ns), True
        else:
            self.mark(requests)
        self.loop = marks

    def __getattr__(self, name: str) -> NoReturn:
        """Only what is not known yet comes here."""
        raise AttributeError(f"window.{name} is known once its block has ended, and only if nothing was raised in it")

    @property
    def energy_j(self) -> float | None:
        """Joules of one request, or of the block where no requests were marked; None where they can't be told."""
        return self.energy.total.request_j

    @property
    def ci95_j(self) -> float | None:
        """Half-width of the 95 % interval of ``energy_j``."""
        return self.energy.total.request_ci95_j

    @property
    def reason(self) -> str | None:
        """Why ``energy_j`` is None."""
        return self.energy.total.reason


def range_of(facts: Sequence[Any]) -> Any:
    """Several looks at one thing in one: the range of numbers, the distinct others; None where nothing was seen."""
    known = [fact for fact in facts if fact is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        keys = dict.fromkeys(key for fact in known for key in fact)
        return {key: range_of([fact.get(key) for fact in known]) for key in keys}
    if isinstance(known[0], list):
        return list(dict.fromkeys(item for fact in known for item in fact))
    if isinstance(known[0], int | float):
        return {"min": min(known), "max": max(known)}
    return list(dict.fromkeys(known))
