"""What the person at the terminal sees of fits, profiles and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from harness.core.quantities import Method
from harness.modelling.comparable import Comparison
from harness.modelling.profile_schema import CostModel, PointError
from harness.showing.terminal import print_json

if TYPE_CHECKING:
    from harness.modelling.fitting import Quantity
    from harness.modelling.measurements import SuspectTrial
    from harness.modelling.profile import Profile
    from harness.modelling.sources import Source


SHOWN_TRIALS = 5
"""Suspect trials of a quantity that are printed one by one."""


def print_fit(source: Source, quantities: Sequence[Quantity], output: Path | None) -> None:
    """Held-out errors of every form, suspects and what can't be told."""
    from harness.modelling.fitting import cost_model

    console = _console()
    console.print(f"{source.name}: {len(source.measurements)} points, {_cache(source.identity.kv_cache)}")
    table = _table("quantity", "form", "fitted MAPE", "held-out MAPE", "worst point", "")
    for quantity in quantities:
        for name, fitted in quantity.fits.items():
            at = quantity.used
            worst = PointError(
                input_tokens=at.input_tokens[fitted.worst],
                output_tokens=at.output_tokens[fitted.worst],
                relative_error=fitted.held_out[fitted.worst],
            )
            said = fitted.refusal or ("chosen" if name == quantity.chosen else "")
            table.add_row(quantity.name, name, f"{fitted.mape:.1%}", f"{fitted.loo_mape:.1%}", _point(worst), said)
    console.print(table)
    for quantity in quantities:
        model = cost_model(quantity, source.identity.kv_cache)
        _print_margin(console, quantity)
        if quantity.dropped:
            console.print(f"{quantity.name}: held-out error with the dropped points {quantity.mape_with_dropped:.1%}")
        _print_doubts(console, quantity.name, model)
        _print_suspect_trials(console, [trial for trial in source.suspect_trials if trial.quantity == quantity.name])
    for name in (quantity.name for quantity in quantities if quantity.name != "runtime"):
        method = source.power.methods.get("total" if name == "energy" else name)
        console.print(f"{name}: {method or 'method unknown'}")
    for note in source.provenance.notes:
        console.print(f"note: {note}")
    console.print(f"profile written to {output}" if output else "no profile written; name a file with -o")


def _print_suspect_trials(console: Console, trials: Sequence[SuspectTrial]) -> None:
    for trial in trials[:SHOWN_TRIALS]:
        console.print(
            f"{trial.quantity}: suspect trial at m = {trial.input_tokens:.4g}, n = {trial.output_tokens:.4g}: "
            f"{trial.value:.4g}, where the median is {trial.median:.4g}; kept, take it out of the data if it is none"
        )
    if len(trials) > SHOWN_TRIALS:
        console.print(f"{trials[0].quantity}: {len(trials) - SHOWN_TRIALS} more suspect trials, see --json")


def _print_margin(console: Console, quantity: Quantity) -> None:
    others = [fitted.loo_mape for name, fitted in quantity.fits.items() if name != quantity.chosen]
    margin = min(others) - quantity.fits[quantity.chosen].loo_mape
    better = "smaller" if margin >= 0 else "larger"
    console.print(
        f"{quantity.name}: the {quantity.chosen} form's held-out error is {abs(margin):.1%} of the cost {better} "
        f"than that of the {'other' if len(others) == 1 else 'best other'} form"
    )


def _print_doubts(console: Console, quantity: str, model: CostModel) -> None:
    for suspect in model.suspects:
        console.print(
            f"{quantity}: suspect point {_point(suspect)}, far outside the scatter of the others; "
            "--drop-suspects leaves it out"
        )
    for dropped in model.dropped:
        console.print(f"{quantity}: dropped point {_point(dropped)}")
    for note in model.notes:
        console.print(f"{quantity}: {note}")


def print_list(profiles: Sequence[Profile], as_json: bool) -> None:
    """Name, system, model and held-out errors of each profile."""
    rows = [
        {
            "name": p.name,
            "system": p.identity.system,
            "model": p.identity.model,
            "kv_cache": p.identity.kv_cache,
            "components": list(p.components),
            "points": len(p.measurements),
            "runtime_loo_mape": p.runtime.held_out.mape,
            "energy_loo_mape": None if p.energy is None else p.energy.model.held_out.mape,
            "energy_method": p.energy_method(),
        }
        for p in profiles
    ]
    if as_json:
        print_json(rows)
        return
    table = _table("name", "KV cache", "boundary", "points", "runtime error", "energy error")
    for p in profiles:
        energy = "not measured" if p.energy is None else f"{p.energy.model.held_out.mape:.1%}"
        energy += " (estimated)" if p.energy_method() == "estimated" else ""
        boundary = "+".join(p.components) or "–"
        cache = "on" if p.identity.kv_cache else "off"
        table.add_row(p.name, cache, boundary, str(len(p.measurements)), f"{p.runtime.held_out.mape:.1%}", energy)
    _console().print(table)
    _console().print("errors: mean absolute relative error at points left out of the fit")


def print_profile(profile: Profile) -> None:
    """Everything a profile says, for reading."""
    console = _console()
    console.print(f"{profile.name}")
    identity = profile.identity.model_dump()
    settings = identity.pop("settings", {})
    for key, value in identity.items():
        console.print(f"  {key}: {'unknown' if value in (None, []) else value}")
    for key, value in settings.items():
        console.print(f"  {key}: {'none' if value is None else value}")
    _print_model(console, "runtime", profile.runtime)
    for what, part in [("all components", profile.energy), *profile.components.items()]:
        if part is not None:
            _print_model(console, f"energy of {what}", part.model)
            interval = "" if part.idle_power_ci95_w is None else f" ± {part.idle_power_ci95_w:.2g}"
            idle = "not measured" if part.idle_power_w is None else f"{part.idle_power_w:.3g}{interval} W"
            console.print(f"energy of {what}: method {part.method or 'unknown'}, idle power {idle}")
    origin = profile.provenance
    console.print(f"source: {origin.source} (fitted {origin.created} by joulebench {origin.tool_version})")
    for note in origin.notes:
        console.print(f"note: {note}")


def _print_model(console: Console, quantity: str, model: CostModel) -> None:
    form = model.cost_form()
    console.print(
        f"\n{quantity}: {form.describe()}; held-out error {model.held_out.mape:.1%}, worst "
        f"{_point(model.held_out.worst)}\n  measured {model.function().describe_range()} tokens"
    )
    for line in form.formula(model.unit).splitlines():
        console.print(f"  {line}")
    table = _table("coefficient", "value", "± standard error", "unit")
    for c in model.coefficients:
        table.add_row(c.name, f"{c.value:.4g}", f"{c.standard_error:.2g}", c.unit)
    console.print(table)
    _print_doubts(console, quantity, model)


def print_predictions(
    profile: Profile, rows: Sequence[Mapping[str, Any]], energy_method: Method | None, as_json: bool
) -> None:
    """Predicted runtime and energy with 95 % intervals; how the energy behind them was measured."""
    if as_json:
        print_json({"profile": profile.name, "energy_method": energy_method, "predictions": rows})
        return
    has_energy = "energy_j" in rows[0]
    shown = _table("input", "output", "runtime s", *(["energy J"] if has_energy else []), "")
    for row in rows:
        cells = [_with_interval(row["runtime_s"], row["runtime_interval_95_s"])]
        if has_energy:
            cells.append(_with_interval(row["energy_j"], row["energy_interval_95_j"]))
        flag = "outside the measured range" if row["out_of_range"] else ""
        shown.add_row(str(row["input_tokens"]), str(row["output_tokens"]), *cells, flag)
    console = _console()
    console.print(shown)
    console.print("± is the half-width of the 95 % interval for one newly measured point")
    console.print(f"energy: {energy_method or 'method unknown'}" if has_energy else "energy was not measured")


def print_comparison(
    first: Profile, second: Profile, comparison: Comparison, rows: Sequence[Mapping[str, Any]], as_json: bool
) -> None:
    """Which of two systems is cheaper at each size."""
    if as_json:
        facts: dict[str, Any] = {"a": first.name, "b": second.name}
        facts["boundary"] = comparison.boundary and list(comparison.boundary)
        facts["energy_methods"] = [profile.energy_method(comparison.boundary) for profile in (first, second)]
        print_json({**facts, "mixed": comparison.mixed, "warnings": list(comparison.warnings), "points": rows})
        return
    console = _console()
    for warning in comparison.warnings:
        console.print(f"warning: {warning}")
    if comparison.boundary:
        console.print(f"energy of {'+'.join(comparison.boundary)}")
    quantities = [q for q in ("runtime", "energy") if f"{q}_ratio" in rows[0]]
    titles = [title for q in quantities for title in (f"{q} A / B", f"less {q}")]
    shown = _table("input", "output", *titles, "")
    for row in rows:
        cells = []
        for q in quantities:
            cells += [f"{row[f'{q}_ratio']:.3g}", row[f"cheaper_{q}"] or "not significant"]
        flags = ["outside the measured range"] if row["out_of_range"] else []
        flags += ["mixed"] if comparison.mixed else []
        shown.add_row(str(row["input_tokens"]), str(row["output_tokens"]), *cells, ", ".join(flags))
    console.print(f"A is {first.name}, B is {second.name}")
    console.print(shown)


def _point(error: PointError) -> str:
    return f"m = {error.input_tokens:.4g}, n = {error.output_tokens:.4g} ({error.relative_error:+.0%})"


def _with_interval(value: float, interval: float) -> str:
    return f"{value:.4g} ± {interval:.2g}"


def _cache(kv_cache: bool) -> str:
    return f"KV cache {'on' if kv_cache else 'off'}"


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _console() -> Console:
    # Without colours or wrapping where a program reads.
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=160)
