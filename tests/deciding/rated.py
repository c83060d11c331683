"""Profiles under load for decisions at a rate: those of the golden file, faster or slower, thriftier or hungrier."""

import json
from typing import Any

from harness.modelling.profile import Profile
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "data" / "profile-schema-3.json"


def loaded_system(name: str, seconds: float, joules: float, idle_w: float, slots: int = 16) -> Profile:
    """A system ``name`` whose requests take so many times as long and as many joules as those of the golden file."""
    facts = json.loads(GOLDEN.read_text())
    load = facts["under_load"]
    _scale(facts["runtime"], seconds)
    _scale(load["runtime"], seconds)
    load["runtime"]["slots"] = slots
    for energies in (facts, load):
        for model in [energies["energy"], *energies["components"].values()]:
            _scale(model.get("model", model), joules)
    for model in [load["energy"], *load["components"].values()]:
        model["slots"] = slots
    facts["energy"]["idle_power_w"] = idle_w
    facts["name"], facts["identity"]["system"] = name, name
    facts["components"], load["components"] = {}, {}
    return Profile.parse(json.dumps(facts))


def _scale(model: dict[str, Any], factor: float) -> None:
    for coefficient in model["coefficients"]:
        coefficient["value"] *= factor
        coefficient["standard_error"] *= factor
    model["covariance"] = [[factor**2 * each for each in row] for row in model["covariance"]]
