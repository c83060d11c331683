"""The power sources of a run as one meter: opens them, samples them, and answers for windows of time.

with Meter.open() as meter, meter.window() as window:
    work()
print(window.energy_j, window.ci95_j, window.reason)
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from harness.core.errors import UserError
from harness.core.quantities import Facts
from harness.energy import attribution, integrate
from harness.energy.attribution import EnergyReport, IdleBaseline
from harness.energy.config import EnergyConfig
from harness.energy.foreign_load import ForeignLoad
from harness.energy.metered_window import MeterDescription, MeteredWindow, range_of
from harness.energy.power_sources import LeftOut, computing_components, open_sources
from harness.energy.probes.base import VERDICTS, Probe, ProbeContext
from harness.energy.readings import Calibration, Domain, Trace, Window
from harness.energy.resting import rested_enough
from harness.energy.sampler import Sampler
from harness.energy.stretches import attribute_loop

SETTLE_S = 5.0
"""How long a machine gets to come to rest before its idle power is read."""
_PATIENCE_S = 1.0
"""How much later than expected a sensor's reading may come before the window is closed without it."""
_LOOK_S = 0.25
"""How often it is seen whether an idle baseline is read well enough."""
_NS = 1e9

_Attribute = Callable[[Sequence[Trace], Collection[str]], EnergyReport]
"""Takes the traces, and the components that can't have been off."""


class Meter:
    """Samples opened probes in one thread. Use as a context manager, or call ``close``.

    ``notices`` are lines to show the user once, ``probes`` the open ones by name.
    """

    def __init__(
        self,
        opened: Mapping[str, Probe],
        context: ProbeContext | None = None,
        config: EnergyConfig = EnergyConfig(),
        left_out: Sequence[LeftOut] = (),
        unmeasured: str | None = None,
    ) -> None:
        """``opened`` maps names to open probes, preferred first; ``unmeasured`` as in ``open``.

        Raises UserError, with the probes closed, for two domains of one name and for a calibration of an unknown
        domain or of only one of several that read the same thing.
        """
        self._context = context or ProbeContext()
        self._config = config
        self.probes = self._probes = dict(opened)
        self._left_out = tuple(left_out)
        self._absent = unmeasured or attribution.NO_SOURCE
        self._foreign = ForeignLoad()
        try:
            self._begin()
        except BaseException:
            for probe in opened.values():
                probe.close()
            raise

    def _begin(self) -> None:
        """Check what the probes read, and start to sample. Raises UserError."""
        config = self._config
        self._sampler = Sampler(list(self._probes.values()), config.rate_hz)
        domains = self._sampler.domains
        self._rank = [name.partition(":")[0] for name in self._probes]
        self._chosen = attribution.choose(domains, self._rank)
        self._poll_s = {
            domain.name: max(1.0 / config.rate_hz, probe.poll_s)
            for probe in self._probes.values()
            for domain in probe.domains()
        }
        self._set_margins()
        self._calibration = config.calibrations
        _check_domains(domains, self._calibration)
        self._unmetered = self._unmetered_device()
        self.notices = [probe.note for probe in self._probes.values() if probe.role == "fallback"]
        self.notices += [self._unmetered] if self._unmetered else []
        if self._probes:
            self._sampler.start()

    def _set_margins(self) -> None:
        """How far readings are to reach beyond a window, from what is known of each sensor."""
        margins_s = {d.name: integrate.margin_s(d, self._poll_s[d.name]) for d in self._sampler.domains}
        self._margins_ns = {name: int(seconds * _NS) for name, seconds in margins_s.items()}
        # An estimate that is fresh at every read says all in the reads at the edges: nothing is waited for.
        fresh = {d.name: 0 for d in self._sampler.domains if d.method == "estimated" and not d.period_s}
        self._awaited_ns = self._margins_ns | fresh
        self._widest_margin_ns = max(self._margins_ns.values(), default=0)

    def sampling_at(self, rate_hz: float) -> AbstractContextManager[None]:
        """Read so often inside the ``with`` block."""
        return self._sampler.at_rate(rate_hz)

    def take_over(self, domains: Mapping[str, Domain]) -> None:
        """Go by what was measured of sensors from now on, by the domains' names: times, not what is read."""
        self._sampler.take_over(domains)
        self._set_margins()

    @classmethod
    def open(
        cls,
        config: EnergyConfig = EnergyConfig(),
        context: ProbeContext | None = None,
        unmeasured: str | None = None,
    ) -> Meter:
        """Open the power sources that ``config`` names; without a ``context`` they watch this very process.

        ``unmeasured`` says why no power source of this machine sees what computes: then none is opened, and the energy
        is null with that reason. A meter at ``config.meter_url`` sees it all the same.

        Raises UserError for an unknown probe, a wrong option, or a named probe that does not work here.
        """
        _ = config.calibrations  # what is wrong is said before anything is opened
        context = context or ProbeContext(worker_pid=os.getpid())
        context.rate_hz, context.cpu_watts = config.rate_hz, config.cpu_watts
        context.attribution, context.meter_token_env = config.attribution, config.meter_token_env
        elsewhere = config.sources != config.probes
        opened, left_out = open_sources("none" if unmeasured and not elsewhere else config.sources, context)
        return cls(opened, context, config, left_out, unmeasured)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop sampling and close the probes. Safe to call twice."""
        self._sampler.stop()
        for probe in self._probes.values():
            probe.close()

    def describe(self) -> MeterDescription:
        """What measures and how."""
        return MeterDescription(
            attribution=self._context.attribution,
            rate_hz=self._config.rate_hz,
            probes={name: probe.note for name, probe in self._probes.items()},
            domains={domain.name: domain for domain in self._sampler.domains},
            components=self._chosen,
            calibration=self._calibration,
            left_out=self._left_out,
            needed_window_s=self.needed_window_s(),
        )

    def set_worker(self, pid: int | None, server_pids: Sequence[int] = ()) -> None:
        """Tell the probes which process runs inference from now on, and which outside of it compute for it.

        What these and all that they started take of the machine is no foreign load, and what an estimate counts.
        """
        self._context.worker_pid, self._context.server_pids = pid, tuple(server_pids)

    def needed_window_s(self, relative_error: float = 0.01) -> float:
        """Window length at which its edges cost at most ``relative_error`` of the total, for its slowest sensor.

        0.0 without sensors; an estimate that is fresh at every read is no sensor: longer windows don't make it truer. A
        slow meter of the whole machine doesn't lengthen windows whose total comes from better ones.
        """
        edges_s = [integrate.edge_uncertainty_s(domain, self._poll_s[domain.name]) for domain in self.sensors()]
        return max(edges_s, default=0.0) / relative_error

    def sensors(self) -> list[Domain]:
        """The domains of the total that a sensor reads, those that have failed left out."""
        used = set(attribution.innermost(self._sampler.domains, self._chosen)) - self._sampler.failures().keys()
        return [d for d in self._sampler.domains if d.name in used and (d.period_s or d.method != "estimated")]

    def total_so_far(self, start_ns: int) -> list[Trace]:
        """The readings that are there, from well before a time on, of the domains that the total adds up.

        Empty where a domain has failed: then there is no total.
        """
        used = attribution.innermost(self._sampler.domains, self._chosen)
        if self._sampler.failures().keys() & set(used):
            return []
        recent = self.recent(start_ns - self._widest_margin_ns, time.monotonic_ns(), calibrated=True)
        return [trace for trace in recent if trace.domain.name in used]

    @contextmanager
    def window(self) -> Iterator[MeteredWindow]:
        """Meter what happens inside the ``with`` block.

        Before it begins it waits for the sensors' first readings, at its end for their next updates: a bounded time for
        those that are late or dead. A block that raises is not metered.
        """
        self._wait_while(self._is_new, time.monotonic_ns())
        window = MeteredWindow()
        self._note_load()
        with self._sampler.hold(time.monotonic_ns() - self._widest_margin_ns):
            self.read_edge()
            start_ns = time.monotonic_ns()
            yield window
            end_ns = time.monotonic_ns()
            self.read_edge()
            if not hasattr(window, "marks"):
                window.marks = Window.of_one(start_ns, end_ns)
            self._note_load()
            self._complete(window, start_ns, end_ns)

    def past(self, start_ns: int, end_ns: int) -> MeteredWindow:
        """Meter what happened between two times of the last hour (CLOCK_MONOTONIC), as one request.

        Waits like ``window`` for the sensors' next updates. Raises UserError for times out of order or still to come.
        """
        if not start_ns < end_ns <= time.monotonic_ns():
            raise UserError("a metered interval begins before it ends, and has ended: start_ns < end_ns ≤ now")
        window = MeteredWindow()
        window.marks = Window.of_one(start_ns, end_ns)
        self._complete(window, start_ns, end_ns)
        return window

    def _complete(self, window: MeteredWindow, start_ns: int, end_ns: int) -> None:
        """Work out what a window from one time to another tells, once it is over and has its marks."""
        first_ns, last_ns = int(window.marks.start_ns[0]), int(window.marks.end_ns[-1])
        reach_ns = (start_ns, end_ns) if window.loop else (first_ns, last_ns)
        window.traces = self.traces(*reach_ns)
        window.conditions, window.disturbed, shared = self._conditions(first_ns, last_ns)

        def attribute(traces: Sequence[Trace], working: Collection[str]) -> EnergyReport:
            rank, absent = self._rank, self._absent
            if window.loop is not None:
                report, window.stretches = attribute_loop(traces, window.loop, *reach_ns, rank, working, absent)
                if window.overlapped:
                    return report
            return attribution.attribute(traces, window.marks, rank, working, absent, window.paused)

        window.energy = self._attribute(window.traces, attribute, shared)

    def read_edge(self) -> None:
        """Read the meters whose reads are quick, now: right before what a window is about begins, and right after it.

        ``window`` does so at the edges of its block. Where requests begin and end in another process, later and
        earlier than the block, that is for the caller to do too.
        """
        self._sampler.read_edge()

    def idle(self, duration_s: float, settle_s: float = SETTLE_S) -> IdleBaseline:
        """Mean power over at most ``duration_s`` seconds, during which nothing should run. Blocks.

        The first ``settle_s`` seconds, in which clocks and fans still follow the load before, are left out. It ends
        earlier once the readings tell the power well enough.
        """
        time.sleep(max(self._awaited_ns.values(), default=0) / _NS + settle_s)
        with self.window() as window:
            begun_ns = time.monotonic_ns()
            until_ns = begun_ns + int(duration_s * _NS)
            while (now_ns := time.monotonic_ns()) < until_ns:
                if rested_enough(self.total_so_far(begun_ns), begun_ns, now_ns):
                    break
                time.sleep(min((until_ns - now_ns) / _NS, _LOOK_S))
        start_ns, end_ns = int(window.marks.start_ns[0]), int(window.marks.end_ns[-1])
        seconds = (end_ns - start_ns) / _NS
        domains, components, total = attribution.powers(window.energy, seconds)
        conditions = {**window.conditions, "disturbed": window.disturbed}
        return IdleBaseline(components, total, domains, conditions, start_ns, seconds)

    def traces(self, start_ns: int, end_ns: int) -> list[Trace]:
        """Raw readings of every domain around two times (CLOCK_MONOTONIC), once those that close them have come.

        Waits for the sensors' next updates after ``end_ns``, or a bounded time for those that are late or dead.
        """
        widest_ns = self._widest_margin_ns
        # Marks of the future would be waited for that long.
        end_ns = min(end_ns, time.monotonic_ns())
        self._wait_while(lambda domain, margin_ns: self._is_awaited(domain, end_ns + margin_ns), end_ns)
        return self._sampler.traces(start_ns - widest_ns, end_ns + widest_ns)

    @property
    def slowest_poll_s(self) -> float:
        """Longest time between two readings of a power source, in s."""
        return max(self._poll_s.values(), default=1.0 / self._config.rate_hz)

    def recent(self, start_ns: int, end_ns: int, calibrated: bool = False) -> list[Trace]:
        """The readings that are there of every domain between two times (CLOCK_MONOTONIC); waits for none."""
        traces = self._sampler.traces(start_ns, end_ns)
        return [self._calibrated(trace) for trace in traces] if calibrated else traces

    def latest_conditions(self) -> tuple[dict[str, Facts], str | None]:
        """What each probe last saw of its device, and what disturbed it then, or None."""
        looks = {
            name: self._sampler.conditions(probe, 0, time.monotonic_ns())[-1:] for name, probe in self._probes.items()
        }
        seen: dict[str, Facts] = {
            name: {k: v for k, v in look[0].items() if k not in VERDICTS} for name, look in looks.items() if look
        }
        verdicts = [str(found) for look in looks.values() if look and (found := look[0].get("disturbed"))]
        return seen, "; ".join(dict.fromkeys(verdicts)) or None

    def _wait_while(self, lacking: Callable[[str, int], bool], since_ns: int) -> None:
        """Wait while a living domain, called with its margin, lacks readings; a bounded time from ``since_ns`` on."""
        patience_s = _PATIENCE_S + max((probe.lag_s for probe in self._probes.values()), default=0.0)
        deadline_ns = since_ns + self._widest_margin_ns + int(patience_s * _NS)
        while time.monotonic_ns() < deadline_ns and any(
            lacking(domain, margin_ns) and domain not in self._sampler.failures()
            for domain, margin_ns in self._awaited_ns.items()
        ):
            time.sleep(0.5 / self._config.rate_hz)

    def _attribute(self, traces: Sequence[Trace], attribute: _Attribute, shared: Mapping[str, str]) -> EnergyReport:
        """Energy per request after calibration; its warnings also say when nothing meters the device that computes.

        ``shared`` has, by probe, why its readings hold energy that others spent: it is nobody's figure then.
        """
        working = {"cpu", "system", *computing_components(self._context.device)}
        try:
            calibrated = [
                _without_readings(trace, shared[probe])
                if (probe := trace.domain.probe) in shared
                else self._calibrated(trace)
                for trace in traces
            ]
            report = attribute(calibrated, working)
        except Exception as error:
            # A fault in here must cost this trial's figures, and never the hours of a sweep.
            reason = f"the energy could not be worked out: {type(error).__name__}: {error}"
            report = attribute([_without_readings(trace, reason) for trace in traces], working)
        return replace(report, warnings=(*report.warnings, self._unmetered)) if self._unmetered else report

    def _conditions(self, start_ns: int, end_ns: int) -> tuple[Facts, str | None, dict[str, str]]:
        """What the machine was like between two times, or last before where the probes did not look between.

        Second comes what disturbed the window, or None; third, by probe, why its readings hold energy of others.
        """
        load = self._foreign.over(start_ns, end_ns)
        excess = load.excess(self._config.max_foreign_load) if load else None
        reasons = [excess] if excess else []
        seen: dict[str, object] = {}
        shared: dict[str, str] = {}
        for name, probe in self._probes.items():
            inside = self._sampler.conditions(probe, start_ns, end_ns)
            reasons += [str(found) for conditions in inside if (found := conditions.get("disturbed"))]
            if others := [str(found) for conditions in inside if (found := conditions.get("energy_of_others"))]:
                reasons += others
                shared |= {domain.probe: "; ".join(dict.fromkeys(others)) for domain in probe.domains()}
            inside = inside or self._sampler.conditions(probe, 0, start_ns)[-1:]
            seen[name] = range_of([{k: v for k, v in conditions.items() if k not in VERDICTS} for conditions in inside])
        programs = [str(program) for program in load.programs] if load else []
        foreign = {"foreign_cpu_load": load.share if load else None, "foreign_programs": programs}
        return {**foreign, **seen}, "; ".join(dict.fromkeys(reasons)) or None, shared

    def _note_load(self) -> None:
        self._foreign.sample(*self._context.roots)

    def _calibrated(self, trace: Trace) -> Trace:
        calibration = self._calibration.get(trace.domain.name)
        return integrate.calibrate(trace, calibration) if calibration else trace

    def _unmetered_device(self) -> str | None:
        """A warning where no power source sees the device that computes. A synthetic one stands for any device."""
        needed = computing_components(self._context.device)
        synthetic = any(probe.role == "synthetic" for probe in self._probes.values())
        if not self._chosen or not needed or synthetic or needed & self._chosen.keys():
            return None
        device = "CPU" if self._context.device == "cpu" else "GPU"
        return f"the {device} that computes is not metered: energies hold only {', '.join(self._chosen)}"

    def _is_new(self, domain: str, margin_ns: int) -> bool:
        """Whether the readings don't yet reach back as far as the beginning of a window needs."""
        first_ns = self._sampler.first_reading_ns(domain)
        return first_ns is None or first_ns > time.monotonic_ns() - margin_ns

    def _is_awaited(self, domain: str, until_ns: int) -> bool:
        last_ns = self._sampler.last_reading_ns(domain)
        return last_ns is None or last_ns < until_ns


def _without_readings(trace: Trace, reason: str) -> Trace:
    return Trace(trace.domain, trace.times_ns[:0], trace.values[:0], reason)


def _check_domains(domains: Sequence[Domain], calibration: Mapping[str, Calibration]) -> None:
    """Refuse domains of one name, and calibrations without effect or of only one of two readings of one thing."""
    twice = [name for name, times in Counter(domain.name for domain in domains).items() if times > 1]
    if twice:
        raise UserError(f"two power sources both call a domain {', '.join(twice)}: name only one of them in --probes")
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
