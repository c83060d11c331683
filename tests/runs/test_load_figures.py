"""The figures of a loop, against ones worked out by hand, by brute force and by what must hold whatever the stamps."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from harness.measuring.loop_message import run_from_message, run_message
from harness.runs.load_figures import (
    LatencyLimits,
    LoadFigures,
    coherence,
    doubts,
    load_figures,
    mean_open,
    most_open,
    percentiles,
)
from harness.runs.load_stamps import PER_REQUEST, UNKNOWN, LoopRun, LoopStamps, ServerReadings, busy_window

MS = 1_000_000
T0 = 5_000 * MS


def stamps(*requests: dict[str, Any]) -> LoopStamps:
    """Stamps from requests with ``client``, ``at`` (its start in ms), ``pieces`` as (ms after the start, tokens), and
    what else differs from 10 input tokens, a start when due, nothing known of a cache, and counted."""
    rows = []
    for number, request in enumerate(sorted(requests, key=lambda each: each["at"])):
        row = {"client": 0, "number": number, "input_tokens": 10, "cached_tokens": UNKNOWN, "counted": True}
        row |= {"told": True} | request
        pieces = row["pieces"]
        row["start_ns"] = T0 + row["at"] * MS
        row["due_ns"] = T0 + row.get("due", row["at"]) * MS
        row["end_ns"] = row["start_ns"] + pieces[-1][0] * MS
        row["output_tokens"] = sum(tokens for _, tokens in pieces)
        rows.append(row)
    columns = {name: np.array([row[name] for row in rows]) for name in PER_REQUEST if name != "pieces"}
    said = dict.fromkeys(name for row in rows for name in row.get("said", {}))
    return LoopStamps(
        **columns,
        pieces=np.array([len(row["pieces"]) for row in rows]),
        piece_ns=np.array([row["start_ns"] + ms * MS for row in rows for ms, _ in row["pieces"]]),
        piece_tokens=np.array([tokens for row in rows for _, tokens in row["pieces"]]),
        said={name: np.array([row.get("said", {}).get(name, np.nan) for row in rows]) for name in said},
    )


def closed(found: LoopStamps, concurrency: int, **changes: Any) -> LoopRun:
    run = LoopRun("closed loop", concurrency, found, busy_window(found), client_cpu_s=0.01, client_processes=1)
    return replace(run, **changes)


def steady(clients: int, requests: int, length_ms: int = 100, shift_ms: float | None = None) -> LoopStamps:
    """Clients with requests back to back, each later than the one before by an equal part of a request or ``shift``."""
    shift = length_ms / clients if shift_ms is None else shift_ms
    step = (length_ms - 20) // 8
    pieces = [(20 + step * k, 1) for k in range(8)] + [(length_ms, 1)]
    return stamps(
        *(
            {"client": client, "at": round(client * shift) + length_ms * k, "pieces": pieces}
            for client in range(clients)
            for k in range(requests)
        )
    )


durations = st.integers(1, 10**9)


@st.composite
def any_stamps(draw: st.DrawFn) -> LoopStamps:
    requests = draw(
        st.lists(
            st.tuples(
                st.integers(0, 10**9),
                st.integers(1, 500),
                st.lists(st.tuples(durations, st.integers(0, 5)), min_size=1, max_size=6),
            ),
            min_size=1,
            max_size=8,
        )
    )
    rows = sorted(requests)
    gaps = [[gap for gap, _ in pieces] for _, _, pieces in rows]
    tokens = [[count for _, count in pieces] for _, _, pieces in rows]
    starts = np.array([start for start, _, _ in rows], dtype=np.int64)
    ends = starts + np.array([sum(each) for each in gaps])
    count = len(rows)
    return LoopStamps(
        client=np.arange(count),
        number=np.arange(count),
        due_ns=starts,
        start_ns=starts,
        end_ns=ends,
        input_tokens=np.array([m for _, m, _ in rows]),
        output_tokens=np.array([sum(each) for each in tokens]),
        cached_tokens=np.full(count, UNKNOWN),
        counted=np.ones(count, dtype=np.bool_),
        told=np.ones(count, dtype=np.bool_),
        pieces=np.array([len(each) for each in gaps]),
        piece_ns=np.concatenate([start + np.cumsum(each) for start, each in zip(starts, gaps, strict=True)]),
        piece_tokens=np.concatenate([np.array(each) for each in tokens]),
    )


@given(any_stamps(), st.lists(st.integers(0, 8 * 10**9), max_size=6))
def test_shares_of_windows_that_meet_add_up_to_the_requests(found: LoopStamps, edges: list[int]) -> None:
    cuts = [0, *sorted(edges), 10**11]
    shares = [found.shares(start, end) for start, end in itertools.pairwise(cuts)]
    assert all((share >= 0).all() for share in shares)
    np.testing.assert_allclose(np.sum(shares, axis=0), 1.0, atol=1e-9)


@given(any_stamps(), st.integers(0, 8 * 10**9), st.integers(1, 8 * 10**9))
def test_open_stretches_are_counted_as_by_hand(found: LoopStamps, start_ns: int, length_ns: int) -> None:
    end_ns = start_ns + length_ns
    begun, ended = found.start_ns, found.end_ns
    moments = sorted({start_ns, *(int(t) for t in begun if start_ns <= t < end_ns)})
    by_hand = max(int(((begun <= t) & (t < ended)).sum()) for t in moments)
    assert most_open(begun, ended, start_ns, end_ns) == by_hand
    inside = sum(max(0, min(b, end_ns) - max(a, start_ns)) for a, b in zip(begun.tolist(), ended.tolist(), strict=True))
    assert mean_open(begun, ended, start_ns, end_ns) == pytest.approx(inside / length_ns)


def test_tokens_are_spread_over_the_time_that_they_took() -> None:
    found = stamps({"at": 0, "input_tokens": 9, "pieces": [(100, 1), (140, 4)]})
    for ms, tokens in ((-1, 0), (0, 0), (50, 5), (100, 10), (110, 11), (130, 13), (140, 14), (200, 14)):
        assert found.tokens_until(T0 + ms * MS)[0] == pytest.approx(tokens), ms


@pytest.mark.parametrize("c", [1, 2, 4, 10])
def test_spread_clients_give_their_rate_wherever_the_window_lies(c: int) -> None:
    found = load_figures(closed(steady(c, 8), c))
    assert found.requests == pytest.approx(c * found.window_s / 0.1, rel=0.01)
    assert found.runtime_s == pytest.approx(0.1, rel=0.01)
    assert found.in_flight_mean == pytest.approx(c)
    assert found.in_flight_max == c
    assert found.prefill_mean == pytest.approx(c * 0.2, rel=0.05)
    assert (found.coherence is None) == (c == 1)
    assert c == 1 or found.coherence == pytest.approx(0.0, abs=0.01)
    assert found.ttft_s is not None
    assert found.ttft_s.p50_s == pytest.approx(0.020)
    assert found.tpot_s is not None
    assert found.tpot_s.mean_s == pytest.approx(0.010)
    assert found.e2e_s is not None
    assert (found.e2e_s.p99_s, found.e2e_s.sd_s) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-12))
    assert doubts(found) == []


def test_answers_that_come_all_at_once_are_marked() -> None:
    """A proxy that holds streams back: the first token seems to take as long as the whole answer."""
    found = load_figures(closed(stamps(*({"at": 100 * k, "pieces": [(100, 1)] * 8} for k in range(4))), 1))
    assert [doubt for doubt in doubts(found) if "all at once" in doubt]


def test_any_window_over_steady_clients_has_the_same_energy_per_request() -> None:
    """At a constant power energy goes with time: no window may favour its edges."""
    found = steady(4, 12)
    for start_ms in range(150, 400, 7):
        window_ns = (T0 + start_ms * MS, T0 + (start_ms + 375) * MS)
        requests = found.shares(*window_ns).sum()
        assert 0.375 / requests == pytest.approx(0.1 / 4, rel=0.04), start_ms
    by_start = [found.shares(T0 + ms * MS, T0 + (ms + 375) * MS).sum() for ms in range(200, 300)]
    assert 0.375 / np.mean(by_start) == pytest.approx(0.1 / 4, rel=0.002)


def test_one_client_takes_the_plain_mean_gaps_included() -> None:
    found = stamps(*({"at": 110 * k, "pieces": [(50, 1), (100, 1)]} for k in range(4)))
    figures = load_figures(closed(found, 1))
    assert figures.requests == pytest.approx(4.0)
    assert figures.runtime_s == pytest.approx((3 * 110 + 100) / 4 / 1e3)
    assert (figures.ramp_s, figures.drain_s, figures.whole_requests) == (0.0, 0.0, 4)


def test_the_window_is_when_all_are_busy_with_requests_of_full_length() -> None:
    short = [{"client": k, "at": 0, "pieces": [(40 + 20 * k, 1)], "counted": False} for k in range(2)]
    full = [
        {"client": k, "at": 40 + 20 * k + 100 * i, "pieces": [(20, 1), (100, 9)]} for k in range(2) for i in range(3)
    ]
    run = closed(stamps(*short, *full), 2)
    assert run.window_ns == (T0 + 60 * MS, T0 + 340 * MS)
    figures = load_figures(run)
    assert (figures.ramp_s, figures.window_s, figures.drain_s) == (0.06, 0.28, pytest.approx(0.02))
    assert figures.all_requests == 8
    assert figures.whole_requests == 4, "client 0's two later ones, client 1's two earlier ones"
    outside = 11 / 20 + (1 - (11 + 9 * 60 / 80) / 20)
    assert figures.requests == pytest.approx(6 - outside)


def test_a_loop_whose_clients_were_never_busy_together_has_no_window() -> None:
    with pytest.raises(ValueError, match="never all busy"):
        busy_window(stamps({"at": 0, "pieces": [(10, 1)]}, {"client": 1, "at": 20, "pieces": [(10, 1)]}))
    ramp = {"client": 1, "at": 20, "pieces": [(10, 1)], "counted": False}
    with pytest.raises(ValueError, match="not every client"):
        busy_window(stamps({"at": 0, "pieces": [(10, 1)]}, ramp))


def test_clients_in_step_are_told() -> None:
    found = load_figures(closed(steady(4, 8, shift_ms=0.0), 4))
    assert found.coherence == pytest.approx(1.0)
    assert found.prefill_max == 4
    assert any("in step" in doubt for doubt in doubts(found))
    half = steady(2, 8, shift_ms=25)
    assert coherence(half, *busy_window(half)) == pytest.approx(np.cos(np.pi / 4), abs=0.01)


def test_pieces_of_several_tokens_are_told_and_leave_tpot_alone() -> None:
    pieces = [(20, 1), (40, 4), (60, 4)]
    figures = load_figures(closed(stamps(*({"at": 60 * k, "pieces": pieces, "told": k > 0} for k in range(3))), 1))
    assert figures.tpot_s is not None
    assert figures.tpot_s.mean_s == pytest.approx(0.040 / 8)
    assert figures.inter_token_s is not None
    assert (figures.inter_token_s.count, figures.inter_token_s.mean_s) == (6, pytest.approx(0.020))
    assert figures.tokens_per_piece == pytest.approx(3.0)
    assert not figures.tokens_told


def test_one_output_token_has_no_time_per_token() -> None:
    figures = load_figures(closed(stamps(*({"at": 30 * k, "pieces": [(30, 1)]} for k in range(3))), 1))
    assert (figures.tpot_s, figures.inter_token_s) == (None, None)
    assert figures.ttft_s is not None


def test_percentiles_are_those_of_numpy() -> None:
    found = percentiles(np.arange(1, 101) * MS)
    assert found is not None
    assert (found.count, found.p50_s, found.p90_s, found.p99_s) == (100, 0.0505, 0.0901, pytest.approx(0.09901))
    assert percentiles(np.array([5 * MS])) == replace(
        found, count=1, mean_s=0.005, sd_s=None, p50_s=0.005, p90_s=0.005, p99_s=0.005
    )
    assert percentiles(np.array([])) is None


def test_lateness_cached_tokens_and_what_the_server_says() -> None:
    rows = [
        {"at": 0, "pieces": [(30, 1)], "cached_tokens": 0, "said": {"prompt_s": 0.02}},
        {"at": 32, "due": 30, "pieces": [(30, 1)], "cached_tokens": 7, "said": {"prompt_s": 0.04}},
        {"at": 66, "due": 62, "pieces": [(30, 1)]},
    ]
    figures = load_figures(closed(stamps(*rows), 1))
    assert figures.lateness_s is not None
    assert figures.lateness_s.mean_s == pytest.approx(0.002)
    assert figures.cached_tokens_max == 7
    assert figures.said_s == {"prompt_s": pytest.approx(0.03)}
    unknown = load_figures(closed(stamps(*({**row, "cached_tokens": UNKNOWN} for row in rows)), 1))
    assert unknown.cached_tokens_max is None, "not known is not 0"


def test_slow_clients_are_told() -> None:
    found = load_figures(closed(stamps(*({"at": 200 * k, "pieces": [(100, 1)]} for k in range(4))), 1))
    assert any("too slow for requests so short" in doubt for doubt in doubts(found))


def test_what_the_server_says_of_itself() -> None:
    during = ({"requests_running": 2.0, "x": float("nan")}, {"requests_running": 4.0})
    readings = ServerReadings({"decode_s_total": 1.0}, during, {"decode_s_total": 3.5, "prefill_s_total": 2.0})
    server = load_figures(closed(steady(2, 4), 2, server=readings)).server
    assert (server.during_mean, server.during_max, server.readings) == (
        {"requests_running": 3.0},
        {"requests_running": 4.0},
        2,
    )
    assert server.grown("decode_s_total") == 2.5
    assert server.grown("prefill_s_total") == 2.0, "counters may appear with their first event"
    assert server.grown("preemptions_total") is None, "not told is not 0"


def open_run(lengths_ms: Sequence[int], gap_ms: int = 10) -> LoopRun:
    found = stamps(
        *(
            {"client": k, "at": gap_ms * k, "pieces": [(length // 2, 1), (length, 4)]}
            for k, length in enumerate(lengths_ms)
        )
    )
    return LoopRun("open loop", 9, found, (T0 + 100 * MS, T0 + 400 * MS), 0.01, 1)


def test_an_open_loop_has_rates_goodput_and_the_mean_in_flight() -> None:
    figures = load_figures(open_run([20, 40] * 30), LatencyLimits(ttft_s=0.015))
    assert figures.arrivals is not None
    assert figures.arrivals.offered_per_s == pytest.approx(100.0)
    assert figures.arrivals.achieved_per_s == pytest.approx(100.0, rel=0.1)
    assert figures.arrivals.goodput == pytest.approx(0.5)
    assert figures.arrivals.goodput_per_s == pytest.approx(50.0)
    assert not figures.arrivals.saturated
    assert figures.in_flight_mean == pytest.approx(3.0, rel=0.05)
    assert figures.runtime_s == pytest.approx(0.03, rel=0.1)
    assert (figures.whole_requests, figures.coherence) == (30, None)
    strict = load_figures(open_run([20, 40] * 30), LatencyLimits(ttft_s=0.0)).arrivals
    assert strict is not None
    assert strict.goodput == 0.0
    without = load_figures(open_run([20, 40] * 30)).arrivals
    assert without is not None
    assert (without.goodput, without.goodput_per_s) == (None, None)


def test_a_rate_beyond_the_server_is_seen() -> None:
    figures = load_figures(open_run([20 + 40 * k for k in range(60)], gap_ms=5))
    assert figures.arrivals is not None
    assert figures.arrivals.saturated
    assert any("more than the server takes" in doubt for doubt in doubts(figures))


def test_figures_and_stamps_come_back_from_files_and_pipes_as_they_were() -> None:
    run = closed(steady(3, 5), 3, server=ServerReadings({"a": 1.0}, ({"a": 2.0},), {"a": 3.0}))
    figures = load_figures(run)
    adapter = TypeAdapter(LoadFigures)
    assert adapter.validate_json(json.dumps(asdict(figures))) == figures
    back = run_from_message(json.loads(json.dumps(run_message(run))))
    assert load_figures(back) == figures
    assert back.window_ns == run.window_ns
    np.testing.assert_array_equal(back.stamps.piece_ns, run.stamps.piece_ns)
    assert back.stamps.counted.dtype == np.bool_


def test_stamps_that_dont_belong_together_are_refused() -> None:
    found = steady(2, 3)
    with pytest.raises(ValueError, match="one length"):
        replace(found, number=found.number[1:])
    with pytest.raises(ValueError, match="pieces of output"):
        replace(found, piece_ns=found.piece_ns[1:])
