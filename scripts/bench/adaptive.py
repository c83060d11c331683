#!/usr/bin/env python3
"""How soon the adaptive protocol is as right as asked for, and whether it says so honestly, on simulated machines.

A row for each machine and error asked for: the share of runs that reached it in time, the median simulated seconds,
and the share whose true error, the mean over the sizes that matter of the fitted costs, was below what was claimed.
Beside them, under ``fixed``, what the designs of quick and precise take and come to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain

import numpy as np
from comparison import OneLineParser
from simulated_machines import MACHINES, Machine, Session

from harness.measuring.plan import PROTOCOLS, WARMUP_REQUESTS, WARMUP_S, PlanOptions, make_plan
from harness.modelling.adaptive import QUANTITIES, Proposal, Search, Visit, trials_by_now
from harness.modelling.drawn_error import Seen, fitted, observed
from harness.modelling.interest import Interest

IN_TIME_S = {0.02: 300.0, 0.01: 400.0}
"""By the error asked for, the simulated seconds in which it should be reached."""
ALL = "all machines"
_LINE = "{:<26} {:>7} {:>5} {:>8} {:>9} {:>8}"
_FIXED = "{:<26} {:<9} {:>5} {:>9} {:>8} {:>12}"


@dataclass(frozen=True)
class Stop:
    """Where a run ended."""

    after_s: float
    claimed: float
    true: float


@dataclass(frozen=True)
class Row:
    """A machine and an error asked for, over many runs."""

    machine: str
    target: float
    runs: int
    reached: float
    """Share of the runs that reached it in time."""
    median_s: float | None
    """Until it was reached; None where more than half of the runs didn't."""
    honest: float | None
    """Of the runs that reached it, the share with a true error below the claimed one."""


@dataclass(frozen=True)
class FixedRow:
    """A machine and a protocol whose points are fixed."""

    machine: str
    protocol: str
    runs: int
    median_s: float
    error: float
    """Mean over the runs of the true error."""
    worst_tenth: float
    """True error that one run in ten passes."""


def adaptive_run(machine: Machine, seed: int, metered: bool, target: float) -> Stop | None:
    """One run until it claims the error asked for; None where that took longer than the time allowed."""
    session = Session(machine, seed, metered)
    search = Search(Interest.grid(), kv_cache=True, seed=seed, error=target)
    proposed: list[Proposal] = []
    seen: list[Seen] = []
    while session.now_s < IN_TIME_S[target]:
        proposal = search.next(seen)
        if proposal is None:
            break
        proposed.append(proposal)
        _visit_again(session, search.visit, proposed, seen)
        seen.append(session.measure(proposal, search.visit))
        found = search.reached(seen) if proposal.drawn else None  # it says nothing new after others
        if found and found.error <= target:
            return Stop(session.now_s, found.error, true_error(session, seen, search.interest))
    return None


def _visit_again(session: Session, visit: Visit, proposed: Sequence[Proposal], seen: list[Seen]) -> None:
    """Run the trials that are due of points seen before."""
    for at, before in enumerate(seen):
        later = len(proposed) - 1 - at
        if len(before.trials["runtime_s"]) < trials_by_now(proposed[at], later):
            seen[at] = session.measure(proposed[at], visit, before, later)


def fixed_run(machine: Machine, seed: int, metered: bool, protocol: str) -> tuple[float, float]:
    """Seconds that a protocol of fixed points takes, and its true error."""
    plan, _ = make_plan(PlanOptions(protocol=protocol), seed)
    visit = Visit(WARMUP_S, WARMUP_REQUESTS, PROTOCOLS[protocol].min_window_s)
    session, seen = Session(machine, seed, metered), []
    for point in plan.points:
        session.warm_up(point, visit)
        trials: dict[str, list[float]] = {"runtime_s": []}
        while not plan.stopping.done(trials):
            for name, value in session.trial(point, visit).items():
                trials.setdefault(name, []).append(value)
        seen.append(Seen(point, False, trials))
    return session.now_s, true_error(session, seen, Interest.grid())


def true_error(session: Session, seen: Sequence[Seen], interest: Interest) -> float:
    """Mean relative error of the fitted costs over the sizes that matter, of the quantity for which it is larger."""
    errors = []
    for name in QUANTITIES:
        known = observed(seen, name)
        if known is not None:
            solution, _ = fitted(known, kv_cache=True, decode_context="grows")
            true = session.true(name, interest.m, interest.n) * session.mean_drift()
            off = np.abs(solution.form.cost(solution.theta, interest.sizes) / true - 1)
            errors.append(float(np.average(off, weights=interest.weight)))
    return max(errors)


def rows(results: dict[str, dict[float, list[Stop | None]]]) -> Iterator[Row]:
    """A row for each machine and error asked for, and of all together."""
    for target in IN_TIME_S:
        of_target = {name: of_machine[target] for name, of_machine in results.items()}
        for name, runs in {**of_target, ALL: list(chain.from_iterable(of_target.values()))}.items():
            stops = [run for run in runs if run]
            after_s = np.array([stop.after_s for stop in stops] + [np.inf] * (len(runs) - len(stops)))
            median_s = float(np.median(after_s))
            honest = float(np.mean([stop.true < stop.claimed for stop in stops])) if stops else None
            reached = float(np.mean(after_s <= IN_TIME_S[target]))
            yield Row(name, target, len(runs), reached, median_s if np.isfinite(median_s) else None, honest)


def simulate(
    machines: Sequence[Machine], runs: int, seed: int, metered: bool, processes: int
) -> tuple[list[Row], list[FixedRow]]:
    """All rows; the same for the same seed, whatever the number of processes."""
    seeds = [seed * 100_000 + run for run in range(runs)]
    results: dict[str, dict[float, list[Stop | None]]] = {machine.name: {} for machine in machines}
    fixed = []
    with ProcessPoolExecutor(processes) as pool:
        for machine in machines:
            for target in IN_TIME_S:
                of_seed = partial(adaptive_run, machine, metered=metered, target=target)
                results[machine.name][target] = list(pool.map(of_seed, seeds))
        for protocol in ("quick", "precise"):
            for machine in machines:
                taken = pool.map(partial(fixed_run, machine, metered=metered, protocol=protocol), seeds)
                after_s, errors = np.array(list(taken)).T
                worst = float(np.quantile(errors, 0.9))
                fixed.append(
                    FixedRow(machine.name, protocol, runs, float(np.median(after_s)), float(errors.mean()), worst)
                )
    return list(rows(results)), fixed


def main() -> None:
    """Print both tables, or with ``--json`` the rows of both."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each machine (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="two machines, six runs")
    parser.add_argument("--metered", action="store_true", help="machines with a power meter: energy must be right too")
    parser.add_argument("--machine", choices=[machine.name for machine in MACHINES], help="one machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    if given.runs < 1:
        parser.error("--runs must be at least 1")
    machines = [machine for machine in MACHINES if given.machine in (None, machine.name)]
    if given.short:
        machines, given.runs = machines[:2], min(given.runs, 6)
    found, fixed = simulate(machines, given.runs, given.seed, given.metered, min(2, os.cpu_count() or 1))
    if given.json:
        print(json.dumps({"rows": [asdict(row) for row in found], "fixed": [asdict(row) for row in fixed]}, indent=1))
        return
    print(_LINE.format("machine", "target", "runs", "reached", "median s", "honest"))
    for row in found:
        cells = f"{row.reached:.0%}", "" if row.median_s is None else f"{row.median_s:.0f}"
        print(_LINE.format(row.machine, f"{row.target:.0%}", row.runs, *cells, f"{row.honest or 0:.0%}"))
    print("\n" + _FIXED.format("machine", "protocol", "runs", "median s", "error", "one in ten"))
    for each in fixed:
        cells = f"{each.median_s:.0f}", f"{each.error:.1%}", f"{each.worst_tenth:.1%}"
        print(_FIXED.format(each.machine, each.protocol, each.runs, *cells))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
