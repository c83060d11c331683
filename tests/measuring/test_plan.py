"""Ranges, sweeps, grids and their order."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.core.sizes import Point, parse_point, parse_tokens
from harness.measuring.plan import PROTOCOLS, PlanOptions, make_plan, shuffled, sweeps
from harness.measuring.planned_run import prepare


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("8,64,512", [8, 64, 512]),
        ("8-2048*2", [8, 16, 32, 64, 128, 256, 512, 1024, 2048]),
        ("8-100*3", [8, 24, 72]),
        ("128-1024+128", [128, 256, 384, 512, 640, 768, 896, 1024]),
        ("10-25+10", [10, 20]),
        ("32, 8-16*2,8", [32, 8, 16]),
        ("7-7*2", [7]),
    ],
)
def test_ranges_are_read_as_llama_bench_writes_them(text: str, counts: list[int]) -> None:
    assert parse_tokens(text) == counts


@pytest.mark.parametrize(
    "text",
    ["", "eight", "8,", "0", "-8", "8-4*2", "8-64*1", "8-64+0", "8-64", "1-9999999+1", "8.5", "٣", "99999999999"],
)
def test_bad_ranges_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_tokens(text)
    assert "\n" not in str(refusal.value)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(2, 50))
def test_ranges_stay_inside_their_ends(a: int, b: int, step: int) -> None:
    first, last = sorted((a, b))
    for operator in "+*":
        counts = parse_tokens(f"{first}-{last}{operator}{step}")
        assert counts[0] == first
        assert counts == sorted(set(counts))
        following = counts[-1] + step if operator == "+" else counts[-1] * step
        assert counts[-1] <= last < following


def test_points_are_pairs() -> None:
    assert parse_point("128,256") == Point(128, 256)
    for text in ("128", "1,2,3", "128x256", "8-16*2,4", "0,8", "8,99999999"):
        with pytest.raises(UserError):
            parse_point(text)


def test_sweeps_share_their_crossing() -> None:
    points = sweeps([8, 32], [32, 64], fixed_input=32, fixed_output=32)
    assert points == [Point(8, 32), Point(32, 32), Point(32, 64)]


def test_paper_protocol_covers_the_published_sweeps() -> None:
    plan, kv_cache = make_plan(PlanOptions("paper"))
    assert not kv_cache
    assert {point.input_tokens for point in plan.points if point.output_tokens == 32} == {2**k for k in range(3, 12)}
    assert {point.output_tokens for point in plan.points if point.input_tokens == 32} == {2**k for k in range(3, 13)}
    assert len(plan.points) == 18
    assert not plan.explicit


def test_precise_protocol_leaves_the_axes() -> None:
    plan, _ = make_plan(PlanOptions("precise"))
    assert any(32 not in (point.input_tokens, point.output_tokens) for point in plan.points)


@pytest.mark.parametrize("protocol", [name for name, protocol in PROTOCOLS.items() if not protocol.adaptive])
def test_order_is_random_but_given_by_the_seed(protocol: str) -> None:
    orders = {make_plan(PlanOptions(protocol), seed=seed)[0].points for seed in range(5)}
    assert len(orders) == 5
    assert len({frozenset(order) for order in orders}) == 1
    assert make_plan(PlanOptions(protocol), seed=3) == make_plan(PlanOptions(protocol), seed=3)


@given(st.lists(st.builds(Point, st.integers(1, 100), st.integers(1, 100)), unique=True), st.integers())
def test_shuffling_loses_nothing(points: list[Point], seed: int) -> None:
    assert sorted(shuffled(points, seed)) == sorted(points)


def test_named_sizes_replace_those_of_the_protocol() -> None:
    plan, _ = make_plan(PlanOptions("quick", input_tokens="8,16", points=("64,64",)))
    assert set(plan.points) == {Point(8, 32), Point(16, 32), Point(64, 64)}
    assert plan.explicit
    plan, _ = make_plan(PlanOptions("quick", input_tokens="8,16", output_tokens="4,5", grid=True))
    assert len(plan.points) == 4


def test_settings_override_the_protocol() -> None:
    plan, _ = make_plan(PlanOptions("paper", precision=0.01, max_trials=7, min_window_s=3.0, timeout_s=5.0))
    stopping = plan.stopping.describe()
    assert (stopping["rule"], stopping["relative"], stopping["max_trials"]) == ("relative-precision", 0.01, 7)
    assert (plan.min_window_s, plan.timeout_s) == (3.0, 5.0)
    plan, _ = make_plan(PlanOptions("quick", min_window_s=40.0))
    assert plan.max_window_s >= 40.0


@pytest.mark.parametrize(
    "options",
    [{"protocol": "thorough"}, {"min_window_s": 5.0, "max_window_s": 1.0}, {"input_tokens": "8", "grid": True}],
)
def test_contradictions_are_refused(options: dict) -> None:
    with pytest.raises(UserError):
        make_plan(PlanOptions(**options))


@pytest.mark.parametrize("name", ["url", "serve"])
def test_an_empty_address_does_not_mean_this_process(name: str) -> None:
    """As of a shell's variable that isn't set."""
    with pytest.raises(UserError, match=f"--{name} is empty"):
        prepare(**{name: ""})


def test_a_run_is_not_named_by_what_may_be_a_password() -> None:
    directory = prepare(url="http://user:secret@127.0.0.1:8000/v1").directory
    assert directory == Path("runs/openai-127.0.0.1-8000-quick")
