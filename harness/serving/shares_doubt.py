"""Joules of requests, or of groups of them, out of their shares, with 95 % intervals. Pure.

With a meter's total the shares are scaled to it: then only how the total is divided is the model's, and what would
make all shares larger or smaller alike (a session, the meter of the profile) doesn't matter. Doubt that is left:

- the coefficients, by their covariance, to first order: of a share F of the total M it is M·δF;
- the misfit of the form. It is taken to be one error for all requests of about one size (the same octave of input and
  of output tokens) and another one for others, so that it evens out between sizes and not between requests;
- the meter's own interval. Its gain is a factor on everything alike and is kept apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.statistics import Z95, joined_95

_FEW = 0.05


@dataclass(frozen=True, eq=False)
class ShareDoubt:
    """What is doubtful in the joules of a model's steps."""

    covariance: Floats
    """Of the coefficients in the order of ``SHARE_TERMS``: shape (7, 7)."""
    freedom: float
    """Degrees of freedom behind it."""
    misfit_sd: Floats
    """Relative standard deviation of true costs about the form, of each request's size."""
    misfit_freedom: float
    too_far: NDArray[np.bool_]
    """Which requests are of sizes, or beside so many others, that no interval is known."""
    session_sd: float = 0.0
    """Relative, of all costs together: it counts where there is no meter's total."""
    session_freedom: float = math.inf


@dataclass(frozen=True, eq=False)
class TotalEnergy:
    """What requests used together, less what the machine drew while it had none."""

    energy_j: float
    ci95_j: float | None
    """None where the meter doesn't say."""


@dataclass(frozen=True, eq=False)
class GroupEnergy:
    """Joules of groups of requests; arrays of one entry a group."""

    energy_j: Floats
    ci95_j: Floats | None
    """Half-widths of the 95 % intervals; None where the model's doubt isn't known, NaN where it isn't of a group: where
    requests that are too far have more than ``_FEW`` of its joules."""


def scaled_to(modelled_j: Floats, total_j: float | None) -> Floats:
    """Shares of the model's joules as shares of a total; as they are without one."""
    return modelled_j if total_j is None else modelled_j * (total_j / math.fsum(modelled_j.tolist()))


def size_cells(input_tokens: Floats, output_tokens: Floats) -> NDArray[np.int64]:
    """A number for each octave of input and of output tokens: requests that err alike have the same."""
    rows = np.floor(np.log2(input_tokens)).astype(np.int64)
    return np.asarray(64 * rows + np.floor(np.log2(output_tokens)).astype(np.int64))


def group_energies(
    terms: Floats,
    coefficients: Floats,
    groups: NDArray[np.int64],
    cells: NDArray[np.int64],
    doubt: ShareDoubt | None,
    total: TotalEnergy | None = None,
) -> GroupEnergy:
    """Joules of groups of requests, numbered from 0 without gaps; for single ones ``groups`` counts them.

    ``terms`` are the requests' shares, shape (requests, 7), and ``cells`` tells which sizes err alike.
    """
    count = int(groups.max()) + 1
    modelled = terms @ coefficients
    joules = np.asarray(
        np.bincount(groups, scaled_to(modelled, None if total is None else total.energy_j), count), dtype=float
    )
    if doubt is None:
        return GroupEnergy(joules, None)
    parts = _part_of_all(modelled, groups, count)
    sums = np.stack([np.bincount(groups, term, count) for term in terms.T], axis=-1)
    if total is not None:
        sums -= parts[:, None] * terms.sum(axis=0)
    factor = 1.0 if total is None else total.energy_j / float(modelled.sum())
    values, vectors = np.linalg.eigh(doubt.covariance)
    trials = np.linalg.norm(sums @ (vectors * np.sqrt(np.maximum(values, 0.0))), axis=1)
    misfit = _misfit(modelled, groups, cells, doubt.misfit_sd, parts if total is not None else np.zeros(count))
    sds, freedoms = [factor * trials, factor * misfit], [doubt.freedom, doubt.misfit_freedom]
    if total is None:
        sds, freedoms = [*sds, joules * doubt.session_sd], [*freedoms, doubt.session_freedom]
    elif total.ci95_j is not None:
        sds, freedoms = [*sds, joules * (total.ci95_j / Z95 / total.energy_j)], [*freedoms, math.inf]
    unknown = np.bincount(groups, modelled * doubt.too_far, count) > _FEW * np.bincount(groups, modelled, count)
    return GroupEnergy(joules, np.where(unknown, np.nan, joined_95(sds, freedoms)))


def _part_of_all(modelled: Floats, groups: NDArray[np.int64], count: int) -> Floats:
    return np.asarray(np.bincount(groups, modelled, count) / modelled.sum())


def _misfit(
    modelled: Floats, groups: NDArray[np.int64], cells: NDArray[np.int64], relative_sd: Floats, parts: Floats
) -> Floats:
    """Standard deviation of each group's joules, Σ over cells of σ²·(of the group − part·of all)².

    ``parts`` is which part of the total a group is held to have, 0 where there is no total to divide.
    """
    _, cell = np.unique(cells, return_inverse=True)
    of_all = np.bincount(cell, modelled)
    variance = np.bincount(cell, modelled * relative_sd**2) / np.maximum(of_all, np.finfo(float).tiny)
    pairs, pair = np.unique(groups * of_all.size + cell, return_inverse=True)
    of_pair = np.bincount(pair, modelled)
    group, cell_of_pair = np.divmod(pairs, of_all.size)
    squares = np.bincount(group, variance[cell_of_pair] * of_pair**2, parts.size)
    crossed = np.bincount(group, variance[cell_of_pair] * of_pair * of_all[cell_of_pair], parts.size)
    found = squares - 2 * parts * crossed + parts**2 * float(variance @ of_all**2)
    return np.sqrt(np.maximum(found, 0.0))
