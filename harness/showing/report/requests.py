"""What any request would cost: a system's models as tables that the page's script interpolates, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.cost_function import TOO_FAR, Prediction, Range
from harness.showing.panels import DrawnSystem, Options
from harness.showing.report.charts import six_digits

CLOSENESS = 0.002
"""How far a value between two neighbouring sizes of a table may be from the model's own, relatively."""

LEAST_REACH, MOST_REACH = 4096, 131_072
"""The longest sizes offered: four times the longest measured, but between these."""

Sizes = NDArray[np.int64]
Predict = Callable[[Sizes, Sizes], Prediction]


def requests(sources: Sequence[DrawnSystem], options: Options) -> list[dict[str, Any]]:
    """For each source with a model: seconds and joules on a grid of sizes, their intervals and where both hold."""
    return [_request_costs(source, options) for source in sources if source.profile is not None]


def _request_costs(source: DrawnSystem, options: Options) -> dict[str, Any]:
    profile = source.profile
    assert profile is not None
    longest = max(max(corner) for corner in profile.runtime.range.corners)
    reach = 2 ** math.ceil(math.log2(min(max(4 * longest, LEAST_REACH), MOST_REACH)))
    energy = None
    try:
        functions = profile.energy_functions(options.boundary)
        energy = _table(lambda m, n: profile.predict_energy(m, n, options.boundary), reach)
        energy["ranges"] = [_range(function.range) for function in functions]
    except UserError:
        pass  # only runtime was measured, or not these components
    runtime = _table(profile.predict_runtime, reach)
    runtime["ranges"] = [_range(profile.runtime_function.range)]
    return {
        "name": source.name,
        # Said where it might be another.
        "in_flight": source.concurrency if source.loaded or source.concurrency > 1 else None,
        "reach": reach,
        "too_far": TOO_FAR,
        "measured": profile.runtime_function.describe_range(),
        "estimated": source.method == "estimated",
        "runtime": runtime,
        "energy": energy,
    }


def _range(measured: Range) -> dict[str, Any]:
    return {
        "min": [measured.min_input_tokens, measured.min_output_tokens],
        "corners": [list(corner) for corner in measured.corners],
    }


def _table(predict: Predict, reach: int) -> dict[str, Any]:
    """Costs, and the shares of them that are half-widths of 95 % intervals, by input and output size.

    ``mean_share`` is of the mean cost of such requests, ``request_share`` of one new request. They go on where no
    interval is known, so that the page can interpolate up to there; it shows none beyond ``too_far`` octaves.

    The grid has the powers of two and, where the middle between two sizes wouldn't be as close as ``CLOSENESS``, that
    middle too, again and again: models bend where prefill or decode changes its bottleneck, and are smooth elsewhere.
    """
    m = n = 2 ** np.arange(int(math.log2(reach)) + 1)
    while True:
        more_m = _too_far(m, partial(_by_input, predict, n))
        more_n = _too_far(n, partial(_by_output, predict, m))
        if not more_m.size + more_n.size:
            break
        m, n = np.union1d(m, more_m), np.union1d(n, more_n)
    found = _everywhere(predict(m[:, None], n[None, :]))
    return {
        "input": m.tolist(),
        "output": n.tolist(),
        "value": [[six_digits(x) for x in row] for row in found.value],
        "mean_share": _shares(found, found.mean_95),
        "request_share": _shares(found, found.request_95),
    }


def _everywhere(predicted: Prediction) -> Prediction:
    """With intervals also where none is known."""
    return replace(predicted, too_far=np.zeros_like(predicted.too_far))


def _shares(predicted: Prediction, half_width: Floats) -> list[list[float]]:
    return [[six_digits(x) for x in row] for row in half_width / predicted.value]


def _by_input(predict: Predict, outputs: Sizes, inputs: Sizes) -> Prediction:
    return _everywhere(predict(inputs[:, None], outputs[None, :]))


def _by_output(predict: Predict, inputs: Sizes, outputs: Sizes) -> Prediction:
    return _everywhere(predict(inputs[None, :], outputs[:, None]))


def _too_far(axis: Sizes, predict: Callable[[Sizes], Prediction]) -> Sizes:
    """The sizes between those of an axis at which a straight line, in logarithms, isn't close enough.

    ``predict`` has the axis's sizes along its first dimension, for all sizes of the other axis.
    """
    middle = np.sqrt(axis[:-1] * axis[1:].astype(float)).round().astype(np.int64)
    between = np.flatnonzero((middle > axis[:-1]) & (middle < axis[1:]))
    middle = middle[between]
    if not middle.size:
        return middle
    grid, true = predict(axis), predict(middle)
    low, high = np.log(axis[between]), np.log(axis[between + 1])
    weight = ((np.log(middle) - low) / (high - low))[:, None]

    def line(table: Floats) -> Floats:
        return np.asarray((1 - weight) * table[between] + weight * table[between + 1])

    value = np.exp(line(np.log(grid.value)))
    errors = np.abs(value / true.value - 1)
    for coarse, fine in ((grid.mean_95, true.mean_95), (grid.request_95, true.request_95)):
        width = value * line(coarse / grid.value)
        # A model without any spread has intervals of no width.
        errors = np.maximum(errors, np.abs(width - fine) / np.where(fine > 0, fine, 1))
    return middle[(errors > CLOSENESS).any(axis=1)]
