"""What the person at the terminal sees of fits, profiles and predictions."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from harness.core.quantities import Method
from harness.core.sizes import request_words
from harness.core.wording import estimated, number, percent, plus_minus
from harness.modelling.fitting import Quantity, coefficients, cost_model, point_error
from harness.modelling.measurements import SuspectTrial
from harness.modelling.model_schema import CostModel, PointError
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import Loaded, ProfileFit, held_out_words
from harness.showing.terminal import print_all, print_json, records_of, table_of

SHOWN_TRIALS = 5
"""Suspect trials of a quantity that are printed one by one."""
OUTSIDE = "outside the measured range"
HELD_OUT = "held-out error: mean relative error at points left out of the fit"


def print_fit(made: ProfileFit, output: Path | None, as_json: bool) -> None:
    """Held-out errors of every form, suspects and what can't be told; as JSON the coefficients too."""
    pooled = made.pooled
    if as_json:
        print_json({quantity.name: _fit_json(quantity, pooled.suspect_trials) for quantity in made.quantities})
        return
    # The energy of a single component is the energy.
    components = len(made.profile.components)
    shown = [q for q in made.quantities if q.name in ("runtime", "energy") or components > 1]
    cache = "on" if pooled.identity.kv_cache else "off"
    written = f"profile written to {output}" if output else "no profile written; name a file with -o"
    print_all(
        [
            f"{made.profile.name}: held-out error {held_out_words(made.profile)}",
            f"{len(pooled.measurements)} points, KV cache {cache}",
            _forms_table(shown),
            *(line for quantity in shown if (line := _margin(quantity))),
            *_methods(made, shown),
            *_doubts_of(shown, pooled.suspect_trials, pooled.identity.kv_cache),
            *pooled.provenance.notes,
            written,
        ]
    )


def _forms_table(quantities: Sequence[Quantity]) -> Table:
    """Every form of every quantity with its errors."""
    table = table_of("quantity", "form", "error at fitted points", "held-out error", "worst held-out point", "")
    for column in (table.columns[1], *table.columns[4:]):
        column.justify = "left"
    for quantity in quantities:
        for name, fitted in quantity.fits.items():
            worst = _point(point_error(quantity.used, fitted, fitted.worst))
            said = fitted.refusal or ("chosen" if name == quantity.chosen else "")
            table.add_row(quantity.name, name, percent(fitted.mape), percent(fitted.loo_mape), worst, said)
    return table


def _methods(made: ProfileFit, quantities: Sequence[Quantity]) -> list[str]:
    """How each energy was measured; that it is estimated is said with its error."""
    methods = made.pooled.power.methods
    named = [(q.name, methods.get("total" if q.name == "energy" else q.name)) for q in quantities if q.unit == "J"]
    return [f"{name}: {method or 'method unknown'}" for name, method in named if method != "estimated"]


def _doubts_of(quantities: Sequence[Quantity], trials: Sequence[SuspectTrial], kv_cache: bool) -> Iterator[str]:
    """Suspects of each quantity, then what the points can't tell, each thing once."""
    models = {quantity.name: cost_model(quantity, kv_cache) for quantity in quantities}
    for quantity in quantities:
        if quantity.dropped:
            yield f"{quantity.name}: held-out error with the dropped points {percent(quantity.mape_with_dropped)}"
        yield from _suspects(quantity.name, models[quantity.name])
        yield from _suspect_trials([trial for trial in trials if trial.quantity == quantity.name], quantity.unit)
    yield from dict.fromkeys(note for model in models.values() for note in model.notes)


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


def _suspect_trials(trials: Sequence[SuspectTrial], unit: str) -> Iterator[str]:
    for trial in trials[:SHOWN_TRIALS]:
        yield (
            f"{trial.quantity}: suspect trial at {request_words(trial.input_tokens, trial.output_tokens)}: "
            f"{number(trial.value)} {unit}, where the median is {number(trial.median)} {unit}; "
            "kept; remove it from the data if it is wrong"
        )
    if len(trials) > SHOWN_TRIALS:
        yield f"{trials[0].quantity}: {len(trials) - SHOWN_TRIALS} more suspect trials, see --json"


def _margin(quantity: Quantity) -> str:
    """By how much the chosen form is better, or another would be; nothing where no other can be used."""
    usable = [name for name, fitted in quantity.fits.items() if fitted.refusal is None and name != quantity.chosen]
    if not usable:
        return ""
    errors = {name: fitted.loo_mape for name, fitted in quantity.fits.items()}
    chosen, other = quantity.chosen, min(usable, key=errors.__getitem__)
    better, worse = (chosen, other) if errors[chosen] <= errors[other] else (other, chosen)
    remedy = "" if better == chosen else f"; --form {other} takes it"
    return (
        f"{quantity.name}: {better} fits better than {worse} "
        f"(held-out error {percent(errors[better])} against {percent(errors[worse])}){remedy}"
    )


def _suspects(quantity: str, model: CostModel) -> Iterator[str]:
    for suspect in model.suspects:
        yield (
            f"{quantity}: suspect point {_point(suspect)}, far outside the scatter of the others; "
            "--drop-suspects leaves it out"
        )
    for dropped in model.dropped:
        yield f"{quantity}: dropped point {_point(dropped)}"


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
    table = table_of("name", "KV\ncache", "boundary", "points", "held-out error\nruntime", "\nenergy")
    for column in table.columns[1:3]:
        column.justify = "left"
    for p in profiles:
        energy = "not measured" if p.energy is None else percent(p.energy.model.held_out.mape)
        energy += " (estimated)" if p.energy_method() == "estimated" else ""
        boundary = "+".join(sorted(p.components)) or "–"
        cache = "on" if p.identity.kv_cache else "off"
        table.add_row(p.name, cache, boundary, str(len(p.measurements)), percent(p.runtime.held_out.mape), energy)
    print_all([table, HELD_OUT])


def print_profile(profile: Profile) -> None:
    """Everything a profile says, for reading."""
    print_all(_profile_lines(profile))


def _profile_lines(profile: Profile) -> Iterator[RenderableType]:
    yield f"{profile.name}: held-out error {held_out_words(profile)}"
    identity = profile.identity.model_dump()
    settings = identity.pop("settings", {})
    for key, value in identity.items():
        yield f"  {key}: {'unknown' if value in (None, []) else value}"
    for key, value in settings.items():
        yield f"  {key}: {'none' if value is None else value}"
    yield from _model_lines("runtime", profile.runtime)
    for what, part in [("all components", profile.energy), *profile.components.items()]:
        if part is not None:
            yield from _model_lines(f"energy of {what}", part.model)
            idle = "not measured"
            if part.idle_power_w is not None:
                idle = plus_minus(part.idle_power_w, part.idle_power_ci95_w, "W")
            yield f"energy of {what}: method {part.method or 'unknown'}, idle power {idle}"
    origin = profile.provenance
    yield f"source: {origin.source} (fitted {origin.created} by joulebench {origin.tool_version})"
    yield from dict.fromkeys(note for model in _models(profile) for note in model.notes)
    yield from origin.notes


def _models(profile: Profile) -> list[CostModel]:
    parts = [part for part in (profile.energy, *profile.components.values()) if part is not None]
    return [profile.runtime, *(part.model for part in parts)]


def _model_lines(quantity: str, model: CostModel) -> Iterator[RenderableType]:
    form = model.cost_form()
    yield (
        f"\n{quantity}: {form.describe()}; held-out error {percent(model.held_out.mape)}, worst "
        f"{_point(model.held_out.worst)}\n  measured {model.function.describe_range()}"
    )
    for line in form.formula(model.unit).splitlines():
        yield f"  {line}"
    table = table_of("coefficient", "value", "± standard error", "unit")
    table.columns[3].justify = "left"
    for c in model.coefficients:
        table.add_row(c.name, number(c.value), number(c.standard_error, 2), c.unit)
    yield table
    yield from _suspects(quantity, model)


def print_predictions(
    loaded: Loaded, sizes: Sequence[Sequence[int]], boundary: str | None, strict: bool, as_json: bool
) -> None:
    """Runtime and energy at every combination of input and output tokens with 95 % intervals; the energy's method.

    ``strict`` refuses sizes outside the measured range. Raises UserError.
    """
    profile = loaded.profile
    m, n = (axis.ravel() for axis in np.meshgrid(*sizes, indexing="ij"))
    predicted = {("runtime", "s"): profile.predict_runtime(m, n, strict=strict)}
    if profile.energy is not None or boundary is not None:
        predicted["energy", "J"] = profile.predict_energy(m, n, boundary, strict=strict)
    method = profile.energy_method(boundary)
    outside = np.logical_or.reduce([p.out_of_range for p in predicted.values()])
    if as_json:
        columns = {"input_tokens": m, "output_tokens": n}
        for (quantity, unit), p in predicted.items():
            said = {"": p.value, "_standard_error": p.sd["trials"], "_interval_95": p.request_95}
            columns |= {f"{quantity}{what}_{unit.lower()}": values for what, values in said.items()}
        rows = records_of({**columns, "out_of_range": outside})
        facts = {"profile": profile.name, "fitted": list(loaded.fitted), "energy_method": method, "predictions": rows}
        print_json(facts)
        return
    table = table_of("input", "output", *(", ".join(titled) for titled in predicted), "")
    table.columns[0].justify, table.columns[-1].justify = "right", "left"
    for i in range(m.size):
        cells = [
            estimated(p.value[i]) if unit == "J" and method == "estimated" else plus_minus(p.value[i], p.request_95[i])
            for (_, unit), p in predicted.items()
        ]
        table.add_row(str(m[i]), str(n[i]), *cells, OUTSIDE if outside[i] else "")
    print_all([table, "±: half-width of the 95 % interval of a new measurement", _energy_words(predicted, method)])


def _energy_words(predicted: Container[tuple[str, str]], method: Method | None) -> str:
    if ("energy", "J") not in predicted:
        return "energy was not measured"
    return "energy: ≈ estimated, not measured" if method == "estimated" else f"energy: {method or 'method unknown'}"


def _point(error: PointError) -> str:
    off = percent(error.relative_error, signed=True, digits=0)
    return f"{request_words(error.input_tokens, error.output_tokens)} ({off})"
