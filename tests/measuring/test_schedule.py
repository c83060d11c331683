"""Which trial comes next, from the records alone."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.sizes import Point
from harness.measuring.plan import Plan, PlanOptions, make_plan
from harness.measuring.schedule import DRIFT_TRIALS, MAX_DISTURBED, MAX_ERRORS, Schedule, TrialSpec, needs_at_least
from harness.runs.schema import Trial

POINTS = ["8,8", "64,8", "8,64", "64,64"]


def make(points: list[str] = POINTS, **options) -> Plan:
    return make_plan(PlanOptions(points=tuple(points), **options))[0]


def record(spec: TrialSpec, id: int, session: int = 0, worker: int = 0, **facts) -> Trial:
    status = "skipped" if spec.skip_reason else "ok"
    base = Trial(
        id=id,
        session=session,
        worker=worker,
        purpose=spec.purpose,
        input_tokens=spec.point.input_tokens,
        output_tokens=spec.point.output_tokens,
        status=status,
        reason=spec.skip_reason,
        started_at="2026-01-01T00:00:00+00:00",
        runtime_s=None if spec.skip_reason else 1.0,
    )
    return replace(base, **facts)


def play(plan: Plan, outcome=lambda spec: {}, kv_cache: bool = True, context: int = 8192) -> list[Trial]:
    """All records of a run in which every trial ends as ``outcome`` says."""
    schedule = Schedule(plan, kv_cache=kv_cache, context_length=context)
    records: list[Trial] = []
    worker = 0
    while spec := schedule.next(0, worker):
        assert len(records) < 500, "the run never ends"
        records.append(record(spec, len(records), worker=worker, **({} if spec.skip_reason else outcome(spec))))
        schedule.add(records[-1])
        if records[-1].status not in ("ok", "disturbed", "skipped"):
            worker += 1
    return records


def test_each_point_warms_up_before_it_counts() -> None:
    records = play(make())
    seen = set()
    previous = records[0]
    for entry in records:
        point = (entry.input_tokens, entry.output_tokens)
        if entry.purpose == "measure" and point not in seen:
            assert previous.purpose == "warmup"
            assert (previous.input_tokens, previous.output_tokens) == point
            seen.add(point)
        previous = entry
    assert len(seen) == len(POINTS)


def test_first_point_comes_again_at_the_end() -> None:
    plan = make()
    records = play(plan)
    drift = records[-DRIFT_TRIALS:]
    assert {entry.purpose for entry in drift} == {"drift"}
    assert {(entry.input_tokens, entry.output_tokens) for entry in drift} == {
        (plan.points[0].input_tokens, plan.points[0].output_tokens)
    }
    assert records[-DRIFT_TRIALS - 1].purpose == "warmup"


def test_new_worker_warms_up_again() -> None:
    plan = make(["8,8"])
    schedule = Schedule(plan, kv_cache=True, context_length=100)
    for id in range(2):
        spec = schedule.next(0, 0)
        assert spec
        schedule.add(record(spec, id))
    assert schedule.next(0, 0) == TrialSpec(Point(8, 8), "measure")
    assert schedule.next(0, 1) == TrialSpec(Point(8, 8), "warmup")
    assert schedule.next(1, 0) == TrialSpec(Point(8, 8), "warmup")


def test_out_of_memory_skips_what_needs_more() -> None:
    def outcome(spec: TrialSpec) -> dict:
        return {"status": "oom", "reason": "full"} if spec.point == Point(64, 8) else {}

    # The smallest failing point comes first, so that the others are still to be measured.
    plan = replace(make(), points=(Point(64, 8), Point(8, 8), Point(8, 64), Point(64, 64)))
    statuses = {
        (entry.input_tokens, entry.output_tokens): entry for entry in play(plan, outcome) if entry.purpose != "drift"
    }
    assert statuses[64, 8].status == "oom"
    assert statuses[64, 64].status == "skipped"
    assert "64 in, 8 out" in statuses[64, 64].reason
    assert statuses[8, 64].status == "ok"
    without_cache = [entry for entry in play(plan, outcome, kv_cache=False) if entry.status == "skipped"]
    assert {(entry.input_tokens, entry.output_tokens) for entry in without_cache} == {(64, 64), (8, 64)}


def test_errors_end_a_point_only_when_they_repeat() -> None:
    always = play(make(["8,8", "16,8"]), lambda spec: {"status": "error"} if spec.point == Point(8, 8) else {})
    assert sum(entry.status == "error" for entry in always) == MAX_ERRORS
    assert sum(entry.status == "ok" and entry.input_tokens == 16 for entry in always) > 3

    count = iter(range(1000))
    now_and_then = play(make(["8,8"]), lambda spec: {"status": "error"} if next(count) % 4 == 3 else {})
    assert sum(entry.status == "ok" and entry.purpose == "measure" for entry in now_and_then) >= 3


def test_timeout_ends_its_point_alone() -> None:
    records = play(make(), lambda spec: {"status": "timeout"} if spec.point == Point(8, 8) else {})
    assert sum(entry.status == "timeout" for entry in records) == 1
    assert not [entry for entry in records if entry.status == "skipped"]


def disturbed(spec: TrialSpec) -> dict:
    return {} if spec.purpose == "warmup" else {"status": "disturbed"}


def test_disturbed_trials_are_measured_again_a_set_number_of_times() -> None:
    records = play(make(["8,8"]), disturbed)
    assert sum(entry.status == "disturbed" for entry in records) == MAX_DISTURBED
    twice = iter([False, True, True] + [False] * 100)
    records = play(make(["8,8"]), lambda spec: {"status": "disturbed"} if next(twice) else {})
    assert sum(entry.status == "ok" and entry.purpose == "measure" for entry in records) == 3


def test_where_others_stay_no_trial_is_measured_again() -> None:
    """Only the first point is, until it is clear that they stay."""
    for most, expected in ((1, [3, 1, 1, 1]), (2, [3, 2, 2, 2]), (9, [3, 3, 3, 3])):
        plan = make(max_trials=most)
        records = play(plan, disturbed)
        assert [sum(r.point == point and r.purpose == "measure" for r in records) for point in plan.points] == expected
        assert not [r for r in records if r.purpose == "drift"], "drift can't be told"
    # Once they have gone, disturbed trials are measured again as before.
    trials = iter([True] * 3 + [False] * 2 + [True] * 2 + [False] * 100)
    records = play(
        make(["8,8", "16,8", "24,8"], max_trials=2),
        lambda spec: {"status": "disturbed"} if spec.purpose == "measure" and next(trials) else {},
    )
    assert sum(entry.status == "ok" and entry.purpose == "measure" for entry in records) == 4


def test_points_beyond_the_context_are_skipped_with_the_reason() -> None:
    skipped = [entry for entry in play(make(), context=100) if entry.status == "skipped"]
    assert [(entry.input_tokens, entry.output_tokens) for entry in skipped] == [(64, 64)]
    assert "context of 100" in skipped[0].reason


def test_memory_order() -> None:
    assert needs_at_least(Point(64, 64), Point(64, 8), kv_cache=True)
    assert needs_at_least(Point(128, 8), Point(64, 64), kv_cache=True)
    assert not needs_at_least(Point(8, 120), Point(64, 8), kv_cache=True)
    assert needs_at_least(Point(8, 120), Point(64, 8), kv_cache=False)


OUTCOMES = st.sampled_from(["ok"] * 6 + ["error", "disturbed", "timeout", "oom"])


@settings(max_examples=60)
@given(st.lists(OUTCOMES, min_size=60, max_size=60), st.integers(0, 59), st.booleans())
def test_resuming_is_the_same_as_going_on(outcomes: list[str], cut: int, kv_cache: bool) -> None:
    """A schedule rebuilt from the first records goes on as the one that saw them being made."""
    plan = make()
    going_on = Schedule(plan, kv_cache=kv_cache, context_length=100)
    records: list[Trial] = []
    for status in outcomes:
        spec = going_on.next(0, 0)
        if spec is None:
            break
        facts = {} if spec.skip_reason else {"status": status, "reason": status}
        records.append(record(spec, len(records), **facts))
        going_on.add(records[-1])
        if len(records) == cut:
            rebuilt = Schedule(plan, kv_cache=kv_cache, context_length=100)
            for entry in records:
                rebuilt.add(entry)
            assert rebuilt.next(0, 0) == going_on.next(0, 0)
            assert rebuilt.remaining() == going_on.remaining()
