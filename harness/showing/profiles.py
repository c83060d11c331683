"""What the person at the terminal sees of profiles and predictions."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence

import numpy as np
from rich.console import RenderableType

from harness.core.quantities import Method
from harness.core.sizes import request_words
from harness.core.wording import estimated, number, percent, plus_minus
from harness.modelling.cost_function import TOO_FAR, Prediction
from harness.modelling.model_schema import CostModel, PointError
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import Loaded, held_out_words
from harness.modelling.profile_schema import Measurement
from harness.showing.comparisons import OUTSIDE_MEASURED
from harness.showing.intervals import SHARES, doubt_words, estimated_in, functions_of, intervals_table, models_of
from harness.showing.terminal import print_all, print_json, records_of, table_of

MOST_SHOWN = 3
"""Suspects of a quantity that are printed."""
EXTRAPOLATED = "extrapolated"
INTERVALS = (
    "95 % intervals: ± beside a mean is that of the mean cost of requests of this size, on another day; one request: "
    "that of a single new one"
)
HELD_OUT = "held-out error: mean relative error at points left out of the fit"


def suspect_words(quantity: str, model: CostModel, measurements: Sequence[Measurement]) -> Iterator[str]:
    """Suspect and dropped points: how many, and the worst. To leave one out is advised where a cause is recorded."""
    disturbed = {(point.input_tokens, point.output_tokens) for point in measurements if point.disturbed_trials}
    if model.suspects:
        suspects = sorted(model.suspects, key=lambda suspect: -abs(suspect.relative_error))
        caused = sum((suspect.input_tokens, suspect.output_tokens) in disturbed for suspect in suspects)
        one = len(suspects) == 1
        named = f"suspect point {point_words(suspects[0])}" if one else f"{len(suspects)} suspect points"
        which = "" if one else f": {_worst(suspects)}"
        advice = (
            "; disturbed when measured: --drop-suspects leaves it out"
            if one
            else (f"; {caused} of them disturbed when measured: --drop-suspects leaves all of them out")
        )
        yield f"{quantity}: {named}, far outside the scatter of the others{which}{advice if caused else ''}"
    if model.dropped:
        count = "point" if len(model.dropped) == 1 else f"{len(model.dropped)} points:"
        yield f"{quantity}: dropped {count} {_worst(model.dropped)}"


def _worst(points: Sequence[PointError]) -> str:
    """The worst three of some points."""
    first = sorted(points, key=lambda point: -abs(point.relative_error))[:MOST_SHOWN]
    more = " and others" if len(points) > MOST_SHOWN else ""
    return ", ".join(map(point_words, first)) + more


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
    yield from _model_lines("runtime", profile.runtime, profile.measurements)
    for what, part in [("all components", profile.energy), *profile.components.items()]:
        if part is not None:
            yield from _model_lines(f"energy of {what}", part.model, profile.measurements)
            idle = "not measured"
            if part.idle_power_w is not None:
                idle = plus_minus(part.idle_power_w, part.idle_power_ci95_w, "W")
            yield f"energy of {what}: method {part.method or 'unknown'}, idle power {idle}"
            yield f"energy of {what}: gain of its meters ± {percent(part.gain_ci95)} ({part.gain_source})"
    yield intervals_table(functions_of(profile), estimated_in(profile))
    yield SHARES
    yield from doubt_words(models_of(profile))
    origin = profile.provenance
    yield f"source: {origin.source} (fitted {origin.created} by joulebench {origin.tool_version})"
    yield from dict.fromkeys(note for model in models_of(profile).values() for note in model.notes)
    yield from origin.notes


def _model_lines(quantity: str, model: CostModel, measurements: Sequence[Measurement]) -> Iterator[RenderableType]:
    form = model.cost_form()
    yield (
        f"\n{quantity}: {form.describe()}; held-out error {percent(model.held_out.mape)}, worst "
        f"{point_words(model.held_out.worst)}\n  measured {model.function.describe_range()}"
    )
    for line in form.formula(model.unit).splitlines():
        yield f"  {line}"
    table = table_of("coefficient", "value", "± standard error", "unit")
    table.columns[3].justify = "left"
    for c in model.coefficients:
        table.add_row(c.name, number(c.value), number(c.standard_error, 2), c.unit)
    yield table
    yield from suspect_words(quantity, model, measurements)


def print_predictions(
    loaded: Loaded, sizes: Sequence[Sequence[int]], boundary: str | None, strict: bool, as_json: bool
) -> None:
    """Runtime and energy at every combination of input and output tokens, with the 95 % intervals of the mean cost and
    of one new request; the energy's method.

    ``strict`` refuses sizes outside the measured range. Raises UserError.
    """
    profile = loaded.profile
    m, n = (axis.ravel() for axis in np.meshgrid(*sizes, indexing="ij"))
    predicted = {("runtime", "s"): profile.predict_runtime(m, n, strict=strict)}
    if profile.energy is not None or boundary is not None:
        predicted["energy", "J"] = profile.predict_energy(m, n, boundary, strict=strict)
    method, gain_ci95 = profile.energy_method(boundary), profile.gain_ci95(boundary)
    outside = np.logical_or.reduce([p.out_of_range for p in predicted.values()])
    too_far = np.logical_or.reduce([p.too_far for p in predicted.values()])
    if as_json:
        columns = {"input_tokens": m, "output_tokens": n}
        for (quantity, unit), p in predicted.items():
            said = {"": p.value, "_mean_ci95": p.mean_95, "_request_ci95": p.request_95}
            columns |= {f"{quantity}{what}_{unit.lower()}": values for what, values in said.items()}
        facts = {"profile": profile.name, "fitted": list(loaded.fitted), "energy_method": method}
        rows = records_of({**columns, "out_of_range": outside, "too_far": too_far})
        print_json(facts | {"energy_gain_ci95": gain_ci95, "predictions": rows})
        return
    titles = (title for quantity, unit in predicted for title in (f"mean {quantity}, {unit}", "one request"))
    table = table_of("input", "output", *titles, "")
    table.columns[0].justify, table.columns[-1].justify = "right", "left"
    guess = method == "estimated"
    columns_of = [_value_cells(p, estimate=guess and quantity == "energy") for (quantity, _), p in predicted.items()]
    for i in range(m.size):
        cells = [cell for column in columns_of for cell in column[i]]
        where = OUTSIDE_MEASURED if too_far[i] else EXTRAPOLATED if outside[i] else ""
        table.add_row(str(m[i]), str(n[i]), *cells, where)
    beyond = [f"{EXTRAPOLATED}: outside the measured range"] if (outside & ~too_far).any() else []
    far = [f"{OUTSIDE_MEASURED}: by more than {TOO_FAR:g} octaves, where no interval is known"] if too_far.any() else []
    print_all([table, INTERVALS, *beyond, *far, _energy_words(predicted, method, gain_ci95)])


def _value_cells(predicted: Prediction, estimate: bool) -> list[tuple[str, str]]:
    """For each size the mean with its interval and the half-width of that of one request.

    Estimates and what lies too far outside have no interval.
    """
    rows = zip(predicted.value.tolist(), predicted.mean_95.tolist(), predicted.request_95.tolist(), strict=True)
    return [_cells(*row, estimate=estimate) for row in rows]


def _cells(value: float, mean_95: float, request_95: float, *, estimate: bool) -> tuple[str, str]:
    if estimate:
        return estimated(value), ""
    if math.isnan(mean_95):
        return number(value), ""
    return plus_minus(value, mean_95), f"± {plus_minus(value, request_95).partition(' ± ')[2]}"


def _energy_words(predicted: Container[tuple[str, str]], method: Method | None, gain_ci95: float | None) -> str:
    if ("energy", "J") not in predicted:
        return "energy was not measured"
    if method == "estimated":
        return "energy: ≈ estimated, not measured"
    gain = f", its meters' gain of ± {percent(gain_ci95)} in both intervals" if gain_ci95 else ""
    return f"energy: {method or 'method unknown'}{gain}"


def point_words(error: PointError) -> str:
    off = percent(error.relative_error, signed=True, digits=0)
    return f"{request_words(error.input_tokens, error.output_tokens)} ({off})"
