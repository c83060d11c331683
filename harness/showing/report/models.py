"""How good the models are: predicted against measured at every point, and the held-out errors, ready for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.core.sizes import request_words
from harness.core.statistics import Estimate
from harness.core.wording import percent
from harness.modelling.profile import Profile
from harness.modelling.profile_schema import Measurement, Statistic
from harness.modelling.served.held_out import HeldOutKind
from harness.showing.intervals import interval_parts
from harness.showing.panels import DrawnSystem, mean_95
from harness.showing.report.charts import six_digits, system_looks, value_words
from harness.showing.report.head import no_model_words

_LEFT_OUT: dict[HeldOutKind, str] = {
    "sizes": "at single sizes",
    "inner": "at inner numbers of requests in flight",
    "outermost": "at the most in flight",
}


def models(sources: Sequence[DrawnSystem]) -> dict[str, Any]:
    """A chart for runtime and one for energy, a sentence a source, and the table of all models."""
    charts = []
    for quantity, unit in (("runtime", "s"), ("energy", "J")):
        looks = zip(sources, system_looks(sources), strict=True)
        series = [one for source, look in looks if (one := _fitted(source, quantity, unit, look))]
        if series:
            charts.append({"title": quantity.capitalize(), "unit": unit, "series": series})
    named = len(sources) > 1
    columns = ["quantity", "method", "form", "error at fitted points", "held-out error", "furthest off"]
    columns += ["± of a mean cost", "± of one request"]
    return {
        "charts": charts,
        "sentences": [_sentence(source, named) for source in sources],
        "table": {
            "columns": ["system", *columns] if named else columns,
            "rows": [row for source in sources for row in _rows(source, named)],
        },
    }


def _fitted(source: DrawnSystem, quantity: str, unit: str, look: dict[str, Any]) -> dict[str, Any] | None:
    """Measured and predicted value of each point of a source; None without a model."""
    profile = source.profile
    if profile is None or (quantity == "energy" and profile.energy is None):
        return None
    guess = quantity == "energy" and source.method == "estimated"
    points = []
    held = list(_measured(source, quantity))
    sizes = [(round(measurement.input_tokens), round(measurement.output_tokens)) for measurement, _ in held]
    predict = profile.predict_runtime if quantity == "runtime" else profile.predict_energy
    predicted = predict(*np.array(sizes, dtype=np.int64).reshape(-1, 2).T)
    widths = predicted.mean_95.tolist()
    for (m, n), (_, measured), cost, width in zip(sizes, held, predicted.value.tolist(), widths, strict=True):
        off = percent(cost / measured.mean - 1, signed=True)
        value = value_words(mean_95(measured), unit, guess)
        said = value_words(Estimate(cost, width), unit, guess)
        words = f"{request_words(m, n, source.concurrency)}: {value}, predicted mean {said} ({off})"
        points.append([measured.mean, six_digits(cost), None, words])
    return {**look, "hollow": guess, "points": points}


def _measured(source: DrawnSystem, quantity: str) -> Iterator[tuple[Measurement, Statistic]]:
    for measurement in source.measurements:
        statistic = measurement.runtime_s if quantity == "runtime" else measurement.energy_j
        if statistic is not None and statistic.mean > 0:
            yield measurement, statistic


def _sentence(source: DrawnSystem, named: bool) -> str:
    """What a reader may expect of predictions at sizes that weren't measured."""
    profile = source.profile
    start = f"{source.name}: " if named else ""
    if profile is None:
        return f"{start}{no_model_words(source)}"
    parts = [f"{percent(profile.runtime.held_out.mape)} for runtime"]
    if profile.energy:
        kind = "estimated energy" if profile.energy.method == "estimated" else "energy"
        parts.append(f"{percent(profile.energy.model.held_out.mape)} for {kind}")
    worst = profile.runtime.held_out.worst
    at = request_words(worst.input_tokens, worst.output_tokens)
    return (
        f"{start}Held-out error: {' and '.join(parts)}. That is how far predictions were off on average at request "
        f"sizes left out of the fit; for runtime the furthest was {percent(worst.relative_error, signed=True)} at {at}."
        f"{_under_load(profile)}"
    )


def _under_load(profile: Profile) -> str:
    """What a reader may expect of predictions at numbers of requests in flight that weren't measured."""
    load = profile.under_load
    if load is None:
        return ""
    said = []
    for name, model in (("runtime", load.runtime), ("energy", load.energy)):
        errors = {} if model is None else model.held_out
        kinds = [f"{percent(errors[kind].mape)} {where}" for kind, where in _LEFT_OUT.items() if kind in errors]
        said += [f"{name} {', '.join(kinds)}"] if kinds else []
    return f" Under load, left out of the fit: {'; '.join(said)}."


def _rows(source: DrawnSystem, named: bool) -> Iterator[list[Any]]:
    profile = source.profile
    if profile is None:
        return
    rows = [("runtime", "measured", profile.runtime, profile.runtime_function)]
    energies = [("energy", profile.energy), *((f"energy of {c}", part) for c, part in profile.components.items())]
    rows += [(name, part.method or "unknown", part.model, part.function) for name, part in energies if part]
    for name, method, model, function in rows:
        parts = interval_parts(function)
        worst = model.held_out.worst
        where = (
            f"{request_words(worst.input_tokens, worst.output_tokens)} ({percent(worst.relative_error, signed=True)})"
        )
        yield [
            *([source.name] if named else []),
            name,
            method,
            model.form,
            percent(model.mape),
            percent(model.held_out.mape),
            where,
            *([percent(parts.mean_ci95), percent(parts.request_ci95)] if parts else ["–", "–"]),
        ]
