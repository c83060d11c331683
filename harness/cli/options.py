"""Options that several commands have, declared once so that they mean and read the same in each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, NamedTuple, get_type_hints

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
SensorCheckMode = StrEnum("SensorCheckMode", "AUTO OFF AGAIN")
"""Whether the timing of sensors is measured; ``EnergyConfig.sensor_check``."""


def finite(option: CallbackParam, value: float | None) -> float | None:
    """Callback of options that take a number; refuses before anything is read. Raises UserError."""
    check_number(option.opts[0], value)
    return value


SYSTEM = "Run directory, profile file or name of a shipped profile."
ProfileArgument = Annotated[str, Argument(metavar="PROFILE|RUN", help=SYSTEM, show_default=False)]
InputTokens = Annotated[str, Option("--input-tokens", "-p", help="Input tokens: 8,64,512 or 8-2048*2 or 128-1024+128.")]
OutputTokens = Annotated[str, Option("--output-tokens", "-n", help="Output tokens, same syntax as -p.")]
InFlight = Annotated[
    str | None,
    Option(
        "--concurrency",
        "-c",
        metavar="C",
        help="Requests in flight: 4 or 1,4,16 or 1-64*2; needs a profile that was measured at several.",
        show_default="as many as the profile is of",
    ),
]
FixedInput = Annotated[int, Option(min=1, help="Input tokens of the output sweep.")]
FixedOutput = Annotated[int, Option(min=1, help="Output tokens of the input sweep.")]

PROTOCOLS = "the protocol's"
DEFAULT_WORKLOAD = "alpaca"
WORKLOAD = "Built-in name (alpaca), workload file, request log or glob."
WorkloadOption = Annotated[str, Option("--workload", "-w", help=WORKLOAD)]
InputColumn = Annotated[str | None, Option(help="Column of input tokens in a log; a.b.c for a nested one.")]
OutputColumn = Annotated[str | None, Option(help="Column of output tokens in a log.")]
SkipBad = Annotated[bool, Option("--skip-bad", help="Leave broken rows out instead of refusing.")]
LogForm = Annotated[
    str | None, Option("--form", help="Form of the log: openai, anthropic, vllm-bench, …", show_default="recognised")
]
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

AsJson = Annotated[bool, Option("--json", help="Print the answer as JSON.")]
FigurePath = Annotated[
    Path | None, Option("--output", "-o", help="Write the figure as PDF, SVG, PNG and CSV under this name.")
]
Export = Annotated[Path | None, Option(help="Write the decision rule as JSON for a scheduler.")]


class Sizes(NamedTuple):
    """A workload as it was named, and how it is to be read."""

    workload: str
    input_column: str | None
    output_column: str | None
    skip_bad: bool
    output_tokens: int | None
    form: str | None


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


def assignments(option: str, texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """What ``option NAME=VALUE``, given any number of times, says. Raises UserError."""
    found = []
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"{option} {text}: write it as {option} COLUMN=VALUE")
        found.append((name.strip(), value.strip()))
    return tuple(found)


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
