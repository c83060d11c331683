"""How far simple ways to divide a mixed load's energy among its requests are off from the Shapley value of its steps.

A simulated engine (numbers of a GPU's order) serves Poisson arrivals of log-normal sizes. True shares are those of the
engine's own costs; beside them stand divisions by tokens and by time, and what ``attribute`` finds with less than the
whole log, or with a model that is wrong. Mean error: mean of |found / true − 1| over requests. Misplaced: the part of
all joules that is on the wrong request's bill.
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.served.engine import Engine, StepCosts
from harness.serving.shares import coefficients_of
from harness.serving.shares_over_time import ServedTimes, shares_over_time
from harness.serving.shares_times import LoggedTimes, complete_times
from harness.serving.simulation import Requests, simulate

ENGINE = Engine(
    seconds=StepCosts(0.0105, 2e-4, 1.5e-8, 0.0105, 2.5e-5, 5e-10),
    joules=StepCosts(3.0, 0.06, 4e-6, 3.0, 0.01, 1e-7),
    slots=128,
    chunk_tokens=2048,
)


def main() -> None:
    """Print a line a rate and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 4.0, 8.0])
    given = parser.parse_args()
    print(f"{'rate 1/s':>8} {'in flight':>9}  {'way':36} {'mean error':>10} {'misplaced':>9}")
    for rate_per_s in given.rates:
        times, in_flight = served(given.requests, rate_per_s)
        true = joules(times, ENGINE)
        for way, found in ways(times, ENGINE).items():
            found = found * (true.sum() / found.sum())
            error, misplaced = np.abs(found / true - 1).mean(), np.abs(found - true).sum() / true.sum() / 2
            print(f"{rate_per_s:8g} {in_flight:9.1f}  {way:36} {error:10.1%} {misplaced:9.1%}")


def served(requests: int, rate_per_s: float) -> tuple[ServedTimes, float]:
    """The times of a simulated load, and how many requests were in the engine on average."""
    rng = np.random.default_rng(0)
    m = np.clip(np.exp(rng.normal(6.0, 1.2, requests)), 4, 16_000).astype(np.int64)
    n = np.clip(np.exp(rng.normal(5.0, 1.0, requests)), 1, 4_000).astype(np.int64)
    arrivals = np.cumsum(rng.exponential(1 / rate_per_s, requests))
    done = simulate(ENGINE, Requests(arrivals, m, n))
    sizes = m.astype(float), n.astype(float), np.zeros(requests)
    times = ServedTimes(*sizes, done.start_s, done.first_token_s, done.end_s)
    return times, float((done.end_s - done.start_s).sum() / done.busy_s.sum())


def joules(times: ServedTimes, engine: Engine) -> Floats:
    """Shares by an engine's costs."""
    assert engine.joules is not None
    return np.asarray(shares_over_time(times, engine).terms @ coefficients_of(engine.joules))


def ways(times: ServedTimes, engine: Engine) -> dict[str, Floats]:
    """Other divisions, each to any sum."""
    m, n = times.input_tokens, times.output_tokens
    unknown = np.full(len(times), np.nan)
    logged = LoggedTimes(m, n, times.cached_tokens, times.scheduled_s, unknown, unknown, times.last_token_s)
    assert engine.joules is not None
    slower = replace(engine, seconds=scaled(engine.seconds, 1.3, 0.7))
    wrong = replace(engine, joules=scaled(engine.joules, 0.8, 1.2))
    return {
        "by output tokens": n,
        "by all tokens": m + n,
        "by time in the engine": times.last_token_s - times.scheduled_s,
        "equal": np.ones_like(m),
        "start and end known, no first token": joules(complete_times(logged, engine).times, engine),
        "seconds ±30 % wrong": joules(times, slower),
        "joules ±20 % wrong": joules(times, wrong),
    }


def scaled(costs: StepCosts, one: float, other: float) -> StepCosts:
    """Costs with every other coefficient off one way and the rest the other way."""
    names = [each.name for each in fields(costs) if isinstance(getattr(costs, each.name), float)]
    return replace(costs, **{name: getattr(costs, name) * (one, other)[i % 2] for i, name in enumerate(names)})


if __name__ == "__main__":
    main()
