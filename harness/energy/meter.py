"""The power sources of a run, behind one door: opens them, samples them, and answers for windows of time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np

from harness.core.errors import ProbeUnavailable, UserError
from harness.core.quantities import Component
from harness.energy import attribution, integrate, probes
from harness.energy.foreign_load import ForeignLoad
from harness.energy.probes.base import Probe, ProbeContext
from harness.energy.readings import Calibration, Domain, Trace, Window
from harness.energy.sampler import Sampler

DEFAULT_RATE_HZ = 20.0
FOREIGN_LOAD_LIMIT = 0.10
"""Share of all processors that other programs may take during a trial."""

SETTLE_S = 5.0
"""How long a machine gets to come to rest before its idle power is read."""

_GPU: frozenset[Component] = frozenset({"gpu", "system"})
_COMPUTING: dict[str, frozenset[Component]] = {
    "cpu": frozenset({"cpu", "system"}),
    "cuda": _GPU,
    "mps": _GPU,
    "metal": _GPU,
}
"""The components that see what a device draws; a device not listed is unknown."""
_PATIENCE_S = 1.0
"""How much later than expected a sensor's reading may come before the window is closed without it."""
_NS = 1e9


@dataclass(frozen=True)
class LeftOut:
    """A power source that could not be opened."""

    probe: str
    reason: str
    remedy: str | None


def try_open(name: str, probe: Probe, context: ProbeContext) -> LeftOut | None:
    """Open a probe. Returns None, or why it does not work here; it is closed again then."""
    try:
        probe.open(context)
        return None
    except ProbeUnavailable as unavailable:
        left = LeftOut(name, unavailable.reason, unavailable.remedy)
    except Exception as error:  # drivers fail in ways of their own: one of them must not take the others along
        left = LeftOut(name, f"{type(error).__name__}: {error}", None)
    probe.close()
    return left


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
        """``opened`` maps names to open probes, preferred first.

        Raises UserError, with the probes closed, for two domains of one name and for a calibration of an unknown
        domain or of only one of several that read the same thing.
        """
        self._context = context or ProbeContext()
        self._probes = dict(opened)
        self._rate_hz = rate_hz
        self._calibration = dict(calibration or {})
        self._left_out = list(left_out)
        self._foreign = ForeignLoad()
        self._foreign_limit = foreign_load_limit
        self._sampler = Sampler(list(self._probes.values()), rate_hz, each_second=self._note_load)
        self._chosen = attribution.choose(self._sampler.domains(), self._rank())
        try:
            _require_unique(self._sampler.domains())
            _require_calibrated(self._sampler.domains(), self._calibration)
        except UserError:
            self.close()
            raise
        self._unmetered = self._unmetered_device()
        self.notices = [probe.note for probe in self._probes.values() if probe.role == "fallback"]
        self.notices += [self._unmetered] if self._unmetered else []
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

    def idle(self, duration_s: float, settle_s: float = SETTLE_S) -> dict[str, Any]:
        """Mean power over ``duration_s`` seconds, during which nothing should run. Blocks.

        The first ``settle_s`` seconds, in which clocks and fans still follow the load before, are left out. Returns
        ``{"start_ns", "duration_s", "conditions", "domains", "components", "total"}``, where each figure has
        ``power_w``, ``ci95_w`` (95 % half-width), ``method`` and ``reason``; power is None where it can't be told.
        """
        domains = self._sampler.domains()
        time.sleep(max((self._margin_s(domain) for domain in domains), default=0.0) + settle_s)
        self.mark()
        start_ns = time.monotonic_ns()
        time.sleep(duration_s)
        end_ns = time.monotonic_ns()
        marks = [np.array([at], dtype=np.int64) for at in (start_ns, end_ns, end_ns)]
        report = self.attribute(self.traces(start_ns, end_ns), Window(*marks))
        seconds = (end_ns - start_ns) / _NS
        conditions = self.conditions(start_ns, end_ns)
        return {
            "start_ns": start_ns,
            "duration_s": seconds,
            "conditions": conditions,
            **attribution.powers(report, seconds),
        }

    def mark(self) -> None:
        """Note the machine's load and keep all readings from here on; call it just before a trial starts."""
        self._note_load()
        self._sampler.hold(time.monotonic_ns() - self._widest_margin_ns())

    def traces(self, start_ns: int, end_ns: int) -> list[Trace]:
        """Raw readings of every domain around a window, once those that close it have come.

        Waits for the sensors' next updates after ``end_ns``, or a bounded time for those that are late or dead.
        """
        self._note_load()
        domains = self._sampler.domains()
        margins_ns = {domain.name: int(self._margin_s(domain) * _NS) for domain in domains}
        widest_ns = self._widest_margin_ns()
        deadline_ns = end_ns + widest_ns + int(_PATIENCE_S * _NS)
        while time.monotonic_ns() < deadline_ns and any(
            self._is_awaited(domain, end_ns + margins_ns[domain.name]) for domain in domains
        ):
            time.sleep(0.5 / self._rate_hz)
        return self._sampler.traces(start_ns - widest_ns, end_ns + widest_ns)

    def attribute(self, traces: Sequence[Trace], window: Window) -> dict[str, Any]:
        """Energy per request, as ``energy.attribute`` gives it, after calibration.

        The key ``warnings`` also says when the device that computes is not among what is metered.
        """
        working = {"cpu", "system", *_COMPUTING.get(self._context.device or "", ())}
        try:
            report = attribution.attribute(self._calibrated(traces), window, self._rank(), working)
        except Exception as error:
            # A fault in here must cost this trial's figures, and never the hours of a sweep.
            reason = f"the energy could not be worked out: {type(error).__name__}: {error}"
            none = [Trace(trace.domain, trace.times_ns[:0], trace.values[:0], reason) for trace in traces]
            report = attribution.attribute(none, window, self._rank(), working)
        report["warnings"] += [self._unmetered] if self._unmetered else []
        return report

    def conditions(self, start_ns: int, end_ns: int) -> dict[str, Any]:
        """What the machine was like during a window that has just ended. Call it last: readings are let go after it.

        ``foreign_cpu_load`` is the share of all processors that other programs took; the other keys are the
        probes' names with what they saw from start to end, or last before where the window was too short: numbers
        as ``{"min", "max"}``, anything else as the list of what was seen. ``discard`` is why the window should be
        measured again, or None; it is always there.
        """
        self._note_load()
        self._sampler.hold(None)
        share = self._foreign.share(start_ns, end_ns)
        reasons = []
        if share is not None and self._foreign_limit is not None and share > self._foreign_limit:
            reasons.append(f"other programs took {share:.0%} of the CPU")
        seen: dict[str, Any] = {}
        for name, probe in self._probes.items():
            inside = self._sampler.conditions(probe, start_ns, end_ns)
            reasons += [conditions["discard"] for conditions in inside if conditions.get("discard")]
            inside = inside or self._sampler.conditions(probe, 0, start_ns)[-1:]
            facts = [{key: value for key, value in conditions.items() if key != "discard"} for conditions in inside]
            seen[name] = _range(facts)
        return {"foreign_cpu_load": share, **seen, "discard": "; ".join(dict.fromkeys(reasons)) or None}

    def _note_load(self) -> None:
        self._foreign.sample(self._context.worker_pid)

    def _calibrated(self, traces: Sequence[Trace]) -> list[Trace]:
        return [
            integrate.calibrate(trace, self._calibration[trace.domain.name])
            if trace.domain.name in self._calibration
            else trace
            for trace in traces
        ]

    def _unmetered_device(self) -> str | None:
        """A warning when there are power sources and none of them sees the device that computes.

        A synthetic source stands for any device.
        """
        needed = _COMPUTING.get(self._context.device or "")
        synthetic = any(probe.role == "synthetic" for probe in self._probes.values())
        if not self._chosen or needed is None or synthetic or needed & self._chosen.keys():
            return None
        device = "CPU" if self._context.device == "cpu" else "GPU"
        return f"the {device} that computes is not metered: energies hold only {', '.join(self._chosen)}"

    def _rank(self) -> list[str]:
        return [name.partition(":")[0] for name in self._probes]

    def _is_used(self, domain: Domain) -> bool:
        return any(domain.name in names for names in self._chosen.values())

    def _margin_s(self, domain: Domain) -> float:
        return integrate.margin_s(domain, 1.0 / self._rate_hz)

    def _widest_margin_ns(self) -> int:
        return int(max((self._margin_s(domain) for domain in self._sampler.domains()), default=0.0) * _NS)

    def _is_awaited(self, domain: Domain, until_ns: int) -> bool:
        last_ns = self._sampler.last_reading_ns(domain.name)
        late = last_ns is None or last_ns < until_ns
        return late and domain.name not in self._sampler.failures()


def _require_unique(domains: Sequence[Domain]) -> None:
    twice = [name for name, times in Counter(domain.name for domain in domains).items() if times > 1]
    if twice:
        raise UserError(f"two power sources both call a domain {', '.join(twice)}: name only one of them in --probes")


def _require_calibrated(domains: Sequence[Domain], calibration: Mapping[str, Calibration]) -> None:
    """Refuse calibrations that would have no effect, or set two readings of one thing against each other."""
    unknown = set(calibration) - {domain.name for domain in domains}
    if unknown:
        known = ", ".join(domain.name for domain in domains) or "none"
        raise UserError(f"no power domain {', '.join(sorted(unknown))} to calibrate: readable here: {known}")
    sources = {domain.source for domain in domains if domain.name in calibration}
    missing = [domain.name for domain in domains if domain.source in sources and domain.name not in calibration]
    if missing:
        raise UserError(
            f"{', '.join(sorted(calibration))} and {', '.join(missing)} read the same thing: "
            f"calibrate all of them (add --calibrate {missing[0]}=gain,offset)"
        )


def _range(facts: Sequence[Any]) -> Any:
    """Several looks at one thing in one: the range of numbers, the distinct others; None where nothing was seen."""
    known = [fact for fact in facts if fact is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        keys = dict.fromkeys(key for fact in known for key in fact)
        return {key: _range([fact.get(key) for fact in known]) for key in keys}
    if isinstance(known[0], list):
        return list(dict.fromkeys(item for fact in known for item in fact))
    if isinstance(known[0], int | float):
        return {"min": min(known), "max": max(known)}
    return list(dict.fromkeys(known))


def _open_auto(context: ProbeContext) -> tuple[dict[str, Probe], list[LeftOut]]:
    """Every meter that works; the fallbacks where none sees the CPU that they price or the device that computes."""
    opened: dict[str, Probe] = {}
    left_out: list[LeftOut] = []
    available = {name: probes.create(name) for name in probes.names()}
    for role in ("meter", "fallback"):
        if role == "fallback" and not _lacks_meter(opened, context):
            break
        for name, probe in available.items():
            if probe.role == role:
                left = try_open(name, probe, context)
                if left is None:
                    opened[name] = probe
                else:
                    left_out.append(left)
    return opened, left_out


def _lacks_meter(opened: Mapping[str, Probe], context: ProbeContext) -> bool:
    """Whether the open probes see neither the device that computes nor, for a GPU, the CPU that a fallback prices."""
    components = {domain.component for probe in opened.values() for domain in probe.domains()}
    needed = _COMPUTING.get(context.device or "")
    return not components if needed is None else not components & (needed | {"cpu", "system"})


def _open_named(selection: str, context: ProbeContext) -> dict[str, Probe]:
    """The probes the user asked for. Raises UserError when one doesn't work or is named twice."""
    names = [part.strip() for part in selection.split(",") if part.strip()]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(f"probe {twice[0]} is named twice")
    opened: dict[str, Probe] = {}
    for name in names:
        probe = probes.create(name)
        left = try_open(name, probe, context)
        if left is not None:
            for other in opened.values():
                other.close()
            remedy = f"; {left.remedy}" if left.remedy else ""
            raise UserError(f"probe {name} does not work here: {left.reason}{remedy}")
        opened[name] = probe
    return opened
