"""Profiles as earlier versions wrote them, read as what they meant. Pure.

Version 1 knew one misfit and one factor of its interval, that of a new measurement by the same meters on the same day;
what sessions and meters do was in no interval. The earliest files of it call the requests in flight ``batch_size``, and
every energy in them is that of the whole batch. Every form is homogeneous of degree one in its coefficients: a c-th of
each coefficient is a c-th of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from harness.core.quantities import Component, Method
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


class Profile1(Strict):
    """A profile of schema version 1."""

    schema_version: Literal[1]
    name: str
    identity: _Identity1
    runtime: _Model1
    energy: _Energy1 | None
    components: dict[Component, _Energy1]
    measurements: list[Measurement] = Field(min_length=1)
    provenance: Provenance

    def upgraded(self) -> dict[str, Any]:
        """The fields of the same profile in version 2, its energies per request."""
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
        return {
            "name": self.name,
            "identity": Identity(**{**held, "concurrency": concurrency}),
            "runtime": _model(self.runtime, 1, points, "runtime"),
            "energy": energy,
            "components": components,
            "measurements": points,
            "provenance": self.provenance.model_copy(update={"notes": [*self.provenance.notes, NOTE]}),
        }


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
