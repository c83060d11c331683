"""Options of decisions at an arrival rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Option

from harness.cli import options
from harness.core.errors import UserError

if TYPE_CHECKING:
    from harness.deciding.rates.arrivals import Arriving
    from harness.deciding.simulated_answer import Limits
    from harness.deciding.workload import Workload

_PANEL = "At an arrival rate"
Rate = Annotated[
    str | None,
    Option(
        "--rate",
        help="Requests come at random at this rate (2/s, 30/min) or at the times of the trace (trace).",
        rich_help_panel=_PANEL,
    ),
]
Replicas = Annotated[
    list[str] | None, Option(help="S=2: so many machines of system S. Repeatable.", rich_help_panel=_PANEL)
]
Slots = Annotated[
    list[str] | None,
    Option(help="S=64: requests that S works on at once.", show_default="the profile's", rich_help_panel=_PANEL),
]
ChunkTokens = Annotated[
    list[str] | None,
    Option(help="S=2048: most tokens in a step of S.", show_default="the profile's", rich_help_panel=_PANEL),
]
KvTokens = Annotated[
    list[str] | None,
    Option(
        help="S=100000: tokens of context in the memory of S.", show_default="the profile's", rich_help_panel=_PANEL
    ),
]
OffWhenIdle = Annotated[
    bool,
    Option("--off-when-idle", help="Machines draw no power while nothing is in them.", rich_help_panel=_PANEL),
]


def rate_of(text: str) -> float | None:
    """Requests per second; None for ``trace``. Raises UserError."""
    return None if text == "trace" else one_rate(text, "a decision is at one rate; it draws the others itself")


def one_rate(text: str, why_one: str) -> float:
    """Requests per second. Raises UserError."""
    from harness.measuring.open_plan import parse_rates

    rates = parse_rates(text)
    if len(rates) > 1:
        raise UserError(f"--rate {text}: {why_one}")
    return rates[0]


def arriving_of(text: str, sizes: options.Sizes) -> tuple[Workload, Arriving]:
    """The requests and how they come: at a rate, or with ``trace`` at the times of the log. Raises UserError."""
    from harness.deciding.rates.answers import arriving, arriving_as_logged
    from harness.deciding.trace_files import load_workload

    rate_per_s = rate_of(text)
    if rate_per_s is not None:
        return arriving(load_workload(*sizes), rate_per_s)
    if sizes.skip_bad or sizes.output_tokens is not None:
        raise UserError("--skip-bad and --output-tokens can't be joined with --rate trace: give --rate 2/s")
    return arriving_as_logged(sizes.workload, sizes.input_column, sizes.output_column, sizes.form)


def limits_of(
    replicas: Sequence[str] | None,
    slots: Sequence[str] | None,
    chunk_tokens: Sequence[str] | None,
    kv_tokens: Sequence[str] | None,
) -> Limits:
    """What bounds the systems, by name. Raises UserError."""
    from harness.deciding.simulated_answer import Limits

    return Limits(
        options.named_numbers("--replicas", replicas),
        options.named_numbers("--slots", slots),
        options.named_numbers("--chunk-tokens", chunk_tokens),
        options.named_numbers("--kv-tokens", kv_tokens),
    )


def refuse_without_rate(given: dict[str, object]) -> None:
    """Raises UserError for options that mean something at a rate only."""
    for name, value in given.items():
        if value:
            raise UserError(f"{name} is of decisions at a rate: give --rate 2/s too")


def refuse_at_rate(given: dict[str, object]) -> None:
    """Raises UserError for options that mean nothing at a rate."""
    for name, value in given.items():
        if value:
            raise UserError(f"{name} can't be joined with --rate")
