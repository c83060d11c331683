"""Numbers as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.wording import estimated, number, percent, plus_minus, plus_minus_percent


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (0.8778, 0.0066, "0.8778 ± 0.0066"),
        (203.8, 120.0, "200 ± 120"),
        (100.8, 0.089, "100.800 ± 0.089"),
        (3.73, 0.0997, "3.73 ± 0.10"),
        (1920, 297, "1,920 ± 300"),
        (0.5, 2.0, "0.5 ± 2.0"),
        (12.0, None, "12.00 ± ?"),
        (12.0, 0.0, "12.00 ± 0.00"),
        (0.0, 0.25, "0.00 ± 0.25"),
        (-0.001, 0.25, "0.00 ± 0.25"),
    ],
)
def test_value_and_half_width_end_at_one_decimal(value: float, half_width: float | None, text: str) -> None:
    assert plus_minus(value, half_width) == text


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9))
def test_no_exponent_and_no_digit_that_the_interval_does_not_know(value: float, half_width: float) -> None:
    text = plus_minus(value, half_width)
    left, right = text.split(" ± ")
    assert "e" not in text
    assert len(left.partition(".")[2]) == len(right.partition(".")[2])
    assert float(right.replace(",", "")) == pytest.approx(half_width, rel=0.05)
    assert abs(float(left.replace(",", "")) - value) <= half_width * 0.051 + 1e-12 * value


def test_shares_and_estimates() -> None:
    assert plus_minus_percent(0.08, 0.035) == "8.0 % ± 3.5 %"
    assert plus_minus_percent(0.08, 0.035, signed=True) == "+8.0 % ± 3.5 %"
    assert plus_minus_percent(-0.0067, None) == "-0.6700 % ± ?"
    assert percent(0.0378) == "3.8 %"
    assert percent(-5.891, signed=True) == "-589.1 %"
    assert estimated(8.755, "J") == "≈ 8.8 J"
    assert estimated(0.0123) == "≈ 0.012"
    assert estimated(1234.0) == "≈ 1,200"
    assert number(12345.6) == "12,346"
    assert number(0.00012345) == "0.0001234"
