"""What another machine's ``joulebench meter --listen`` answers, asked for over HTTP and checked."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from harness.energy.readings import Calibration, Domain

_TIMEOUT_S = 5.0
_LONGEST_ANSWER = 16 << 20
PORT = 9437
"""Where a meter listens unless told otherwise."""


class NoAnswer(Exception):
    """Nobody there, or nobody who lets us in; the message is one line."""


class WrongAnswer(Exception):
    """What came is not what a meter of ours says."""


@dataclass(frozen=True)
class MeterThere:
    """``GET /meter``: what it reads, and by which clock."""

    monotonic_ns: int
    rate_hz: float
    probes: dict[str, str]
    domains: dict[str, Domain]
    components: dict[str, list[str]]
    calibration: dict[str, Calibration] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """Raw readings of one domain; None where one could not be understood."""

    times_ns: list[int]
    values: list[float | None]
    failure: str | None = None


@dataclass(frozen=True)
class NewReadings:
    """``GET /readings``."""

    domains: dict[str, Series]
    conditions: dict[str, object] = field(default_factory=dict)
    disturbed: str | None = None


@dataclass(frozen=True)
class _Clock:
    monotonic_ns: int


class RemoteMeter:
    """One request after the other, each on a connection of its own."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url
        self._parts = urlsplit(url)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def describe(self) -> MeterThere:
        """Raises NoAnswer or WrongAnswer, as the others do."""
        there: MeterThere = self._ask("/meter", MeterThere)[0]
        named = {name for names in there.components.values() for name in names}
        if not named <= there.domains.keys() or not 0.0 < there.rate_hz <= 1e4:
            raise WrongAnswer(f"the meter at {self._url} contradicts itself: it needs the same version as here")
        return there

    def readings(self, since_ns: int) -> NewReadings:
        """What was read at or after a time of the clock there."""
        answer: NewReadings = self._ask(f"/readings?since_ns={since_ns}", NewReadings)[0]
        for name, series in answer.domains.items():
            if len(series.times_ns) != len(series.values) or series.times_ns != sorted(series.times_ns):
                raise WrongAnswer(f"its readings of {name} are in disorder")
        return answer

    def clock(self) -> tuple[int, int, int]:
        """Departure and arrival by our clock with the clock there between them, in ns."""
        answer, sent_ns, received_ns = self._ask("/clock", _Clock)
        return sent_ns, answer.monotonic_ns, received_ns

    def _ask(self, path: str, kind: Any) -> tuple[Any, int, int]:
        from pydantic import ValidationError

        secure = self._parts.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        port = self._parts.port or (443 if secure else PORT)
        connection = connect(self._parts.hostname or "", port, timeout=_TIMEOUT_S)
        try:
            connection.connect()
            sent_ns = time.monotonic_ns()
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            received_ns = time.monotonic_ns()
            body = response.read(_LONGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAnswer(f"the meter at {self._url} can't be reached: {said}") from None
        finally:
            connection.close()
        if response.status in (401, 403):
            raise NoAnswer(f"the meter at {self._url} doesn't let us in: name its token with --meter-token-env")
        if response.status >= 500:
            raise NoAnswer(f"the meter at {self._url} answered {response.status}")
        try:
            if response.status != 200 or len(body) > _LONGEST_ANSWER:
                raise ValueError(f"status {response.status}")
            return _reader(kind).validate_python(json.loads(body)), sent_ns, received_ns
        except (ValueError, ValidationError):
            raise WrongAnswer(f"what answers at {self._url}{path.partition('?')[0]} is no joulebench meter") from None


@cache
def _reader(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
