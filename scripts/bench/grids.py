#!/usr/bin/env python3
"""How far fitted costs hold on measured grids at sizes that were left out of the fit, and in other sessions.

Each FILE has the columns that `joulebench fit --measurements` reads. Half of the sizes at a time is left out at random,
and everything but a cross (one input size, one output size) and three further points. `--others GRID=FILE` names
trials of the same system and model from another session. All relative.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from comparison import OneLineParser

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.cost_function import CostFunction
from harness.modelling.doubt import Source
from harness.modelling.fit import fit_form
from harness.modelling.forms.phase import Phase
from harness.modelling.measured_table import read_table
from harness.modelling.measurements import aggregate, observations

if TYPE_CHECKING:
    import pandas as pd

HERE: tuple[Source, ...] = ("trials", "model", "scatter")
"""What one new trial in the session that was fitted, by the same meter, lies in."""
ELSEWHERE: tuple[Source, ...] = (*HERE, "sessions")
QUANTITIES = {"runtime": "runtime_s", "energy": "energy_j"}
CROSS = 38, 32
"""Input and output tokens near which the cross is put."""
OFF_AXIS = 3
LEAST_SIZES = 16
_LINE = "{:<26} {:<8} {:<16} {:>8} {:>10} {:>8} {:>8} {:>7}"


@dataclass(frozen=True)
class Held:
    """How the trials that were left out compare with what was predicted."""

    grid: str
    quantity: str
    design: str
    coverage: float
    """Share of trials in their stated 95 % interval, of those that have one."""
    half_width: float
    """Median half-width."""
    error: float
    """Mean absolute error of the prediction."""
    without: float
    """Share of trials that lie too far outside for an interval."""
    trials: int
    """How many were judged, over all repetitions."""


def held_out(grid: Path, repetitions: int, seed: int, kv_cache: bool = False) -> Iterator[Held]:
    """Both designs, for runtime and, where it was measured, energy."""
    table = read_table(grid).trials.table
    sizes = len(table.groupby(["input_tokens", "output_tokens"]))
    if sizes < LEAST_SIZES:
        raise UserError(f"{grid} has {sizes} sizes; at least {LEAST_SIZES} are needed to leave half of them out")
    for design in ("half", "cross + 3"):
        rng = np.random.default_rng(seed)
        chosen = [_half(table, rng) if design == "half" else _cross(table, rng) for _ in range(repetitions)]
        for quantity, column in QUANTITIES.items():
            if column in table:
                judged = [_judge(table[kept], table[~kept], quantity, HERE, kv_cache) for kept in chosen]
                yield _held(grid.stem, quantity, design, np.hstack(judged))


def other_session(grid: Path, others: Path, kv_cache: bool = False) -> Iterator[Held]:
    """The whole grid fitted, and trials of another session judged, those of sizes inside the grid."""
    table, other = read_table(grid).trials.table, read_table(others).trials.table
    for quantity, column in QUANTITIES.items():
        if column in table and column in other:
            yield _held(grid.stem, quantity, "other session", _judge(table, other, quantity, ELSEWHERE, kv_cache))


def fitted(table: pd.DataFrame, quantity: str, kv_cache: bool) -> CostFunction:
    """The cost of a quantity as the trials of the table have it."""
    observed = observations(aggregate(table), quantity)
    assert observed is not None
    return fit_form(Phase, observed, kv_cache).function(observed.range)


def _judge(
    table: pd.DataFrame, others: pd.DataFrame, quantity: str, sources: tuple[Source, ...], kv_cache: bool
) -> Floats:
    """Of each of the others: its error relative to the prediction, and the half-width; shape (2, trials)."""
    value = others[QUANTITIES[quantity]].to_numpy(dtype=float)
    known = np.isfinite(value)
    m, n = (others[name].to_numpy(dtype=float)[known] for name in ("input_tokens", "output_tokens_produced"))
    predicted = fitted(table, quantity, kv_cache).predict(np.round(m), np.round(n))
    half = predicted.half_width_95(sources) / predicted.value
    return np.stack([value[known] / predicted.value - 1, half])


def _held(grid: str, quantity: str, design: str, judged: Floats) -> Held:
    error, half = judged
    told = np.isfinite(half)
    covered = float(np.mean(np.abs(error[told]) <= half[told]))
    # The error is that of the prediction relative to what was measured, as everywhere in a profile.
    off = float(np.mean(np.abs(1 / (1 + error) - 1)))
    return Held(grid, quantity, design, covered, float(np.median(half[told])), off, float(1 - told.mean()), error.size)


def _half(table: pd.DataFrame, rng: np.random.Generator) -> Floats:
    """Which trials are of a random half of the sizes."""
    sizes = table.groupby(["input_tokens", "output_tokens"]).ngroup().to_numpy()
    count = int(sizes.max()) + 1
    return np.isin(sizes, rng.permutation(count)[: count // 2])


def _cross(table: pd.DataFrame, rng: np.random.Generator) -> Floats:
    """Which trials lie on the cross or are of three sizes beyond it on both axes."""
    m, n = table["input_tokens"].to_numpy(dtype=float), table["output_tokens"].to_numpy(dtype=float)
    centre = [axis[np.argmin(np.abs(np.log(axis / near)))] for axis, near in zip((m, n), CROSS, strict=True)]
    kept = (m == centre[0]) | (n == centre[1])
    beyond = sorted({(a, b) for a, b in zip(m, n, strict=True) if a > centre[0] and b > centre[1]})
    if len(beyond) <= OFF_AXIS:
        raise UserError(
            f"the grid has only {len(beyond)} sizes beyond {centre[0]:g} input and {centre[1]:g} output tokens"
        )
    for i in rng.choice(len(beyond), OFF_AXIS, replace=False):
        kept |= (m == beyond[i][0]) & (n == beyond[i][1])
    return np.asarray(kept)


def main() -> None:
    """Print a line for each grid, quantity and design."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="measured grid")
    parser.add_argument("--others", nargs="*", default=[], metavar="GRID=FILE", help="trials of another session")
    parser.add_argument("--kv-cache", action="store_true", help="the grids were measured with a KV cache")
    parser.add_argument("--repetitions", type=int, default=10, help="of each design (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    if given.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    try:
        rows = [row for file in given.files for row in held_out(file, given.repetitions, given.seed, given.kv_cache)]
        for pair in given.others:
            grid, _, file = pair.partition("=")
            rows += other_session(Path(grid), Path(file), given.kv_cache)
    except UserError as error:
        parser.error(str(error))
    if given.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1))
        return
    print(_LINE.format("grid", "quantity", "left out", "coverage", "half-width", "error", "no int.", "trials"))
    for row in rows:
        shares = (f"{share:.1%}" for share in (row.coverage, row.half_width, row.error, row.without))
        print(_LINE.format(row.grid, row.quantity, row.design, *shares, row.trials))


if __name__ == "__main__":
    main()
