"""The meter of another machine: its readings on our clock, what the clocks leave open, and a meter that goes away."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from harness.core.errors import ProbeUnavailable, UserError
from harness.energy.clock_offset import ClockJumped, ClockOffset
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter, MeteredWindow
from harness.energy.probes import create, remote
from harness.energy.probes.base import ProbeContext
from harness.energy.probes.fake import Fake
from tests.helpers import ROOT, environment

OFFSET_S = 12345.678
Serve = Callable[..., "tuple[str, subprocess.Popen[str]]"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a meter on another clock; gives its address and process."""
    with ExitStack() as stack:

        def start(offset_s: float, *arguments: str) -> tuple[str, subprocess.Popen[str]]:
            script = ROOT / "tests" / "energy" / "meter_process.py"
            process = subprocess.Popen(
                [sys.executable, str(script), str(offset_s), *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env=environment() | {"PYTHONPATH": str(ROOT)},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            return process.stdout.readline().strip(), process

        yield start


def truth_j(window: MeteredWindow, offset_s: float, options: str) -> float:
    """What the square wave of another machine gave off between the marks of ours."""
    start_s, end_s = (int(edge[0]) / 1e9 + offset_s for edge in (window.marks.start_ns, window.marks.end_ns))
    return Fake(options).energy_j(start_s, end_s)


@pytest.mark.parametrize(
    ("offset_s", "options", "calibration"),
    [
        (OFFSET_S, "period_s=0.01:idle_w=40:busy_w=400:cycle_s=2", ()),
        (-0.5, "kind=power:period_s=0.05:averaging_s=0.05:idle_w=50:busy_w=250:cycle_s=2", ()),
        (-0.5, "period_s=0.002:idle_w=100:busy_w=100", ("fake=1.5,20",)),
    ],
    ids=["counter", "power", "calibrated"],
)
def test_energy_on_another_clock_is_within_the_interval(
    serve: Serve, offset_s: float, options: str, calibration: tuple[str, ...]
) -> None:
    """Were the clocks taken for one, windows of less than half a wave would be wrong by up to all they have."""
    url, _ = serve(offset_s, f"fake:{options}", *calibration)
    with Meter.open(EnergyConfig(meter_url=url, max_foreign_load=None)) as meter:
        (domain,) = meter.describe().domains.values()
        assert 0.0 < domain.clock_s < 0.1
        assert not domain.fresh
        windows = []
        for _ in range(4):
            time.sleep(0.5 * random.random())
            with meter.window() as window:
                time.sleep(0.8)
            windows.append(window)
    within = 0
    for window in windows:
        assert window.energy_j is not None, window.reason
        assert window.ci95_j is not None
        assert window.energy.total.method == domain.method
        assert window.disturbed is None
        true_j = truth_j(window, offset_s, options)
        if calibration:
            true_j = 1.5 * true_j + 20.0 * float(window.marks.end_ns[0] - window.marks.start_ns[0]) / 1e9
        within += abs(window.energy_j - true_j) <= 1.2 * window.ci95_j
    # A 95 % interval, and a sampler that may be put aside for a moment right where the wave steps.
    assert within >= 3
    assert meter.describe().probes[f"remote:{url}"].startswith(f"the meter at {url} (fake")


def test_a_meter_that_goes_away_costs_the_energy_and_not_the_run(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PATIENCE_S", 1.0)
    url, process = serve(OFFSET_S, "fake:period_s=0.02")
    with Meter.open(EnergyConfig(meter_url=url, max_foreign_load=None)) as meter:
        with meter.window() as window:
            time.sleep(0.3)
        assert window.energy_j is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        with meter.window() as window:
            time.sleep(0.3)
        assert window.energy_j is None
        with meter.window() as window:
            pass
        assert window.energy_j is None
        assert f"the meter at {url} can't be reached" in str(window.reason)


def test_a_sensor_that_dies_there_is_named_here(serve: Serve) -> None:
    url, _ = serve(OFFSET_S, "fake:period_s=0.02:fail_after_s=2.5")
    with Meter.open(EnergyConfig(meter_url=url, max_foreign_load=None)) as meter:
        time.sleep(2.5)
        with meter.window() as window:
            time.sleep(0.3)
        assert window.energy_j is None
        assert "told to die" in str(window.reason)


def test_a_meter_that_stands_still_for_a_while_loses_nothing(serve: Serve) -> None:
    """As a network that is down meanwhile: what was read there is asked for again."""
    url, process = serve(0.0, "fake:period_s=0.02")
    with Meter.open(EnergyConfig(meter_url=url, max_foreign_load=None)) as meter:
        with meter.window() as window:
            time.sleep(0.3)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.7)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.7)
        assert window.energy_j == pytest.approx(truth_j(window, 0.0, "period_s=0.02"), rel=0.2)


def test_nobody_there_is_said_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"can't be reached: .*; start it there: joulebench meter --listen"):
        Meter.open(EnergyConfig(meter_url="http://127.0.0.1:9"))
    with pytest.raises(ProbeUnavailable, match="no meter is named"):
        create("remote").open(ProbeContext())


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"monotonic_ns": 1}', b'{"monotonic_ns": "soon", "rate_hz": 1}', b"\xff"]
)
def test_what_is_no_meter_is_refused(body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            with pytest.raises(UserError, match="is no joulebench meter"):
                Meter.open(EnergyConfig(meter_url=f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("10.0.0.7:9437", "is like http://HOST:9437"),
        ("ftp://10.0.0.7", "is like http://HOST:9437"),
        ("http://10.0.0.7:port", "is like http://HOST:9437"),
        ("http://10.0.0.7/metrics", "is like http://HOST:9437"),
        ("http://me:secret@10.0.0.7", "holds no name, password"),
    ],
)
def test_wrong_addresses_are_refused_before_anything_is_asked(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        _ = EnergyConfig(meter_url=url).calibrations


def test_a_meter_elsewhere_stands_in_place_of_the_sources_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="give one"):
        _ = EnergyConfig("rapl", meter_url="http://10.0.0.7").calibrations
    monkeypatch.delenv("NO_TOKEN_HERE", raising=False)
    with pytest.raises(UserError, match="NO_TOKEN_HERE holds no token"):
        Meter.open(EnergyConfig(meter_url="http://10.0.0.7", meter_token_env="NO_TOKEN_HERE"))
    monkeypatch.setenv("BROKEN_TOKEN", "secret\nX-Other: 2")
    with pytest.raises(UserError, match="BROKEN_TOKEN") as refused:
        Meter.open(EnergyConfig(meter_url="http://10.0.0.7", meter_token_env="BROKEN_TOKEN"))
    assert "secret" not in str(refused.value)


def test_the_clock_is_told_within_its_bounds_under_jitter_and_drift() -> None:
    rng = np.random.default_rng(1)
    clock, drift, offset_ns = ClockOffset(), 2e-4, 7_000_000_000_000
    for step in range(400):
        sent_ns = int(step * 0.4e9)
        out_ns, back_ns = (int(1e5 + rng.exponential(2e6)) for _ in range(2))
        there = sent_ns + out_ns
        clock.add(sent_ns, int(there * (1 + drift)) + offset_ns, sent_ns + out_ns + back_ns)
        now_ns = sent_ns + out_ns + back_ns
        ahead_ns, known_s = clock.at(now_ns)
        assert abs(ahead_ns - (offset_ns + now_ns * drift)) <= known_s * 1e9 + 1
    assert known_s < 0.002


def test_a_clock_that_jumps_is_noticed() -> None:
    clock = ClockOffset()
    clock.add(0, 1_000_000_000, 1000)
    clock.add(400_000_000, 5_000_000_000, 400_001_000)
    with pytest.raises(ClockJumped):
        clock.at(400_001_000)
    with pytest.raises(ValueError, match="no round trip"):
        ClockOffset().at(0)


def test_descriptions_of_remote_sources_are_kept_like_others(serve: Serve) -> None:
    url, _ = serve(0.0, "fake")
    with Meter.open(EnergyConfig(meter_url=url)) as meter:
        from dataclasses import asdict

        described = json.dumps(asdict(meter.describe()))
    assert f"{url}/fake" in described
