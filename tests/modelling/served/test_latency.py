"""Times to first and between tokens under load: the station itself, and fits to loops walked step by step."""

from itertools import product

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.modelling.fit import Observations
from harness.modelling.served.engine import Engine, StepCosts
from harness.modelling.served.form import ServedForm
from harness.modelling.served.held_out import KINDS, folds_in_flight
from harness.modelling.served.latency import LatencyPoints, fit_latency
from harness.modelling.served.rivals import RIVALS
from harness.modelling.served.station import PromptStation
from tests.modelling.served.closed_loops import closed_loop

GPU = Engine(StepCosts(0.015, 5e-5, 1e-7, 0.02, 1e-4, 3e-9), chunk_tokens=2048)
CPU = Engine(StepCosts(0.010, 0.004, 2e-6, 0.012, 0.0015, 1e-7), chunk_tokens=2048)
GPU_SIZES, CPU_SIZES = (
    ((128, 64), (512, 64), (2048, 64), (128, 256), (2048, 256)),
    ((16, 16), (64, 16), (256, 16), (16, 64), (256, 64)),
)
IN_FLIGHT = 1, 2, 4, 8, 16
MOST = {"ttft": 0.35, "tpot": 0.15}
THETA = np.array([0.02, 1e-4, 3e-9, 0.015, 5e-5, 1e-7, 2048.0, 0.5, 0.3, 0.1])


def loops(engine: Engine, spread: bool = True, ubatch: int | None = None) -> LatencyPoints:
    """Closed loops with noise of 3 % of times to first token and 2 % of those between."""
    sizes = CPU_SIZES if engine is CPU else GPU_SIZES
    rng = np.random.default_rng(1)
    rows = []
    for (m, n), c in product(sizes, IN_FLIGHT):
        found = closed_loop(engine, m, n, c, cycles=4, spread=spread, ubatch=ubatch)
        rows.append((m, n, c, found.ttft_s * np.exp(rng.normal(0, 0.03)), found.tpot_s * np.exp(rng.normal(0, 0.02))))
    return LatencyPoints(*np.array(rows, dtype=float).T)


Errors = dict[tuple[str, str], float]
"""Means by quantity and what was left out."""


@pytest.fixture(scope="module")
def held_out() -> dict[str, tuple[Errors, dict[str, Errors]]]:
    """By machine: ours, and each simple rival's."""
    machines = {
        "chunked prefill": loops(GPU),
        "llama-server": loops(CPU, ubatch=512),
        "clients in step": loops(GPU, spread=False),
    }
    return {name: left_out(points) for name, points in machines.items()}


def left_out(points: LatencyPoints) -> tuple[Errors, dict[str, Errors]]:
    m, n, c = points.at
    measured = {"ttft": points.ttft_s, "tpot": points.tpot_s * (n - 1)}
    observed = {name: Observations(m, n, cost, np.zeros(len(c)), concurrency=c) for name, cost in measured.items()}
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for fold in folds_in_flight(observed["ttft"]):
        fit = fit_latency(points.only(~fold.out), "closed loop", forms=[ServedForm(prefill_joined=True)])
        ttft, tpot = fit.times(*points.only(fold.judged).at)
        for name, ours in (("ttft", ttft), ("tpot", tpot * (n - 1)[fold.judged])):
            kept, out = observed[name].only(~fold.out), observed[name].only(fold.judged)
            predicted = {"ours": ours} | {rival: fitted(kept)(out) for rival, fitted in RIVALS.items()}
            for who, cost in predicted.items():
                found.setdefault((who, name, fold.kind), []).append(np.abs(cost / out.cost - 1))
    means = {key: float(np.mean(np.concatenate(parts))) for key, parts in found.items()}
    ours, *rivals = (
        {(name, kind): means[who, name, kind] for name, kind in product(MOST, KINDS)} for who in ("ours", *RIVALS)
    )
    return ours, dict(zip(RIVALS, rivals, strict=True))


def test_held_out_errors_are_within_the_bars(held_out) -> None:
    wrong = {
        (machine, *key): error
        for machine, (ours, _) in held_out.items()
        for key, error in ours.items()
        if error > MOST[key[0]]
    }
    assert not wrong


@pytest.mark.parametrize("name", MOST)
def test_on_average_no_worse_than_the_best_simple_rival_by_more_than_a_tenth(held_out, name: str) -> None:
    ours = [of[name, kind] for of, _ in held_out.values() for kind in KINDS]
    best = [min(of[name, kind] for of in rivals.values()) for _, rivals in held_out.values() for kind in KINDS]
    assert np.mean(ours) <= 1.1 * np.mean(best)


def test_alone_a_request_is_the_phase_form() -> None:
    m, n = np.array([100.0, 3000.0]), np.array([2.0, 50.0])
    ttft, tpot = PromptStation(ServedForm(prefill_joined=False)).times(THETA, m, n, np.ones(2))
    assert ttft == pytest.approx(THETA[0] + THETA[1] * m + THETA[2] * m**2)
    assert tpot == pytest.approx(THETA[3] + THETA[4] + THETA[5] * (m + n / 2))


def test_every_other_client_has_one_prompt_in_a_cycle() -> None:
    """However many prompts come before and after the first token, the cycle holds all c of them."""
    station = PromptStation(ServedForm(prefill_joined=False))
    m, n, c = np.array([400.0]), np.array([100.0]), np.array([12.0])
    prompt = float(THETA[0] + THETA[1] * 400 + THETA[2] * 400**2)
    theta = THETA.copy()
    theta[3:6], theta[7] = (1e-9, 0, 0), 0
    for share in (0.0, 0.5, 1.0):
        theta[8] = share
        ttft, tpot = station.times(theta, m, n, c)
        assert float(ttft[0] + 99 * tpot[0]) == pytest.approx(12 * prompt, rel=1e-6)


def test_beyond_the_slots_requests_wait_for_first_tokens() -> None:
    form = ServedForm(prefill_joined=True)
    m, n = np.array([500.0]), np.array([100.0])
    full = PromptStation(form).times(THETA, m, n, np.array([8.0]))
    beyond = PromptStation(form, slots=8).times(THETA, m, n, np.array([16.0]))
    runtime = float(full[0][0] + 99 * full[1][0])
    assert beyond[1] == pytest.approx(full[1])
    assert float(beyond[0][0] + 99 * beyond[1][0]) == pytest.approx(2 * runtime)


def test_many_coefficients_at_once_are_one_by_one() -> None:
    station = PromptStation(ServedForm(prefill_joined=True))
    m, n, c = np.array([100.0, 4000.0, 30.0]), np.array([10.0, 50.0, 1.0]), np.array([3.0, 16.0, 1.0])
    both = np.stack([THETA, 1.3 * THETA])
    together = station.times(both.T, m, n, c)
    for at, theta in enumerate(both):
        for whole, alone in zip(together, station.times(theta, m, n, c), strict=True):
            assert whole[at] == pytest.approx(alone)


def test_a_static_batch_is_told_from_a_loop() -> None:
    m, n, c = (values.ravel() for values in np.meshgrid([128.0, 512.0, 2048.0], [32.0, 128.0], [1.0, 2.0, 4.0, 8.0]))
    station = PromptStation(ServedForm(prefill_joined=True), "static batch")
    ttft, tpot = station.times(THETA[:6], m, n, c)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.01, (2, len(m))))
    fit = fit_latency(LatencyPoints(m, n, c, ttft * noise[0], tpot * noise[1]))
    assert fit.station.batching == "static batch"
    said = fit.predict(m, n, c)
    assert said.ttft_s == pytest.approx(ttft, rel=0.03)
    assert np.mean(np.abs(said.tpot_s - tpot) <= said.tpot_ci95) >= 0.9


def test_a_known_chunk_is_kept() -> None:
    fit = fit_latency(loops(GPU), "closed loop", forms=[ServedForm(prefill_joined=True)], chunk_tokens=512)
    names = [name for name, _ in fit.station.coefficients()]
    assert fit.coefficients[names.index("chunk_tokens")] == pytest.approx(512, rel=0.01)


def test_too_few_points_are_refused() -> None:
    one = np.array([8.0])
    with pytest.raises(UserError, match="at least 4"):
        fit_latency(LatencyPoints(one, one, one, one, one))
