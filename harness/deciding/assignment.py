"""Assign requests to systems under shares or capacities: linear programmes solved by HiGHS.

Pure. ``cost`` and ``busy_s``, a request's share of a system's time, have shape (systems, pairs), per request; ``count``
has shape (pairs,), the number of requests of each size. An assignment has shape (systems, pairs): how many of a pair's
requests each system serves.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, linprog
from scipy.sparse import csr_array, hstack, identity, vstack

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.deciding.routing import Choice, Mask, cheapest, served_by

DIRECT_PAIRS = 2000
"""Up to this many pairs go to the solver in one piece. Its time grows faster than they do: 300,000 pairs on three
systems took 80 s and 1.3 GB on two cores in one piece, 3 s and 0.15 GB decomposed."""
MAX_PATTERNS = 1000
GAP = 1e-9
"""Gap to the lower bound, relative to the mean cost, at which an assignment counts as optimal."""
FEASIBILITY = 1e-7
"""Violation of a limit, relative to its largest possible usage, that counts as none: HiGHS's own tolerance."""


class Infeasible(UserError):
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

    def usage(self, busy_s: Floats) -> Floats:
        """What one request of each pair takes of the amount."""
        return np.ones(busy_s.shape[1]) if self.kind == "share" else busy_s[self.system]


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
    systems: NDArray[np.intp]
    """The limited system of each limit."""
    exact: Mask
    """Whether a limit is a share."""
    usage: Floats
    """Per request, shape (limits, pairs)."""
    amounts: Floats

    @cached_property
    def units(self) -> Floats:
        """What all requests together would use of each limit; never 0, since it divides."""
        return np.maximum(self.usage @ self.count, 1e-300)

    def used(self, requests: Floats) -> Floats:
        """What an assignment uses of each limit."""
        return np.array([requests[s] @ u for s, u in zip(self.systems, self.usage, strict=True)])

    def keeps_limits(self, requests: Floats) -> bool:
        """Whether shares are met, to the nearest whole request, and capacities not exceeded."""
        excess = self.used(requests) - self.amounts
        allowed = np.where(self.exact, 0.5, FEASIBILITY * self.units)
        return bool((np.where(self.exact, np.abs(excess), excess) <= allowed).all())

    def priced(self, prices: Floats) -> Floats:
        """Cost plus the price of what is used."""
        priced = self.cost.copy()
        for system, used, price in zip(self.systems, self.usage, prices, strict=True):
            priced[system] += price * used
        return priced


def assign(cost: Floats, busy_s: Floats, count: Floats, limits: list[Limit]) -> Assignment:
    """The cheapest assignment of all requests within the limits.

    Shares give a transportation problem, whose vertices are integral. A capacity splits at most one pair, whose parts
    are then rounded to whole requests when all counts are whole. Where several limits leave no room for that, the split
    solution is returned as it is and ``rounded`` is False. ``cost`` is infinite where a system may not serve a pair;
    every pair needs one that may. Raises Infeasible when the limits can't be met, RuntimeError when the solver fails.
    """
    scale = float(np.abs(cost[np.isfinite(cost)]).mean()) or 1.0
    problem = _Problem(
        cost / scale,
        count,
        np.array([limit.system for limit in limits], dtype=np.intp),
        np.array([limit.kind == "share" for limit in limits]),
        np.array([limit.usage(busy_s) for limit in limits]),
        np.array([limit.amount for limit in limits]),
    )
    if count.size <= DIRECT_PAIRS:
        free = np.arange(count.size)
        requests, prices = _solve_directly(problem)
    else:
        fixed, prices = _agreed(problem)
        requests, free = served_by(fixed, count, cost.shape[0]), np.flatnonzero(fixed < 0)
        if free.size:
            left = problem.amounts - problem.used(requests)
            cost, usage = problem.cost[:, free], problem.usage[:, free]
            part = replace(problem, cost=cost, count=count[free], usage=usage, amounts=left)
            # The prices stay those of the whole: a part may leave them undetermined.
            requests[:, free], _ = _solve_directly(part)
    rounded = bool(np.all(count == np.floor(count)))
    if rounded:
        whole = _rounded(problem, requests, free)
        rounded = problem.keeps_limits(whole)
        requests = whole if rounded else requests
    return Assignment(requests, tuple((prices * scale).tolist()), tuple(problem.used(requests).tolist()), rounded)


def _linear_programme(
    problem: _Problem, objective: Floats, everyone: Any, limits: Any, bounds: Any = (0, None)
) -> tuple[OptimizeResult, Floats]:
    """Minimise where the variables of each row of ``everyone`` add up to 1, within the limits of the problem.

    ``limits`` is what the variables use of each, relative to ``units``. Returns the result and the limits' prices.
    """
    exact, amounts = problem.exact, problem.amounts / problem.units
    rows = everyone.shape[0]
    equalities: Any = vstack([everyone, limits[exact]], format="csr")
    result: OptimizeResult = linprog(
        objective,
        A_eq=equalities,
        b_eq=np.append(np.ones(rows), amounts[exact]),
        A_ub=limits[~exact],
        b_ub=amounts[~exact],
        bounds=bounds,
        method="highs-ds",
    )
    if result.status == 2:
        raise Infeasible
    if result.status != 0:
        raise RuntimeError(f"the linear programme was not solved: {result.message}")
    prices = np.empty(exact.size)
    prices[exact], prices[~exact] = -result.eqlin.marginals[rows:], -result.ineqlin.marginals
    return result, prices / problem.units * problem.count.sum()


def _solve_directly(problem: _Problem) -> tuple[Floats, Floats]:
    """One programme over all pairs; its variables are the shares of each pair's requests. (requests, prices)."""
    systems, pairs = problem.cost.shape
    weights = problem.usage * problem.count / problem.units[:, None]
    limit, pair = np.indices(weights.shape).reshape(2, -1)
    variable = problem.systems[limit] * pairs + pair
    limits = csr_array((weights.ravel(), (limit, variable)), shape=(len(weights), systems * pairs))
    usable = np.isfinite(problem.cost)
    objective = np.where(usable, problem.cost, 0.0) * problem.count / problem.count.sum()
    everyone = hstack([identity(pairs, format="csr")] * systems, format="csr")
    bounds = np.stack([np.zeros(usable.size), usable.ravel().astype(float)], axis=1)
    result, prices = _linear_programme(problem, objective.ravel(), everyone, limits, bounds)
    return result.x.reshape(systems, pairs) * problem.count, prices


def _agreed(problem: _Problem) -> tuple[Choice, Floats]:
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
            mixture, prices, bound, violation = patterns.best_mixture(first_phase)
            if first_phase and violation <= GAP:
                break
            priced = phase.priced(prices)
            undercut = bound - float(priced.min(axis=0) @ problem.count) / problem.count.sum()
            # A repeated pattern improves by less than the solver's tolerance.
            if undercut <= GAP or not patterns.add(cheapest(priced)):
                break
        if first_phase and violation > FEASIBILITY:
            raise Infeasible
    mixed = [patterns.choices[i] for i in np.flatnonzero(mixture > GAP)]
    agree = np.logical_and.reduce([choice == mixed[0] for choice in mixed])
    return np.where(agree, mixed[0], -1).astype(np.intp), prices


class _Patterns:
    """Assignments of every pair to one system each, and the programme that mixes them."""

    def __init__(self, problem: _Problem) -> None:
        self.problem = problem
        self.choices: list[NDArray[np.int8]] = []
        self.costs: list[float] = []
        self.usages: list[Floats] = []

    def add(self, choice: Choice) -> bool:
        """Take up a pattern; False when it is known already."""
        small = choice.astype(np.int8)
        if any(np.array_equal(small, known) for known in self.choices):
            return False
        if len(self.choices) == MAX_PATTERNS:
            raise RuntimeError("the assignment did not converge")
        cost, count = self.problem.cost, self.problem.count
        chosen_cost = np.take_along_axis(cost, choice[None], axis=0)[0] @ count / count.sum()
        systems_and_usage = zip(self.problem.systems, self.problem.usage, strict=True)
        used = np.array([usage @ (count * (choice == system)) for system, usage in systems_and_usage])
        self.choices.append(small)
        self.costs.append(float(chosen_cost))
        self.usages.append(used / self.problem.units)
        return True

    def best_mixture(self, first_phase: bool) -> tuple[Floats, Floats, float, float]:
        """The cheapest mixture within the limits; in the first phase the one that violates them least.

        Returns the part of each pattern, the limits' prices, the bound that a new pattern's priced cost per request
        must undercut to help, and the violation.
        """
        known, limits = len(self.choices), self.problem.exact.size
        # In the first phase each limit may be exceeded or missed, at cost 1.
        slack = np.eye(limits)[:, : limits if first_phase else 0]
        columns = np.hstack([np.transpose(self.usages), -slack, slack])
        others = columns.shape[1] - known
        objective = np.append(np.zeros(known) if first_phase else self.costs, np.ones(others))
        everyone = csr_array([np.append(np.ones(known), np.zeros(others))])
        result, prices = _linear_programme(self.problem, objective, everyone, csr_array(columns))
        return result.x[:known], prices, float(result.eqlin.marginals[0]), float(result.x[known:].sum())


def _rounded(problem: _Problem, requests: Floats, free: NDArray[np.intp]) -> Floats:
    """Whole requests for the split pairs: each part rounded down, what is left shared out.

    Shares come first, by the largest remainder; the rest goes where it costs least. A system whose limit has no
    room is taken only when no other may serve the pair.
    """
    whole = requests.copy()
    whole[:, free] = np.floor(requests[:, free] + 1e-6)
    left = np.round(problem.count - whole.sum(axis=0))
    systems, missing = problem.systems, np.round(problem.amounts - problem.used(whole))
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
