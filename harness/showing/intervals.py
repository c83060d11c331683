"""How wide a model's 95 % intervals are at the sizes measured, and what makes them so wide."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from harness.core.wording import percent
from harness.modelling.cost_function import CostFunction
from harness.modelling.doubt import MEAN, REQUEST, Source, shares
from harness.modelling.model_schema import CostModel
from harness.modelling.profile import Profile
from harness.showing.terminal import table_of

SHARES = "from …: share of the variance behind the mean's interval"
"""What the last columns of ``intervals_table`` say."""


@dataclass(frozen=True)
class IntervalParts:
    """Relative half-widths, medians over the sizes measured, and what part of the variance each source has."""

    mean_ci95: float
    """Of the mean cost of requests of one size."""
    request_ci95: float
    """Of one new request."""
    mean_shares: dict[Source, float]
    """Of the mean's variance, by source; they add up to 1."""
    request_shares: dict[Source, float]
    """The same of one request's."""


def interval_parts(function: CostFunction) -> IntervalParts | None:
    """The parts of a function's intervals; None where it costs nothing at any size."""
    m, n = np.maximum(np.array(function.range.points).round(), 1).T
    predicted = function.predict(m, n)
    some = predicted.value > 0
    if not some.any():
        return None
    value = predicted.value[some]
    variances: dict[Source, float] = {
        source: float(np.mean((predicted.sd[source][some] / value) ** 2)) for source in REQUEST
    }
    widths = [float(np.median(width[some] / value)) for width in (predicted.mean_95, predicted.request_95)]
    of_mean: dict[Source, float] = {source: variances[source] for source in MEAN}
    return IntervalParts(widths[0], widths[1], shares(of_mean), shares(variances))


def functions_of(profile: Profile) -> dict[str, CostFunction]:
    """The functions of a profile by quantity: ``runtime``, ``energy`` and each component."""
    functions = {"runtime": profile.runtime_function}
    if profile.energy:
        functions["energy"] = profile.energy.function
    return functions | {str(component): part.function for component, part in profile.components.items()}


def models_of(profile: Profile) -> dict[str, CostModel]:
    """The models of a profile by quantity, as ``functions_of``."""
    models = {"runtime": profile.runtime}
    if profile.energy:
        models["energy"] = profile.energy.model
    return models | {str(component): part.model for component, part in profile.components.items()}


def estimated_in(profile: Profile) -> set[str]:
    """The quantities of a profile, called as in ``functions_of``, that are estimated and not measured."""
    parts = {"energy": profile.energy, **{str(component): part for component, part in profile.components.items()}}
    return {quantity for quantity, part in parts.items() if part and part.method == "estimated"}


def intervals_table(functions: Mapping[str, CostFunction], estimated: Collection[str]) -> Table:
    """Width and parts of each quantity's intervals; what is ``estimated`` is marked."""
    table = table_of(
        "95 % interval at measured sizes", "± of the mean", "± of one request", *(f"from {s}" for s in MEAN)
    )
    for quantity, function in functions.items():
        if parts := interval_parts(function):
            of_mean = (percent(parts.mean_shares.get(source, 0.0), digits=0) for source in MEAN)
            named = f"{quantity} (estimated)" if quantity in estimated else quantity
            table.add_row(named, percent(parts.mean_ci95), percent(parts.request_ci95), *of_mean)
    return table


def doubt_words(models: Mapping[str, CostModel]) -> Iterator[str]:
    """Where the doubt of each quantity's model comes from, and what is only presumed of it."""
    said: dict[str, list[str]] = {}
    for quantity, model in models.items():
        for words in _doubts(model):
            said.setdefault(words, []).append(quantity)
    # What holds for several quantities is said once.
    yield from (f"{', '.join(quantities)}: {words}" for words, quantities in said.items())


def _doubts(model: CostModel) -> Iterator[str]:
    misfit, sessions = model.misfit, model.sessions
    grows = f", √(1 + {misfit.growth:.2g}·d²) times that d octaves from there" if misfit.growth else ""
    yield f"misfit {percent(misfit.sd)} (standard deviation) at a measured size{grows}"
    if model.scatter is None:
        yield "the misfit holds one request's scatter too"
    elif model.scatter.prior:
        yield f"scatter of one request presumed: {model.scatter.prior}"
    told = f"presumed: {sessions.prior}" if sessions.prior else f"told by {sessions.sessions} sessions"
    yield f"another session ± {percent(sessions.sd)} (standard deviation), {told}"
