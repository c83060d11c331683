"""What a server says of itself that marks a loop."""

import pytest

from harness.measuring.server_doubts import cache_doubts, server_doubts
from harness.runs.load_figures import ServerFigures
from harness.runs.load_stamps import UNKNOWN

CALM = {"requests_running": 4.0, "requests_waiting": 0.0, "preemptions_total": 3.0, "cached_tokens_total": 9.0}


def test_a_calm_window_is_not_marked() -> None:
    assert server_doubts(ServerFigures(CALM, during_max=CALM, after=CALM), concurrency=4) == []
    assert server_doubts(ServerFigures()) == []


@pytest.mark.parametrize(
    ("during", "after", "word"),
    [
        ({}, {"preemptions_total": 4.0}, "preempted"),
        ({"requests_waiting": 1.0}, {}, "waited"),
        ({}, {"cached_tokens_total": 80.0}, "71 input tokens"),
        ({"requests_running": 5.0}, {}, "others use the server"),
        ({}, {"cached_tokens_total": 0.0}, "restarted"),
    ],
)
def test_what_disturbs_a_window_marks_it(during: dict[str, float], after: dict[str, float], word: str) -> None:
    [mark] = server_doubts(ServerFigures(CALM, during_max=CALM | during, after=CALM | after), concurrency=4)
    assert word in mark


def test_one_cached_token_a_request_is_let_pass() -> None:
    before, after = CALM | {"requests_total": 10.0}, CALM | {"requests_total": 30.0, "cached_tokens_total": 29.0}
    assert server_doubts(ServerFigures(before, after=after)) == []
    assert server_doubts(ServerFigures(before, after=after | {"cached_tokens_total": 30.0}))


def test_cached_prompts_mark_a_window_and_silence_does_not() -> None:
    assert cache_doubts([UNKNOWN, 0, 1, 1]) == []
    assert "1 of 3 prompts" in cache_doubts([0, 48, UNKNOWN])[0]
