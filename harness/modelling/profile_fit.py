"""From measurements to a profile in one step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from harness.modelling.fitting import Quantity, build_profile, fit_quantities
from harness.modelling.forms import DEFAULT
from harness.modelling.profile import Profile, check_name
from harness.modelling.sources import Pooled, from_runs
from harness.runs.records import RecordedRun, load_run

RunLike = RecordedRun | str | os.PathLike[str]


@dataclass(frozen=True)
class ProfileFit:
    """A profile with what it was made from."""

    pooled: Pooled
    quantities: list[Quantity]
    """Each in every form."""
    profile: Profile


def fit(
    runs: RunLike | Sequence[RunLike],
    *,
    system: str | None = None,
    form: str = DEFAULT,
    drop_suspects: bool = False,
    name: str | None = None,
) -> Profile:
    """Fit runtime and energy models to a run or its directory, or to several of one system and model.

    ``system`` names the machine (default: the device's name) and ``name`` the profile (default: system and model).
    ``form`` is ``phase``, ``bilinear`` or ``auto``, which takes the one of smaller held-out error; ``drop_suspects``
    leaves out points far outside the scatter of the others. Raises UserError.
    """
    if name is not None:
        check_name(name)
    given = [runs] if isinstance(runs, str | os.PathLike | RecordedRun) else runs
    loaded = [run if isinstance(run, RecordedRun) else load_run(run) for run in given]
    return fit_pooled(from_runs(loaded, system), form, drop_suspects, name).profile


def fit_pooled(pooled: Pooled, form: str = DEFAULT, drop_suspects: bool = False, name: str | None = None) -> ProfileFit:
    """Fit every quantity of pooled trials and make the profile, whose ``name`` is a valid one. Raises UserError."""
    quantities = fit_quantities(pooled.measurements, pooled.identity.kv_cache, form, drop_suspects)
    profile = build_profile(
        name or pooled.name, pooled.identity, pooled.measurements, quantities, pooled.power, pooled.provenance
    )
    return ProfileFit(pooled, quantities, profile)
