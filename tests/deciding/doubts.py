"""Profiles that doubt what a test says, and nothing else."""

import json
from collections.abc import Iterable
from typing import Any

from harness.modelling.profile import Profile

METER = "0123456789abcdef"
"""A sensor."""


def models_of(facts: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Every model of a profile as JSON."""
    return [facts["runtime"], facts["energy"]["model"], *(part["model"] for part in facts["components"].values())]


def doubting(
    profile: Profile,
    *,
    trials: bool = False,
    misfit: float = 0.0,
    growth: float = 0.0,
    session: float = 0.0,
    gain: float = 0.0,
    scatter: float = 0.0,
    freedom: float | None = None,
    meters: Iterable[str] = (),
    **energy: object,
) -> Profile:
    """The profile with these relative standard deviations; ``gain`` is a half-width, ``freedom`` that of each.

    Further fields are those of its energy.
    """
    facts = json.loads(profile.dump())
    for model in models_of(facts):
        if not trials:
            model["covariance"] = [[0.0] * len(row) for row in model["covariance"]]
        model["freedom"] = freedom
        model["misfit"] |= {"sd": misfit, "growth": growth, "falloff": 0.0, "freedom": freedom}
        model["scatter"] = {"factor": scatter, "exponent": 1.0, "freedom": freedom, "prior": None}
        model["sessions"] |= {"sd": session, "freedom": freedom}
    for part in (facts["energy"], *facts["components"].values()):
        part |= {"gain_ci95": gain, "meters": list(meters)}
    facts["energy"] |= energy
    return Profile.parse(json.dumps(facts))
