"""What the person at the terminal sees of fits, profiles and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from harness.modelling.contrast import Contrast, Contrasts
from harness.modelling.fitting import Quantity, coefficients, cost_model, point_error
from harness.modelling.measurements import SuspectTrial
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import ProfileFit
from harness.modelling.profile_schema import CostModel, PointError
from harness.showing.terminal import print_json, print_whole, records_of

SHOWN_TRIALS = 5
"""Suspect trials of a quantity that are printed one by one."""
OUTSIDE = "outside the measured range"


def print_fit(made: ProfileFit, output: Path | None, as_json: bool) -> None:
    """Held-out errors of every form, suspects and what can't be told; as JSON the coefficients too."""
    pooled = made.pooled
    if as_json:
        print_json({quantity.name: _fit_json(quantity, pooled.suspect_trials) for quantity in made.quantities})
        return
    console = _console()
    cache = "on" if pooled.identity.kv_cache else "off"
    console.print(f"{pooled.name}: {len(pooled.measurements)} points, KV cache {cache}")
    table = _table("quantity", "form", "fitted MAPE", "held-out MAPE", "worst point", "")
    for quantity in made.quantities:
        for name, fitted in quantity.fits.items():
            worst = _point(point_error(quantity.used, fitted, fitted.worst))
            said = fitted.refusal or ("chosen" if name == quantity.chosen else "")
            table.add_row(quantity.name, name, f"{fitted.mape:.1%}", f"{fitted.loo_mape:.1%}", worst, said)
    console.print(table)
    for quantity in made.quantities:
        model = cost_model(quantity, pooled.identity.kv_cache)
        _print_margin(console, quantity)
        if quantity.dropped:
            console.print(f"{quantity.name}: held-out error with the dropped points {quantity.mape_with_dropped:.1%}")
        _print_doubts(console, quantity.name, model)
        _print_suspect_trials(console, [trial for trial in pooled.suspect_trials if trial.quantity == quantity.name])
    for name in (quantity.name for quantity in made.quantities if quantity.name != "runtime"):
        method = pooled.power.methods.get("total" if name == "energy" else name)
        console.print(f"{name}: {method or 'method unknown'}")
    for note in pooled.provenance.notes:
        console.print(f"note: {note}")
    console.print(f"profile written to {output}" if output else "no profile written; name a file with -o")


def _fit_json(quantity: Quantity, trials: Sequence[SuspectTrial]) -> dict[str, Any]:
    """A quantity in every form: errors, worst point, coefficients, suspects and why a form is refused."""
    return {
        "unit": quantity.unit,
        "chosen": quantity.chosen,
        "points": len(quantity.used.cost),
        "dropped": [point.model_dump() for point in quantity.dropped],
        "mape_with_dropped": quantity.mape_with_dropped,
        "suspect_trials": [asdict(trial) for trial in trials if trial.quantity == quantity.name],
        "forms": {
            name: {
                "mape": fitted.mape,
                "loo_mape": fitted.loo_mape,
                "worst_point": point_error(quantity.used, fitted, fitted.worst).model_dump(),
                "misfit": fitted.misfit,
                **fitted.form.parameters,
                "coefficients": [coefficient.model_dump() for coefficient in coefficients(fitted, quantity.unit)],
                "suspects": [point_error(quantity.used, fitted, i).model_dump() for i in fitted.suspects],
                "refusal": fitted.refusal,
                "notes": list(fitted.notes),
            }
            for name, fitted in quantity.fits.items()
        },
    }


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
    table = _table("name", "KV\ncache", "boundary", "points", "runtime\nerror", "energy\nerror")
    for p in profiles:
        energy = "not measured" if p.energy is None else f"{p.energy.model.held_out.mape:.1%}"
        energy += " (estimated)" if p.energy_method() == "estimated" else ""
        boundary = "+".join(p.components) or "–"
        cache = "on" if p.identity.kv_cache else "off"
        table.add_row(p.name, cache, boundary, str(len(p.measurements)), f"{p.runtime.held_out.mape:.1%}", energy)
    print_whole(table, _console())
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
        f"{_point(model.held_out.worst)}\n  measured {model.function.describe_range()} tokens"
    )
    for line in form.formula(model.unit).splitlines():
        console.print(f"  {line}")
    table = _table("coefficient", "value", "± standard error", "unit")
    for c in model.coefficients:
        table.add_row(c.name, f"{c.value:.4g}", f"{c.standard_error:.2g}", c.unit)
    console.print(table)
    _print_doubts(console, quantity, model)


def print_predictions(
    profile: Profile, sizes: Sequence[Sequence[int]], boundary: str | None, strict: bool, as_json: bool
) -> None:
    """Runtime and energy at every combination of input and output tokens with 95 % intervals; the energy's method.

    ``strict`` refuses sizes outside the measured range. Raises UserError.
    """
    m, n = (axis.ravel() for axis in np.meshgrid(*sizes, indexing="ij"))
    predicted = {("runtime", "s"): profile.predict_runtime(m, n, strict=strict)}
    if profile.energy is not None or boundary is not None:
        predicted["energy", "J"] = profile.predict_energy(m, n, boundary, strict=strict)
    method = profile.energy_method(boundary)
    outside = np.logical_or.reduce([p.out_of_range for p in predicted.values()])
    if as_json:
        columns = {"input_tokens": m, "output_tokens": n}
        for (quantity, unit), p in predicted.items():
            said = {"": p.value, "_standard_error": p.standard_error, "_interval_95": p.interval_95}
            columns |= {f"{quantity}{what}_{unit.lower()}": values for what, values in said.items()}
        rows = records_of({**columns, "out_of_range": outside})
        print_json({"profile": profile.name, "energy_method": method, "predictions": rows})
        return
    shown = _table("input", "output", *(" ".join(titled) for titled in predicted), "")
    for i in range(m.size):
        cells = [f"{p.value[i]:.4g} ± {p.interval_95[i]:.2g}" for p in predicted.values()]
        shown.add_row(str(m[i]), str(n[i]), *cells, OUTSIDE if outside[i] else "")
    console = _console()
    console.print(shown)
    console.print("± is the half-width of the 95 % interval for one newly measured point")
    console.print(f"energy: {method or 'method unknown'}" if len(predicted) > 1 else "energy was not measured")


def print_comparison(contrasts: Contrasts, as_json: bool) -> None:
    """Which of two systems is cheaper at each size."""
    compared = {"runtime": contrasts.runtime} | ({"energy": contrasts.energy} if contrasts.energy else {})
    if as_json:
        print_json(_comparison_json(contrasts, compared))
        return
    console, comparison = _console(), contrasts.comparison
    for warning in comparison.warnings:
        console.print(f"warning: {warning}")
    if comparison.boundary:
        console.print(f"energy of {'+'.join(comparison.boundary)}")
    shown = _table("input", "output", *(title for q in compared for title in (f"{q} A / B", f"less {q}")), "")
    for i, outside in enumerate(contrasts.out_of_range):
        pairs = [(f"{c.ratio[i]:.3g}", c.cheaper[i] or "not significant") for c in compared.values()]
        flags = [*([OUTSIDE] if outside else []), *(["mixed"] if comparison.mixed else [])]
        size = str(contrasts.input_tokens[i]), str(contrasts.output_tokens[i])
        shown.add_row(*size, *(cell for pair in pairs for cell in pair), ", ".join(flags))
    console.print(f"A is {contrasts.first.name}, B is {contrasts.second.name}")
    console.print(shown)


def _comparison_json(contrasts: Contrasts, compared: Mapping[str, Contrast]) -> dict[str, Any]:
    columns = {name: getattr(contrasts, name) for name in ("input_tokens", "output_tokens", "out_of_range")}
    for quantity, contrast in compared.items():
        unit = "s" if quantity == "runtime" else "j"
        columns[f"{quantity}_ratio"] = contrast.ratio
        columns[f"{quantity}_difference_{unit}"] = contrast.difference
        columns[f"{quantity}_difference_interval_95_{unit}"] = contrast.interval_95
        columns[f"cheaper_{quantity}"] = contrast.cheaper
    boundary = contrasts.comparison.boundary
    return {
        "a": contrasts.first.name,
        "b": contrasts.second.name,
        "boundary": boundary and list(boundary),
        "energy_methods": [profile.energy_method(boundary) for profile in (contrasts.first, contrasts.second)],
        "mixed": contrasts.comparison.mixed,
        "warnings": list(contrasts.comparison.warnings),
        "points": records_of(columns),
    }


def _point(error: PointError) -> str:
    return f"m = {error.input_tokens:.4g}, n = {error.output_tokens:.4g} ({error.relative_error:+.0%})"


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _console() -> Console:
    # Without colours or wrapping where a program reads.
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=160)
