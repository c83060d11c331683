"""Which points are left out together, and how far predictions are off there: the errors that are reported. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.modelling.fit import Observations

HeldOutKind = Literal["sizes", "inner", "outermost"]
"""Left out are: one size at a time, with whatever in flight; one number in flight at a time, neither the least nor the
most; the most in flight."""
KINDS: Final[tuple[HeldOutKind, ...]] = ("sizes", "inner", "outermost")
FEWEST = 2
"""Sizes, or numbers in flight, that must be left."""
Predictor = Callable[[Observations], Floats]
"""Costs at the sizes and numbers in flight of some points."""


@dataclass(frozen=True)
class Fold:
    """Points that are left out together."""

    kind: HeldOutKind
    out: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    """Those of them whose error counts: not a number in flight that no other size was measured at."""


@dataclass(frozen=True)
class LeftOutErrors:
    """Relative errors (predicted − measured) / measured at points left out, of one kind."""

    kind: HeldOutKind
    error: Floats
    point: NDArray[np.int64]

    @property
    def mape(self) -> float:
        """Their mean amount; NaN where no point can be left out so."""
        return float(np.mean(np.abs(self.error))) if self.error.size else np.nan


def folds_in_flight(observations: Observations) -> list[Fold]:
    """Every fold of every kind that leaves enough."""
    return folds_at(observations.input_tokens, observations.asked_tokens, observations.concurrency)


def folds_at(m: Floats, n: Floats, c: Floats) -> list[Fold]:
    """The same of points at these sizes and numbers in flight."""
    levels = np.unique(c)
    folds: list[Fold] = []
    if levels.size > FEWEST:
        folds += [Fold("inner", c == level, c == level) for level in levels[1:-1]]
        folds.append(Fold("outermost", c == levels[-1], c == levels[-1]))
    sizes = np.stack([m, n], axis=1)
    distinct = np.unique(sizes, axis=0)
    if len(distinct) > FEWEST:
        for size in distinct:
            out = (sizes == size).all(axis=1)
            judged = out & np.isin(c, c[~out])
            if judged.any():
                folds.append(Fold("sizes", out, judged))
    return folds


def errors_left_out(
    observations: Observations, fit: Callable[[Observations], Predictor], folds: Sequence[Fold]
) -> dict[HeldOutKind, LeftOutErrors]:
    """Errors of the whole procedure ``fit`` at what each fold leaves out, by kind."""
    parts: dict[HeldOutKind, list[LeftOutErrors]] = {kind: [LeftOutErrors(kind, *_NOTHING)] for kind in KINDS}
    for fold in folds:
        judged = observations.only(fold.judged)
        error = fit(observations.only(~fold.out))(judged) / judged.cost - 1
        parts[fold.kind].append(LeftOutErrors(fold.kind, error, np.flatnonzero(fold.judged)))
    return {kind: join_errors(parts[kind]) for kind in KINDS}


def join_errors(parts: Sequence[LeftOutErrors]) -> LeftOutErrors:
    """Several, at least one, of one kind, as one."""
    error, point = (np.concatenate(each) for each in zip(*((part.error, part.point) for part in parts), strict=True))
    return LeftOutErrors(parts[0].kind, error, point)


_NOTHING: Final = (np.empty(0), np.empty(0, dtype=np.int64))
