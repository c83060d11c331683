#!/usr/bin/env python3
"""Whether stated 95 % intervals hold the truth in 95 % of cases, and are no wider than need be, on simulated machines.

Prints a row for every kind of interval: its coverage, its median half-width, and that of an oracle which knows the
sensor's model, its parameters and the noise, but not the phase of its sampling. All relative.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import coverage_energy
import coverage_models
import coverage_phases
import coverage_savings
import coverage_stopping
from comparison import OneLineParser
from coverage_row import Row, Rows

KINDS: dict[str, Rows] = {
    "energy": coverage_energy.rows,
    "phases": coverage_phases.rows,
    "stopping": coverage_stopping.rows,
    "models": coverage_models.rows,
    "savings": coverage_savings.rows,
}
_LINE = "{:<58} {:>9} {:>11} {:>8} {:>7}"


def rows(draws: int, seed: int, only: str | None = None) -> Iterator[Row]:
    """Every row, kind by kind; ``only`` names one kind."""
    for kind, make in KINDS.items():
        if only in (None, kind):
            yield from make(draws, seed)


def main() -> None:
    """Print the rows as they come, or with ``--json`` all at once."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000, help="draws behind each row (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--only", choices=list(KINDS), help="one kind of interval")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    if given.draws < 1:
        parser.error("--draws must be at least 1")
    found = rows(given.draws, given.seed, given.only)
    if given.json:
        print(json.dumps({"rows": [asdict(each) for each in found]}, indent=1))
        return
    print(_LINE.format("interval", "coverage", "half-width", "oracle", "draws"))
    for each in found:
        widths = (f"{each.half_width:.2%}", f"{each.oracle_half_width:.2%}")
        print(_LINE.format(each.name, f"{each.coverage:.1%}", *widths, each.draws), flush=True)


if __name__ == "__main__":
    main()
