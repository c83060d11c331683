"""The served form at one number in flight, in batches, beyond its slots, and as steps of an engine."""

import numpy as np
import pytest

from harness.modelling.cost_function import Range
from harness.modelling.doubt import NO_SCATTER, Misfit
from harness.modelling.forms.base import Sizes
from harness.modelling.served.form import PHASE, ServedForm
from harness.modelling.served.function import MeasuredLoads, ServedFunction
from harness.modelling.served.residual import InFlightResidual
from harness.modelling.session_effect import of_one_session

COEFFICIENTS = np.array([0.05, 2e-4, 1e-8, 0.02, 4e-4, 3e-7, 1e-3])
M, N = np.array([1.0, 30.0, 700.0, 4096.0]), np.array([1.0, 500.0, 64.0, 2.0])


def function(form: ServedForm, **changes: object) -> ServedFunction:
    size = len(form.coefficients("s"))
    points = np.array([(m, n, c) for m in (32.0, 512.0) for n in (16.0, 256.0) for c in (1.0, 4.0, 16.0)])
    given = {
        "form": form,
        "coefficients": COEFFICIENTS[:size],
        "covariance": np.diag((0.01 * COEFFICIENTS[:size]) ** 2),
        "freedom": 20.0,
        "misfit": Misfit(0.02, growth=2.0, freedom=10.0),
        "scatter": NO_SCATTER,
        "session": of_one_session(),
        "gain_ci95": 0.0,
        "loads": MeasuredLoads(points),
        "per_request": False,
    }
    return ServedFunction(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ServedForm.candidates(), ids=str)
@pytest.mark.parametrize("per_request", [False, True])
def test_at_one_number_in_flight_it_is_the_phase_form(form: ServedForm, per_request: bool) -> None:
    served = function(
        form, per_request=per_request, residual=InFlightResidual(np.array([2.0, 8.0]), np.array([0.1, 0.3]))
    )
    for c in (1, 3, 16):
        at = served.at(c)
        assert at.form == PHASE
        assert at.cost(M, N) == pytest.approx(served.cost(M, N, c))


def test_one_in_flight_is_todays_form_and_knows_no_prefill_choice() -> None:
    c0, c1, c2, a, s, d1, g = COEFFICIENTS
    phase = PHASE.cost(np.array([c0, c1, c2, a + s + g, d1]), Sizes(M, N))
    for form in (ServedForm(True, 0.06), ServedForm(False, 0.06)):
        assert function(form).cost(M, N, 1) == pytest.approx(phase)


def test_a_cycle_adds_up_from_its_steps() -> None:
    """Prefills of a static batch, each a step of its own, and then steps of all of them."""
    served = function(ServedForm(False, 0.25))
    steps, m, n, c = served.steps(), 300, 40, 6
    prefill = c * (steps.prefill_floor + steps.per_prefill_token * m + steps.per_prefill_token2 * m**2)
    experts = steps.experts * (1 - (1 - 0.25) ** c) / 0.25
    decode = sum(steps.floor + steps.per_sequence * c + experts + steps.per_context * c * (m + k) for k in range(1, n))
    assert served.cost(m, n, c) == pytest.approx(prefill + decode)


def test_experts_are_all_read_at_last() -> None:
    form = ServedForm(True, 0.125)
    assert form.distinct_experts(1) == pytest.approx(1)
    assert form.distinct_experts(500) == pytest.approx(8)


def test_beyond_the_slots_requests_wait() -> None:
    runtime, energy = (function(ServedForm(True), slots=8, per_request=each) for each in (False, True))
    assert runtime.cost(M, N, 24) == pytest.approx(3 * runtime.cost(M, N, 8))
    assert energy.cost(M, N, 24) == pytest.approx(energy.cost(M, N, 8))
    assert runtime.at(24).cost(M, N) == pytest.approx(runtime.cost(M, N, 24))


def test_an_energy_is_the_cycles_part_of_each_request() -> None:
    cycle, request = (function(ServedForm(False), per_request=each) for each in (False, True))
    assert request.cost(M, N, 16) == pytest.approx(cycle.cost(M, N, 16) / 16)


def test_doubt_grows_with_the_distance_in_flight_and_ends_two_octaves_beyond() -> None:
    served = function(ServedForm(True))
    widths = [
        float(served.at(c).predict(512, 256).half_width_95(("model",)) / served.cost(512, 256, c)) for c in (4, 6, 40)
    ]
    assert widths[0] < widths[1] < widths[2]
    assert widths[0] == pytest.approx(0.02 * 2.228, rel=1e-3)
    assert np.isfinite(served.at(64).predict(512, 256).mean_95)
    beyond = served.at(65).predict(512, 256)
    assert beyond.too_far
    assert np.isnan(beyond.mean_95)
    assert beyond.value > 0


def test_sizes_measured_at_another_number_in_flight_are_as_far_as_it_is() -> None:
    """Sizes at 1 in flight and one of them at 4 and 16 too: the distance is to the nearest point of all three axes."""
    points = np.array([(m, 64.0, 1.0) for m in (32, 128, 512, 2048)] + [(512.0, 64.0, c) for c in (4.0, 16.0)])
    loads = MeasuredLoads(points)
    for c in (1.0, 4.0, 10.0, 16.0):
        for m in (32.0, 300.0, 2048.0):
            true = np.sqrt(np.log2(points[:, 0] / m) ** 2 + np.log2(points[:, 2] / c) ** 2).min()
            assert loads.at(c).octaves_away(m, 64.0) == pytest.approx(true)
    assert loads.at(16.0).octaves_away(512.0, 64.0) == 0.0
    assert loads.at(16.0).corners == Range.of(points[:, 0], points[:, 1]).corners
    beyond = loads.at(32.0)
    assert not beyond.covers(512, 64)
    assert beyond.octaves_outside(512, 64) == 1.0
    assert beyond.octaves_away(512.0, 64.0) == pytest.approx(np.sqrt(1 + 2**2))


def test_a_residual_is_interpolated_shrunk_and_constant_beyond() -> None:
    one = InFlightResidual.of(np.array([1.0, 4.0]), np.array([0.0, 0.3]), np.ones(2))
    assert float(np.log(one.factor(4))) == pytest.approx(0.2)
    assert float(np.log(one.factor(2))) == pytest.approx(0.1)
    assert one.factor(64) == pytest.approx(one.factor(4))
    many = InFlightResidual.of(np.full(50, 4.0), np.full(50, 0.3), np.ones(50))
    assert float(np.log(many.factor(4))) == pytest.approx(0.3, rel=0.02)
    assert InFlightResidual().factor(np.array([1.0, 9.0])) == pytest.approx([1, 1])
