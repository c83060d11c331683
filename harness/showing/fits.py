"""What the person at the terminal sees of a fit: its errors, its intervals and where they come from, its suspects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from harness.core.sizes import request_words
from harness.core.wording import number, percent
from harness.modelling.cost_function import CostFunction
from harness.modelling.fitting import Quantity, coefficients, cost_model, point_error
from harness.modelling.measurements import SuspectTrial
from harness.modelling.model_schema import MisfitRecord, ScatterRecord, SessionsRecord
from harness.modelling.profile_fit import ProfileFit, held_out_words
from harness.modelling.sources import Pooled
from harness.showing.intervals import SHARES, doubt_words, estimated_in, functions_of, interval_parts, intervals_table
from harness.showing.profiles import MOST_SHOWN, point_words, suspect_words
from harness.showing.served_fits import load_json, load_lines
from harness.showing.terminal import print_all, print_json, table_of


def print_fit(made: ProfileFit, output: Path | None, as_json: bool) -> None:
    """Held-out errors of every form, suspects and what can't be told; as JSON the coefficients too."""
    pooled, functions = made.pooled, functions_of(made.profile)
    if as_json:
        quantities = {quantity.name: quantity for quantity in made.quantities}
        found = {name: _fit_json(quantity, made, functions[name]) for name, quantity in quantities.items()}
        load = made.profile.under_load
        print_json(found | ({"under_load": load_json(load, made.load.slots_found)} if load else {}))
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
            intervals_table(
                {quantity.name: functions[quantity.name] for quantity in shown}, estimated_in(made.profile)
            ),
            SHARES,
            *_doubts_of(shown, pooled),
            *_load_lines(made, [quantity.name for quantity in shown]),
            *pooled.provenance.notes,
            written,
        ]
    )


def _load_lines(made: ProfileFit, shown: Sequence[str]) -> Iterator[RenderableType]:
    if made.profile.under_load:
        yield from load_lines(made.profile.under_load, shown, made.load.slots_found)


def _forms_table(quantities: Sequence[Quantity]) -> Table:
    """Every form of every quantity with its errors."""
    table = table_of("quantity", "form", "error at fitted points", "held-out error", "worst held-out point", "")
    for column in (table.columns[1], *table.columns[4:]):
        column.justify = "left"
    for quantity in quantities:
        for name, fitted in quantity.fits.items():
            worst = point_words(point_error(quantity.used, fitted, fitted.worst))
            said = fitted.refusal or ("chosen" if name == quantity.chosen else "")
            table.add_row(quantity.name, name, percent(fitted.mape), percent(fitted.loo_mape), worst, said)
    return table


def _methods(made: ProfileFit, quantities: Sequence[Quantity]) -> list[str]:
    """How each energy was measured; that it is estimated is said with its error."""
    methods = made.pooled.power.methods
    named = [(q.name, methods.get("total" if q.name == "energy" else q.name)) for q in quantities if q.unit == "J"]
    return [f"{name}: {method or 'method unknown'}" for name, method in named if method != "estimated"]


def _doubts_of(quantities: Sequence[Quantity], pooled: Pooled) -> Iterator[str]:
    """Doubts and suspects of each quantity, then what the points can't tell, each thing once."""
    models = {quantity.name: cost_model(quantity, pooled.identity.kv_cache) for quantity in quantities}
    yield from doubt_words(models)
    for quantity in quantities:
        if quantity.dropped:
            yield f"{quantity.name}: held-out error with the dropped points {percent(quantity.mape_with_dropped)}"
        yield from suspect_words(quantity.name, models[quantity.name], pooled.measurements)
        found = [trial for trial in pooled.suspect_trials if trial.quantity == quantity.name]
        yield from _suspect_trials(quantity.name, found, quantity.unit)
    yield from dict.fromkeys(note for model in models.values() for note in model.notes)


def _fit_json(quantity: Quantity, made: ProfileFit, function: CostFunction) -> dict[str, Any]:
    """A quantity in every form: errors, worst point, coefficients, suspects and why a form is refused; the intervals
    of the chosen one, and what part of their variance comes from where."""
    trials, parts = made.pooled.suspect_trials, interval_parts(function)
    energies = {"energy": made.profile.energy, **{str(c): part for c, part in made.profile.components.items()}}
    energy = energies.get(quantity.name)
    return {
        "unit": quantity.unit,
        "chosen": quantity.chosen,
        "points": len(quantity.used.cost),
        "dropped": [point.model_dump() for point in quantity.dropped],
        "mape_with_dropped": quantity.mape_with_dropped,
        "intervals": parts and asdict(parts),
        "sessions": SessionsRecord.of(quantity.fits[quantity.chosen].session).model_dump(),
        "gain_ci95": energy and energy.gain_ci95,
        "gain_source": energy and energy.gain_source,
        "suspect_trials": [asdict(trial) for trial in trials if trial.quantity == quantity.name],
        "forms": {
            name: {
                "mape": fitted.mape,
                "loo_mape": fitted.loo_mape,
                "worst_point": point_error(quantity.used, fitted, fitted.worst).model_dump(),
                "misfit": MisfitRecord.of(fitted.misfit).model_dump(),
                "scatter": ScatterRecord.of(fitted.scatter).model_dump() if fitted.scatter.factor > 0 else None,
                **fitted.form.parameters,
                "coefficients": [coefficient.model_dump() for coefficient in coefficients(fitted, quantity.unit)],
                "suspects": [point_error(quantity.used, fitted, i).model_dump() for i in fitted.suspects],
                "refusal": fitted.refusal,
                "notes": list(fitted.notes),
            }
            for name, fitted in quantity.fits.items()
        },
    }


def _suspect_trials(quantity: str, trials: Sequence[SuspectTrial], unit: str) -> Iterator[str]:
    """How many, and the worst of them. No advice: no cause is recorded, and honest scatter has far ones too."""
    if not trials:
        return
    worst = sorted(trials, key=lambda trial: -abs(trial.value / trial.median - 1))[:MOST_SHOWN]
    named = [
        f"{request_words(trial.input_tokens, trial.output_tokens)}: {number(trial.value)} {unit}, "
        f"median {number(trial.median)} {unit}"
        for trial in worst
    ]
    if len(trials) == 1:
        yield f"{quantity}: 1 trial lies far from the others of its point and is kept ({named[0]})"
    else:
        listed = "; --json lists all" if len(trials) > MOST_SHOWN else ""
        yield f"{quantity}: {len(trials)} trials lie far from the others of their points and are kept, the worst: " + (
            "; ".join(named) + listed
        )


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
