"""Two systems set against each other, request size by request size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.modelling import comparable
from harness.modelling.cost_function import Prediction
from harness.modelling.profile import Profile, as_profile


@dataclass(frozen=True)
class Contrast:
    """One quantity of two systems; arrays have one entry per request size."""

    ratio: Floats
    """First system divided by the second."""
    difference: Floats
    """First system less the second, in s or J."""
    interval_95: Floats
    """Half-width of the difference's 95 % interval, misfit of both models included."""
    cheaper: NDArray[np.str_]
    """Name of the profile that needs less; empty where the difference does not exceed its interval."""


@dataclass(frozen=True)
class Contrasts:
    """Runtime and energy of two systems at every combination of sizes; arrays have one entry per combination."""

    first: Profile
    second: Profile
    comparison: comparable.Comparison
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    out_of_range: NDArray[np.bool_]
    """Whether a size lies outside what was measured on either system."""
    runtime: Contrast
    energy: Contrast | None
    """None where neither system's energy was measured."""


def compare(
    a: Profile | str | os.PathLike[str],
    b: Profile | str | os.PathLike[str],
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    *,
    boundary: str | None = None,
    allow_mixed: bool = False,
) -> Contrasts:
    """Compare two systems' energy and runtime at every combination of input and output tokens.

    Profiles are given as such, by name or by path. ``boundary`` are the components whose energy counts, such as
    ``cpu+gpu``; ``allow_mixed`` goes on with what isn't comparable and marks it. Raises UserError.
    """
    first, second = as_profile(a), as_profile(b)
    metered = boundary is not None or first.energy is not None or second.energy is not None
    comparison = comparable.check([first, second], boundary, allow_mixed, energy=metered)
    m, n = (axis.ravel() for axis in np.meshgrid(input_tokens, output_tokens, indexing="ij"))
    runtimes = [profile.predict_runtime(m, n) for profile in (first, second)]
    energies = [profile.predict_energy(m, n, comparison.boundary) for profile in (first, second) if metered]
    outside = np.logical_or.reduce([predicted.out_of_range for predicted in (*runtimes, *energies)])
    runtime = _contrast(first, second, *runtimes)
    energy = _contrast(first, second, *energies) if energies else None
    return Contrasts(first, second, comparison, m, n, outside, runtime, energy)


def _contrast(first: Profile, second: Profile, a: Prediction, b: Prediction) -> Contrast:
    difference, interval = a.value - b.value, np.hypot(a.interval_95, b.interval_95)
    cheaper = np.where(difference < 0, first.name, second.name)
    return Contrast(a.value / b.value, difference, interval, np.where(np.abs(difference) > interval, cheaper, ""))
