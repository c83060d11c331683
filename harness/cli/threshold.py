"""``joulebench threshold``: up to which size requests should go to the small system."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from harness.cli import options, rate_options
from harness.core.errors import UserError

if TYPE_CHECKING:
    from harness.deciding.workload import Workload

Systems = Annotated[
    list[str] | None,
    Argument(metavar="SMALL LARGE", help=f"The two systems, the small one first. {options.SYSTEM}", show_default=False),
]

Slo = Annotated[
    float | None,
    Option(
        min=0,
        callback=options.finite,
        help="Latency objective in seconds: what share of the requests keeps it; with --rate of the mean time.",
    ),
]

Key = StrEnum("Key", "INPUT OUTPUT TOTAL PRODUCT")
"""What the threshold is compared with."""


def threshold(
    systems: Systems = None,
    small: Annotated[str | None, Option(hidden=True)] = None,
    large: Annotated[str | None, Option(hidden=True)] = None,
    workload: options.WorkloadOption = options.DEFAULT_WORKLOAD,
    key: Annotated[Key, Option(help="What decides: input, output, total or product of tokens.")] = Key.INPUT,
    weight: options.Weight = None,
    scale: options.ScaleOption = options.Scale.REFERENCE,
    reference: options.Reference = None,
    price_per_kwh: options.PricePerKwh = None,
    price_per_hour: options.PricePerHour = None,
    boundary: options.Boundary = None,
    idle: options.IdleOption = options.Idle.INCLUDED,
    allow_mixed: options.AllowMixed = False,
    horizon_s: options.Horizon = None,
    slo: Slo = None,
    rate: rate_options.Rate = None,
    replicas: rate_options.Replicas = None,
    slots: rate_options.Slots = None,
    chunk_tokens: rate_options.ChunkTokens = None,
    kv_tokens: rate_options.KvTokens = None,
    off_when_idle: rate_options.OffWhenIdle = False,
    input_column: options.InputColumn = None,
    output_column: options.OutputColumn = None,
    form: options.LogForm = None,
    output_tokens: options.EveryOutput = None,
    skip_bad: options.SkipBad = False,
    as_json: options.AsJson = False,
    output: options.FigurePath = None,
    export: options.Export = None,
) -> None:
    """Find the token count up to which requests should go to the small system, and what that saves."""
    from harness.deciding.trace_files import load_workload

    pair = _pair(systems or [], small, large)
    sizes = options.Sizes(workload, input_column, output_column, skip_bad, output_tokens, form)
    prices = options.prices(price_per_kwh, price_per_hour)
    weighed: dict[str, Any] = {"weight": weight, "scale": scale, "reference": reference, "prices": prices}
    asked = {**weighed, "boundary": boundary, "idle": idle, "allow_mixed": allow_mixed, "slo_s": slo}
    bounds = {"--replicas": replicas, "--slots": slots, "--chunk-tokens": chunk_tokens, "--kv-tokens": kv_tokens}
    if rate is None:
        rate_options.refuse_without_rate({**bounds, "--off-when-idle": off_when_idle})
        requests = load_workload(*sizes)
        _answer(pair, requests, {**asked, "key": key, "horizon_s": horizon_s}, as_json, output, export)
        return
    rate_options.refuse_at_rate({"--horizon": horizon_s})
    fleet = {"limits": rate_options.limits_of(*bounds.values()), "off_when_idle": off_when_idle}
    _at_rate(pair, sizes, rate, key, {**asked, **fleet}, as_json, output, export)


def _answer(
    pair: tuple[str, str],
    requests: Workload,
    asked: dict[str, Any],
    as_json: bool,
    output: Path | None,
    export: Path | None,
) -> None:
    from harness.deciding.answers import decide_threshold
    from harness.deciding.exported_rule import save_rule
    from harness.showing.decisions import print_threshold
    from harness.showing.threshold_figures import write_threshold

    answer = decide_threshold(*pair, requests, **asked)
    files = [] if output is None else write_threshold(answer, output)
    if export is not None:
        save_rule(answer, export)
        files.append(export)
    options.print_notes(answer.fitted)
    print_threshold(answer, files, as_json)


def _at_rate(
    pair: tuple[str, str],
    sizes: options.Sizes,
    rate: str,
    key: str,
    asked: dict[str, Any],
    as_json: bool,
    output: Path | None,
    export: Path | None,
) -> None:
    from harness.deciding.rates.answers import RateOptions
    from harness.deciding.rates.rule import save_rate_rule
    from harness.deciding.rates.thresholds import decide_threshold_at_rate
    from harness.showing.rate_answers import print_threshold_at_rate
    from harness.showing.rate_figures import write_rate_curve

    answer = decide_threshold_at_rate(
        *pair, *rate_options.arriving_of(rate, sizes), key=key, asked=RateOptions(**asked)
    )
    files = [] if output is None else write_rate_curve(answer, output)
    if export is not None:
        save_rate_rule(answer, export)
        files.append(export)
    options.print_notes(answer.fitted)
    print_threshold_at_rate(answer, files, as_json)


def _pair(systems: list[str], small: str | None, large: str | None) -> tuple[str, str]:
    """The small and the large system, as plain arguments or by the options of earlier releases. Raises UserError."""
    given = systems or [system for system in (small, large) if system is not None]
    if len(given) > 2:
        raise UserError(f"a threshold parts two systems, not {len(given)}; for more: joulebench route A B C …")
    if len(given) < 2 or (systems and (small or large)):
        raise UserError("name two systems, the small one first: joulebench threshold SMALL LARGE")
    return given[0], given[1]
