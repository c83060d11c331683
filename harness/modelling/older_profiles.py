"""Profiles as earlier versions wrote them, read as what they meant, a version a step. Pure.

Version 2 had costs at one concurrency only.

Version 1 knew one misfit and one factor of its interval, that of a new measurement by the same meters on the same day;
what sessions and meters do was in no interval. The earliest files of it call the requests in flight ``batch_size``, and
every energy in them is that of the whole batch. Every form is homogeneous of degree one in its coefficients: a c-th of
each coefficient is a c-th of the cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from harness.core.quantities import Component, Facts, Method
from harness.core.statistics import freedom_of
from harness.modelling.doubt import Misfit
from harness.modelling.measurements import observations
from harness.modelling.meters import UNKNOWN, Metering, energy_shares, presumed
from harness.modelling.model_schema import (
    CostModel,
    EnergyModel,
    FittedModel,
    MeasuredSizes,
    MisfitRecord,
    ScatterRecord,
    SessionsRecord,
    stored_freedom,
)
from harness.modelling.profile_schema import Identity, MeasuredRange, Measurement, Provenance, Statistic, Strict
from harness.modelling.session_effect import of_one_session
from harness.runs.run_schema import Count

OLDER_KEY = "batch_size"
NOTE = (
    "from a file of schema version 1: its misfit counts at all sizes alike, and what it doesn't say of scatter, "
    "sessions and meters is told from its measurements or presumed; fit the trials again to know more"
)
_ENERGIES = ("energy_j", "prefill_energy_j", "decode_energy_j")


class _Model1(FittedModel):
    misfit: NonNegativeFloat
    """Relative standard deviation of new measurements about the model."""
    interval_factor_95: PositiveFloat
    """Student's factor."""
    range: MeasuredRange


class _Energy1(Strict):
    method: Method | None
    model: _Model1
    idle_power_w: NonNegativeFloat | None
    idle_power_ci95_w: NonNegativeFloat | None


class _Identity1(Identity):
    concurrency: Count | None = None
    batch_size: Count | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> _Identity1:
        given = {"concurrency", OLDER_KEY} & self.model_fields_set
        if len(given) != 1:
            raise ValueError("concurrency and batch_size are two names of one thing: one of them must be given")
        return self


class _Profile1(Strict):
    schema_version: Literal[1]
    name: str
    identity: _Identity1
    runtime: _Model1
    energy: _Energy1 | None
    components: dict[Component, _Energy1]
    measurements: list[Measurement] = Field(min_length=1)
    provenance: Provenance

    def upgraded(self) -> Facts:
        """The same profile in version 2, its energies per request."""
        identity = self.identity
        batch = identity.batch_size or 1
        points = self.measurements if batch == 1 else [_point_of_each(point, batch) for point in self.measurements]
        held = {name: getattr(identity, name) for name in Identity.model_fields if name in identity.model_fields_set}
        concurrency = identity.batch_size if OLDER_KEY in identity.model_fields_set else identity.concurrency
        methods = {name: part.method for name, part in self.components.items()}
        metering = presumed(methods, identity.device, energy_shares(points))
        components = {
            name: _energy(part, batch, points, name, metering[name]) for name, part in self.components.items()
        }
        energy = self.energy and _energy(self.energy, batch, points, "energy", metering.get("total", UNKNOWN))
        provenance = self.provenance.model_copy(update={"notes": [*self.provenance.notes, NOTE]})
        return {
            "schema_version": 2,
            "name": self.name,
            "identity": _facts(Identity(**{**held, "concurrency": concurrency})),
            "runtime": _facts(_model(self.runtime, 1, points, "runtime")),
            "energy": energy and _facts(energy),
            "components": {name: _facts(part) for name, part in components.items()},
            "measurements": [_facts(point) for point in points],
            "provenance": _facts(provenance),
        }


def _facts(part: Strict) -> Facts:
    return part.model_dump(mode="json")


def _from_1(content: Mapping[str, Any]) -> Facts:
    return _Profile1.model_validate_json(json.dumps(content)).upgraded()


def _from_2(content: Mapping[str, Any]) -> Facts:
    return {**content, "schema_version": 3, "under_load": None}


_STEPS: Final[Mapping[int, Callable[[Mapping[str, Any]], Facts]]] = {1: _from_1, 2: _from_2}
"""By version, how a file of it becomes one of the next."""


def renewed(text: str | bytes) -> str | bytes:
    """The text of a profile's file as the newest version has it; any text that is none of an earlier version as it is.

    Raises ValidationError for a broken file of version 1.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(content, dict) or _step(content) is None:
        return text
    while step := _step(content):
        content = step(content)
    return json.dumps(content)


def _step(content: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Facts] | None:
    """What makes the next version of a content; None where there is none."""
    version: Any = content.get("schema_version")
    # True is no version, though it equals 1; a file of version 2 with a field of version 3 is neither, and is refused.
    known = type(version) is int and not (version == 2 and "under_load" in content)
    return _STEPS.get(version) if known else None


def _energy(
    part: _Energy1, batch: int, points: Sequence[Measurement], quantity: str, metering: Metering
) -> EnergyModel:
    """The energy of one of the ``batch`` requests whose energy together ``part`` is; idle power stays the machine's."""
    return EnergyModel(
        method=part.method,
        gain_ci95=metering.gain_ci95,
        gain_source=metering.source,
        meters=list(metering.meters),
        model=_model(part.model, batch, points, quantity),
        idle_power_w=part.idle_power_w,
        idle_power_ci95_w=part.idle_power_ci95_w,
    )


def _model(model: _Model1, batch: int, points: Sequence[Measurement], quantity: str) -> CostModel:
    """The model of a ``batch``-th of the cost, with a doubt that version 1 didn't know from its ``points``.

    Its misfit is that of measured sizes, alike everywhere, as its interval had it.
    """
    left_out = {(point.input_tokens, point.output_tokens) for point in model.dropped}
    kept = [point for point in points if (point.input_tokens, point.output_tokens) not in left_out]
    observed = observations(kept, quantity)
    scatter = observed.scatter if observed else None
    sizes = observed.range.points if observed else model.range.corners
    freedom = freedom_of(model.interval_factor_95)
    held = {name: getattr(model, name) for name in FittedModel.model_fields}
    coefficients = [
        coefficient.model_copy(
            update={"value": coefficient.value / batch, "standard_error": coefficient.standard_error / batch}
        )
        for coefficient in model.coefficients
    ]
    return CostModel(
        **held
        | {
            "coefficients": coefficients,
            "covariance": [[value / batch**2 for value in row] for row in model.covariance],
        },
        freedom=stored_freedom(freedom),
        misfit=MisfitRecord.of(Misfit(model.misfit, freedom=freedom)),
        scatter=ScatterRecord.of(scatter) if scatter else None,
        sessions=SessionsRecord.of(of_one_session(observed.shared_error if observed else 0.0)),
        range=MeasuredSizes(**dict(model.range), points=sizes),
    )


def _point_of_each(point: Measurement, batch: int) -> Measurement:
    """A point whose energies are those of ``batch`` requests together, with the energies of one of them."""
    totals = {name: _mean_of_each(getattr(point, name), batch) for name in _ENERGIES}
    components = {
        f"component_{name}": {
            component: _mean_of_each(found, batch) for component, found in getattr(point, f"component_{name}").items()
        }
        for name in _ENERGIES
    }
    return point.model_copy(update={"concurrency": batch, **totals, **components})


def _mean_of_each(statistic: Statistic | None, batch: int) -> Statistic | None:
    if statistic is None:
        return None
    spreads = {name: getattr(statistic, name) for name in ("sd", "ci95")}
    each = {name: None if value is None else value / batch for name, value in spreads.items()}
    return statistic.model_copy(update={"mean": statistic.mean / batch, **each})
