"""From measurements to a profile in one step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from harness.core.errors import UserError
from harness.modelling.fitting import FormChoice, Quantity, build, fit_quantities
from harness.modelling.profile import Profile, check_name
from harness.modelling.sources import Pooled, from_runs


@dataclass(frozen=True)
class ProfileFit:
    """A profile with what it was made from."""

    pooled: Pooled
    quantities: list[Quantity]
    """Each in every form."""
    profile: Profile


def fit(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    system: str | None = None,
    form: FormChoice = "phase",
    drop_suspects: bool = False,
    name: str | None = None,
) -> Profile:
    """Fit runtime and energy models to a run directory, or to several of one system and model.

    ``system`` names the machine (default: the device's name) and ``name`` the profile (default: system and model).
    ``form`` is ``phase``, ``bilinear`` or ``auto``, which takes the one of smaller held-out error; ``drop_suspects``
    leaves out points far outside the scatter of the others. Raises UserError.
    """
    if name is not None:
        check_name(name)
    directories = [runs] if isinstance(runs, str | os.PathLike) else runs
    return fit_pooled(from_runs([Path(run) for run in directories], system), form, drop_suspects, name).profile


def fit_pooled(
    pooled: Pooled, form: FormChoice = "phase", drop_suspects: bool = False, name: str | None = None
) -> ProfileFit:
    """Fit every quantity of pooled trials and make the profile, whose ``name`` is a valid one. Raises UserError."""
    if form not in get_args(FormChoice):
        raise UserError(f"unknown form {form}; use {', '.join(get_args(FormChoice))}")
    quantities = fit_quantities(pooled.measurements, pooled.identity.kv_cache, form, drop_suspects)
    profile = build(
        name or pooled.name, pooled.identity, pooled.measurements, quantities, pooled.power, pooled.provenance
    )
    return ProfileFit(pooled, quantities, profile)
