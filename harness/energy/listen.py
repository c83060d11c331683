"""``joulebench meter --listen``: what a meter reads, for Prometheus and for one's own scripts, over HTTP.

=========================================  ==========================================================================
``GET /metrics``                           power and energy as OpenMetrics or in Prometheus's text format
``POST /windows``                          begins to meter: ``{"id", "start_ns"}``
``POST /windows/ID/end``                   ends that: joules by component and in all
``GET /energy?start_ns=…&end_ns=…``        joules between two times of the last hour (``CLOCK_MONOTONIC`` here)
``GET /clock``                             ``{"monotonic_ns", "wall_ns"}`` now
``GET /meter``                             what reads and how
``GET /readings?since_ns=…``               raw readings, for the probe ``remote``
=========================================  ==========================================================================
"""

from __future__ import annotations

import math
import re
import secrets
import threading
import time
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from harness.core.version import __version__
from harness.energy.attribution import EnergyFigure
from harness.energy.exposition import Exposition, evidence
from harness.energy.guarded_http import Answer, Asked, GuardedServer, Refused
from harness.energy.meter import Meter
from harness.energy.metered_window import MeteredWindow
from harness.energy.readings import Trace
from harness.energy.running_totals import RunningTotals

_MOST_WINDOWS = 64
_KEPT_NS = 3_600_000_000_000
"""How long readings are kept, and so how long a window may last."""
_MOST_READINGS = 20_000
"""Of a domain in one answer, oldest first."""
_BACK_NS = 10_000_000_000
_WINDOW_END = re.compile(r"/windows/([\w-]{1,64})/end", re.ASCII)


class MeterServer:
    """Serves an open meter until ``close``; the meter stays open. Use as a context manager."""

    def __init__(self, meter: Meter, server: GuardedServer) -> None:
        self._meter = meter
        self._server = server
        self._description = meter.describe()
        self._totals = RunningTotals(
            self._description, meter.slowest_poll_s, lambda start, end: meter.recent(start, end, calibrated=True)
        )
        self._exposition = Exposition(self._description, self._totals)
        self._windows: dict[str, int] = {}
        self._lock = threading.Lock()
        self._gets = {
            "/metrics": self._metrics,
            "/clock": self._clock,
            "/meter": self._describe,
            "/readings": self._readings,
            "/energy": self._energy,
        }
        server.answer = self.answer

    def __enter__(self) -> MeterServer:
        self._totals.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._totals.stop()
        self._server.server_close()

    def run(self) -> None:
        """Serve until ``shutdown`` of the server, or an exception in this thread such as an interrupt."""
        self._server.serve_forever(poll_interval=0.2)

    def answer(self, asked: Asked) -> Answer:
        """Raises Refused."""
        ended = _WINDOW_END.fullmatch(asked.path)
        posts = asked.path == "/windows" or ended is not None
        if not posts and asked.path not in self._gets:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing at this path; there are {', '.join(self._gets)}")
        if asked.method != ("POST" if posts else "GET"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"this path takes {'POST' if posts else 'GET'} only")
        if ended:
            return self._end(ended[1])
        return self._begin() if posts else self._gets[asked.path](asked)

    def _metrics(self, asked: Asked) -> Answer:
        body, content_type = self._exposition.text(asked.accept)
        return Answer(body, content_type=content_type)

    def _clock(self, asked: Asked) -> Answer:
        return Answer({"monotonic_ns": time.monotonic_ns(), "wall_ns": time.time_ns()})

    def _describe(self, asked: Asked) -> Answer:
        return Answer({"version": __version__, "monotonic_ns": time.monotonic_ns(), **asdict(self._description)})

    def _readings(self, asked: Asked) -> Answer:
        now_ns = time.monotonic_ns()
        since_ns = _whole(asked, "since_ns", now_ns - _BACK_NS)
        seen, disturbed = self._meter.latest_conditions()
        domains = {trace.domain.name: _series(trace) for trace in self._meter.recent(since_ns, now_ns)}
        return Answer({"monotonic_ns": now_ns, "domains": domains, "conditions": seen, "disturbed": disturbed})

    def _energy(self, asked: Asked) -> Answer:
        start_ns, end_ns = _whole(asked, "start_ns"), _whole(asked, "end_ns")
        if not start_ns < end_ns <= time.monotonic_ns():
            raise Refused(
                HTTPStatus.BAD_REQUEST, "start_ns lies before end_ns, and end_ns not in the future: see /clock"
            )
        return Answer(_figures(self._meter.past(start_ns, end_ns)))

    def _begin(self) -> Answer:
        self._meter.read_edge()
        start_ns = time.monotonic_ns()
        name = secrets.token_hex(8)
        with self._lock:
            self._windows = {each: ns for each, ns in self._windows.items() if start_ns - ns < _KEPT_NS}
            if len(self._windows) >= _MOST_WINDOWS:
                raise Refused(HTTPStatus.TOO_MANY_REQUESTS, f"{_MOST_WINDOWS} windows are open: end some first")
            self._windows[name] = start_ns
        return Answer({"id": name, "start_ns": start_ns}, HTTPStatus.CREATED)

    def _end(self, name: str) -> Answer:
        end_ns = time.monotonic_ns()
        with self._lock:
            start_ns = self._windows.pop(name, None)
        if start_ns is None or end_ns - start_ns >= _KEPT_NS:
            raise Refused(
                HTTPStatus.NOT_FOUND, "there is no open window of this id: it was ended, or is over an hour old"
            )
        self._meter.read_edge()
        return Answer({"id": name, **_figures(self._meter.past(start_ns, end_ns))})


def _whole(asked: Asked, name: str, otherwise: int | None = None) -> int:
    """A time in the query. Raises Refused."""
    text = asked.query.get(name, "" if otherwise is None else str(otherwise))
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name} is a time in whole nanoseconds of the clock at /clock")
    return int(text)


def _series(trace: Trace) -> dict[str, Any]:
    values = trace.values[:_MOST_READINGS].tolist()
    return {
        "times_ns": trace.times_ns[:_MOST_READINGS].tolist(),
        "values": [value if math.isfinite(value) else None for value in values],
        "failure": trace.failure,
    }


def _figures(window: MeteredWindow) -> dict[str, Any]:
    """A window's joules as JSON."""
    start_ns, end_ns = int(window.marks.start_ns[0]), int(window.marks.end_ns[-1])
    energy = window.energy
    return {
        "start_ns": start_ns,
        "end_ns": end_ns,
        "duration_s": (end_ns - start_ns) / 1e9,
        **_figure(energy.total),
        "components": {name: _figure(figure) for name, figure in energy.components.items()},
        "domains": {name: _figure(figure) for name, figure in energy.domains.items()},
        "disturbed": window.disturbed,
        "warnings": energy.warnings,
    }


def _figure(figure: EnergyFigure) -> dict[str, Any]:
    return {
        "energy_j": figure.request_j,
        "ci95_j": figure.request_ci95_j,
        "method": figure.method,
        "evidence": evidence(figure.method) or None,
        "reason": figure.reason,
    }
