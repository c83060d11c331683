"""The power sources of another machine, through its ``joulebench meter --listen``: ``remote:http://HOST:9437``.

Its readings come with the stamps of its own clock. Round trips tell how far that clock is ahead of ours, and what that
leaves open is in the interval (``Domain.clock_s``). Methods are those of the sources there.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from harness.core.errors import ProbeFailed, ProbeUnavailable, UserError
from harness.core.quantities import Facts
from harness.energy.clock_offset import ClockJumped, ClockOffset
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.readings import LOST, Domain, Reading
from harness.energy.remote_meter import MeterThere, NoAnswer, RemoteMeter, WrongAnswer

_EVERY_S = 0.4
"""Between two requests for readings."""
_TRIPS = 8
"""Round trips for one look at the clock."""
_SLACK_S = 0.002
"""How much less sure than at the start the clock may get before readings count as lost."""
_PATIENCE_S = 10.0
"""A meter that hasn't answered for so long is gone."""
_BACK_NS = 10_000_000_000
"""How far back the first readings reach."""


class Remote(Probe):
    """Asks in a thread of its own, so that a slow network holds no other probe up."""

    role: Role = "meter"
    lag_s = 4.0

    def __init__(self, option: str | None = None) -> None:
        """``option`` is the meter's address. Raises UserError for what is none."""
        self._url = None if option is None else _checked(option)
        self.note = "another machine's meter"
        self._meter: RemoteMeter | None = None
        self._clock = ClockOffset()
        self._domains: dict[str, Domain] = {}
        self._there: MeterThere | None = None
        self._clock_s = 0.0
        self._last_ns: dict[str, int] = {}
        """By domain the stamp of the latest reading, by the clock there."""
        self._here_ns: dict[str, int] = {}
        self._arrived: queue.SimpleQueue[Reading | ProbeFailed] = queue.SimpleQueue()
        self._failed: dict[str, ProbeFailed] = {}
        self._conditions: Facts = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, context: ProbeContext) -> None:
        if self._url is None:
            raise ProbeUnavailable("no meter is named", "name another machine's: --probes remote:http://HOST:9437")
        self._meter = RemoteMeter(self._url, _token(context.meter_token_env))
        try:
            there = self._there = self._meter.describe()
            self._look_at_clock()
            _, known_s = self._clock.at(time.monotonic_ns())
        except NoAnswer as error:
            raise ProbeUnavailable(str(error), "start it there: joulebench meter --listen") from None
        except (WrongAnswer, ClockJumped) as error:
            raise ProbeUnavailable(str(error)) from None
        chosen = [there.domains[name] for names in there.components.values() for name in names]
        if not chosen:
            raise ProbeUnavailable(f"the meter at {self._url} reads no power source")
        self.poll_s = 1.0 / there.rate_hz
        self._clock_s = known_s + max(_SLACK_S, known_s)
        self._domains = {domain.name: self._domain(domain) for domain in chosen}
        self.note = (
            f"the meter at {self._url} ({', '.join(there.probes)}); its clock is known to {1e3 * self._clock_s:.1f} ms"
        )
        self._thread = threading.Thread(target=self._run, name="remote meter", daemon=True)
        self._thread.start()

    def domains(self) -> Sequence[Domain]:
        return list(self._domains.values())

    def read(self) -> Sequence[Reading]:
        readings: list[Reading] = []
        while True:
            try:
                arrived = self._arrived.get_nowait()
            except queue.Empty:
                return readings
            if isinstance(arrived, Reading):
                readings.append(arrived)
            elif readings:
                self._arrived.put(arrived)  # what came before it counts
                return readings
            else:
                raise arrived

    def conditions(self) -> Facts:
        return self._conditions

    def close(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
            self._thread = None

    def _domain(self, domain: Domain) -> Domain:
        """A domain there as one of ours, calibrated as it is there."""
        assert self._there is not None
        calibration = self._there.calibration.get(domain.name)
        gain = calibration.gain if calibration else 1.0
        unsure = f"the clock of the meter at {self._url} can't be told to {1e3 * self._clock_s:.1f} ms"
        return replace(
            domain,
            source=f"{self._url}/{domain.source}",
            clock_s=self._clock_s + domain.clock_s,
            calibrated=domain.calibrated or calibration is not None,
            resolution=domain.resolution * gain,
            wrap_j=None if domain.wrap_j is None else domain.wrap_j * gain,
            lost_means=f"{domain.lost_means}, or {unsure}"
            if domain.lost_means
            else f"it sent a wrong one, or {unsure}",
        )

    def _look_at_clock(self) -> None:
        assert self._meter is not None
        for _ in range(_TRIPS):
            self._clock.add(*self._meter.clock())

    def _run(self) -> None:
        answered_s = time.monotonic()
        while not self._stopping.is_set():
            try:
                self._fetch()
                answered_s = time.monotonic()
            except NoAnswer as error:
                # What it reads meanwhile it keeps: a network that comes back loses nothing.
                if time.monotonic() - answered_s > _PATIENCE_S:
                    self._arrived.put(ProbeFailed(str(error)))
                    return
            except Exception as error:
                said = (
                    str(error) if isinstance(error, WrongAnswer | ClockJumped) else f"{type(error).__name__}: {error}"
                )
                self._arrived.put(ProbeFailed(f"the meter at {self._url}: {said}"))
                return
            self._stopping.wait(_EVERY_S)

    def _fetch(self) -> None:
        """Ask for what was read since the last time."""
        assert self._meter is not None
        self._clock.add(*self._meter.clock())
        ahead_ns, known_s = self._clock.at(time.monotonic_ns())
        if known_s > self._clock_s:
            self._look_at_clock()
            ahead_ns, known_s = self._clock.at(time.monotonic_ns())
        living = [name for name in self._domains if name not in self._failed]
        first_ns = time.monotonic_ns() + ahead_ns - _BACK_NS
        since_ns = min((self._last_ns.get(name, first_ns) for name in living), default=first_ns)
        answer = self._meter.readings(since_ns)
        self._conditions = {**answer.conditions, "clock_known_to_s": known_s, "disturbed": answer.disturbed}
        for name in living:
            series = answer.domains.get(name)
            if series is None:
                raise WrongAnswer(f"it no longer reads {name}: it was started again otherwise")
            for there_ns, value in zip(series.times_ns, series.values, strict=True):
                if there_ns > self._last_ns.get(name, since_ns - 1):
                    self._take(name, there_ns, value if known_s <= self._clock_s else None, ahead_ns)
            if series.failure is not None:
                self._failed[name] = ProbeFailed(series.failure, (name,))
                self._arrived.put(self._failed[name])

    def _take(self, name: str, there_ns: int, value: float | None, ahead_ns: int) -> None:
        assert self._there is not None
        self._last_ns[name] = there_ns
        # A better look at the clock may put it back by a little.
        here_ns = self._here_ns[name] = max(there_ns - ahead_ns, self._here_ns.get(name, 0) + 1)
        calibration = self._there.calibration.get(name)
        if value is not None and calibration is not None:
            since_s = (there_ns - self._there.monotonic_ns) / 1e9 if self._domains[name].kind == "counter" else 1.0
            value = calibration.gain * value + calibration.offset_w * since_s
        self._arrived.put(Reading(name, here_ns, LOST if value is None else value))


def _token(variable: str | None) -> str | None:
    """What is in the environment variable. Raises ProbeUnavailable where nothing is."""
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise ProbeUnavailable(f"the environment variable {variable} holds no token", f"export {variable}=…")
    if not (token.isascii() and token.isprintable()):
        raise ProbeUnavailable(f"the environment variable {variable} has characters that no token may have")
    return token


def _checked(url: str) -> str:
    """The address without its end. Raises UserError."""
    try:
        parts: Any = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise UserError(f"a meter's address is like http://HOST:9437, not {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError("a meter's address holds no name, password or question: a token goes by --meter-token-env")
    return f"{parts.scheme}://{parts.netloc}"


create = Remote
