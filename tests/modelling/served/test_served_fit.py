"""Costs under load fitted to machines that are known: what is found, how right it is, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.fit import Observations
from harness.modelling.served.choice import choose_served
from harness.modelling.served.contradictions import contradicted
from harness.modelling.served.fit import fit_served, of_cycles
from harness.modelling.served.form import ServedForm
from harness.modelling.served.held_out import errors_left_out, folds_in_flight
from harness.modelling.served.rivals import RIVALS
from harness.modelling.served.slots import found_slots

SIZES = [(32.0, 16.0), (128.0, 64.0), (512.0, 64.0), (1024.0, 256.0), (2048.0, 32.0), (200.0, 400.0)]
DENSE = np.array([0.02, 2e-4, 1e-8, 0.02, 4e-4, 3e-7])
MIXTURE = np.array([0.02, 2e-4, 1e-8, 0.006, 4e-4, 3e-7, 0.004])


def machine(
    form: ServedForm,
    theta: Floats,
    levels: tuple[float, ...] = (1, 2, 4, 8, 16),
    noise: float = 0.0,
    slots: float = np.inf,
) -> Observations:
    """Runtimes of every size at every number in flight."""
    m, n, c = np.array([(m, n, c) for m, n in SIZES for c in levels]).T
    working = np.minimum(c, slots)
    cost = form.design(m, n, working) @ theta * c / working
    cost = cost * np.exp(noise * np.random.default_rng(0).standard_normal(m.size))
    return Observations(m, n, cost, np.full(m.size, noise), concurrency=c)


@pytest.mark.parametrize(
    ("form", "theta"),
    [(ServedForm(True), DENSE), (ServedForm(False), DENSE), (ServedForm(True, 0.06), MIXTURE)],
    ids=["joined", "apart", "experts"],
)
def test_exact_costs_give_form_and_coefficients_back(form: ServedForm, theta: Floats) -> None:
    found = choose_served(machine(form, theta))
    assert found.form.served == form
    assert found.form.own(found.solution.theta) == pytest.approx(theta, rel=1e-3)


def test_energy_of_a_request_is_fitted_as_its_cycle() -> None:
    runtime = machine(ServedForm(False), DENSE)
    energy = replace(runtime, cost=200 * runtime.cost / runtime.concurrency)
    found = fit_served(energy, per_request=True).function
    assert found.coefficients == pytest.approx(200 * DENSE, rel=1e-3)
    assert found.cost(300, 100, 8) == pytest.approx(200 / 8 * (found.form.design(300, 100, 8) @ DENSE))


def test_noisy_costs_are_predicted_within_their_intervals() -> None:
    form = ServedForm(True)
    fitted = fit_served(machine(form, DENSE, noise=0.02), per_request=False)
    rng = np.random.default_rng(1)
    inside = []
    for c in (1, 3, 6, 12, 16):
        m, n = (np.exp(rng.uniform(*np.log(ends), 40)).astype(int) for ends in ((32, 2048), (16, 400)))
        predicted = fitted.function.at(c).predict(m, n)
        true = form.design(m.astype(float), n.astype(float), np.full(m.size, float(c))) @ DENSE
        inside.append(np.abs(predicted.value - true) <= predicted.half_width_95(("trials", "model")))
        assert np.abs(predicted.value / true - 1).mean() < 0.02
    assert np.mean(inside) >= 0.9
    assert fitted.held_out["inner"].mape < 0.03
    # Six sizes are few: each corner is an extrapolation from the others.
    assert fitted.held_out["sizes"].mape < 0.12


def test_slots_are_found_and_a_server_without_any_has_none() -> None:
    levels = (1, 2, 4, 8, 16, 32, 64)
    assert found_slots(machine(ServedForm(True), DENSE, levels, 0.01)) is None
    assert found_slots(machine(ServedForm(True), DENSE, levels, 0.01, slots=8)) == 8
    fitted = fit_served(machine(ServedForm(True), DENSE, levels, 0.01, slots=8), per_request=False)
    assert fitted.slots_found
    assert fitted.function.cost(512, 64, 128) == pytest.approx(16 * fitted.function.cost(512, 64, 8))
    told = fit_served(machine(ServedForm(True), DENSE, levels, 0.01, slots=8), per_request=False, slots=8)
    assert not told.slots_found


def test_what_the_form_cannot_follow_in_flight_is_a_residual_where_it_helps() -> None:
    """Batches of 4 and 8 are 20 % dear, as where a kernel changes; single points of noise make no residual."""
    bent = machine(ServedForm(True), DENSE, (1, 2, 4, 6, 8, 12, 16))
    middle = (bent.concurrency >= 4) & (bent.concurrency <= 8)
    found = choose_served(replace(bent, cost=np.where(middle, 1.2, 1.0) * bent.cost))
    assert found.residual.factor(6) > 1.05 * found.residual.factor(16)
    straight = choose_served(machine(ServedForm(True), DENSE, noise=0.001))
    assert straight.residual.factor(np.array([1.0, 4.0, 16.0])) == pytest.approx(np.ones(3), abs=0.002)


def test_a_point_that_smaller_ones_contradict_bends_nothing() -> None:
    """A sensor that failed once: the dearest point came out at a tenth."""
    clean = machine(ServedForm(True), DENSE)
    wrong = int(np.argmax(clean.cost))
    faulty = replace(clean, cost=np.where(np.arange(clean.cost.size) == wrong, 0.1, 1.0) * clean.cost)
    assert not contradicted(clean).any()
    assert np.flatnonzero(contradicted(faulty)).tolist() == [wrong]
    fitted = fit_served(faulty, per_request=False)
    assert wrong in fitted.suspects
    assert fitted.function.coefficients == pytest.approx(DENSE, rel=1e-3)


def test_phases_of_a_static_batch_tell_prefill_from_decoding() -> None:
    """All of one output size: totals alone can't say which part is which."""
    levels = (1.0, 2.0, 4.0, 8.0)
    m, n, c = np.array([(m, 32.0, c) for m in (64.0, 512.0, 4096.0) for c in levels]).T
    form, none = ServedForm(False), np.zeros(m.size)
    design = form.design(m, n, c)
    prefill, decode = design[:, :3] @ DENSE[:3], design[:, 3:] @ DENSE[3:]
    batch = Observations(m, n, prefill + decode, none, prefill, none, decode, none, concurrency=c)
    found = fit_served(batch, per_request=False, static_batch=True).function
    assert found.coefficients == pytest.approx(DENSE, rel=0.01)
    loop = of_cycles(batch, per_request=False, static_batch=False)
    assert np.isfinite(loop.prefill).tolist() == (c == 1).tolist()


def test_folds_leave_out_sizes_inner_numbers_and_the_outermost() -> None:
    points = machine(ServedForm(True), DENSE, (1, 2, 8))
    folds = folds_in_flight(points)
    assert [fold.kind for fold in folds] == ["inner", "outermost", *["sizes"] * len(SIZES)]
    assert set(points.concurrency[folds[0].out]) == {2}
    assert set(points.concurrency[folds[1].out]) == {8}
    # One size alone at 16 in flight is no judge of sizes there.
    sweep = points.only((points.concurrency == 1) | (points.input_tokens == 512))
    of_512 = [fold for fold in folds_in_flight(sweep) if fold.kind == "sizes" and fold.out.sum() == 3]
    assert [set(sweep.concurrency[fold.judged]) for fold in of_512] == [{1}]
    assert folds_in_flight(machine(ServedForm(True), DENSE, (1, 4)).only(np.arange(12) < 4)) == []


def test_held_out_errors_are_of_fits_that_never_saw_the_points() -> None:
    """A number in flight whose costs are doubled is off by half when left out, though a residual could follow it."""
    points = machine(ServedForm(True), DENSE)
    points = replace(points, cost=np.where(points.concurrency == 16, 2.0, 1.0) * points.cost)
    errors = errors_left_out(points, lambda kept: choose_served(kept).of, folds_in_flight(points))
    assert errors["outermost"].error == pytest.approx(np.full(len(SIZES), -0.5), abs=0.01)


def test_each_rival_is_right_where_the_machine_is_its_own() -> None:
    points = machine(ServedForm(False), DENSE)
    phases = points.only(points.concurrency == 1)
    power = replace(points, cost=np.repeat(phases.cost, 5) * points.concurrency**0.7)
    for name, machine_of_it in (("linear in c", points), ("power law in c", power), ("per-c fits interpolated", power)):
        errors = errors_left_out(machine_of_it, RIVALS[name], folds_in_flight(machine_of_it))
        assert errors["inner"].mape < 0.01, name
        assert errors["outermost"].mape < 0.01, name


def test_points_at_one_number_in_flight_are_refused() -> None:
    with pytest.raises(UserError, match="measure at 1 and at least one more"):
        fit_served(machine(ServedForm(True), DENSE, (4,)), per_request=False)
    few = machine(ServedForm(True), DENSE, (1, 4)).only(np.arange(12) < 3)
    with pytest.raises(UserError, match="3 points are too few"):
        fit_served(few, per_request=False)
