"""What to measure: ranges, sweeps and grids of request sizes, and the order they come in. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from harness.core.errors import UserError
from harness.core.sizes import MAX_ARRIVALS, Arrival, Point, parse_concurrency, parse_point, parse_tokens
from harness.measuring.adaptive_plan import DEFAULT_ERROR, AdaptivePlan, parse_budget, parse_error
from harness.measuring.open_plan import (
    FEWEST_ARRIVALS,
    OpenLoopPlan,
    parse_rates,
    refuse_arrivals,
)
from harness.measuring.stopping import FixedTrials, RelativePrecision, RuntimeHalfWidth, StoppingRule, TrialsByLength
from harness.runs.run_schema import PlanRecord

if TYPE_CHECKING:
    from harness.modelling.adaptive import Proposal

WARMUP_S = 1.0
"""Shortest warm-up window."""
WARMUP_REQUESTS = 2
"""Fewest requests of a warm-up: what is planned and cached on the first, such as attention kernels, may double its
time, so that only the later ones tell how long a request takes."""
WARMS_ALONE_S = 5.0
"""Duration of a request that warms up alone where sizes are chosen: what its first steps plan is a small part of it."""
SHORTEST_S = 0.3
"""Shortest window of batches unless told: over less time the load of other programs can't be told."""
WARM_LENGTHS, LENGTHS = 1.0, 3.0
"""Shortest window of a closed loop, in lengths of its requests: of a warm-up, and of a trial."""


def sweeps(inputs: Iterable[int], outputs: Iterable[int], fixed_input: int, fixed_output: int) -> list[Point]:
    """The input sweep at a fixed output and the output sweep at a fixed input, each point once."""
    points = [Point(m, fixed_output) for m in inputs] + [Point(fixed_input, n) for n in outputs]
    return list(dict.fromkeys(points))


def grid(inputs: Iterable[int], outputs: Sequence[int]) -> list[Point]:
    """The full product of input and output counts."""
    return [Point(m, n) for m in inputs for n in outputs]


def shuffled(points: Sequence[Point], seed: int) -> tuple[Point, ...]:
    """The points in the random order that the seed gives, so that drift in time is not drift in size."""
    order = list(points)
    random.Random(seed).shuffle(order)
    return tuple(order)


@dataclass(frozen=True)
class Protocol:
    """A named way to measure: which sizes, how often, how long."""

    name: str
    inputs: str
    outputs: str
    stopping: StoppingRule
    kv_cache: bool
    min_window_s: float
    max_window_s: float
    off_axis: tuple[Point, ...] = ()
    fixed_input: Annotated[int, Ge(1)] = 32
    fixed_output: Annotated[int, Ge(1)] = 32
    adaptive: bool = False
    """Whether sizes between the first and the last of inputs and outputs are chosen while measuring."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="quick",
            inputs="8-512*2",
            outputs="8-128*2",
            stopping=RelativePrecision(relative=0.05, min_trials=3, max_trials=4, quantities=("runtime_s", "energy_j")),
            kv_cache=True,
            min_window_s=1.0,
            max_window_s=10.0,
        ),
        Protocol(
            name="paper",
            inputs="8-2048*2",
            outputs="8-4096*2",
            stopping=RuntimeHalfWidth(half_width_s=0.5, max_trials=25),
            kv_cache=False,
            min_window_s=1.0,
            max_window_s=30.0,
        ),
        Protocol(
            name="precise",
            inputs="8-2048*2",
            outputs="8-2048*2",
            stopping=RelativePrecision(relative=0.02, min_trials=3, max_trials=10),
            kv_cache=True,
            min_window_s=5.0,
            max_window_s=60.0,
            # Two crossing sweeps leave the interaction of m and n unidentified; these points determine it.
            off_axis=(Point(128, 128), Point(512, 128), Point(128, 512), Point(512, 512), Point(1024, 256)),
        ),
        Protocol(
            name="adaptive",
            inputs="8-2048*2",
            outputs="8-1024*2",
            stopping=TrialsByLength(2),
            kv_cache=True,
            min_window_s=1.0,
            max_window_s=30.0,
            adaptive=True,
        ),
    )
}


@dataclass(frozen=True)
class Plan:
    """Everything that decides which trials a run consists of."""

    protocol: str
    points: tuple[Point, ...]
    """In the order in which they are measured."""
    explicit: bool
    """Whether the user named the sizes; then none may lie beyond the model's context."""
    seed: int
    stopping: StoppingRule
    min_window_s: float
    max_window_s: float
    timeout_s: float
    open_loop: OpenLoopPlan | None = None
    """Requests that come at times of their own, in place of points."""
    adaptive: AdaptivePlan | None = None
    """Where sizes are chosen while measuring; then ``points`` are those chosen so far."""
    shortest_window_s: float = SHORTEST_S
    """Windows of batches last at least so long, as loops do ``min_window_s``."""

    @property
    def warms_alone_s(self) -> float:
        """Duration of a request from which on one warms up; elsewhere windows follow from the second and later ones."""
        return WARMS_ALONE_S if self.adaptive else math.inf

    def refuse_beyond(self, context_length: int | None) -> None:
        """Raise UserError when the user named a size that the model's context does not hold."""
        if context_length is None:
            return
        if self.adaptive:
            self.adaptive.interest(context_length)
            return
        sizes: Sequence[Arrival | Point] = self.points
        if self.open_loop:
            sizes = self.open_loop.logged or self.open_loop.sizes
        longest = max(sizes, key=lambda size: size.input_tokens + size.output_tokens)
        if self.explicit and longest.input_tokens + longest.output_tokens > context_length:
            raise UserError(
                f"m + n = {longest.input_tokens} + {longest.output_tokens} is beyond the model's context of "
                f"{context_length} tokens; ask for shorter requests"
            )

    def continued(self, held: PlanRecord) -> Plan:
        """The plan in a directory that holds a run: points that are known there first, in the order they had."""
        known = [Point(*size) for size in held.points]
        first = [point for point in known if self.adaptive or point in self.points]
        adaptive = self.adaptive
        if adaptive and held.adaptive:
            drawn = tuple(Point(*size) for size in held.adaptive.drawn)
            adaptive = replace(adaptive, drawn=drawn, drawn_trials=held.adaptive.drawn_trials)
        points = (*first, *(point for point in self.points if point not in known))
        return replace(self, points=points, adaptive=adaptive)

    def extended(self, proposed: Proposal) -> Plan:
        """The plan with a point more, chosen by what was measured, or drawn at random."""
        assert self.adaptive
        adaptive = self.adaptive
        if proposed.drawn:
            adaptive = adaptive.with_drawn(proposed.point, proposed.trials)
        return replace(self, points=(*self.points, proposed.point), adaptive=adaptive)

    def record(self, held: PlanRecord | None) -> PlanRecord:
        """The plan as it is stored with the run, with the points that the run had before."""
        points = [(point.input_tokens, point.output_tokens, point.concurrency) for point in self.points]
        kept = held.open_loop if held else None
        return PlanRecord(
            protocol=self.protocol,
            seed=self.seed,
            stopping=self.stopping.describe(),
            min_window_s=self.min_window_s,
            max_window_s=self.max_window_s,
            timeout_s=self.timeout_s,
            points=tuple(dict.fromkeys([*(held.points if held else ()), *points])),
            open_loop=self.open_loop.record() if self.open_loop else kept,
            adaptive=self.adaptive.record() if self.adaptive else held.adaptive if held else None,
        )


@dataclass(frozen=True)
class PlanOptions:
    """What a user may change in a protocol; None leaves a setting as the protocol has it."""

    protocol: str = "quick"
    input_tokens: str | None = None
    """Of the input sweep, such as ``8-2048*2``; see ``parse_tokens``."""
    output_tokens: str | None = None
    fixed_input: Annotated[int, Ge(1)] = 32
    """Input tokens of the output sweep."""
    fixed_output: Annotated[int, Ge(1)] = 32
    """Output tokens of the input sweep."""
    grid: bool = False
    """Whether the full product of inputs and outputs is measured instead of two sweeps."""
    points: tuple[str, ...] = ()
    """Further sizes, each as ``m,n``."""
    concurrency: str = "1"
    """Requests in flight, such as ``1,2,4`` or ``1-64*2``: every size is measured at each."""
    rate: str | None = None
    """Requests per second of an open loop with Poisson arrivals, such as ``2/s``, in place of requests in flight."""
    arrivals: tuple[Arrival, ...] = ()
    """Requests of a log, by time, for an open loop with its arrivals and sizes."""
    duration_s: Annotated[float, Ge(1.0), Le(1e6)] = 60.0
    """Length of an open loop with Poisson arrivals."""
    slo_ttft_s: Annotated[float, Ge(0.0)] | None = None
    """Limit on the time to first token that requests of an open loop must keep to count for goodput."""
    slo_tpot_s: Annotated[float, Ge(0.0)] | None = None
    slo_e2e_s: Annotated[float, Ge(0.0)] | None = None
    error: str | None = None
    """Of the adaptive protocol: the mean error of the fitted costs at which it is enough, such as ``2%``."""
    budget: str | None = None
    """Of the adaptive protocol: the time after which no further size is begun, such as ``10m``."""
    traffic: tuple[tuple[int, int, float], ...] = ()
    """Of the adaptive protocol: input tokens, output tokens and number of the requests that matter."""
    timeout_s: Annotated[float, Ge(0.001), Le(1e6)] = 600.0
    min_window_s: Annotated[float, Ge(0.0)] | None = None
    max_window_s: Annotated[float, Ge(0.001)] | None = None
    max_trials: Annotated[int, Ge(1)] | None = None
    precision: Annotated[float, Ge(1e-6), Le(1.0)] | None = None
    """Relative 95 % half-width at which a point is done."""
    runs: Annotated[int, Ge(1)] | None = None
    """Exactly so many counted trials of each point, in place of ``precision`` and ``max_trials``."""

    @property
    def explicit(self) -> bool:
        """Whether sizes are named; they replace the protocol's."""
        return self.input_tokens is not None or self.output_tokens is not None or bool(self.points)


def make_plan(options: PlanOptions = PlanOptions(), seed: int = 0) -> tuple[Plan, bool]:
    """The plan that the options ask for, and the protocol's choice of KV cache. Raises UserError."""
    base = PROTOCOLS.get(options.protocol)
    if base is None:
        raise UserError(f"unknown protocol '{options.protocol}'; choose one of {', '.join(PROTOCOLS)}")
    durations = {
        "--timeout": options.timeout_s,
        "--min-window": options.min_window_s,
        "--max-window": options.max_window_s,
    }
    for option, value in durations.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"{option} must be a number of seconds, not {value}")
    min_window_s = base.min_window_s if options.min_window_s is None else options.min_window_s
    max_window_s = max(base.max_window_s, min_window_s) if options.max_window_s is None else options.max_window_s
    if min_window_s > max_window_s:
        raise UserError(f"--min-window {min_window_s:g} is longer than --max-window {max_window_s:g}")
    open_loop, adaptive = _open_loop(base, options), _adaptive(base, options)
    planned = () if open_loop or adaptive else _in_flight(_chosen_points(base, options), options.concurrency)
    plan = Plan(
        protocol=options.protocol,
        points=shuffled(planned, seed),
        explicit=options.explicit or open_loop is not None,
        seed=seed,
        stopping=_stopping(base.stopping, options),
        min_window_s=min_window_s,
        max_window_s=max_window_s,
        timeout_s=options.timeout_s,
        open_loop=open_loop,
        adaptive=adaptive,
        shortest_window_s=SHORTEST_S if options.min_window_s is None else options.min_window_s,
    )
    return plan, base.kv_cache


def _chosen_points(base: Protocol, options: PlanOptions) -> list[Point]:
    """The sizes that were named, or else those of the protocol."""
    if not options.explicit:
        m, n, further = parse_tokens(base.inputs), parse_tokens(base.outputs), list(base.off_axis)
    else:
        if options.grid and (options.input_tokens is None or options.output_tokens is None):
            raise UserError("--grid needs both --input-tokens and --output-tokens")
        m, n = ([] if text is None else parse_tokens(text) for text in (options.input_tokens, options.output_tokens))
        further = list(map(parse_point, options.points))
    swept = grid(m, n) if options.grid else sweeps(m, n, options.fixed_input, options.fixed_output)
    return [*swept, *further]


def _adaptive(base: Protocol, options: PlanOptions) -> AdaptivePlan | None:
    """What the adaptive protocol is told; None for the others. Raises UserError."""
    given = {"--error": options.error, "--budget": options.budget, "--for": options.traffic or None}
    named = [option for option, value in given.items() if value is not None]
    if not base.adaptive:
        if named:
            raise UserError(f"{named[0]} is for sizes that are chosen while measuring: add --protocol adaptive")
        return None
    fixed = {
        "--grid": options.grid,
        "--point": bool(options.points),
        "--precision": options.precision is not None,
        "--max-trials": options.max_trials is not None,
        "--runs": options.runs is not None,
        "--rate": options.rate is not None or bool(options.arrivals),
    }
    if refused := [option for option, there in fixed.items() if there]:
        raise UserError(f"{refused[0]} plans what --protocol adaptive chooses by itself: leave one of them out")
    if options.traffic and options.explicit:
        raise UserError("--for has the sizes that matter: leave out -p and -n")
    inputs, outputs = (
        parse_tokens(text or default)
        for text, default in ((options.input_tokens, base.inputs), (options.output_tokens, base.outputs))
    )
    return AdaptivePlan(
        error=DEFAULT_ERROR if options.error is None else parse_error(options.error),
        inputs=(min(inputs), max(inputs)),
        outputs=(min(outputs), max(outputs)),
        concurrencies=tuple(parse_concurrency(options.concurrency)),
        budget_s=None if options.budget is None else parse_budget(options.budget),
        traffic=options.traffic,
    )


def _open_loop(base: Protocol, options: PlanOptions) -> OpenLoopPlan | None:
    """The open loops that were asked for; None where none was. Raises UserError."""
    limits = {"--slo-ttft": options.slo_ttft_s, "--slo-tpot": options.slo_tpot_s, "--slo-e2e": options.slo_e2e_s}
    given = [option for option, limit in limits.items() if limit is not None]
    if options.rate is None and not options.arrivals:
        if given:
            raise UserError(f"{given[0]} is for requests that come at a rate: give --rate 2/s or --arrivals FILE too")
        return None
    if options.concurrency != "1":
        raise UserError("-c keeps a number of requests in flight, and with --rate or --arrivals they come as they may")
    if options.arrivals:
        if options.rate is not None or options.explicit:
            raise UserError("--arrivals has times and sizes of its own: leave out --rate, -p, -n and --point")
        refuse_arrivals(options.arrivals)
        return OpenLoopPlan((), options.arrivals[-1].offset_s, (), options.arrivals, *limits.values())
    if not options.explicit:
        raise UserError("--rate needs the sizes of its requests, such as -p 128 --fixed-output 32, or --point 128,32")
    assert options.rate is not None
    rates = parse_rates(options.rate)
    if max(rates) * options.duration_s > MAX_ARRIVALS:
        raise UserError(f"--rate {options.rate} over {options.duration_s:g} s are more than {MAX_ARRIVALS} requests")
    if min(rates) * options.duration_s < FEWEST_ARRIVALS:
        raise UserError(
            f"--rate {options.rate} over {options.duration_s:g} s are fewer than {FEWEST_ARRIVALS} requests; "
            f"give --duration {math.ceil(FEWEST_ARRIVALS / min(rates))} or more"
        )
    return OpenLoopPlan(
        rates, options.duration_s, tuple(dict.fromkeys(_chosen_points(base, options))), (), *limits.values()
    )


def _in_flight(sizes: Iterable[Point], concurrency: str) -> list[Point]:
    """Every size once at each number of requests in flight. Raises UserError."""
    points = [replace(size, concurrency=c) for c in parse_concurrency(concurrency) for size in sizes]
    return list(dict.fromkeys(points))


def _stopping(rule: StoppingRule, options: PlanOptions) -> StoppingRule:
    if options.runs is not None:
        if options.max_trials is not None or options.precision is not None:
            raise UserError("--runs is an exact number of trials: leave out --max-trials and --precision")
        return FixedTrials(options.runs)
    if options.precision is not None:
        rule = RelativePrecision(relative=options.precision, min_trials=3, max_trials=rule.max_trials)
    return rule if options.max_trials is None else rule.with_max_trials(options.max_trials)
