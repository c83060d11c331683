"""At which gains of the meters an answer turns: found by turning them."""

import json

import numpy as np
import pytest

from harness.deciding.answers import decide_threshold
from harness.deciding.workload import from_pairs
from harness.modelling.profile import Profile
from harness.showing.decisions import gain_words
from tests.deciding.doubts import METER, doubting

PAIR = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


def scaled(profile: Profile, factor: float) -> Profile:
    """The profile as a meter that reads 1/factor of it would have it, put right."""
    facts = json.loads(profile.dump())
    for coefficient in facts["energy"]["model"]["coefficients"]:
        coefficient["value"] *= factor
    return Profile.parse(json.dumps(facts))


@pytest.fixture(scope="module")
def workload():
    rng = np.random.default_rng(0)
    return from_pairs("short", "test", rng.integers(10, 300, 3000), rng.integers(8, 40, 3000))


def test_a_saving_vanishes_at_the_ratio_said(workload) -> None:
    small, large = (doubting(Profile.load(name), gain=0.1) for name in PAIR)
    decision = decide_threshold(small, large, workload).decision
    turns_at = decision.gain.turns_at
    assert decision.threshold > 0
    assert turns_at is not None
    assert turns_at > 1
    assert decision.gain.ratio_ci95 == pytest.approx(0.1 * np.sqrt(2))
    put_right = decide_threshold(scaled(small, turns_at), large, workload).decision
    at = np.searchsorted(put_right.curve.threshold, decision.threshold)
    assert put_right.curve.energy_j[at] == pytest.approx(put_right.curve.energy_j[0])


@pytest.mark.parametrize("weight", [1.0, 0.98])
def test_a_threshold_begins_to_save_at_the_ratio_said(workload, weight: float) -> None:
    """Of a small system that needs too much, by its meter."""
    small, large = (doubting(Profile.load(name), gain=0.05) for name in PAIR)
    small = scaled(small, 3.0)
    decision = decide_threshold(small, large, workload, weight=weight).decision
    assert decision.threshold == 0
    turns_at = decision.gain.turns_at
    assert turns_at is not None
    assert turns_at < 1
    for factor, saves in ((0.98, True), (1.02, False)):
        put_right = decide_threshold(scaled(small, turns_at * factor), large, workload, weight=weight).decision
        assert (put_right.threshold > 0) is saves


def test_words_say_what_turns_the_answer_or_that_nothing_plausible_does(workload) -> None:
    def words(**doubts: object) -> str:
        answer = decide_threshold(*(doubting(Profile.load(name), **doubts) for name in PAIR), workload)
        return gain_words(answer.decision, answer.costs)

    assert words(gain=0.3).startswith("The saving would vanish if m1-pro's meter read ")
    assert words(gain=0.3).endswith(" % too low against swing-a100's: their gains are known to ± 42.4 %.")
    assert words(gain=0.01).startswith(
        "No plausible gain of the meters alone turns this answer: the saving would vanish"
    )
    assert words(gain=0.3, meters=[METER]) == "The same meters read m1-pro and swing-a100, so their gain cancels."
