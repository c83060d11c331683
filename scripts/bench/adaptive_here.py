#!/usr/bin/env python3
"""The adaptive protocol on this machine against a dense grid of its own, for each backend.

    python scripts/bench/adaptive_here.py [--backend transformers --backend llama-cpp] [-o DIR] [--json]

Each backend is measured by `--protocol adaptive` and then at every size of a grid; the fitted costs of the first are
compared with the means of the second. The machine should be at rest: what disturbs it is counted as an error. Sizes lie
between 8 and 512 input and 8 and 128 output tokens. Both runs stay in DIR; the same command resumes them.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from comparison import OneLineParser

import harness as jb
from harness.runs.records import RecordedRun
from harness.runs.summary import summarise

INPUTS, OUTPUTS = (8, 24, 96, 200, 512), (8, 20, 50, 128)
_LINE = "{:<14} {:<8} {:>8} {:>9} {:>9} {:>8} {:>7} {:>10} {:>8}"


@dataclass(frozen=True)
class Row:
    """How far the model of an adaptive run is off at a grid's points."""

    backend: str
    quantity: str
    target: float
    claimed: float | None
    """What the run says: below what its mean error lies with 90 % confidence."""
    error: float
    """Mean relative error at the grid's points, their own scatter included."""
    worst: float
    points: int
    """Of the adaptive run."""
    adaptive_s: float
    grid_s: float


def compared(backend: str, target: str, directory: Path) -> list[Row]:
    """Measure both ways, and compare."""
    common = {"model": "smollm2-135m", "max_foreign_load": 0.25}
    sizes = {"input_tokens": f"{INPUTS[0]},{INPUTS[-1]}", "output_tokens": f"{OUTPUTS[0]},{OUTPUTS[-1]}"}
    chosen = jb.measure(
        directory / f"{backend}-adaptive", backend, protocol="adaptive", error=target, budget="10m", **common, **sizes
    )
    listed = {"input_tokens": ",".join(map(str, INPUTS)), "output_tokens": ",".join(map(str, OUTPUTS))}
    grid = jb.measure(directory / f"{backend}-grid", backend, grid=True, runs=2, min_window_s=1.0, **common, **listed)
    profile = jb.fit(chosen)
    told = chosen.facts.sessions[-1].reached
    rows = []
    for quantity, predict in (("runtime_s", profile.runtime_s), ("energy_j", profile.energy_j)):
        means = [(point.point, getattr(point, quantity)) for point in summarise(grid.trials)]
        known = [(at, found.mean) for at, found in means if found is not None]
        if not known or (quantity == "energy_j" and profile.energy is None):
            continue
        errors = np.array([float(predict(at.input_tokens, at.output_tokens)) / mean - 1 for at, mean in known])
        reached = told.get(quantity)
        claimed = None if reached is None else reached.error + reached.doubt
        rows.append(
            Row(
                backend,
                quantity,
                chosen.facts.plan.adaptive.error if chosen.facts.plan.adaptive else 0.0,
                claimed,
                float(np.abs(errors).mean()),
                float(np.abs(errors).max()),
                len(chosen.facts.plan.points),
                _lasted_s(chosen),
                _lasted_s(grid),
            )
        )
    return rows


def _lasted_s(run: RecordedRun) -> float:
    """Seconds from the first trial to the end of the last session."""
    from datetime import datetime

    ended = run.facts.sessions[-1].ended_at
    assert ended
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(run.trials[0].started_at)).total_seconds()


def main() -> None:
    """Print a row for each backend and quantity."""
    parser = OneLineParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backend", action="append", choices=["transformers", "llama-cpp"])
    parser.add_argument("--error", default="2%", help="as of measure (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="directory of the runs (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = given.output or Path(temporary)
        rows = [
            row
            for backend in given.backend or ["transformers", "llama-cpp"]
            for row in compared(backend, given.error, directory)
        ]
    if given.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1, allow_nan=False))
        return
    print(_LINE.format("backend", "of", "target", "claimed", "error", "worst", "points", "adaptive", "grid"))
    for row in rows:
        claimed = "unknown" if row.claimed is None else f"{row.claimed:.1%}"
        shares = (f"{row.target:.1%}", claimed, f"{row.error:.1%}", f"{row.worst:.1%}")
        seconds = (f"{row.adaptive_s:.0f} s", f"{row.grid_s:.0f} s")
        print(_LINE.format(row.backend, row.quantity.partition("_")[0], *shares, row.points, *seconds))


if __name__ == "__main__":
    main()
