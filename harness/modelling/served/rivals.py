"""Simple rivals of the served form, each fitted to the same points: shown beside it as the bilinear form is. Pure.

Each takes points whose costs are of cycles, and returns what predicts those of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from scipy.optimize import nnls

from harness.core.arrays import Floats
from harness.modelling.fit import MIN_POINTS, Observations
from harness.modelling.forms.base import Sizes
from harness.modelling.served.form import PHASE
from harness.modelling.served.held_out import Predictor

POWERS: Final = np.linspace(0.0, 1.2, 61)
"""Exponents tried."""


def per_level_interpolated(observations: Observations) -> Predictor:
    """The phase form fitted at each number in flight, and between them the log of the cost linear in log c.

    Beyond the first and last the line goes on. Where fewer sizes were measured at a number in flight than a form
    takes, it is the form of the number with the most sizes, times what the measured ones need.
    """
    levels, level = np.unique(observations.concurrency, return_inverse=True)
    at = [observations.only(level == number) for number in range(levels.size)]
    distinct = [len(set(zip(each.input_tokens, each.output_tokens, strict=True))) for each in at]
    richest = at[int(np.argmax(distinct))]
    shape = _non_negative(_phases(richest), richest.cost)
    fitted = []
    for each, sizes in zip(at, distinct, strict=True):
        if sizes >= MIN_POINTS:
            fitted.append(_non_negative(_phases(each), each.cost))
        else:
            fitted.append(shape * np.exp(np.mean(np.log(each.cost / (_phases(each) @ shape)))))
    coefficients = np.array(fitted)

    def predict(points: Observations) -> Floats:
        logs = np.log(np.maximum(_phases(points) @ coefficients.T, 1e-300))
        return np.exp([_line(np.log(c), np.log(levels), row) for c, row in zip(points.concurrency, logs, strict=True)])

    return predict


def linear_in_flight(observations: Observations) -> Predictor:
    """A(m, n) + c·B(m, n), both of the phase form."""
    theta = _non_negative(_linear(observations), observations.cost)
    return lambda points: np.asarray(_linear(points) @ theta)


def power_law_in_flight(observations: Observations) -> Predictor:
    """The phase form times a power of c."""
    best = np.inf
    for power in POWERS:
        growth = observations.concurrency**power
        theta = _non_negative(_phases(observations) * growth[:, None], observations.cost)
        loss = float(np.sum((_phases(observations) @ theta * growth / observations.cost - 1) ** 2))
        if loss < best:
            best, chosen, found = loss, power, theta
    return lambda points: np.asarray(_phases(points) @ found * points.concurrency**chosen)


RIVALS: Final[Mapping[str, Callable[[Observations], Predictor]]] = {
    "per-c fits interpolated": per_level_interpolated,
    "linear in c": linear_in_flight,
    "power law in c": power_law_in_flight,
}


def _phases(points: Observations) -> Floats:
    sizes = Sizes(points.input_tokens, points.output_tokens)
    return PHASE.design(np.ones(5), sizes)


def _linear(points: Observations) -> Floats:
    phases = _phases(points)
    return np.hstack([phases, phases * points.concurrency[:, None]])


def _non_negative(design: Floats, cost: Floats) -> Floats:
    """Coefficients of the least relative squares, none below 0."""
    relative = design / cost[:, None]
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1.0
    return np.asarray(nnls(relative / scale, np.ones(cost.size))[0] / scale)


def _line(x: float, known: Floats, values: Floats) -> float:
    """Linear interpolation; beyond the ends the first and the last piece go on."""
    if known.size == 1:
        return float(values[0])
    piece = int(np.clip(np.searchsorted(known, x) - 1, 0, known.size - 2))
    share = (x - known[piece]) / (known[piece + 1] - known[piece])
    return float(values[piece] + share * (values[piece + 1] - values[piece]))
