"""How right costs under load are on tables of measurements, held out three ways, beside simple rivals.

    python scripts/bench/load.py FILE... [--json]

Left out of the whole procedure in turn: each size; each number in flight but the least and the most; the most in
flight. ``error`` is the mean absolute relative error over all points left out so in all groups of a file, a group being
one system and model; ``best_rival`` is the simple rival with the least error at the same points. What can't be judged
has no row and is counted on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from load_latency import judge_tpot, judge_ttft
from load_tables import Judged, LoadGroup, read_groups

from harness.core.errors import UserError
from harness.modelling.fit import MIN_POINTS
from harness.modelling.served.contradictions import contradicted
from harness.modelling.served.fit import of_cycles, served_procedure
from harness.modelling.served.held_out import KINDS, errors_left_out, folds_in_flight
from harness.modelling.served.rivals import RIVALS

Judge = Callable[[LoadGroup], list[Judged]]
Row = Mapping[str, str | int | float]


def judge_runtime(group: LoadGroup) -> list[Judged]:
    """Runtimes, of cycles."""
    return _judge_costs(group, "runtime_s", per_request=False)


def judge_energy(group: LoadGroup) -> list[Judged]:
    """Energies, of requests where they fall with the number in flight, else of cycles."""
    return _judge_costs(group, "energy_j", per_request=falls_in_flight(group, "energy_j"))


QUANTITIES: dict[str, Judge] = {
    "runtime": judge_runtime,
    "energy": judge_energy,
    "ttft": judge_ttft,
    "tpot": judge_tpot,
}
"""Each returns no more than one of each kind, and nothing for a group that doesn't tell."""


def _judge_costs(group: LoadGroup, column: str, per_request: bool) -> list[Judged]:
    measured = group.observations(column)
    if measured is None or measured.cost.size < MIN_POINTS or np.unique(measured.concurrency).size < 2:
        return []
    cycles = of_cycles(measured, per_request=per_request, static_batch=True)
    if (wrong := contradicted(cycles)).any():
        told = f"{wrong.sum()} points of {column} cost far less than smaller ones"
        print(f"{group.file}: {group.name}: {told}: not fitted, not judged", file=sys.stderr)
        cycles = cycles.only(~wrong)
    folds = folds_in_flight(cycles)
    ours = errors_left_out(cycles, served_procedure(slots=None), folds)
    rivals = {name: errors_left_out(cycles, rival, folds) for name, rival in RIVALS.items()}
    return [Judged(kind, ours[kind].error, {name: of[kind].error for name, of in rivals.items()}) for kind in KINDS]


def falls_in_flight(group: LoadGroup, column: str) -> bool:
    """Whether a column falls with the number in flight, at sizes alike."""
    cost = group.measured.get(column, np.empty(0))
    known = cost > 0
    if not known.any():
        return False
    sizes = np.stack([group.m[known], group.n[known]], axis=1)
    _, size = np.unique(sizes, axis=0, return_inverse=True)
    logs = np.stack([np.log(group.c[known]), np.log(cost[known])])
    if np.unique(size).size == size.size:
        # No size was measured twice: take them as alike.
        size = np.zeros_like(size)
    counts = np.bincount(size.ravel())
    centred = np.array([row - (np.bincount(size.ravel(), row) / counts)[size.ravel()] for row in logs])
    return float(centred[0] @ centred[1]) < 0


def rows_of(file: str, groups: Iterable[LoadGroup], quantities: Mapping[str, Judge]) -> list[Row]:
    """A row for each quantity and kind of one file."""
    rows: list[Row] = []
    groups = list(groups)
    for quantity, judge in quantities.items():
        judged = [judge(group) for group in groups]
        kept = [each for of_group in judged for each in of_group if each.error.size]
        for kind in KINDS:
            of_kind = [each for each in kept if each.kind == kind]
            if of_kind:
                rows.append(_row(file, quantity, kind, of_kind))
        if skipped := sum(not any(each.error.size for each in of_group) for of_group in judged):
            print(f"{file}: {quantity}: {skipped} of {len(groups)} groups don't tell enough", file=sys.stderr)
    return rows


def _row(file: str, quantity: str, kind: str, judged: list[Judged]) -> Row:
    error = np.abs(np.concatenate([each.error for each in judged]))
    row: dict[str, str | int | float] = {
        "file": file,
        "quantity": quantity,
        "kind": kind,
        "points": int(error.size),
        "error": float(error.mean()),
    }
    rivals = {
        name: float(np.abs(np.concatenate([each.rivals[name] for each in judged])).mean()) for name in judged[0].rivals
    }
    best = min(rivals, key=lambda name: rivals[name])
    return {**row, "best_rival": best, "rival_error": rivals[best]}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args(arguments)
    try:
        rows = [row for path in options.files for row in rows_of(str(path), read_groups(path), QUANTITIES)]
    except UserError as error:
        print(f"load.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"rows": rows}, indent=2))
        return 0
    for row in rows:
        words = f"{row['file']}: {row['quantity']}, {row['kind']}: {row['error']:.1%} at {row['points']} points"
        print(f"{words}; {row['best_rival']} {row['rival_error']:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
