"""Step costs from request logs: of simulated engines, whose costs are known, and of a real one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.modelling.served.engine import Engine, StepCosts
from harness.modelling.served.engine_limits import EngineLimits, found_limits
from harness.modelling.served.request_log import RequestLog, read_request_times
from harness.modelling.served.step_fit import StepFit, fit_first_requests, fit_steps
from harness.modelling.served.step_joules import fit_step_joules
from harness.serving.simulation import Requests, simulate
from tests.helpers import ROOT

REAL = ROOT.parent / "shared/data/load/vllm-requests-rtxpro6000-llama-3.1-8b.csv"
COSTS = StepCosts(0.0165, 3e-5, 1.5e-7, 0.02, 9e-5, 1e-9)
GPU = Engine(COSTS, slots=48, chunk_tokens=2048)


def requests(count: int = 240, rate_per_s: float = 6.0) -> RequestLog:
    """Sizes and arrivals, with times of nothing."""
    rng = np.random.default_rng(5)
    m, n = (rng.integers(low, high, count).astype(float) for low, high in ((100, 3000), (200, 700)))
    none = np.full(count, np.nan)
    return RequestLog(m, n, np.cumsum(rng.exponential(1 / rate_per_s, count)), none, none, none)


def replay(engine: Engine, log: RequestLog) -> RequestLog:
    sizes = (values.astype(np.int64) for values in (log.input_tokens, log.output_tokens))
    done = simulate(engine, Requests(log.queued_s, *sizes))
    return replace(log, scheduled_s=done.start_s, first_token_s=done.first_token_s, last_token_s=done.end_s)


@pytest.fixture(scope="module")
def log() -> RequestLog:
    return replay(GPU, requests())


@pytest.fixture(scope="module")
def fit(log: RequestLog) -> StepFit:
    return fit_steps(log)


def off(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)))


def test_costs_of_a_simulated_engine_come_back(fit: StepFit) -> None:
    found = fit.engine.seconds
    assert found.floor == pytest.approx(COSTS.floor, rel=0.03)
    assert found.per_context == pytest.approx(COSTS.per_context, rel=0.1)
    assert found.per_prefill_token == pytest.approx(COSTS.per_prefill_token, rel=0.1)
    assert fit.lag_steps == 0
    assert np.all(
        np.abs(fit.coefficients - [*vars(COSTS).values()][:6])[[0, 2]] < 4 * fit.standard_errors[[0, 2]] + 1e-4
    )


def test_slots_are_found_where_requests_waited(log: RequestLog, fit: StepFit) -> None:
    assert found_limits(log) == EngineLimits(slots=48)
    assert fit.engine.slots == 48


def test_no_limit_is_found_where_none_waited() -> None:
    assert found_limits(replay(replace(GPU, slots=None), requests(rate_per_s=1.0))) == EngineLimits()


def test_the_second_half_follows_from_the_first(log: RequestLog) -> None:
    count = len(log) // 2
    # What the others' times are must not matter.
    blind = log.only(slice(0, count)).joined(requests().only(slice(count, None)))
    predicted = replay(fit_first_requests(blind, count, replay).engine, log).only(slice(count, None))
    measured = log.only(slice(count, None))
    assert off(predicted.e2e_s, measured.e2e_s) < 0.01
    assert off(predicted.tpot_s, measured.tpot_s) < 0.02


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared data")
def test_a_real_run_of_vllm() -> None:
    log = read_request_times(REAL)
    fit = fit_first_requests(log, 150, replay)
    predicted, measured = (each.only(slice(150, None)) for each in (replay(fit.engine, log), log))
    assert fit.engine.slots == 128
    assert off(predicted.e2e_s, measured.e2e_s) < 0.04
    assert off(predicted.tpot_s, measured.tpot_s) < 0.06


def test_too_few_requests_are_refused(log: RequestLog) -> None:
    with pytest.raises(UserError, match="at least 12"):
        fit_steps(log.only(slice(0, 5)))


def test_joules_of_steps(log: RequestLog, fit: StepFit) -> None:
    """Power in intervals of 2 s, of which the first half is fitted."""
    idle_w, gross = 60.0, np.array([3.0, 0.05, 2e-5, 4.0, 0.02, 1e-7])
    machine = replace(GPU, joules=StepCosts(*gross), idle_power_w=idle_w)
    edges = np.arange(0.0, log.last_token_s.max(), 2.0)
    work, seconds = fit.work(log, edges), np.diff(edges)
    noise = np.exp(np.random.default_rng(2).normal(0, 0.01, len(work)))
    energy = (idle_w * seconds + work @ (gross - idle_w * np.array([*vars(COSTS).values()][:6]))) * noise
    half = len(energy) // 2
    found = fit_step_joules(energy[:half], seconds[:half], work[:half])
    assert off(found.energy_j(seconds[half:], work[half:]), energy[half:]) < 0.03
    assert found.error < 0.03
    # Mean power at another rate, where other requests come.
    other = requests(100, rate_per_s=1.0)
    counts = (values.astype(int) for values in (other.input_tokens, other.output_tokens))
    coming = Requests(other.queued_s, *counts)
    true, engine = simulate(machine, coming), found.applied_to(fit.engine)
    done = simulate(engine, coming)
    assert done.joules + engine.idle_power_w * done.idle_s() == pytest.approx(
        true.joules + idle_w * true.idle_s(), rel=0.05
    )


def test_work_is_that_of_the_simulated_engine(log: RequestLog, fit: StepFit) -> None:
    done = simulate(GPU, Requests(log.queued_s, log.input_tokens.astype(int), log.output_tokens.astype(int)))
    work = fit.work(log, np.array([0.0, log.last_token_s.max()]))[0]
    assert work[[0, 1, 2]] == pytest.approx(done.work[[0, 1, 2]], rel=0.03)
    assert work[[4, 5]] == pytest.approx(done.work[[4, 5]], rel=1e-9)


def test_logs_are_read_and_refused(tmp_path: Path) -> None:
    good = tmp_path / "log.csv"
    good.write_text("input_tokens,output_tokens,queued_s,first_token_s,last_token_s\n8,4,2,3,4\n16,4,1,2,3\n")
    log = read_request_times(good)
    assert log.input_tokens.tolist() == [16, 8]
    assert log.scheduled_s.tolist() == [1, 2]
    lines = tmp_path / "log.jsonl"
    lines.write_text(
        '{"input_toks": 8, "output_toks": 4, "queued_ts": 2, "scheduled_ts": 2, '
        '"first_token_ts": 3, "last_token_ts": 4}\n'
    )
    assert read_request_times(lines).e2e_s.tolist() == [2]
    for text, word in (
        ("8,4,2,1,4", "request 1: times must rise"),
        ("0,4,2,3,4", "at least 1"),
        ("8,4,,3,4", "missing"),
    ):
        good.write_text(f"input_tokens,output_tokens,queued_s,first_token_s,last_token_s\n{text}\n")
        with pytest.raises(UserError, match=word):
            read_request_times(good)
    good.write_text("input_tokens,output_tokens\n8,4\n")
    with pytest.raises(UserError, match="no column queued_s"):
        read_request_times(good)
