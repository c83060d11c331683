"""From profiles and a workload to an answer: which requests go where, and what that saves."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from harness.core.errors import UserError
from harness.core.quantities import check_number
from harness.deciding.assignment import Limit
from harness.deciding.costs import Costs, cost_table
from harness.deciding.decision import (
    RoutingDecision,
    ThresholdDecision,
    make_scales,
    routing_decision,
    served_requests,
    threshold_band,
    threshold_decision,
)
from harness.deciding.routing import TradeOff
from harness.deciding.scales import Prices
from harness.deciding.trace_files import load_workload
from harness.deciding.trade_off import sweep_weights
from harness.deciding.uncertainty import SavingBand
from harness.deciding.workload import Workload
from harness.modelling.profile_fit import Loaded, ProfileLike, load_or_fit


@dataclass(frozen=True)
class ThresholdAnswer:
    """The best threshold between two systems and what it was worked out from. System 0 is the small one."""

    costs: Costs
    workload: Workload
    decision: ThresholdDecision
    slo_s: float | None = None
    """The latency objective; None without one."""
    fitted: tuple[str, ...] = ()
    """What to say of runs that were fitted on the way."""

    @cached_property
    def band(self) -> SavingBand:
        """Saving and runtime ratio at every threshold, with their 95 % intervals."""
        return threshold_band(self.costs, self.workload, self.decision)


@dataclass(frozen=True)
class RoutingAnswer:
    """Who serves what among several systems and what it was worked out from."""

    costs: Costs
    workload: Workload
    decision: RoutingDecision
    reference: int
    """The system whose mean request is the unit of cost."""
    slo_s: float | None
    """The latency objective; None without one."""
    fitted: tuple[str, ...] = ()
    """What to say of runs that were fitted on the way."""

    @cached_property
    def trade_off(self) -> TradeOff:
        """The plan for weights λ from 0 to 1, relative to the reference system and within the limits of this one."""
        by_input = self.decision.input_rule is not None
        return sweep_weights(self.costs, self.workload, self.reference, self.slo_s, self.decision.limits, by_input)


def decide_threshold(
    small: ProfileLike,
    large: ProfileLike,
    workload: Workload | str | os.PathLike[str],
    *,
    key: str = "input",
    weight: float | None = None,
    scale: str = "reference",
    reference: str | None = None,
    prices: Prices | None = None,
    boundary: str | None = None,
    idle: str = "included",
    allow_mixed: bool = False,
    horizon_s: float | None = None,
    slo_s: float | None = None,
) -> ThresholdAnswer:
    """Find the size up to which requests should go to the small system, and what that saves.

    Profiles are given as such, by name or by path; runs, as such or by their directory, are fitted on the way. The
    workload is given as such or as ``load_workload`` takes it. ``key`` is what the threshold is compared with:
    ``input``, ``output``, ``total`` or ``product`` of tokens. ``scale``, ``weight``, ``reference`` and ``prices``
    make energy and runtime one cost: relative to the mean request of the system ``reference`` (default: the large
    one), λ being ``weight`` (default 1), or with ``scale="price"`` by ``prices`` per kWh and per machine-hour, or
    with ``"none"`` as λ joules + (1 − λ) seconds. ``boundary`` are the components whose energy counts, such as
    ``cpu+gpu``. ``idle`` says whether idle power is ``included`` or
    ``subtracted``. ``allow_mixed`` goes on with what isn't comparable and marks the answer. ``horizon_s`` is how
    long machines stay on (default: the longest busy time). Raises UserError.
    """
    _check_numbers(weight, prices, horizon_s)
    requests = workload if isinstance(workload, Workload) else load_workload(workload)
    loaded = load_distinct([small, large])
    costs = cost_table([one.profile for one in loaded], requests, boundary, idle, allow_mixed)
    unit = 1 if reference is None else _system(costs, loaded, reference)
    scales = make_scales(scale, weight, costs, requests, unit, prices)
    decision = threshold_decision(costs, requests, key, scales, horizon_s, slo_s)
    return ThresholdAnswer(costs, requests, decision, slo_s, _fitted(loaded))


def decide_routing(
    profiles: Sequence[ProfileLike],
    workload: Workload | str | os.PathLike[str],
    *,
    shares: Mapping[str, float] | None = None,
    capacities: Mapping[str, float] | None = None,
    slo_s: float | None = None,
    output_unknown: bool = False,
    weight: float | None = None,
    scale: str = "reference",
    reference: str | None = None,
    prices: Prices | None = None,
    boundary: str | None = None,
    idle: str = "included",
    allow_mixed: bool = False,
    horizon_s: float | None = None,
) -> RoutingAnswer:
    """Send every request where it costs least, within shares, capacities and a latency objective.

    ``shares`` gives systems a share of the served requests, from 0 to 1, and ``capacities`` at most so many busy
    seconds, each by the system's or the profile's name. Systems that need longer than ``slo_s`` seconds don't serve
    a request. ``output_unknown`` decides on the input length alone. The default ``reference`` is the first system;
    all else is as in ``decide_threshold``. Raises UserError.
    """
    _check_numbers(weight, prices, horizon_s)
    check_number("--slo", slo_s)
    if len(profiles) < 2:
        raise UserError("routing needs at least two profiles or runs: joulebench route A B …")
    requests = workload if isinstance(workload, Workload) else load_workload(workload)
    loaded = load_distinct(profiles)
    costs = cost_table([one.profile for one in loaded], requests, boundary, idle, allow_mixed)
    unit = 0 if reference is None else _system(costs, loaded, reference)
    scales = make_scales(scale, weight, costs, requests, unit, prices)
    limits = _limits(costs, requests, slo_s, partial(_system, costs, loaded), shares or {}, capacities or {})
    decision = routing_decision(costs, requests, scales, limits, slo_s, output_unknown, horizon_s)
    return RoutingAnswer(costs, requests, decision, unit, slo_s, _fitted(loaded))


def _check_numbers(weight: float | None, prices: Prices | None, horizon_s: float | None) -> None:
    per_kwh, per_hour = prices or (None, None)
    options = {"--weight": weight, "--price-per-kwh": per_kwh, "--price-per-hour": per_hour, "--horizon": horizon_s}
    for option, value in options.items():
        check_number(option, value)


def load_distinct(given: Sequence[ProfileLike]) -> list[Loaded]:
    """The profiles. Raises UserError where two are one and the same: nothing can be decided between them."""
    found: list[Loaded] = []
    for one in map(load_or_fit, given):
        for other in found:
            if one.profile == other.profile:
                raise UserError(
                    f"{other.given} and {one.given} are both the profile {one.profile.name}: name two systems "
                    "(joulebench profiles list shows the shipped ones)"
                )
        found.append(one)
    return found


def _fitted(loaded: Sequence[Loaded]) -> tuple[str, ...]:
    return tuple(note for one in loaded for note in one.fitted)


def _system(costs: Costs, loaded: Sequence[Loaded], name: str) -> int:
    """Position of the system with this label or profile name, or given by this path. Raises UserError."""
    given = [one.given for one in loaded]
    return given.index(name) if name in given else costs.system(name)


def _limits(
    costs: Costs,
    workload: Workload,
    slo_s: float | None,
    system: Callable[[str], int],
    shares: Mapping[str, float],
    capacities: Mapping[str, float],
) -> tuple[Limit, ...]:
    """Shares of the served requests, in whole ones where these are; capacities in seconds. Raises UserError."""
    served, whole = served_requests(costs, workload, slo_s), bool((workload.count % 1 == 0).all())
    limits = []
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"--share {name}={share:g}: a share lies between 0 and 1")
        amount = share * served
        limits.append(Limit(system(name), "share", float(round(amount)) if whole else amount))
    for name, busy_s in capacities.items():
        if not 0 <= busy_s < float("inf"):
            raise UserError(f"--capacity {name}={busy_s:g}: a capacity is a number of seconds, at least 0")
        limits.append(Limit(system(name), "capacity", busy_s))
    if len({(limit.system, limit.kind) for limit in limits}) < len(limits):
        raise UserError("a system can have one --share and one --capacity")
    return tuple(limits)
