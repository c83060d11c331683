"""What a meter tells over HTTP, to whom, and what it doesn't let happen."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.energy import guarded_http
from harness.energy.config import EnergyConfig
from harness.energy.guarded_http import Answer, GuardedServer, parse_address
from harness.energy.listen import MeterServer
from harness.energy.meter import Meter
from harness.energy.probes.base import ProbeContext
from harness.energy.probes.fake import Fake
from harness.energy.readings import Domain, Trace
from harness.energy.running_totals import RunningTotals

OPTIONS = "period_s=0.02:idle_w=50:busy_w=250:cycle_s=0.5"
TOKEN = "0123456789abcdef"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0; charset=utf-8"}


@contextmanager
def serving(probes: str = f"fake:{OPTIONS}", token: str | None = None) -> Iterator[GuardedServer]:
    config = EnergyConfig(probes, max_foreign_load=None)
    server = GuardedServer("127.0.0.1", 0, lambda asked: Answer({}), token)
    with Meter.open(config, ProbeContext(whole_machine=True)) as meter, MeterServer(meter, server) as served:
        thread = threading.Thread(target=served.run, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[GuardedServer]:
    """With a synthetic GPU and the estimate."""
    with serving(f"fake:{OPTIONS},estimate") as started:
        time.sleep(3.0)
        yield started


def ask(
    server: GuardedServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Status, JSON or text, and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    is_json = response.headers["Content-Type"] == "application/json" and text
    return response.status, json.loads(text) if is_json else text, response.headers


def samples(text: str, name: str) -> dict[str, float]:
    """Values of a metric by component, or by nothing."""
    from prometheus_client.parser import text_string_to_metric_families

    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.labels.get("component", ""): sample.value for sample in found if sample.name == name}


def test_metrics_come_in_the_form_that_is_asked_for(server: GuardedServer) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    _, plain, headers = ask(server, "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    status, text, headers = ask(server, "/metrics", **OPENMETRICS)
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["joulebench_energy_joules"].type == "counter"
    assert families["joulebench_meter"].type == "info"
    (total,) = families["joulebench_energy_joules"].samples
    assert total.labels == {"method": "estimated", "evidence": "estimated", "probe": "fake+estimate"}
    labels = {
        sample.labels["component"]: sample.labels for sample in families["joulebench_component_power_watts"].samples
    }
    assert labels["gpu"] == {"component": "gpu", "method": "counter", "evidence": "measured", "probe": "fake"}
    assert labels["cpu"]["evidence"] == "estimated"
    assert samples(plain, "joulebench_domain_up") == {"gpu": 1.0, "cpu": 1.0}
    assert ask(server, "/metrics", Accept="application/openmetrics-text; version=soon")[0] == 200


def test_counters_go_up_by_what_was_spent(server: GuardedServer) -> None:
    def look() -> tuple[float, dict[str, float], dict[str, float]]:
        text = ask(server, "/metrics")[1]
        name = "joulebench_component_energy_joules_total"
        return time.monotonic(), samples(text, name), samples(text, "joulebench_energy_joules_total")

    began_s, before, before_all = look()
    time.sleep(4.0)
    ended_s, after, after_all = look()
    spent_j = after["gpu"] - before["gpu"]
    # Counted in steps of a second, over whole cycles of the wave.
    assert spent_j == pytest.approx(150.0 * (ended_s - began_s), abs=150.0 * 1.6)
    assert after["cpu"] > before["cpu"]
    assert after_all[""] - before_all[""] == pytest.approx(spent_j + after["cpu"] - before["cpu"], rel=1e-6)
    power = samples(ask(server, "/metrics")[1], "joulebench_component_power_watts")
    assert power["gpu"] == pytest.approx(150.0, abs=30.0)


def test_a_window_for_a_script_has_its_energy_and_ends_once(server: GuardedServer) -> None:
    status, begun, _ = ask(server, "/windows", "POST")
    assert status == 201
    time.sleep(1.0)
    status, ended, _ = ask(server, f"/windows/{begun['id']}/end", "POST")
    assert status == 200
    truth = Fake(OPTIONS).energy_j(ended["start_ns"] / 1e9, ended["end_ns"] / 1e9)
    gpu = ended["components"]["gpu"]
    assert gpu["energy_j"] == pytest.approx(truth, abs=1.5 * gpu["ci95_j"])
    assert gpu == gpu | {"method": "counter", "evidence": "measured", "reason": None}
    assert ended["evidence"] == "estimated"
    assert ended["energy_j"] == pytest.approx(gpu["energy_j"] + ended["components"]["cpu"]["energy_j"])
    status, again, _ = ask(server, f"/windows/{begun['id']}/end", "POST")
    assert status == 404
    assert "no open window" in again["error"]


def test_the_past_can_be_asked_for_by_the_clock_there(server: GuardedServer) -> None:
    start_ns = ask(server, "/clock")[1]["monotonic_ns"]
    time.sleep(0.6)
    clock = ask(server, "/clock")[1]
    assert clock["wall_ns"] == pytest.approx(time.time_ns(), abs=60e9)
    status, found, _ = ask(server, f"/energy?start_ns={start_ns}&end_ns={clock['monotonic_ns']}")
    assert status == 200
    truth = Fake(OPTIONS).energy_j(start_ns / 1e9, clock["monotonic_ns"] / 1e9)
    assert found["components"]["gpu"]["energy_j"] == pytest.approx(
        truth, abs=1.5 * found["components"]["gpu"]["ci95_j"]
    )
    status, old, _ = ask(server, f"/energy?start_ns=5&end_ns={clock['monotonic_ns']}")
    assert old["energy_j"] is None
    assert "no reading before" in old["reason"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/windows/none/end", 404),
        ("GET", "/windows", 405),
        ("POST", "/metrics", 405),
        ("HEAD", "/metrics", 405),
        ("DELETE", "/windows", 405),
        ("BREW", "/metrics", 405),
        ("GET", "/energy", 400),
        ("GET", "/energy?start_ns=1.5&end_ns=2", 400),
        ("GET", "/energy?start_ns=9&end_ns=2", 400),
        ("GET", "/energy?start_ns=9&end_ns=900000000000000000", 400),
        ("GET", "/energy?start_ns=" + "9" * 30 + "&end_ns=2", 400),
        ("GET", "/readings?since_ns=", 400),
    ],
)
def test_nothing_else_is_served(server: GuardedServer, method: str, path: str, status: int) -> None:
    found, said, _ = ask(server, path, method)
    assert found == status
    assert method == "HEAD" or said["error"]


def test_web_pages_and_other_names_of_this_machine_are_not_answered(server: GuardedServer) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:9437", "", "10.0.0.7", "[::1"):
        assert ask(server, "/metrics", Host=host)[0] == 403, host
    for host in ("localhost:9437", "127.0.0.1", "[::1]:9437", "127.1.2.3:80"):
        assert ask(server, "/clock", Host=host)[0] == 200, host
    assert ask(server, "/windows", "POST", Origin="http://127.0.0.1:9437")[0] == 403


def test_large_and_shapeless_requests_are_refused(server: GuardedServer) -> None:
    assert ask(server, "/windows", "POST", b"x" * 5000)[0] == 413
    assert ask(server, "/windows", "POST", **{"Transfer-Encoding": "chunked"})[0] == 411
    assert ask(server, "/windows", "POST", **{"Content-Length": "-5"})[0] == 411
    assert ask(server, "/clock", **{f"X-{number}": "y" * 1000 for number in range(30)})[0] == 431
    with socket.create_connection(server.server_address[:2], timeout=10) as raw:  # type: ignore[arg-type]
        raw.sendall(b"\x16\x03\x01\x02\x00\n\n")
        assert b" 400 " in raw.recv(4096)


def test_windows_are_limited(server: GuardedServer) -> None:
    opened = [ask(server, "/windows", "POST") for _ in range(65)]
    assert {status for status, _, _ in opened[:64]} == {201}
    assert opened[64][0] == 429
    for _, begun, _ in opened[:64]:
        # Not to be waited for: sensors' next updates come for each.
        threading.Thread(target=ask, args=(server, f"/windows/{begun['id']}/end", "POST")).start()
    deadline = time.monotonic() + 20
    while ask(server, "/windows", "POST")[0] != 201:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def slow_clients(server: GuardedServer, count: int) -> Iterator[list[socket.socket]]:
    """Connections whose requests have begun and don't end."""
    with ExitStack() as opened:
        slow = [
            opened.enter_context(socket.create_connection(server.server_address[:2], timeout=10)) for _ in range(count)
        ]  # type: ignore[arg-type]
        for each in slow:
            each.sendall(b"GET /clock HTTP/1.1\r\nX: ")
        yield slow


def test_slow_clients_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_http, "_MOST_CONNECTIONS", 4)
    with serving() as server, slow_clients(server, 3):
        assert ask(server, "/clock")[0] == 200


def test_slow_clients_are_dropped_and_no_more_are_taken_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_http, "_REQUEST_S", 4.0)
    monkeypatch.setattr(guarded_http, "_MOST_CONNECTIONS", 4)
    with serving() as server, slow_clients(server, 4) as slow:
        assert ask(server, "/clock")[0] == 503
        deadline = time.monotonic() + 15
        while ask(server, "/clock")[0] != 200:
            assert time.monotonic() < deadline, "a byte now and then keeps a place for ever"
            for each in slow:
                with suppress(OSError):
                    each.sendall(b"y")
            time.sleep(0.2)


def test_with_a_token_every_request_needs_it() -> None:
    with serving(token=TOKEN) as server:
        for borne in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer ä"}):
            for path in ("/metrics", "/clock", "/nothing"):
                status, _, headers = ask(server, path, **{key: value.encode() for key, value in borne.items()})  # type: ignore[arg-type]
                assert status == 401
                assert headers["WWW-Authenticate"] == "Bearer"
        assert ask(server, "/clock", Authorization=f"Bearer {TOKEN}", Host="anything.example")[0] == 200


def test_another_machine_reads_it_with_the_token_and_not_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METER_TOKEN", TOKEN)
    monkeypatch.setenv("WRONG_TOKEN", "guessed")
    with serving(token=TOKEN) as server:
        with Meter.open(EnergyConfig(meter_url=server.url, meter_token_env="METER_TOKEN")) as meter:
            assert [*meter.describe().domains] == ["fake"]
            assert TOKEN not in str(meter.describe())
        for variable in (None, "WRONG_TOKEN"):
            with pytest.raises(UserError, match="--meter-token-env"):
                Meter.open(EnergyConfig(meter_url=server.url, meter_token_env=variable))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9437", ("127.0.0.1", 9437)),
        ("localhost:80", ("localhost", 80)),
        ("0.0.0.0:9437", ("0.0.0.0", 9437)),
        ("[::1]:9437", ("::1", 9437)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":9437", "host", "host:", "host:99999", "::1:9437", "http://host:1", "9437 "])
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(UserError, match="takes"):
        parse_address(text)


def test_other_addresses_than_loopback_need_a_token_and_a_taken_port_is_named() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UserError, match="--token-env"):
            GuardedServer(host, 0, lambda asked: Answer({}))
    GuardedServer("0.0.0.0", 0, lambda asked: Answer({}), TOKEN).server_close()
    first = GuardedServer("127.0.0.1", 0, lambda asked: Answer({}))
    with pytest.raises(UserError, match="is in use"):
        GuardedServer("127.0.0.1", first.server_address[1], lambda asked: Answer({}))
    first.server_close()
    with pytest.raises(UserError, match="no address"):
        GuardedServer("no.such.host.invalid", 0, lambda asked: Answer({}))


def test_a_sensor_that_dies_is_absent_and_down() -> None:
    with serving("fake:period_s=0.02:fail_after_s=2.5") as server:
        deadline = time.monotonic() + 20
        while samples(text := ask(server, "/metrics")[1], "joulebench_domain_up") != {"gpu": 0.0}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert samples(text, "joulebench_energy_joules_total") == {}
    assert samples(text, "joulebench_component_power_watts") == {}


def test_a_fault_in_counting_is_told_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Domain("gpu0", "gpu", "counter", "counter", "nvml", 1e-3, period_s=0.1, source="gpu0")
    described = replace(Meter({}).describe(), domains={"gpu0": domain}, components={"gpu": ["gpu0"]})
    times_ns = (np.arange(0, 10, 0.05) * 1e9).astype(np.int64)
    totals = RunningTotals(described, 0.05, lambda start, end: [Trace(domain, times_ns, times_ns.astype(str))])
    for now_s in (6, 8):
        monkeypatch.setattr("harness.energy.running_totals.time.monotonic_ns", lambda now_s=now_s: int(now_s * 1e9))
        totals.advance()
    assert "could not be worked out" in (totals.whole().failure or "")
    assert totals.whole().energy_j is None


def test_totals_add_up_to_what_the_counter_counted_and_gaps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step over a recording, with a reading in its midst that could not be understood."""
    domain = Domain("gpu0", "gpu", "counter", "counter", "nvml", 1e-3, period_s=0.1, source="gpu0")
    rng = np.random.default_rng(3)
    times_ns = (np.arange(0, 60, 0.05) * 1e9).astype(np.int64)
    values = np.cumsum(rng.uniform(1.0, 15.0, times_ns.size))
    described = Meter({}).describe()
    described = replace(described, domains={"gpu0": domain}, components={"gpu": ["gpu0"]})
    for lost in (False, True):
        values = np.where(times_ns == 30_000_000_000, np.nan, values) if lost else values

        def traces(start_ns: int, end_ns: int, values: Any = values) -> list[Trace]:
            inside = (times_ns >= start_ns) & (times_ns <= end_ns)
            return [Trace(domain, times_ns[inside], values[inside])]

        totals = RunningTotals(described, 0.05, traces)
        counted = []
        for now_s in range(5, 60):
            monkeypatch.setattr("harness.energy.running_totals.time.monotonic_ns", lambda now_s=now_s: int(now_s * 1e9))
            totals.advance()
            counted.append(totals.whole())
        first, last = (int(np.searchsorted(times_ns, second * 1e9)) for second in (4.5, 58.5))
        if lost:
            assert 1.0 <= counted[-1].lost_s <= 6.0
        else:
            assert counted[-1].lost_s == 0.0
            assert counted[-1].energy_j == pytest.approx(values[last] - values[first], rel=0.01)
        joules = [total.energy_j for total in counted if total.energy_j is not None]
        assert joules == sorted(joules)
