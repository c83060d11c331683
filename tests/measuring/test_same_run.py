"""What is loaded a second time in a run must be what was measured before."""

from dataclasses import replace
from typing import Any

import pytest

import backends
from backends.base import Config, Loaded
from harness.measuring.same_run import changed

LOADED: Loaded = backends.create("fake").load(Config("fake"))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"model": replace(LOADED.model, name="two")}, "the model's name: 'fake' before and 'two' now"),
        ({"device": "cuda"}, "device: 'cpu' before and 'cuda' now"),
        ({"no_energy": "elsewhere"}, "no_energy"),
        (
            {"settings": {**LOADED.settings, "server_version": "2"}},
            "the setting server_version: None before and '2' now",
        ),
    ],
)
def test_what_differs_is_named(other: dict[str, Any], named: str) -> None:
    assert named in str(changed(LOADED, replace(LOADED, **other)))


def test_what_a_start_works_out_anew_may_differ() -> None:
    assert changed(LOADED, replace(LOADED, server_pids=(7,), settings={**LOADED.settings, "cache_tokens": 5})) is None
