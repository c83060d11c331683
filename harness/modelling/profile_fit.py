"""From measurements, or from the name of a profile or run, to a profile in one step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import UserError
from harness.core.wording import percent
from harness.modelling.concurrency import left_out_words, taken_in_words
from harness.modelling.fitting import Quantity, build_profile, fit_quantities
from harness.modelling.forms import DEFAULT
from harness.modelling.load_fit import LoadFit, fit_under_load
from harness.modelling.measured_table import holds_measurements
from harness.modelling.profile import Profile, check_name
from harness.modelling.profile_schema import Measurement, Provenance
from harness.modelling.sources import Pooled, from_file, from_runs
from harness.runs.records import RecordedRun, load_run

RunLike = RecordedRun | str | os.PathLike[str]
ProfileLike = Profile | RunLike
"""A profile, or a run or file of measurements that is fitted when it is needed: as such, by path, or by a shipped
profile's name."""


@dataclass(frozen=True)
class Loaded:
    """A profile and how it was asked for."""

    profile: Profile
    given: str
    """The path or name that was given; the profile's name where it was given as such."""
    fitted: tuple[str, ...] = ()
    """What to say where a run was fitted on the way."""


@dataclass(frozen=True)
class ProfileFit:
    """A profile with what it was made from."""

    pooled: Pooled
    quantities: list[Quantity]
    """Each in every form."""
    profile: Profile
    load: LoadFit
    """The models under load, or why there are none."""


def fit(
    runs: RunLike | Sequence[RunLike],
    *,
    system: str | None = None,
    form: str = DEFAULT,
    drop_suspects: bool = False,
    name: str | None = None,
    concurrency: int | None = None,
) -> Profile:
    """Fit runtime and energy models to a run or its directory, or to several of one system and model.

    ``system`` names the machine (default: the device's name) and ``name`` the profile (default: system and model).
    ``form`` is ``phase``, ``bilinear`` or ``auto``, which takes the one of smaller held-out error; ``drop_suspects``
    leaves out points far outside the scatter of the others. ``concurrency`` says at how many requests in flight the
    profile is to hold (default: 1, or where too few points were measured so, the fewest that have enough). Raises
    UserError.
    """
    if name is not None:
        check_name(name)
    given = [runs] if isinstance(runs, str | os.PathLike | RecordedRun) else runs
    loaded = [run if isinstance(run, RecordedRun) else load_run(run) for run in given]
    return fit_pooled(from_runs(loaded, system, concurrency), form, drop_suspects, name).profile


def load_or_fit(given: ProfileLike) -> Loaded:
    """The profile given as such or by name or path, or that of a run, fitted now. Raises UserError."""
    if isinstance(given, Profile):
        return Loaded(given, given.name)
    path = given.directory if isinstance(given, RecordedRun) else os.fspath(given)
    # An empty name is no directory, though its path is the present one.
    if not isinstance(given, RecordedRun) and not (path and Path(path).is_dir()):
        if not holds_measurements(str(path)):
            return Loaded(Profile.load(path), str(path))
        return _fitted(path, lambda: from_file(Path(path)))
    run = given if isinstance(given, RecordedRun) else load_run(path)
    return _fitted(path, lambda: from_runs([run]))


def _fitted(path: object, measured: Callable[[], Pooled]) -> Loaded:
    try:
        made = fit_pooled(measured())
    except UserError as error:
        # Among several runs: which it is.
        raise UserError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    profile = made.profile
    load = profile.requests_in_flight
    at = f" at {load} in flight" if load > 1 or made.pooled.others else ""
    said = f"fitted {path}{at}: held-out error {held_out_words(profile)}"
    return Loaded(profile, str(path), (said, *(f"{path}: {note}" for note in made.pooled.table_notes)))


def held_out_words(profile: Profile) -> str:
    """``runtime 3.8 %, energy 5.1 % (estimated)``: the mean errors at points left out of the fit."""
    errors = [f"runtime {percent(profile.runtime.held_out.mape)}"]
    if profile.energy is not None:
        method = " (estimated)" if profile.energy_method() == "estimated" else ""
        errors.append(f"energy {percent(profile.energy.model.held_out.mape)}{method}")
    return ", ".join(errors)


def fit_pooled(pooled: Pooled, form: str = DEFAULT, drop_suspects: bool = False, name: str | None = None) -> ProfileFit:
    """Fit every quantity of pooled trials and make the profile, whose ``name`` is a valid one. Raises UserError."""
    identity = pooled.identity
    points, context = pooled.measurements, identity.decode_context
    try:
        quantities = fit_quantities(points, identity.kv_cache, form, drop_suspects, context)
    except UserError as error:
        if not pooled.others:
            raise
        raise UserError(f"{error}; a model is of one concurrency, this one of {points[0].concurrency}") from None
    load = fit_under_load(points, pooled.others, identity, pooled.in_flight_as)
    origin = _of_load(pooled.provenance, points[0].concurrency, pooled.others, load)
    profile = build_profile(name or pooled.name, identity, points, quantities, pooled.power, origin, load.under_load)
    return ProfileFit(replace(pooled, provenance=origin), quantities, profile, load)


def _of_load(origin: Provenance, concurrency: int, others: Sequence[Measurement], load: LoadFit) -> Provenance:
    """The provenance, with what became of the points at other concurrencies."""
    if not others:
        return origin
    said = concurrency, {point.concurrency for point in others}, len(others)
    if load.under_load is None:
        return origin.model_copy(update={"notes": [*origin.notes, load.why_not]})
    # Left out of one model, they are not of the other.
    notes = [taken_in_words(*said) if note == left_out_words(*said) else note for note in origin.notes]
    used = sum(point.trials for point in others)
    return origin.model_copy(update={"notes": notes, "excluded_trials": origin.excluded_trials - used})
