"""Shares of an engine's energy: the Shapley value of its steps, from recorded steps and from times alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.modelling.served.engine import Engine, StepCosts
from harness.modelling.served.request_log import read_request_times
from harness.modelling.served.step_fit import fit_steps
from harness.serving.shares import StepParts, coefficients_of, step_shares
from harness.serving.shares_doubt import ShareDoubt, TotalEnergy, group_energies, size_cells
from harness.serving.shares_over_time import ServedTimes, shares_over_time
from harness.serving.shares_times import LoggedTimes, complete_times
from harness.serving.simulation import Requests, simulate
from harness.serving.step_records import read_steps
from tests.helpers import ROOT
from tests.serving.step_walker import price, walk

VLLM = ROOT.parent / "shared" / "data" / "load" / "vllm-requests-rtxpro6000-llama-3.1-8b.csv"
POSITIVE = st.floats(0.0, 10.0)
COSTS = st.builds(
    StepCosts,
    floor=POSITIVE,
    per_sequence=POSITIVE,
    per_context=POSITIVE,
    prefill_floor=POSITIVE,
    per_prefill_token=POSITIVE,
    per_prefill_token2=POSITIVE,
    prefill_joined=st.booleans(),
    experts=POSITIVE,
    experts_share=st.sampled_from([None, 0.25, 0.03]),
)
PART = st.tuples(st.booleans(), st.integers(0, 50), st.integers(1, 20))
"""Decodes or not, first position, how many positions a prompt part has."""


def shapley(costs: StepCosts, step: list[tuple[bool, int, int]]) -> np.ndarray:
    """By every order in which the requests of a step can come to it."""

    def cost(members: tuple[int, ...]) -> float:
        contexts = [step[i][1] + 1 for i in members if step[i][0]]
        prompts = [(step[i][1], step[i][1] + step[i][2]) for i in members if not step[i][0]]
        found = price(costs, contexts, prompts)
        if costs.prefill_joined and prompts and not contexts and any(decodes for decodes, _, _ in step):
            # The floor of some requests of a step is never more than the floor of the step.
            found -= max(costs.prefill_floor - costs.floor, 0.0)
        return found

    orders = list(permutations(range(len(step))))
    shares = np.zeros(len(step))
    for order in orders:
        for place, request in enumerate(order):
            shares[request] += cost(order[: place + 1]) - cost(order[:place])
    return shares / len(orders)


@settings(max_examples=40, deadline=None)
@given(costs=COSTS, steps=st.lists(st.lists(PART, min_size=1, max_size=6), min_size=1, max_size=3))
def test_shares_are_the_shapley_value_of_every_step(costs: StepCosts, steps: list[list[tuple[bool, int, int]]]) -> None:
    rows = [
        (step, 6 * step + request, start, start + (1 if decodes else length), decodes)
        for step, parts in enumerate(steps)
        for request, (decodes, start, length) in enumerate(parts)
    ]
    parts = StepParts(*(np.array(column) for column in zip(*rows, strict=True)))
    found = step_shares(parts, 18, costs) @ coefficients_of(costs)
    expected = np.zeros(18)
    total = 0.0
    for number, step in enumerate(steps):
        expected[6 * number : 6 * number + len(step)] = shapley(costs, step)
        contexts = [start + 1 for decodes, start, _ in step if decodes]
        prompts = [(start, start + length) for decodes, start, length in step if not decodes]
        total += price(costs, contexts, prompts)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.sum() == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert found.min() >= 0.0


SECONDS = StepCosts(0.02, 4e-4, 0.0, 0.015, 6e-5, 1e-9)
JOULES = StepCosts(6.0, 0.15, 2e-6, 4.0, 0.03, 5e-7, experts=0.8, experts_share=0.12)


def mixed_load(requests: int, rate_per_s: float, seed: int = 0) -> list[tuple[float, int, int]]:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_per_s, requests))
    m = np.exp(rng.uniform(np.log(16), np.log(2048), requests)).astype(int)
    n = np.exp(rng.uniform(np.log(4), np.log(256), requests)).astype(int)
    return list(zip(arrivals.tolist(), m.tolist(), n.tolist(), strict=True))


@dataclass
class Walked:
    """What was computed in every step of a load, its requests' times, and the joules of all."""

    parts: StepParts
    log: ServedTimes
    joules: float


def walked(engine: Engine, load: list[tuple[float, int, int]]) -> Walked:
    arrivals, m, n = (np.array(column) for column in zip(*load, strict=True))
    _, *times, (one,) = walk(engine, Requests(arrivals, m, n))
    log = ServedTimes(m * 1.0, n * 1.0, np.zeros(m.size), *times)
    return Walked(one.parts, log, sum(joules for _, _, joules, _ in one.steps))


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("paid_joined", [True, False])
@pytest.mark.parametrize("floor", [4.0, 9.0])
def test_times_alone_give_the_shares_of_the_steps(joined: bool, paid_joined: bool, floor: float) -> None:
    """Of an engine without chunks each moment is between two steps: nothing is lost without the steps."""
    seconds = StepCosts(0.02, 4e-4, 5e-8, 0.015, 6e-5, 1e-9, joined)
    joules = StepCosts(6.0, 0.15, 2e-6, floor, 0.03, 5e-7, paid_joined, 0.8, 0.12)
    engine = Engine(seconds, joules, slots=16)
    done = walked(engine, mixed_load(300, 8.0))
    steps = step_shares(done.parts, 300, joules) @ coefficients_of(joules)
    times = shares_over_time(done.log, engine)
    assert steps.sum() == pytest.approx(done.joules, rel=1e-12)
    assert times.terms @ coefficients_of(joules) == pytest.approx(steps, rel=1e-6)
    assert times.speed == pytest.approx(1.0, rel=1e-9)
    assert times.most_at_once == 16


@pytest.mark.parametrize("chunk", [512, 128])
def test_chunked_prompts_cost_little_of_that(chunk: int) -> None:
    engine = Engine(StepCosts(0.02, 4e-4, 5e-8, 0.015, 6e-5, 1e-9), JOULES, slots=16, chunk_tokens=chunk)
    done = walked(engine, mixed_load(300, 8.0))
    steps = step_shares(done.parts, 300, JOULES) @ coefficients_of(JOULES)
    found = shares_over_time(done.log, engine).terms @ coefficients_of(JOULES)
    assert found.sum() == pytest.approx(done.joules, rel=1e-3)
    assert np.abs(found / steps - 1).mean() < 0.002
    by_tokens = done.log.output_tokens / done.log.output_tokens.sum() * steps.sum()
    assert np.abs(by_tokens / steps - 1).mean() > 0.2


def test_a_wrong_model_of_time_hardly_matters() -> None:
    """The log's own times are kept: a request has the steps that it had, however long the model takes for them."""
    done = walked(Engine(SECONDS, JOULES, slots=16), mixed_load(300, 4.0))
    true = step_shares(done.parts, 300, JOULES) @ coefficients_of(JOULES)
    slower = StepCosts(0.03, 2e-4, 0.0, 0.015, 3e-5, 1e-9)
    found = shares_over_time(done.log, Engine(slower, JOULES, slots=16))
    assert np.abs(found.terms @ coefficients_of(JOULES) / true - 1).mean() < 0.01
    assert found.speed is not None
    assert found.speed > 1.2


def test_a_simulated_load_shares_out_what_it_used() -> None:
    engine = Engine(SECONDS, JOULES, slots=8, chunk_tokens=1024)
    arrival, m, n = (np.array(column) for column in zip(*mixed_load(2000, 3.0), strict=True))
    done = simulate(engine, Requests(arrival, m, n))
    times = ServedTimes(m * 1.0, n * 1.0, np.zeros(2000), done.start_s, done.first_token_s, done.end_s)
    found = shares_over_time(times, engine)
    assert (found.terms @ coefficients_of(JOULES)).sum() == pytest.approx(done.joules, rel=1e-3)
    assert found.busy_s == pytest.approx(done.busy_s[0], rel=1e-9)


def logged(done: ServedTimes, arrivals: np.ndarray) -> LoggedTimes:
    nothing = np.full(len(done), np.nan)
    return LoggedTimes(
        done.input_tokens, done.output_tokens, done.cached_tokens, arrivals, nothing, nothing, done.last_token_s
    )


def test_starts_and_first_tokens_are_worked_out() -> None:
    """From arrivals and ends alone: slots in the order of arrival, prefill for the model's part of a request's time."""
    engine = Engine(SECONDS, JOULES, slots=4)
    load = mixed_load(300, 2.0)
    done = walked(engine, load)
    arrivals = np.array([arrival for arrival, _, _ in load])
    found = complete_times(logged(done.log, arrivals), engine)
    assert (found.scheduled_guessed, found.without_slot) == (300, 0)
    assert found.first_token_guessed == sum(n > 1 for _, _, n in load)
    # A slot is free at the end of a step, and the next prompt begins then, or when its request comes in a later step.
    late = np.abs(found.times.scheduled_s - done.log.scheduled_s)
    assert np.median(late) < 0.05
    true = shares_over_time(done.log, engine).terms @ coefficients_of(JOULES)
    guessed = shares_over_time(found.times, engine).terms @ coefficients_of(JOULES)
    assert np.abs(guessed / true - 1).mean() < 0.02
    crowded = complete_times(logged(done.log, arrivals), Engine(SECONDS, JOULES, slots=2))
    assert crowded.without_slot > 0


def test_answers_that_came_all_at_once_have_no_first_token() -> None:
    three = np.array([100.0, 100.0, 100.0])
    times = LoggedTimes(
        three,
        np.array([10.0, 10.0, 1.0]),
        np.zeros(3),
        np.zeros(3),
        np.zeros(3),
        np.array([0.4, 1.0, 0.2]),
        np.ones(3),
    )
    found = complete_times(times, Engine(SECONDS, JOULES))
    assert found.first_token_guessed == 1
    assert found.times.first_token_s[0] == 0.4
    assert 0 < found.times.first_token_s[1] < 1
    assert found.times.first_token_s[2] == 1.0


@pytest.mark.parametrize("metered", [True, False])
def test_half_widths_are_those_of_drawn_models(metered: bool) -> None:
    """Coefficients and the misfit of each octave of sizes are drawn; shares of a total move against each other."""
    rng = np.random.default_rng(3)
    done = walked(Engine(SECONDS, JOULES, slots=16), mixed_load(200, 4.0))
    terms = shares_over_time(done.log, Engine(SECONDS, JOULES)).terms
    mean = coefficients_of(JOULES)
    root = np.diag(0.1 * mean) @ np.linalg.qr(rng.normal(size=(7, 7)))[0]
    cells = size_cells(done.log.input_tokens, done.log.output_tokens)
    doubt = ShareDoubt(root @ root.T, np.inf, np.full(200, 0.05), np.inf, np.zeros(200, dtype=bool), 0.04, np.inf)
    total = TotalEnergy(5000.0, 60.0) if metered else None
    groups = np.arange(200) % 3
    found = group_energies(terms, mean, groups, cells, doubt, total)
    _, cell = np.unique(cells, return_inverse=True)
    drawn = []
    for _ in range(3000):
        joules = terms @ (mean + root @ rng.normal(size=7))
        joules = joules * (1 + 0.05 * rng.normal(size=cell.max() + 1)[cell])
        if total is None:
            joules = joules * (1 + 0.04 * rng.normal())
        else:
            joules = joules * ((total.energy_j + 60.0 / 1.96 * rng.normal()) / joules.sum())
        drawn.append(np.bincount(groups, joules))
    assert found.ci95_j is not None
    assert found.ci95_j == pytest.approx(1.96 * np.std(drawn, axis=0), rel=0.06)
    assert found.energy_j == pytest.approx(np.mean(drawn, axis=0), rel=0.01)
    if metered:
        assert found.energy_j.sum() == pytest.approx(5000.0, rel=1e-12)


def test_steps_are_read_as_schedulers_have_them(tmp_path: Path) -> None:
    """With a prefix out of the cache, a prompt in two parts, and a preemption that computes again what was there."""
    lines = [
        {"scheduled": {"a": 6, "b": 4}, "computed": {"b": 2}, "time": 1.5},
        {"scheduled": {"a": 1, "b": 4}},
        {"scheduled": {}},
        {"scheduled": {"a": 1, "b": 11}, "computed": {"b": 0}},
    ]
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    parts = read_steps(path, ["a", "b"], [6, 10], [3, 2], [0, 0])
    assert parts.step.tolist() == [0, 0, 1, 1, 2, 2]
    assert parts.start.tolist() == [0, 2, 6, 6, 7, 0]
    assert parts.end.tolist() == [6, 6, 7, 10, 8, 11]
    assert parts.decodes.tolist() == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no steps"),
        ("nonsense\n", "line 1 is no step"),
        ('{"scheduled": {"a": -1}}\n', "no count of tokens"),
        ('{"scheduled": {"z": 1}}\n', "which the log doesn't have"),
        ('{"scheduled": {"a": 6}}\n', "6 of the 8 tokens"),
    ],
)
def test_steps_that_are_none_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_steps(path, ["a"], [6], [3], [0])


def test_recorded_steps_give_the_shares_of_the_walk(tmp_path: Path) -> None:
    engine = Engine(SECONDS, JOULES, slots=16, chunk_tokens=256)
    load = mixed_load(60, 4.0)
    done = walked(engine, load)
    steps: dict[int, dict[str, int]] = {}
    parts = done.parts
    for step, request, tokens in zip(parts.step, parts.request, parts.end - parts.start, strict=True):
        steps.setdefault(int(step), {})[str(request)] = int(tokens)
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(f"{json.dumps({'scheduled': scheduled})}\n" for scheduled in steps.values()))
    _, *sizes = (list(column) for column in zip(*load, strict=True))
    found = step_shares(read_steps(path, [str(i) for i in range(60)], *sizes, [0] * 60), 60, JOULES)
    assert found == pytest.approx(step_shares(done.parts, 60, JOULES))


@pytest.mark.skipif(not VLLM.exists(), reason="needs the shared data")
def test_a_published_run_of_vllm_is_as_long_as_its_steps() -> None:
    """Its step times, fitted to it, add up to the time in which it was busy; arrivals and ends alone say the same."""
    log = read_request_times(VLLM)
    fitted = replace(fit_steps(log).engine, joules=JOULES, slots=128)
    m, n = log.input_tokens, log.output_tokens
    times = ServedTimes(m, n, np.zeros_like(m), log.scheduled_s, log.first_token_s, log.last_token_s)
    found = shares_over_time(times, fitted)
    seconds = shares_over_time(times, fitted, fitted.seconds).terms @ coefficients_of(fitted.seconds)
    assert seconds.sum() == pytest.approx(found.busy_s, rel=0.01)
    assert found.speed == pytest.approx(1.0, abs=0.01)
    ends = shares_over_time(complete_times(logged(times, log.queued_s), fitted).times, fitted)
    each, other = (shares.terms @ coefficients_of(JOULES) for shares in (found, ends))
    assert np.abs(other / each - 1).mean() < 0.01
