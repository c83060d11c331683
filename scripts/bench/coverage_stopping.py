"""Rows of the coverage table: a point's mean as tables state it where a stopping rule has ended its trials."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from coverage_row import Row, row

from harness.core.arrays import Floats
from harness.measuring.plan import PROTOCOLS
from harness.measuring.stopping import StoppingRule
from harness.runs.schema import Trial
from harness.runs.summary import summarise

_NOISE = (0.005, 0.01, 0.02, 0.03, 0.05)
"""Relative standard deviation of trials."""
_TAILS = {"normal": math.inf, "heavy tails": 4.0}
"""Degrees of freedom of Student's t that trials are drawn from, scaled to that standard deviation."""
_MEAN_S = 1.0
_Z95 = 1.96


def rows(draws: int, seed: int) -> Iterator[Row]:
    """The rules of both protocols that stop when an interval is narrow, by noise and its kind."""
    rng = np.random.default_rng((seed, 3))
    for protocol in ("quick", "precise"):
        rule = PROTOCOLS[protocol].stopping
        for tails, freedom in _TAILS.items():
            for noise in _NOISE:
                name = f"mean at the end of {protocol}'s rule, noise {noise:.1%}, {tails}"
                yield _row(name, rule, noise * _drawn(rng, freedom, (draws, rule.max_trials)), noise)


def _drawn(rng: np.random.Generator, freedom: float, shape: tuple[int, int]) -> Floats:
    """Errors of mean 0 and standard deviation 1."""
    if math.isinf(freedom):
        return rng.standard_normal(shape)
    return rng.standard_t(freedom, shape) * math.sqrt((freedom - 2.0) / freedom)


def _row(name: str, rule: StoppingRule, errors: Floats, noise: float) -> Row:
    found = [_stated(rule, (_MEAN_S * (1.0 + each)).tolist()) for each in errors]
    means, half_widths, trials = (np.array(values) for values in zip(*found, strict=True))
    return row(name, means / _MEAN_S - 1.0, half_widths / _MEAN_S, _Z95 * noise / np.sqrt(trials))


def _stated(rule: StoppingRule, runtimes_s: list[float]) -> tuple[float, float, int]:
    """The mean and half-width that a table has where the rule ends, and after how many trials that is."""
    count = next(k for k in range(1, len(runtimes_s) + 1) if rule.done({"runtime_s": runtimes_s[:k]}))
    [summary] = summarise(_trial(number, seconds) for number, seconds in enumerate(runtimes_s[:count]))
    assert summary.runtime_s
    assert summary.runtime_s.half_width is not None
    return summary.runtime_s.mean, summary.runtime_s.half_width, count


def _trial(number: int, runtime_s: float) -> Trial:
    return Trial(
        id=number,
        session=0,
        worker=0,
        purpose="measure",
        input_tokens=32,
        output_tokens=32,
        status="ok",
        started_at="",
        runtime_s=runtime_s,
    )
