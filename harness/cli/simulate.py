"""``joulebench simulate``: requests over time through profiles, step by step."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from harness.cli import options, rate_options
from harness.core.errors import UserError

Systems = Annotated[
    list[str] | None,
    Argument(metavar="SYSTEM…", help=f"One system, or those of a rule. {options.SYSTEM}", show_default=False),
]
Trace = Annotated[
    str,
    Option("--workload", "-w", help="Trace with arrival times; with --rate any workload, whose sizes are drawn."),
]
Rate = Annotated[
    str | None, Option(help="Random arrivals, by a Poisson process: 2/s, 30/min.", show_default="the trace's times")
]
Requests = Annotated[int | None, Option(min=1, help="Requests drawn at --rate.", show_default="100,000")]
Duration = Annotated[
    float | None, Option(min=0, callback=options.finite, help="Seconds for which they come, in place of --requests.")
]
RulePath = Annotated[str | None, Option(help="Rule that threshold --export or route --export wrote: who serves what.")]
Replicas = Annotated[list[str] | None, Option(help="S=2: so many machines of system S. Repeatable.")]
Slots = Annotated[
    list[str] | None, Option(help="S=64: requests that S works on at once.", show_default="the profile's")
]
ChunkTokens = Annotated[
    list[str] | None, Option(help="S=2048: most tokens in a step of S.", show_default="the profile's")
]
KvTokens = Annotated[
    list[str] | None, Option(help="S=100000: tokens of context in the memory of S.", show_default="the profile's")
]
OffWhenIdle = Annotated[bool, Option("--off-when-idle", help="Machines draw no power while nothing is in them.")]


def simulate(
    systems: Systems = None,
    workload: Trace = options.DEFAULT_WORKLOAD,
    rate: Rate = None,
    requests: Requests = None,
    duration: Duration = None,
    seed: Annotated[int, Option(min=0, help="Of the draw at --rate.")] = 0,
    rule: RulePath = None,
    replicas: Replicas = None,
    slots: Slots = None,
    chunk_tokens: ChunkTokens = None,
    kv_tokens: KvTokens = None,
    off_when_idle: OffWhenIdle = False,
    boundary: options.Boundary = None,
    input_column: options.InputColumn = None,
    output_column: options.OutputColumn = None,
    as_json: options.AsJson = False,
) -> None:
    """Simulate a trace, or requests at a rate, on batching engines: latencies, load and energy."""
    from harness.deciding.simulated_answer import drawn_stream, simulate_stream, trace_stream
    from harness.deciding.trace_files import load_workload
    from harness.showing.simulations import print_simulation

    if not systems:
        raise UserError("name a system: joulebench simulate PROFILE --rate 2/s")
    limits = rate_options.limits_of(replicas, slots, chunk_tokens, kv_tokens)
    if rate is None:
        if requests is not None or duration is not None:
            raise UserError("--requests and --duration are of random arrivals: give --rate too")
        stream = trace_stream(workload, input_column, output_column)
    else:
        rate_per_s = rate_options.one_rate(rate, "a simulation is of one rate")
        loaded = load_workload(workload, input_column, output_column)
        stream = drawn_stream(loaded, rate_per_s, requests, duration, seed)
    answer = simulate_stream(systems, stream, rule=rule, limits=limits, off_when_idle=off_when_idle, boundary=boundary)
    options.print_notes(answer.fitted)
    print_simulation(answer, as_json)
