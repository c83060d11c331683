"""``joulebench threshold``: up to which size requests should go to the small system."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from typer import Argument, Option

from harness.cli import options
from harness.core.errors import UserError

Systems = Annotated[
    list[str] | None,
    Argument(metavar="SMALL LARGE", help=f"The two systems, the small one first. {options.SYSTEM}", show_default=False),
]

Slo = Annotated[
    float | None,
    Option(min=0, callback=options.finite, help="Latency objective in seconds: what share of the requests keeps it."),
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
    from harness.deciding.answers import decide_threshold
    from harness.deciding.exported_rule import save_rule
    from harness.deciding.trace_files import load_workload
    from harness.showing.decisions import print_threshold
    from harness.showing.threshold_figures import write_threshold

    answer = decide_threshold(
        *_pair(systems or [], small, large),
        load_workload(workload, input_column, output_column, skip_bad, output_tokens, form),
        key=key,
        weight=weight,
        scale=scale,
        reference=reference,
        prices=options.prices(price_per_kwh, price_per_hour),
        boundary=boundary,
        idle=idle,
        allow_mixed=allow_mixed,
        horizon_s=horizon_s,
        slo_s=slo,
    )
    files = [] if output is None else write_threshold(answer, output)
    if export is not None:
        save_rule(answer, export)
        files.append(export)
    options.print_notes(answer.fitted)
    print_threshold(answer, files, as_json)


def _pair(systems: list[str], small: str | None, large: str | None) -> tuple[str, str]:
    """The small and the large system, as plain arguments or by the options of earlier releases. Raises UserError."""
    given = systems or [system for system in (small, large) if system is not None]
    if len(given) > 2:
        raise UserError(f"a threshold parts two systems, not {len(given)}; for more: joulebench route A B C …")
    if len(given) < 2 or (systems and (small or large)):
        raise UserError("name two systems, the small one first: joulebench threshold SMALL LARGE")
    return given[0], given[1]
