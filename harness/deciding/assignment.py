"""Assign requests to systems under shares or capacities: linear programmes solved by HiGHS.

Pure. ``cost`` and ``runtime_s`` have shape (systems, pairs), per request; ``count`` has shape (pairs,), the
number of requests of each size. An assignment has shape (systems, pairs): how many of a pair's requests each
system serves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, linprog
from scipy.sparse import csr_array, hstack, identity, vstack

from harness.core.arrays import Floats
from harness.deciding.routing import cheapest, served_by

DIRECT_PAIRS = 2000
"""Up to this many pairs go to the solver in one piece. Its time grows faster than they do: 300,000 pairs on three
systems took 80 s and 1.3 GB on two cores in one piece, 3 s and 0.15 GB decomposed."""
MAX_PATTERNS = 1000
GAP = 1e-9
"""Gap to the lower bound, relative to the mean cost, at which an assignment counts as optimal."""
FEASIBILITY = 1e-7
"""Violation of a limit, relative to its largest possible usage, that counts as none: HiGHS's own tolerance."""


class Infeasible(ValueError):
    """No assignment meets the shares or capacities asked for."""

    def __init__(self) -> None:
        super().__init__("no assignment meets the shares, capacities and latency asked for")


@dataclass(frozen=True)
class Limit:
    """A bound on one system: exactly a number of requests, or at most a busy time."""

    system: int
    kind: Literal["share", "capacity"]
    amount: float
    """Requests for a share, seconds for a capacity."""

    def usage(self, runtime_s: Floats) -> Floats:
        """What one request of each pair takes of the amount."""
        return np.ones(runtime_s.shape[1]) if self.kind == "share" else runtime_s[self.system]


@dataclass(frozen=True)
class Assignment:
    """Who serves what, and the price of each limit."""

    requests: Floats
    prices: tuple[float, ...]
    """One per limit, in cost per request (share) or per second (capacity). The online rule is argmin over
    systems of cost + price × usage; a negative price draws requests to a system that must be given its share."""
    used: tuple[float, ...]
    """What the assignment takes of each limit: requests or seconds."""
    rounded: bool
    """Whether whole requests were assigned; False where the workload's counts are fractional, or rounding found no
    whole requests within the limits."""


@dataclass(frozen=True)
class _Problem:
    """The programme in units that suit the solver: everything relative to all requests going one way."""

    cost: Floats
    """Relative to the mean cost; infinite where a system may not serve a pair."""
    count: Floats
    systems: list[int]
    """The limited system of each limit."""
    exact: NDArray[np.bool_]
    """Whether a limit is a share."""
    usage: Floats
    """Per request, shape (limits, pairs)."""
    amounts: Floats

    def part(self, pairs: NDArray[np.intp], amounts: Floats) -> _Problem:
        """The same programme for some of the pairs."""
        return _Problem(self.cost[:, pairs], self.count[pairs], self.systems, self.exact, self.usage[:, pairs], amounts)

    def used(self, requests: Floats) -> Floats:
        """What an assignment uses of each limit."""
        return np.array([requests[s] @ u for s, u in zip(self.systems, self.usage, strict=True)])

    def keeps_limits(self, requests: Floats) -> bool:
        """Whether shares are met, to the nearest whole request, and capacities not exceeded."""
        excess = self.used(requests) - self.amounts
        allowed = np.where(self.exact, 0.5, FEASIBILITY * (self.usage @ self.count))
        return bool((np.where(self.exact, np.abs(excess), excess) <= allowed).all())

    def priced(self, prices: Floats) -> Floats:
        """Cost plus the price of what is used."""
        priced = self.cost.copy()
        for system, used, price in zip(self.systems, self.usage, prices, strict=True):
            priced[system] += price * used
        return priced


def assign(cost: Floats, runtime_s: Floats, count: Floats, limits: list[Limit]) -> Assignment:
    """The cheapest assignment of all requests within the limits.

    Shares give a transportation problem, whose vertices are integral. A capacity splits at most one pair, whose
    parts are then rounded to whole requests when all counts are whole. Where several limits leave no room for
    that, the split solution is returned as it is and ``rounded`` is False. ``cost`` is infinite where a system
    may not serve a pair; every pair needs one that may. Raises Infeasible when the limits can't be met, RuntimeError
    when the solver fails.
    """
    scale = float(np.abs(cost[np.isfinite(cost)]).mean()) or 1.0
    problem = _Problem(
        cost / scale,
        count,
        [limit.system for limit in limits],
        np.array([limit.kind == "share" for limit in limits]),
        np.array([limit.usage(runtime_s) for limit in limits]),
        np.array([limit.amount for limit in limits]),
    )
    if count.size <= DIRECT_PAIRS:
        free = np.arange(count.size)
        requests, prices = _solve_directly(problem)
    else:
        fixed, prices = _agreed(problem)
        requests, free = served_by(fixed, count, cost.shape[0]), np.flatnonzero(fixed < 0)
        if free.size:
            part = problem.part(free, problem.amounts - problem.used(requests))
            # The prices stay those of the whole: a part may leave them undetermined.
            requests[:, free], _ = _solve_directly(part)
    rounded = bool(np.all(count == np.floor(count)))
    if rounded:
        whole = _rounded(problem, requests, free)
        rounded = problem.keeps_limits(whole)
        requests = whole if rounded else requests
    used = tuple(float(u) for u in problem.used(requests))
    return Assignment(requests, tuple(float(price * scale) for price in prices), used, rounded)


def _linear_programme(objective: Floats, **constraints: Any) -> OptimizeResult:
    result: OptimizeResult = linprog(objective, method="highs-ds", **constraints)
    if result.status == 2:
        raise Infeasible
    if result.status != 0:
        raise RuntimeError(f"the linear programme was not solved: {result.message}")
    return result


def _prices(result: OptimizeResult, exact: NDArray[np.bool_], units: Floats) -> Floats:
    """Dual prices of the limits, whose rows end the equalities (shares) and are the inequalities (capacities)."""
    prices = np.zeros(exact.size)
    if exact.any():
        prices[exact] = -result.eqlin.marginals[-int(exact.sum()) :]
    if not exact.all():
        prices[~exact] = -result.ineqlin.marginals
    return prices / units


def _solve_directly(problem: _Problem) -> tuple[Floats, Floats]:
    """One programme over all pairs; its variables are the shares of each pair's requests. (requests, prices)."""
    systems, pairs = problem.cost.shape
    size = float(problem.count.sum())
    units = np.maximum(problem.usage @ problem.count, 1e-300)
    weights = problem.usage * problem.count / units[:, None]
    rows = [
        csr_array((row, (np.zeros(pairs, int), s * pairs + np.arange(pairs))), shape=(1, systems * pairs))
        for row, s in zip(weights, problem.systems, strict=True)
    ]
    usable = np.isfinite(problem.cost)
    exact, amounts = problem.exact, problem.amounts / units
    everyone = hstack([identity(pairs, format="csr")] * systems, format="csr")
    equalities = [everyone, *(row for row, is_share in zip(rows, exact, strict=True) if is_share)]
    inequalities = [row for row, is_share in zip(rows, exact, strict=True) if not is_share]
    result = _linear_programme(
        (np.where(usable, problem.cost, 0.0) * problem.count / size).ravel(),
        A_eq=vstack(equalities, format="csr"),
        b_eq=np.concatenate([np.ones(pairs), amounts[exact]]),
        A_ub=vstack(inequalities, format="csr") if inequalities else None,
        b_ub=amounts[~exact] if inequalities else None,
        bounds=np.stack([np.zeros(usable.size), usable.ravel().astype(float)], axis=1),
    )
    return result.x.reshape(systems, pairs) * problem.count, _prices(result, exact, units) * size


def _agreed(problem: _Problem) -> tuple[NDArray[np.intp], Floats]:
    """The system of every pair on which the optimal patterns agree, −1 for the few that are split; the prices.

    Dantzig–Wolfe decomposition: for given prices the cheapest pattern is an argmin per pair; a small master
    programme mixes patterns so that the limits hold and returns better prices, until no pattern improves it.
    The first phase reduces the violation of the limits to 0, the second the cost.
    """
    without_cost = replace(problem, cost=np.where(np.isfinite(problem.cost), 0.0, np.inf))
    patterns = _Patterns(problem)
    patterns.add(cheapest(problem.cost))
    for first_phase in (True, False):
        phase = without_cost if first_phase else problem
        while True:
            master = patterns.best_mixture(first_phase)
            if first_phase and master.violation <= GAP:
                break
            priced = phase.priced(master.prices)
            undercut = master.bound - float(priced.min(axis=0) @ problem.count) / problem.count.sum()
            # A repeated pattern improves by less than the solver's tolerance.
            if undercut <= GAP or not patterns.add(cheapest(priced)):
                break
        if first_phase and master.violation > FEASIBILITY:
            raise Infeasible
    return patterns.agreement(master.mixture), master.prices


@dataclass(frozen=True)
class _Master:
    mixture: Floats
    prices: Floats
    """One per limit, in relative cost per unit of usage."""
    bound: float
    """What a new pattern's priced cost per request must undercut to help."""
    violation: float


class _Patterns:
    """Assignments of every pair to one system each, and the programme that mixes them."""

    def __init__(self, problem: _Problem) -> None:
        self.problem = problem
        self.choices: list[NDArray[np.int8]] = []
        self.costs: list[float] = []
        self.usages: list[Floats] = []
        self.units = np.maximum(problem.usage @ problem.count, 1e-300)

    def add(self, choice: NDArray[np.intp]) -> bool:
        """Take up a pattern; False when it is known already."""
        small = choice.astype(np.int8)
        if any(np.array_equal(small, known) for known in self.choices):
            return False
        if len(self.choices) == MAX_PATTERNS:
            raise RuntimeError("the assignment did not converge")
        count = self.problem.count
        chosen_cost = np.take_along_axis(self.problem.cost, choice[None], axis=0)[0]
        used = [
            float(usage @ (count * (choice == system)))
            for system, usage in zip(self.problem.systems, self.problem.usage, strict=True)
        ]
        self.choices.append(small)
        self.costs.append(float(chosen_cost @ count) / float(count.sum()))
        self.usages.append(np.array(used) / self.units)
        return True

    def best_mixture(self, first_phase: bool) -> _Master:
        """The cheapest mixture within the limits; in the first phase the one that violates them least."""
        exact, known = self.problem.exact, len(self.costs)
        amounts = self.problem.amounts / self.units
        # In the first phase each limit may be exceeded or missed, at cost 1.
        slack = np.eye(exact.size)[:, : exact.size if first_phase else 0]
        columns = np.hstack([np.array(self.usages).T, -slack, slack])
        costs = np.zeros(known) if first_phase else np.array(self.costs)
        everyone = np.append(np.ones(known), np.zeros(columns.shape[1] - known))
        result = _linear_programme(
            np.append(costs, np.ones(columns.shape[1] - known)),
            A_eq=np.vstack([everyone, columns[exact]]),
            b_eq=np.append(1.0, amounts[exact]),
            A_ub=columns[~exact] if not exact.all() else None,
            b_ub=amounts[~exact] if not exact.all() else None,
        )
        size = float(self.problem.count.sum())
        return _Master(
            result.x[:known],
            _prices(result, exact, self.units) * size,
            float(result.eqlin.marginals[0]),
            float(result.x[known:].sum()),
        )

    def agreement(self, mixture: Floats) -> NDArray[np.intp]:
        """The system of every pair on which all patterns of a mixture agree, −1 elsewhere."""
        mixed = [self.choices[i].astype(np.intp) for i in np.flatnonzero(mixture > GAP)]
        agree = np.logical_and.reduce([choice == mixed[0] for choice in mixed])
        return np.where(agree, mixed[0], -1)


def _rounded(problem: _Problem, requests: Floats, free: NDArray[np.intp]) -> Floats:
    """Whole requests for the split pairs: each part rounded down, what is left shared out.

    Shares come first, by the largest remainder; the rest goes where it costs least. A system whose limit has no
    room is taken only when no other may serve the pair.
    """
    whole = requests.copy()
    whole[:, free] = np.floor(requests[:, free] + 1e-6)
    left = np.round(problem.count - whole.sum(axis=0))
    systems = np.array(problem.systems, dtype=np.intp)
    missing = np.round(problem.amounts - problem.used(whole))
    for limit in np.flatnonzero(problem.exact):
        system = systems[limit]
        remainder = np.where(left[free] > 0, requests[system, free] - whole[system, free], 0.0)
        taken = free[np.argsort(-remainder, kind="stable")[: max(int(missing[limit]), 0)]]
        taken = taken[np.isfinite(problem.cost[system, taken]) & (left[taken] > 0)]
        whole[system, taken] += 1
        left[taken] -= 1
    room = problem.amounts - problem.used(whole)
    for pair in free:
        for _ in range(int(left[pair])):
            price = problem.cost[:, pair].copy()
            full = systems[room < problem.usage[:, pair] * (1 - 1e-6)]
            if np.isfinite(np.delete(price, full)).any():
                price[full] = np.inf
            system = int(np.argmin(price))
            whole[system, pair] += 1
            room[systems == system] -= problem.usage[systems == system, pair]
    return whole
