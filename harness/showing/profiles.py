"""What the person at the terminal sees of profiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from harness.core.sizes import request_words
from harness.core.wording import number, percent, plus_minus
from harness.modelling.model_schema import CostModel, PointError
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import held_out_words
from harness.modelling.profile_schema import Measurement
from harness.showing.intervals import SHARES, doubt_words, estimated_in, functions_of, intervals_table, models_of
from harness.showing.terminal import print_all, print_json, table_of

MOST_SHOWN = 3
"""Suspects of a quantity that are printed."""
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


def point_words(error: PointError) -> str:
    off = percent(error.relative_error, signed=True, digits=0)
    return f"{request_words(error.input_tokens, error.output_tokens)} ({off})"
