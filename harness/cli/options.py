"""Options that several commands have, declared once so that they mean and read the same in each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, get_type_hints

from typer import Argument, CallbackParam, Option

from harness.core.errors import UserError
from harness.core.quantities import check_number

Idle = StrEnum("Idle", "INCLUDED SUBTRACTED")
"""Whether the power of the idle machine counts."""
Scale = StrEnum("Scale", "REFERENCE PRICE NONE")
"""What makes joules and seconds one cost."""
Attribution = StrEnum("Attribution", "PROCESS SYSTEM")
"""Whose CPU energy counts where the source can tell processes apart."""
Compile = StrEnum("Compile", "NONE GRAPH INDUCTOR")
"""How decode steps are launched; ``backends.base.Config.compile``."""


def finite(option: CallbackParam, value: float | None) -> float | None:
    """Callback of options that take a number; refuses before anything is read. Raises UserError."""
    check_number(option.opts[0], value)
    return value


SYSTEM = "Run directory, profile file or name of a shipped profile."
ProfileArgument = Annotated[str, Argument(metavar="PROFILE|RUN", help=SYSTEM, show_default=False)]
InputTokens = Annotated[str, Option("--input-tokens", "-p", help="Input tokens: 8,64,512 or 8-2048*2 or 128-1024+128.")]
OutputTokens = Annotated[str, Option("--output-tokens", "-n", help="Output tokens, same syntax as -p.")]
FixedInput = Annotated[int, Option(min=1, help="Input tokens of the output sweep.")]
FixedOutput = Annotated[int, Option(min=1, help="Output tokens of the input sweep.")]

PROTOCOLS = "the protocol's"
DEFAULT_WORKLOAD = "alpaca"
WORKLOAD = "Built-in name (alpaca), workload file, trace file or glob."
WorkloadOption = Annotated[str, Option("--workload", "-w", help=WORKLOAD)]
InputColumn = Annotated[str | None, Option(help="Column of input tokens in a trace.")]
OutputColumn = Annotated[str | None, Option(help="Column of output tokens in a trace.")]
SkipBad = Annotated[bool, Option("--skip-bad", help="Leave broken rows out instead of refusing.")]
EveryOutput = Annotated[
    int | None, Option("--output-tokens", min=1, help="Set every output length to this many tokens.")
]

Boundary = Annotated[
    str | None, Option(help="Components whose energy counts: gpu, cpu+gpu, …", show_default="all measured")
]
AllowMixed = Annotated[bool, Option("--allow-mixed", help="Compare anyway; the output is marked as not comparable.")]
IdleOption = Annotated[Idle, Option(help="Count the machines' idle power or subtract it.")]
Weight = Annotated[
    float | None,
    Option(
        min=0,
        max=1,
        callback=finite,
        help="λ: weight of energy against runtime; not with --scale price.",
        show_default="1",
    ),
]
ScaleOption = Annotated[
    Scale, Option(help="Cost: relative to a reference system, in prices, or raw joules and seconds.")
]
Reference = Annotated[
    str | None,
    Option(
        help="System whose mean request is the unit of cost.", show_default="threshold: the large one; route: the first"
    ),
]
PricePerKwh = Annotated[
    float | None, Option(min=0, callback=finite, help="Money or carbon per kWh, for --scale price.")
]
PricePerHour = Annotated[float | None, Option(min=0, callback=finite, help="The same per machine-hour.")]
Horizon = Annotated[
    float | None,
    Option(
        "--horizon",
        min=0,
        callback=finite,
        help="How long machines stay on, in seconds, for total energy including idle.",
        show_default="the longest busy time",
    ),
]

AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
FigurePath = Annotated[
    Path | None, Option("--output", "-o", help="Write the figure as PDF, SVG, PNG and CSV under this name.")
]
Export = Annotated[Path | None, Option(help="Write the decision rule as JSON for a scheduler.")]


def print_notes(notes: Sequence[str]) -> None:
    """What happened on the way to an answer, on stderr: the answer itself is what a pipe takes."""
    for note in notes:
        print(note, file=sys.stderr)


def prices(per_kwh: float | None, per_hour: float | None) -> tuple[float, float] | None:
    """Prices per kWh and per hour, one of them free where only the other is given; None without any."""
    return None if per_kwh is None and per_hour is None else (per_kwh or 0.0, per_hour or 0.0)


def named_numbers(option: str, texts: Sequence[str] | None) -> dict[str, float]:
    """What ``option SYSTEM=NUMBER``, given any number of times, says by system. Raises UserError."""
    numbers: dict[str, float] = {}
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not equals or not 0 <= value < float("inf"):
            raise UserError(f"{option} {text}: write it as {option} SYSTEM=NUMBER with a number of at least 0")
        if name in numbers:
            raise UserError(f"a system can have one {option}: {name} has two")
        numbers[name] = value
    return numbers


class MeasureOptions:
    """The options of ``measure``, by the names of the fields that ``harness.measuring.planned_run.prepare`` takes.

    Where a default is written here, it is that field's.
    """

    output: Annotated[
        Path | None,
        Option("--output-dir", "-o", help="Run directory; measuring into it again resumes.", show_default="runs/…"),
    ] = None
    model: Annotated[str, Option("--model", "-m", help="Preset, Hugging Face id or folder, or .gguf file.")] = (
        "smollm2-135m"
    )
    backend: Annotated[str, Option(help="Runtime: transformers, llama-cpp or fake.")] = "transformers"
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, cuda:0,1, mps or metal.")] = "auto"
    dtype: Annotated[
        str,
        Option(
            "--dtype",
            "--quant",
            help="Weights: a torch dtype, bnb-int8, bnb-nf4, torchao-int8 or -int4; for llama-cpp F16, Q8_0, Q4_0.",
        ),
    ] = "auto"
    kv_cache: Annotated[
        bool | None,
        Option("--kv-cache/--no-kv-cache", help="Use the KV cache.", show_default="on; off in the protocol paper"),
    ] = None
    protocol: Annotated[
        str,
        Option(help="quick (5 % precision), precise (2 %, further points) or paper (the paper's sweeps, no KV cache)."),
    ] = "quick"
    input_tokens: Annotated[
        str | None,
        Option(
            "--input-tokens", "-p", help="Input sweep: 8,64,512 or 8-2048*2 or 128-1024+128.", show_default=PROTOCOLS
        ),
    ] = None
    output_tokens: Annotated[
        str | None, Option("--output-tokens", "-n", help="Output sweep, same syntax as -p.", show_default=PROTOCOLS)
    ] = None
    fixed_input: FixedInput = 32
    fixed_output: FixedOutput = 32
    grid: Annotated[bool, Option("--grid", help="Measure the full product of inputs and outputs.")] = False
    points: Annotated[
        list[str] | None,
        Option("--point", help="Also measure this request size: input,output. Repeatable.", show_default="none"),
    ] = None
    threads: Annotated[int | None, Option(min=1, help="CPU threads of the backend.", show_default="its choice")] = None
    compile: Annotated[
        Compile, Option("--compile", help="How decode steps are launched: one by one, as a CUDA graph, or compiled.")
    ] = Compile.NONE
    prefill_chunk: Annotated[
        int | None, Option(min=1, help="Maximum input tokens per forward pass.", show_default="all")
    ] = None
    batch_size: Annotated[int, Option(min=1, help="Sequences per request.")] = 1
    seed: Annotated[
        int, Option(min=0, max=2**31 - 1, help="Seed for random weights, input tokens and the order of points.")
    ] = 0
    timeout_s: Annotated[
        float, Option("--timeout", min=0.001, max=1e6, help="Give up on a trial after this many seconds.")
    ] = 600.0
    min_window_s: Annotated[
        float | None,
        Option(
            "--min-window",
            min=0.0,
            help="Shortest trial in seconds: requests repeat to fill it.",
            show_default=PROTOCOLS,
        ),
    ] = None
    max_window_s: Annotated[
        float | None,
        Option(
            "--max-window",
            min=0.001,
            help="Longest trial in seconds, even if a sensor needs longer.",
            show_default=PROTOCOLS,
        ),
    ] = None
    max_trials: Annotated[
        int | None,
        Option(min=1, help="Maximum number of trials per point, warm-up not included.", show_default=PROTOCOLS),
    ] = None
    precision: Annotated[
        float | None,
        Option(min=1e-6, max=1.0, help="Stop a point at this relative 95 % half-width.", show_default=PROTOCOLS),
    ] = None
    probes: Annotated[str, Option(help="Power sources: auto, none, or names joined by commas.")] = "auto"
    rate_hz: Annotated[float, Option("--rate", min=0.1, max=1000.0, help="Samples per second and power source.")] = 20.0
    cpu_watts: Annotated[
        float | None,
        Option(
            min=0.001,
            help="Declared power of the whole CPU under full load, W, for the estimate.",
            show_default="an assumption",
        ),
    ] = None
    attribution: Annotated[
        Attribution, Option(help="Count the inference process's share of the CPU's energy, or all of it.")
    ] = Attribution.SYSTEM
    calibration: Annotated[
        list[str] | None,
        Option("--calibrate", help="DOMAIN=gain,offset or a TOML file. Repeatable.", show_default="none"),
    ] = None
    max_foreign_load: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Mark trials during which other programs used more of the CPU."),
    ] = 0.1
    dry_run: Annotated[bool, Option("--dry-run", help="Print the plan and a guess of its time; measure nothing.")] = (
        False
    )
    pictures: Annotated[
        bool, Option("--pictures", help="Then fit, draw and write the report, into the run directory.")
    ] = False


def takes(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command, a function of keyword arguments, the options that the annotations of a class declare."""

    def declared(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(options, include_extras=True)
        parameters = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=getattr(options, name), annotation=hint)
            for name, hint in hints.items()
        ]
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = hints
        return command

    return declared
