"""The power sources of a run, behind one door: opens them, samples them, and answers for windows of time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np

from harness import energy, integrate, probes
from harness.errors import ProbeUnavailable, UserError
from harness.foreign import ForeignLoad
from harness.probes.base import Probe, ProbeContext
from harness.sampler import Sampler
from harness.types import Calibration, Domain, Trace, Window

DEFAULT_RATE_HZ = 20.0
FOREIGN_LOAD_LIMIT = 0.10
"""Share of all processors that other programs may take during a trial."""

_PATIENCE_S = 1.0
"""How much later than expected a sensor's reading may come before the window is closed without it."""
_NS = 1e9


@dataclass(frozen=True)
class LeftOut:
    """A power source that ``auto`` could not open."""

    probe: str
    reason: str
    remedy: str | None


class Meter:
    """Samples opened probes in one thread. Use as a context manager, or call ``close``.

    ``notices`` are lines to show the user once.
    """

    def __init__(
        self,
        opened: Mapping[str, Probe],
        context: ProbeContext | None = None,
        *,
        rate_hz: float = DEFAULT_RATE_HZ,
        calibration: Mapping[str, Calibration] | None = None,
        left_out: Sequence[LeftOut] = (),
        foreign_load_limit: float | None = FOREIGN_LOAD_LIMIT,
    ) -> None:
        """``opened`` maps names to open probes, preferred first. Raises UserError for an unknown calibration."""
        self._context = context or ProbeContext()
        self._probes = dict(opened)
        self._rate_hz = rate_hz
        self._calibration = dict(calibration or {})
        self._left_out = list(left_out)
        self._foreign = ForeignLoad()
        self._foreign_limit = foreign_load_limit
        self._sampler = Sampler(list(self._probes.values()), rate_hz, each_second=self.mark)
        self._chosen = energy.choose(self._sampler.domains(), self._rank())
        unknown = set(self._calibration) - {domain.name for domain in self._sampler.domains()}
        if unknown:
            known = ", ".join(domain.name for domain in self._sampler.domains()) or "none"
            self.close()
            raise UserError(f"no power domain {', '.join(sorted(unknown))} to calibrate: readable here: {known}")
        self.notices = [probe.note for probe in self._probes.values() if probe.role == "fallback"]
        if self._probes:
            self._sampler.start()

    @classmethod
    def open(
        cls,
        selection: str,
        context: ProbeContext,
        *,
        rate_hz: float = DEFAULT_RATE_HZ,
        calibration: Mapping[str, Calibration] | None = None,
        foreign_load_limit: float | None = FOREIGN_LOAD_LIMIT,
    ) -> Meter:
        """Open ``auto``, ``none`` or a comma-separated list of probes.

        Raises UserError for an unknown probe, a wrong option, or a named probe that does not work here.
        """
        context.rate_hz = rate_hz
        if selection == "auto":
            opened, left_out = _open_auto(context)
        elif selection == "none":
            opened, left_out = {}, []
        else:
            opened, left_out = _open_named(selection, context), []
        return cls(
            opened,
            context,
            rate_hz=rate_hz,
            calibration=calibration,
            left_out=left_out,
            foreign_load_limit=foreign_load_limit,
        )

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop sampling and close the probes. Safe to call twice."""
        self._sampler.stop()
        for probe in self._probes.values():
            probe.close()

    def describe(self) -> dict[str, Any]:
        """What measures and how, for ``run.json``."""
        return {
            "rate_hz": self._rate_hz,
            "probes": {name: probe.note for name, probe in self._probes.items()},
            "domains": {domain.name: asdict(domain) for domain in self._sampler.domains()},
            "components": self._chosen,
            "calibration": {name: asdict(calibration) for name, calibration in self._calibration.items()},
            "left_out": [asdict(left) for left in self._left_out],
            "attribution": self._context.attribution,
            "needed_window_s": self.needed_window_s(),
        }

    def set_worker(self, pid: int | None) -> None:
        """Tell the probes which process runs inference from now on."""
        self._context.worker_pid = pid

    def needed_window_s(self, relative_error: float = 0.01) -> float:
        """Window length at which its edges cost at most ``relative_error`` of the energy, for the slowest sensor used.

        0.0 without sensors; an estimate is no sensor, and longer windows don't make it truer.
        """
        used = [domain for domain in self._sampler.domains() if self._is_used(domain)]
        used = [domain for domain in used if domain.method != "estimated"]
        poll_s = 1.0 / self._rate_hz
        return max((integrate.edge_uncertainty_s(domain, poll_s) for domain in used), default=0.0) / relative_error

    def idle(self, duration_s: float) -> dict[str, Any]:
        """Mean power over the next ``duration_s`` seconds, during which nothing should run. Blocks.

        Returns ``{"start_ns", "duration_s", "domains", "components", "total"}``, where each figure has
        ``power_w``, ``ci95_w`` (95 % half-width), ``method`` and ``reason``; power is None where it can't be told.
        """
        domains = self._sampler.domains()
        time.sleep(max((self._margin_s(domain) for domain in domains), default=0.0))
        self.mark()
        start_ns = time.monotonic_ns()
        time.sleep(duration_s)
        end_ns = time.monotonic_ns()
        marks = [np.array([at], dtype=np.int64) for at in (start_ns, end_ns, end_ns)]
        report = self.attribute(self.traces(start_ns, end_ns), Window(*marks))
        seconds = (end_ns - start_ns) / _NS
        return {"start_ns": start_ns, "duration_s": seconds, **energy.powers(report, seconds)}

    def mark(self) -> None:
        """Note the machine's load; call it just before a trial starts."""
        self._foreign.sample(self._context.worker_pid)

    def traces(self, start_ns: int, end_ns: int) -> list[Trace]:
        """Raw readings of every domain around a window, once those that close it have come.

        Waits for the sensors' next updates after ``end_ns``, or a bounded time for those that are late or dead.
        """
        self.mark()
        domains = self._sampler.domains()
        margins_ns = {domain.name: int(self._margin_s(domain) * _NS) for domain in domains}
        deadline_ns = end_ns + max(margins_ns.values(), default=0) + int(_PATIENCE_S * _NS)
        while time.monotonic_ns() < deadline_ns and any(
            self._is_awaited(domain, end_ns + margins_ns[domain.name]) for domain in domains
        ):
            time.sleep(0.5 / self._rate_hz)
        widest_ns = max(margins_ns.values(), default=0)
        return self._sampler.traces(start_ns - widest_ns, end_ns + widest_ns)

    def attribute(self, traces: Sequence[Trace], window: Window) -> dict[str, Any]:
        """Energy per request, as ``energy.attribute`` gives it, after calibration."""
        corrected = [
            integrate.calibrate(trace, self._calibration[trace.domain.name])
            if trace.domain.name in self._calibration
            else trace
            for trace in traces
        ]
        return energy.attribute(corrected, window, self._rank())

    def conditions(self, start_ns: int, end_ns: int) -> dict[str, Any]:
        """What the machine was like during a window that has just ended.

        ``foreign_cpu_load`` is the share of all processors that other programs took; the other keys are the
        probes' names with what they saw; ``discard`` is why the window should be measured again, or None.
        """
        self.mark()
        share = self._foreign.share(start_ns, end_ns)
        reasons = []
        if share is not None and self._foreign_limit is not None and share > self._foreign_limit:
            reasons.append(f"other programs took {share:.0%} of the CPU")
        seen: dict[str, Any] = {}
        names = {id(probe): name for name, probe in self._probes.items()}
        for probe, conditions in self._sampler.conditions(start_ns - int(_NS), time.monotonic_ns()):
            reason = conditions.get("discard")
            reasons += [reason] if reason else []
            seen[names[id(probe)]] = {key: value for key, value in conditions.items() if key != "discard"}
        return {"foreign_cpu_load": share, **seen, "discard": "; ".join(dict.fromkeys(reasons)) or None}

    def _rank(self) -> list[str]:
        return [name.partition(":")[0] for name in self._probes]

    def _is_used(self, domain: Domain) -> bool:
        return any(domain.name in names for names in self._chosen.values())

    def _margin_s(self, domain: Domain) -> float:
        return integrate.margin_s(domain, 1.0 / self._rate_hz)

    def _is_awaited(self, domain: Domain, until_ns: int) -> bool:
        last_ns = self._sampler.last_reading_ns(domain.name)
        late = last_ns is None or last_ns < until_ns
        return late and domain.name not in self._sampler.failures()


def _open_auto(context: ProbeContext) -> tuple[dict[str, Probe], list[LeftOut]]:
    """Every meter that works; the fallbacks where none covers the device that computes."""
    opened: dict[str, Probe] = {}
    left_out: list[LeftOut] = []
    available = {name: probes.create(name) for name in probes.names()}
    for role in ("meter", "fallback"):
        if role == "fallback" and _covers(opened, context):
            break
        for name, probe in available.items():
            if probe.role != role:
                continue
            try:
                probe.open(context)
                opened[name] = probe
            except ProbeUnavailable as unavailable:
                probe.close()
                left_out.append(LeftOut(name, unavailable.reason, unavailable.remedy))
    return opened, left_out


def _covers(opened: Mapping[str, Probe], context: ProbeContext) -> bool:
    """Whether the open probes see the device that computes."""
    components = {domain.component for probe in opened.values() for domain in probe.domains()}
    if context.device == "cpu":
        return bool(components & {"cpu", "system"})
    return bool(components)


def _open_named(selection: str, context: ProbeContext) -> dict[str, Probe]:
    """The probes the user asked for. Raises UserError when one doesn't work."""
    opened: dict[str, Probe] = {}
    for name in filter(None, (part.strip() for part in selection.split(","))):
        probe = probes.create(name)
        try:
            probe.open(context)
        except ProbeUnavailable as unavailable:
            for other in (*opened.values(), probe):
                other.close()
            remedy = f"; {unavailable.remedy}" if unavailable.remedy else ""
            raise UserError(f"probe {name} does not work here: {unavailable.reason}{remedy}") from None
        opened[name] = probe
    return opened
