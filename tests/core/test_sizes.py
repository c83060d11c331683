"""Request sizes as people read them."""

import pytest

from harness.core.sizes import Point, request_words


@pytest.mark.parametrize(
    ("input_tokens", "output_tokens", "words"),
    [
        (32, 16, "32 in, 16 out"),
        (32.0, 480.333, "32 in, 480.3 out"),
        (16384, 1234567.0, "16,384 in, 1,234,567 out"),
        (12345.6, 0.0, "12,346 in, 0 out"),
    ],
)
def test_a_size_is_never_an_exponent(input_tokens: float, output_tokens: float, words: str) -> None:
    """It was ``1.638e+04 in`` in fits, reports and figures."""
    assert request_words(input_tokens, output_tokens) == words


def test_several_requests_in_flight_are_said() -> None:
    assert Point(32, 16).words() == Point(32, 16, 1).words() == "32 in, 16 out"
    assert Point(32, 16, 8).words() == "32 in, 16 out, 8 in flight"
