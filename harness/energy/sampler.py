"""One thread that polls every probe on the monotonic clock and keeps the raw readings."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from harness.core.errors import ProbeFailed
from harness.core.quantities import Facts
from harness.energy.probes.base import Probe
from harness.energy.readings import Domain, Trace

_KEEP_S = 3600.0
"""Readings older than this are forgotten, unless they are held for a trial."""
_CONDITIONS_EVERY_S = 1.0
_QUICK_S = 0.002
"""A probe whose reads take less is read at the edges of windows too."""
_LATEST_READS = 8
"""Of so many the quickest tells how long a probe's read takes: others may have waited for a processor."""
_EDGE_S = 1.0
"""An edge that the thread can't read within this, because a probe hangs, is not read."""
_EDGE_PATIENCE = 20.0
"""How many of its periods, a few ms each, a counter gets to move at an edge."""
_EDGE_MOVES = 2
_NS = 1e9


@dataclass
class _Edge:
    """Somebody waits for the probes to be read now."""

    read: threading.Event = field(default_factory=threading.Event)
    given_up: bool = False


class Sampler:
    """Polls opened probes at ``rate_hz`` from ``start`` to ``stop``; a probe that fails is left alone after that."""

    def __init__(self, probes: Sequence[Probe], rate_hz: float) -> None:
        self._probes = list(probes)
        self._domains = [list(probe.domains()) for probe in self._probes]
        self.domains = [domain for domains in self._domains for domain in domains]
        """All domains of all probes, in the probes' order."""
        self._period_s = 1.0 / rate_hz
        self._lock = threading.Lock()
        self._edges: queue.SimpleQueue[_Edge] = queue.SimpleQueue()
        self._read_s: list[deque[float]] = [deque(maxlen=_LATEST_READS) for _ in self._probes]
        """How long each probe's latest reads took."""
        self._readings: dict[str, deque[tuple[int, float]]] = {domain.name: deque() for domain in self.domains}
        self._conditions: deque[tuple[int, int, Facts]] = deque()
        self._held_ns: list[int] = []
        self._failures: dict[str, str] = {}
        self._dead: set[int] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin polling in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    @contextmanager
    def at_rate(self, rate_hz: float) -> Iterator[None]:
        """Poll so often for as long as the ``with`` block lasts."""
        usual_s, self._period_s = self._period_s, 1.0 / rate_hz
        try:
            yield
        finally:
            self._period_s = usual_s

    def take_over(self, domains: Mapping[str, Domain]) -> None:
        """Go by these descriptions of domains from now on; those not named stay as they are."""
        self._domains = [[domains.get(domain.name, domain) for domain in own] for own in self._domains]
        self.domains = [domain for own in self._domains for domain in own]

    def stop(self) -> None:
        """End the thread and wait for it. Safe to call twice."""
        self._stopping.set()
        self._edges.put(_Edge())  # wakes the thread
        if self._thread is not None:
            self._thread.join(timeout=10.0)
            self._thread = None

    def read_edge(self) -> None:
        """Have every quick probe read now, and one whose counter moves every few ms until it has moved. Blocks.

        For the edges of a window, outside what is timed: the counter's move dates it to the time of one read. The
        thread reads, so that a probe that hangs holds nobody up for longer than a second.
        """
        if self._thread is None or not self._thread.is_alive():
            return
        edge = _Edge()
        self._edges.put(edge)
        edge.given_up = not edge.read.wait(_EDGE_S)

    def _read_edges(self, until: float) -> None:
        """Read for those who wait now, and for those who come until a time of the monotonic clock."""
        while not self._stopping.is_set():
            try:
                edge = self._edges.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                return
            if not edge.given_up:  # late, it would be in the midst of what is timed
                for at in range(len(self._probes)):
                    self._read_edge_of(at)
            edge.read.set()

    def _read_edge_of(self, at: int) -> None:
        if at in self._dead or min(self._read_s[at], default=0.0) > _QUICK_S:
            return
        self._poll(at, at_edge=True)
        failures = self.failures()
        fresh = [domain for domain in self._domains[at] if domain.fresh and domain.name not in failures]
        if fresh:
            self._await_moves(at, [domain.name for domain in fresh], max(d.period_s or 0.0 for d in fresh))

    def _await_moves(self, at: int, names: Sequence[str], period_s: float) -> None:
        """Read a probe until each of these domains has moved twice, or had the time for it.

        The first move dates the count, both together tell the power right at the edge.
        """
        last = self._latest(names)
        moves = dict.fromkeys(names, 0)
        deadline = time.monotonic() + _EDGE_PATIENCE * period_s
        while time.monotonic() < deadline and at not in self._dead:
            self._poll(at, at_edge=True)
            now = self._latest(names)
            for name in names:
                moves[name] += now[name] != last[name]
            last = now
            if min(moves.values()) >= _EDGE_MOVES:
                return

    def _latest(self, names: Sequence[str]) -> dict[str, float | None]:
        with self._lock:
            return {name: self._readings[name][-1][1] if self._readings[name] else None for name in names}

    @contextmanager
    def hold(self, since_ns: int) -> Iterator[None]:
        """Keep every reading from a time on for as long as the ``with`` block lasts."""
        with self._lock:
            self._held_ns.append(since_ns)
        try:
            yield
        finally:
            with self._lock:
                self._held_ns.remove(since_ns)

    def failures(self) -> dict[str, str]:
        """Why each domain that no longer delivers stopped."""
        with self._lock:
            return dict(self._failures)

    def traces(self, start_ns: int, end_ns: int) -> list[Trace]:
        """The readings of every domain in [start_ns, end_ns], in time order."""
        failures = self.failures()
        traces = []
        for domain in self.domains:
            with self._lock:
                # From the newest back: an hour of readings may lie before them.
                latest = takewhile(lambda item: item[0] >= start_ns, reversed(self._readings[domain.name]))
                readings = [item for item in latest if item[0] <= end_ns][::-1]
            times = np.array([time_ns for time_ns, _ in readings], dtype=np.int64)
            values = np.array([value for _, value in readings], dtype=np.float64)
            traces.append(Trace(domain, times, values, failures.get(domain.name)))
        return traces

    def first_reading_ns(self, domain: str) -> int | None:
        """Time of a domain's oldest reading that is kept."""
        with self._lock:
            readings = self._readings[domain]
            return readings[0][0] if readings else None

    def last_reading_ns(self, domain: str) -> int | None:
        """Time of a domain's newest reading."""
        with self._lock:
            readings = self._readings[domain]
            return readings[-1][0] if readings else None

    def conditions(self, probe: Probe, start_ns: int, end_ns: int) -> list[Facts]:
        """What a probe saw of its device between two times, oldest first."""
        with self._lock:
            seen = [item for item in self._conditions if start_ns <= item[0] <= end_ns]
        return [conditions for _, at, conditions in seen if self._probes[at] is probe]

    def _run(self) -> None:
        """Poll until told to stop. A thread that ends otherwise leaves a reason with every domain."""
        try:
            self._loop()
        except BaseException as error:
            for at in range(len(self._probes)):
                self._bury(at, (), f"sampling stopped: {type(error).__name__}: {error}")

    def _loop(self) -> None:
        due = time.monotonic()
        conditions_due = due
        while not self._stopping.is_set():
            with_conditions = time.monotonic() >= conditions_due
            if with_conditions:
                conditions_due = time.monotonic() + _CONDITIONS_EVERY_S
                self._forget()
            for at in range(len(self._probes)):
                self._read_edges(until=0.0)
                if at not in self._dead:
                    self._poll(at, with_conditions)
            due = max(due + self._period_s, time.monotonic())
            self._read_edges(until=due)

    def _forget(self) -> None:
        """Drop readings and conditions that nobody will ask for any more."""
        with self._lock:
            oldest_ns = time.monotonic_ns() - int(_KEEP_S * _NS)
            oldest_ns = min([oldest_ns, *self._held_ns])
            for readings in self._readings.values():
                while readings and readings[0][0] < oldest_ns:
                    readings.popleft()
            while self._conditions and self._conditions[0][0] < oldest_ns:
                self._conditions.popleft()

    def _poll(self, at: int, with_conditions: bool = False, at_edge: bool = False) -> None:
        """Read one probe. Whatever goes wrong inside it ends its own domains only."""
        probe = self._probes[at]
        try:
            began = time.monotonic()
            readings = probe.read()
            self._read_s[at].append(time.monotonic() - began)
            conditions = probe.conditions() if with_conditions else None
        except Exception as error:
            failed = error.domains if isinstance(error, ProbeFailed) else ()
            self._bury(at, failed, str(error) or type(error).__name__)
            return
        with self._lock:
            for reading in readings:
                kept = self._readings[reading.domain]
                if at_edge and len(kept) > 1 and kept[-1][1] == kept[-2][1] == reading.value:
                    kept.pop()  # of looks at a count that stands still the first and the last say all
                kept.append((reading.time_ns, reading.value))
            if conditions is not None:
                self._conditions.append((time.monotonic_ns(), at, conditions))

    def _bury(self, at: int, failed: Sequence[str], reason: str) -> None:
        """Note why some or, where none is named, all domains of a probe stopped."""
        names = [domain.name for domain in self._domains[at]]
        with self._lock:
            self._failures = dict.fromkeys(failed or names, reason) | self._failures
            if all(name in self._failures for name in names):
                self._dead.add(at)
