"""Profiles of every kind that a reader in another language can meet."""

import json
from collections.abc import Callable
from typing import Any

from harness.core.statistics import student_95
from harness.modelling.profile import Profile, shipped_names

SHIPPED = shipped_names()
VARIANTS = ("cached", "cached-roofline", "cached-static", "cached-terms", "no-work", "bilinear")


def variant(name: str) -> Profile:
    """A shipped profile by its name, or one made up.

    With the KV cache, growing or static, without any work, or of the bilinear form.
    """
    if name in SHIPPED:
        return Profile.load(name)
    facts = json.loads(Profile.load("palmetto-a100-llama-2-7b").dump())
    facts["name"] = name
    facts["identity"]["kv_cache"] = name.startswith("cached")
    for model in (
        facts["runtime"],
        facts["energy"]["model"],
        *(part["model"] for part in facts["components"].values()),
    ):
        _CHANGES[name](model)
        model["kv_cache"] = facts["identity"]["kv_cache"]
    return Profile.parse(json.dumps(facts), name)


def _with_cache(exponent: float, **further: str) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        unit, floor = model["unit"], model["coefficients"][0]
        for name, value in (("floor_{}", 0.023), ("linear_{}_per_token", 1.7e-5)):
            model["coefficients"].append({**floor, "name": f"decode_{name}".format(unit.lower()), "value": value})
        floor["value"] = 0.4
        model["covariance"] = [[1e-6 * (i == j) for j in range(5)] for i in range(5)]
        model |= {"roofline_exponent": exponent, **further}

    return change


def _with_terms(model: dict[str, Any]) -> None:
    """A tile of prefill and a hinge of decode steps beside the KV cache."""
    _with_cache(2.0)(model)
    unit = model["unit"].lower()
    for name, value in (("prefill_tile_64", 3e-4), ("decode_hinge_100", 1e-5)):
        model["coefficients"].append({**model["coefficients"][1], "name": f"{name}_{unit}_per_token", "value": value})
    model["covariance"] = [[1e-6 * (i == j) for j in range(7)] for i in range(7)]
    model["terms"] = ["tile 64", "hinge 100 decode"]


def _without_work(model: dict[str, Any]) -> None:
    """All is 0: nothing may be divided by it."""
    for coefficient in model["coefficients"]:
        coefficient["value"] = 0.0


def _bilinear(model: dict[str, Any]) -> None:
    unit = model["unit"].lower()
    names = (f"input_{unit}_per_token", f"output_{unit}_per_token", f"interaction_{unit}_per_token2")
    for coefficient, name, value in zip(model["coefficients"], names, (-1e-3, 0.25, 3.1e-4), strict=True):
        coefficient |= {"name": name, "value": value}
    model |= {"form": "bilinear", "roofline_exponent": None}


_CHANGES = {
    "cached": _with_cache(1.0),
    "cached-roofline": _with_cache(3.0),
    "cached-terms": _with_terms,
    "cached-static": _with_cache(1.5, decode_context="m + n"),
    "no-work": _without_work,
    "bilinear": _bilinear,
}


def as_version_1(profile: Profile) -> dict[str, Any]:
    """The content of a file of schema version 1 that says of a profile what such files said."""
    facts = json.loads(profile.dump()) | {"schema_version": 1}
    assert facts.pop("under_load") is None, "version 1 had none"
    energies = [facts["energy"], *facts["components"].values()]
    for energy in energies:
        for name in ("gain_ci95", "gain_source", "meters"):
            del energy[name]
    for model in (facts["runtime"], *(energy["model"] for energy in energies)):
        misfit = model.pop("misfit")
        model |= {"misfit": misfit["sd"], "interval_factor_95": student_95(misfit["freedom"])}
        assert not model.pop("terms", []), "version 1 had none"
        del model["freedom"], model["scatter"], model["sessions"], model["range"]["points"]
    return facts
