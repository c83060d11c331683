"""What a sweep shows, in one sentence worked out from its numbers: a crossing, a ratio, or how a cost grows. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.core.arrays import Floats
from harness.core.statistics import Estimate
from harness.core.wording import number, percent
from harness.runs.summary import PointSummary

GRID = 400
"""Sizes at which lines are compared, evenly spread on the logarithmic axis they share."""
NOTABLE = 0.05
"""Smaller relative differences are called the same, whatever their intervals."""

Quantity = Literal["energy_per_token_j", "runtime_s"]


@dataclass(frozen=True)
class Line:
    """One system's costs along a sweep, by ascending size; None where not measured."""

    system: str
    model: str
    size: Sequence[float]
    runtime_s: Sequence[Estimate | None]
    energy_per_token_j: Sequence[Estimate | None]
    own: bool = False
    """Whether this is the reader's own machine, which the sentence is then about."""


def finding(lines: Sequence[Line], axis: str) -> str:
    """The sentence for a sweep along ``axis`` (``input`` or ``output``) of systems that may be compared.

    Only systems with one model are compared: of several models the one that most systems ran, or that the own one
    ran. Empty where nothing was measured.
    """
    lines = [line for line in lines if any(line.runtime_s)]
    if not lines:
        return ""
    groups = {
        model: [line for line in lines if line.model == model] for model in dict.fromkeys(li.model for li in lines)
    }
    own = [group for group in groups.values() if any(line.own for line in group)]
    group = max(own or groups.values(), key=len)
    of_model = f" ({group[0].model})" if len(groups) > 1 else ""
    if len(group) == 1:
        return _growth(group[0], axis) + of_model
    for quantity in ("energy_per_token_j", "runtime_s"):
        if said := _compared(group, quantity, axis):
            return said + of_model
    return "The systems were measured at different sizes, so nothing can be compared"


def _growth(line: Line, axis: str) -> str:
    """How the runtime of one system grows along the sweep."""
    known = [(size, cost.mean) for size, cost in zip(line.size, line.runtime_s, strict=True) if cost is not None]
    (first, low), (last, high) = known[0], known[-1]
    if len(known) == 1:
        return f"Runtime is {_seconds(low)} at {first:,.0f} {axis} tokens"
    change = "grows" if high > (1 + NOTABLE) * low else "falls" if high < (1 - NOTABLE) * low else "hardly changes:"
    start, end = f"{_seconds(low)} at {first:,.0f}", f"{_seconds(high)} at {last:,.0f}"
    return f"Runtime {change} from {start} to {end} {axis} tokens"


def _seconds(value: float) -> str:
    return f"{number(value, 3 if value >= 1 else 2)} s"


def _compared(group: Sequence[Line], quantity: Quantity, axis: str) -> str:
    """Who needs the least along the sweep; empty where fewer than two systems share a range of sizes."""
    lines = [line for line in group if len(_known(line, quantity)[0]) > 1]
    grid = _shared_sizes(lines, quantity)
    if len(lines) < 2 or grid is None:
        return ""
    values = np.array([_at(line, quantity, grid) for line in lines])
    winner = values.argmin(axis=0)
    if winner[0] == winner[-1]:
        return _ratio(lines, values, winner, grid, quantity)
    return _crossing(lines, values, winner, grid, quantity, axis)


def _ratio(lines: Sequence[Line], values: Floats, winner: Floats, grid: Floats, quantity: Quantity) -> str:
    """One system needs the least at both ends: how much more the own one, or else the next one, needs."""
    best = int(winner[0])
    others = [at for at in range(len(lines)) if at != best]
    least = f"{_subject(lines[best])} {_verb(quantity)} the least {_noun(quantity)}"
    sizes = [grid[0], *(size for size in _known(lines[best], quantity)[0] if grid[0] < size < grid[-1]), grid[-1]]
    sure = [_surely_least(lines, best, quantity, float(size)) for size in sizes]
    if all(sure) and (winner == best).all():
        rival = next((at for at in others if lines[at].own), min(others, key=lambda at: float(values[at].mean())))
        as_much = f"{_span(values[rival] / values[best])} times {_as_much(quantity)}"
        return f"{least}; {_subject(lines[rival], False)} {_verb(quantity)} {as_much}"
    if alike := _alike(lines, values, best, others, quantity):
        return alike
    if 2 * sum(sure) > len(sure) and 2 * np.sum(winner == best) > len(winner):
        return f"{least} at most sizes"
    return _unclear(quantity)


def _crossing(
    lines: Sequence[Line], values: Floats, winner: Floats, grid: Floats, quantity: Quantity, axis: str
) -> str:
    """The least is another system's at either end: up to where one, and from where the other."""
    first, last = int(winner[0]), int(winner[-1])
    left = _about(grid[int(np.argmax(winner != first))])
    right = _about(grid[len(winner) - int(np.argmax(winner[::-1] != last))])
    least = f"{_verb(quantity)} the least {_noun(quantity)}"
    sure_first, sure_last = (_differ(lines[first], lines[last], quantity, float(grid[end])) for end in (0, -1))
    small, large = _subject(lines[first], False), _subject(lines[last], False)
    faster = _faster(lines[last], lines[first], grid, quantity)
    own = _own_of(lines, values, (first, last), quantity)
    if sure_first and sure_last:
        which = f", which is {faster}" if faster else ""
        if left == right:
            return f"Below about {left} {axis} tokens {small} {least}, above it {large}{which}{own}"
        return f"Up to about {left} {axis} tokens {small} {least}, from about {right} {large}{which}{own}"
    if sure_last:
        which = f" and is {faster} as {small}" if faster else ""
        return f"From about {right} {axis} tokens {large} {least}{which}{own}"
    if sure_first:
        return f"Up to about {left} {axis} tokens {small} {least}{own}"
    return _alike(lines, values, first, [last], quantity) or _unclear(quantity)


def _own_of(lines: Sequence[Line], values: Floats, said: Sequence[int], quantity: Quantity) -> str:
    """How much more the own system needs than the best of the others, where the sentence isn't about it yet."""
    for at, line in enumerate(lines):
        if line.own and at not in said:
            ratio = values[at] / np.delete(values, at, axis=0).min(axis=0)
            return f"; this machine {_verb(quantity)} {_span(ratio)} times {_as_much(quantity)} as the best"
    return ""


def _alike(lines: Sequence[Line], values: Floats, one: int, others: Sequence[int], quantity: Quantity) -> str:
    """That a system and the one closest to it need about the same all along; empty where they don't."""
    furthest = {at: float(np.abs(np.log(values[at] / values[one])).max()) for at in others}
    close = min(furthest, key=furthest.__getitem__)
    if furthest[close] > math.log(1 + 4 * NOTABLE):
        return ""
    # In the order given, whoever is ahead by a hair; the own one first.
    pair = sorted((one, close), key=lambda at: (not lines[at].own, at))
    both = " and ".join("This machine" if lines[at].own else lines[at].system for at in pair)
    return f"{both} {'take' if quantity == 'runtime_s' else 'need'} about the same {_noun(quantity)}"


def _unclear(quantity: Quantity) -> str:
    return f"No system clearly {_verb(quantity)} the least {_noun(quantity)}"


def _faster(line: Line, other: Line, grid: Floats, quantity: Quantity) -> str:
    """Beside a comparison of energies: how much faster one is than the other; empty where it isn't all along."""
    if quantity == "runtime_s" or any(len(_known(each, "runtime_s")[0]) < 2 for each in (line, other)):
        return ""
    ratio = _at(other, "runtime_s", grid) / _at(line, "runtime_s", grid)
    return f"{_span(ratio)} times as fast" if ratio.min() > 1.2 else ""


def _known(line: Line, quantity: Quantity) -> tuple[Floats, Floats]:
    costs: Sequence[Estimate | None] = getattr(line, quantity)
    known = [(size, cost.mean) for size, cost in zip(line.size, costs, strict=True) if cost is not None]
    sizes, values = np.array(known, dtype=float).reshape(-1, 2).T
    return sizes, values


def _shared_sizes(lines: Sequence[Line], quantity: Quantity) -> Floats | None:
    """Sizes that all lines span; None where there are none."""
    spans = [(float(sizes[0]), float(sizes[-1])) for sizes, _ in (_known(line, quantity) for line in lines)]
    if not spans:
        return None
    low, high = max(low for low, _ in spans), min(high for _, high in spans)
    return np.geomspace(low, high, GRID) if high > low else None


def _at(line: Line, quantity: Quantity, sizes: Floats) -> Floats:
    """Costs between the points, straight on logarithmic axes."""
    x, y = _known(line, quantity)
    return np.asarray(np.exp(np.interp(np.log(sizes), np.log(x), np.log(y))))


def _differ(one: Line, other: Line, quantity: Quantity, size: float) -> bool:
    """Whether two costs at a size differ notably and beyond their intervals."""
    (a, a_half), (b, b_half) = (_nearest(line, quantity, size) for line in (one, other))
    gap = abs(float(_at(one, quantity, np.array([size]))[0] - _at(other, quantity, np.array([size]))[0]))
    return gap > NOTABLE * min(a, b) and gap > float(np.hypot(a_half, b_half))


def _surely_least(lines: Sequence[Line], best: int, quantity: Quantity, size: float) -> bool:
    """Whether a system needs less than each of the others at a size, notably and beyond their intervals."""
    needed = [float(_at(line, quantity, np.array([size]))[0]) for line in lines]
    return all(
        needed[best] < needed[at] and _differ(lines[best], line, quantity, size)
        for at, line in enumerate(lines)
        if at != best
    )


def _nearest(line: Line, quantity: Quantity, size: float) -> tuple[float, float]:
    """Mean and half-width, 0 where unknown, of the measured point nearest to a size."""
    costs: Sequence[Estimate | None] = getattr(line, quantity)
    known = [(at, cost) for at, cost in zip(line.size, costs, strict=True) if cost is not None]
    _, cost = min(known, key=lambda pair: abs(np.log(pair[0] / size)))
    return cost.mean, cost.half_width or 0.0


def _subject(line: Line, begins: bool = True) -> str:
    if line.own:
        return "This machine" if begins else "this machine"
    return line.system if begins else f"the {line.system}" if line.system[0].isupper() else line.system


def _verb(quantity: Quantity) -> str:
    return "takes" if quantity == "runtime_s" else "needs"


def _as_much(quantity: Quantity) -> str:
    return "as long" if quantity == "runtime_s" else "as much"


def _noun(quantity: Quantity) -> str:
    return "time" if quantity == "runtime_s" else "energy per token"


def _about(size: float) -> str:
    """A size of a crossing, which is known no better than to some per cent."""
    step = 1 if size < 20 else 5 if size < 100 else 10.0 ** (math.floor(math.log10(size)) - 1)
    return f"{round(size / step) * step:,.0f}"


def _span(ratio: Floats) -> str:
    low, high = number(float(ratio.min()), 2), number(float(ratio.max()), 2)
    return f"about {low}" if low == high else f"{low} to {high}"


def load_finding(points: Sequence[PointSummary]) -> str:
    """What more requests in flight do to one size: from the fewest to the most of them, by ascending concurrency.

    Empty where it was measured at one concurrency alone. Of an estimated energy nothing is claimed.
    """
    known = [point for point in points if point.output_tokens_per_s]
    if len(known) < 2:
        return ""
    parts = [_with_load("output tokens/s", [(p.point.concurrency, p.output_tokens_per_s) for p in known])]
    if not any(point.energy_method == "estimated" for point in known):
        parts.append(_with_load("energy per request", [(p.point.concurrency, p.energy_j) for p in known]))
    parts.append(_with_load("time per request", [(p.point.concurrency, p.runtime_s) for p in known]))
    said = [part for part in parts if part]
    first, last = known[0], known[-1]
    joined = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"From {first.point.concurrency} to {last.point.concurrency} requests in flight, {joined}"


def _with_load(what: str, costs: Sequence[tuple[int, Estimate | None]]) -> str:
    """``energy per request falls by 66 %``, or at how many it is least; empty where not all were measured."""
    known = [(concurrency, cost) for concurrency, cost in costs if cost is not None and cost.mean > 0]
    if len(known) < 2 or len(known) < len(costs):
        return ""
    plural = what.endswith("/s")
    best = (max if plural else min)(known, key=lambda each: each[1].mean)
    if best[0] not in (known[0][0], known[-1][0]) and all(_notable(best[1], known[end][1]) for end in (0, -1)):
        return f"{what} {'are highest' if plural else 'is least'} at {best[0]}"
    before, after = known[0][1], known[-1][1]
    ratio = after.mean / before.mean
    if not _notable(before, after):
        return f"{what} hardly {'change' if plural else 'changes'}"
    if ratio < 1:
        return f"{what} {'fall' if plural else 'falls'} by {percent(1 - ratio, digits=0)}"
    more = f"{number(ratio, 2)} times" if ratio >= 2 else f"by {percent(ratio - 1, digits=0)}"
    return f"{what} {'grow' if plural else 'grows'} {more}"


def _notable(one: Estimate, other: Estimate) -> bool:
    """Whether two costs differ by more than both intervals and ``NOTABLE`` leave open."""
    widths = [value.half_width or 0.0 for value in (one, other)]
    return abs(one.mean - other.mean) > math.hypot(*widths) and abs(one.mean / other.mean - 1) > NOTABLE
