"""Two systems set against each other, request size by request size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.quantities import Component
from harness.modelling import comparable
from harness.modelling.cost_function import Prediction
from harness.modelling.doubt import MEAN
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import ProfileLike, load_or_fit
from harness.modelling.system_names import told_apart


@dataclass(frozen=True)
class Contrast:
    """The mean cost of one quantity on two systems; arrays have one entry per request size.

    All intervals are NaN where a size lies too far outside what was measured on either system.
    """

    ratio: Floats
    """First system divided by the second."""
    ratio_low: Floats
    ratio_high: Floats
    """Ends of the ratio's 95 % interval, never below 0; infinite where the second may need next to nothing."""
    difference: Floats
    """First system less the second, in s or J."""
    difference_ci95: Floats
    """Half-width of the difference's 95 % interval."""
    cheaper: NDArray[np.str_]
    """Name of the profile that needs less; empty where the ratio's interval holds 1, or there is none."""
    shared_meters: bool
    """Whether the same sensors measured both: their gains are then in the ratio only as far as the sensors' shares
    differ, and in the difference as that of what they read."""


@dataclass(frozen=True)
class Contrasts:
    """Runtime and energy of two systems at every combination of sizes; arrays have one entry per combination."""

    first: Profile
    second: Profile
    names: tuple[str, str]
    """Names of the profiles, told apart where they are the same."""
    labels: tuple[str, str]
    """Names of the systems, told apart where they are the same."""
    comparison: comparable.Comparison
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    out_of_range: NDArray[np.bool_]
    """Whether a size lies outside what was measured on either system."""
    too_far: NDArray[np.bool_]
    """Whether it lies so far outside that no interval is known."""
    runtime: Contrast
    energy: Contrast | None
    """None where neither system's energy was measured, or it was not asked for."""
    fitted: tuple[str, ...]
    """What to say of runs that were fitted on the way."""
    concurrency: int | None = None
    """Requests in flight on each, where that was asked for; None: as many as each profile is of."""


def compare(
    a: ProfileLike,
    b: ProfileLike,
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    *,
    boundary: str | None = None,
    allow_mixed: bool = False,
    concurrency: int | None = None,
) -> Contrasts:
    """Compare two systems' energy and runtime at every combination of input and output tokens.

    Profiles are given as such, by name or by path; runs, as such or by their directory, are fitted on the way.
    ``boundary`` are the components whose energy counts, such as ``cpu+gpu``; ``allow_mixed`` goes on with what isn't
    comparable and marks it. ``concurrency`` is how many requests are in flight on each (default: as many as each
    profile is of). Raises UserError.
    """
    found = compare_at(a, b, input_tokens, output_tokens, [concurrency], boundary=boundary, allow_mixed=allow_mixed)
    return found[0]


def compare_at(
    a: ProfileLike,
    b: ProfileLike,
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    concurrencies: Sequence[int | None],
    *,
    boundary: str | None = None,
    allow_mixed: bool = False,
) -> list[Contrasts]:
    """As ``compare``, once for each number of requests in flight. Raises UserError."""
    loaded = [load_or_fit(given) for given in (a, b)]
    metered = boundary is not None or any(one.profile.energy is not None for one in loaded)
    m, n = (axis.ravel() for axis in np.meshgrid(input_tokens, output_tokens, indexing="ij"))
    fitted = tuple(note for one in loaded for note in one.fitted)
    contrasts = []
    for c in concurrencies:
        first, second = (one.profile if c is None else one.profile.at(c) for one in loaded)
        found = contrast_at(first, second, m, n, boundary, allow_mixed, energy=metered, fitted=fitted)
        contrasts.append(replace(found, concurrency=c))
    return contrasts


def contrast_at(
    first: Profile,
    second: Profile,
    m: NDArray[np.int64],
    n: NDArray[np.int64],
    boundary: str | None = None,
    allow_mixed: bool = False,
    *,
    energy: bool = True,
    fitted: tuple[str, ...] = (),
) -> Contrasts:
    """Two profiles at sizes (m, n), arrays of one length; ``energy=False`` is for runtime alone. Raises UserError."""
    both = first, second
    comparison = comparable.check(both, boundary, allow_mixed, energy=energy)
    identities = [profile.identity for profile in both]
    names = told_apart([profile.name for profile in both], identities)
    labels = told_apart([identity.system for identity in identities], identities)
    runtimes = [profile.predict_runtime(m, n) for profile in both]
    energies = [profile.predict_energy(m, n, comparison.boundary) for profile in both if energy]
    outside = np.logical_or.reduce([predicted.out_of_range for predicted in (*runtimes, *energies)])
    too_far = np.logical_or.reduce([predicted.too_far for predicted in (*runtimes, *energies)])
    gain = _shared_gain(both, comparison.boundary, m, n) if energy else None
    return Contrasts(
        first,
        second,
        (names[0], names[1]),
        (labels[0], labels[1]),
        comparison,
        m,
        n,
        outside,
        too_far,
        _contrast(names, *runtimes),
        _contrast(names, *energies, gain=gain) if energies else None,
        fitted,
    )


@dataclass(frozen=True)
class _SharedGain:
    """What the gains of meters that both systems share leave in their comparison, half-widths of 95 % intervals."""

    relative: Floats
    """Of the ratio: 0 where all meters have the same shares in both energies."""
    difference: Floats
    """In J."""


def _shared_gain(
    both: Sequence[Profile], boundary: Sequence[Component] | None, m: NDArray[np.int64], n: NDArray[np.int64]
) -> _SharedGain | None:
    """None where the meters aren't the same, or unknown.

    Of several components each has a gain of its own: one with twice the share on one system doesn't cancel.
    """
    meters = [profile.meters(boundary) for profile in both]
    if not meters[0] or meters[0] != meters[1]:
        return None
    if boundary is None:
        gains = np.array([[profile.gain_ci95() or 0.0 for profile in both]])
        energies = np.stack([[profile.energy_j(m, n)] for profile in both])
    else:
        gains = np.array([[profile.components[part].gain_ci95 for profile in both] for part in boundary])
        energies = np.stack([[profile.energy_j(m, n, [part]) for part in boundary] for profile in both])
    widths = gains.max(axis=1)[:, None]
    shares = energies / energies.sum(axis=1, keepdims=True)
    left = (np.linalg.norm(widths * (one[0] - one[1]), axis=0) for one in (shares, energies))
    return _SharedGain(*left)


def _contrast(names: Sequence[str], a: Prediction, b: Prediction, *, gain: _SharedGain | None = None) -> Contrast:
    """The mean costs of two systems. A gain that both share moves both alike; all else errs independently.

    Sessions count on both sides: each was measured on days of its own.
    """
    apart = tuple(source for source in MEAN if gain is None or source != "meter")
    width_a, width_b = a.half_width_95(apart), b.half_width_95(apart)
    difference = a.value - b.value
    interval = np.sqrt(width_a**2 + width_b**2 + (0.0 if gain is None else gain.difference**2))
    if gain is not None:
        width_a = np.hypot(width_a, a.value * gain.relative)
    low, high = _ratio_interval(a.value, b.value, width_a, width_b)
    cheaper = np.where(high < 1, names[0], np.where(low > 1, names[1], ""))
    return Contrast(a.value / b.value, low, high, difference, interval, cheaper, gain is not None)


def _ratio_interval(a: Floats, b: Floats, width_a: Floats, width_b: Floats) -> tuple[Floats, Floats]:
    """Ends of the 95 % interval of a/b by Fieller's theorem: all ratios ρ with (a − ρb)² ≤ A² + ρ²B².

    A and B are the half-widths of a and b. Costs are positive, and so are both ends: where A ≥ a the ratio may be as
    low as 0, where B ≥ b as high as any.
    """
    surplus_a, surplus_b = a**2 - width_a**2, b**2 - width_b**2
    product = a * b
    reach = product + np.sqrt(np.maximum(product**2 - surplus_a * surplus_b, 0.0))
    unbounded = np.where(np.isnan(surplus_b), np.nan, np.inf)
    high = np.divide(reach, surplus_b, out=unbounded, where=surplus_b > 0)
    return np.maximum(surplus_a, 0.0) / reach, high
