"""Make a profile from aggregated measurements: fit every quantity in every form, choose, and say how right it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.quantities import COMPONENTS, Component, Method
from harness.core.statistics import Estimate
from harness.modelling.fit import Fit, Observations, fit_form
from harness.modelling.forms import AUTO, DEFAULT, FORMS, form_named
from harness.modelling.forms.base import DecodeContext, Form
from harness.modelling.load_schema import UnderLoad
from harness.modelling.measurements import observations
from harness.modelling.meters import UNKNOWN, Metering
from harness.modelling.model_schema import (
    Alternative,
    Coefficient,
    CostModel,
    EnergyModel,
    HeldOutError,
    MeasuredSizes,
    MisfitRecord,
    PointError,
    ScatterRecord,
    SessionsRecord,
    stored_freedom,
)
from harness.modelling.profile import PROFILE_VERSION, Profile
from harness.modelling.profile_schema import Identity, Measurement, Provenance

_FitOne = Callable[[type[Form], Observations], Fit]


@dataclass(frozen=True)
class Power:
    """What is known of energy beside its trials, by component and, as ``total``, of their sum."""

    methods: Mapping[str, Method | None]
    idle_w: Mapping[str, Estimate | None]
    metering: Mapping[str, Metering] = field(default_factory=dict)
    """Gain and sensors; where nothing is known of them the widest gain counts."""


@dataclass(frozen=True)
class Quantity:
    """One quantity fitted in every form."""

    name: str
    """``runtime``, ``energy`` or a component."""
    unit: Literal["s", "J"]
    fits: dict[str, Fit]
    used: Observations
    chosen: str
    dropped: tuple[PointError, ...]
    """Suspects of the chosen form, left out of the fit, with what it predicts there without them."""

    @property
    def mape_with_dropped(self) -> float:
        """Mean absolute relative error at all points, each predicted without it, the dropped ones included."""
        dropped = [point.relative_error for point in self.dropped]
        return float(np.mean(np.abs([*self.fits[self.chosen].held_out, *dropped])))


def fit_quantities(
    measurements: Sequence[Measurement],
    kv_cache: bool,
    form: str = DEFAULT,
    drop_suspects: bool = False,
    decode_context: DecodeContext = "grows",
) -> list[Quantity]:
    """Fit runtime and, where they were measured, energy and each component, in every form.

    ``form`` is the one to use, or ``auto``. Raises UserError, also for points of different concurrencies: a form is
    of one.
    """
    if len({point.concurrency for point in measurements}) > 1:
        raise UserError("points at different numbers of requests in flight can't be fitted together: fit one of them")
    fit_one = partial(fit_form, kv_cache=kv_cache, decode_context=decode_context)
    if form != AUTO:
        form_named(form)
    fitted = []
    for name in ("runtime", "energy", *COMPONENTS):
        observed = observations(measurements, name)
        if observed is None:
            continue
        try:
            fitted.append(_fit_quantity(name, observed, fit_one, form, drop_suspects))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    return fitted


def _fit_quantity(name: str, observed: Observations, fit_one: _FitOne, form: str, drop_suspects: bool) -> Quantity:
    fits, chosen = _fit_forms(observed, fit_one, form)
    dropped: tuple[PointError, ...] = ()
    left_out = np.isin(np.arange(len(observed.cost)), fits[chosen].suspects)
    if drop_suspects and left_out.any():
        lost, observed = observed.only(left_out), observed.only(~left_out)
        fits, chosen = _fit_forms(observed, fit_one, form)
        fitted = fits[chosen]
        dropped = tuple(_point_errors(lost, fitted.form.cost(fitted.coefficients, lost.sizes) / lost.cost - 1))
    return Quantity(name, "s" if name == "runtime" else "J", fits, observed, chosen, dropped)


def _point_errors(observed: Observations, errors: Floats) -> list[PointError]:
    rows = zip(observed.input_tokens.tolist(), observed.output_tokens.tolist(), errors.tolist(), strict=True)
    return [PointError(input_tokens=m, output_tokens=n, relative_error=error) for m, n, error in rows]


def _fit_forms(observed: Observations, fit_one: _FitOne, form: str) -> tuple[dict[str, Fit], str]:
    """Every form fitted, and the one asked for, or with ``auto`` the usable one with the smallest held-out error."""
    fits = {name: fit_one(form_named(name), observed) for name in FORMS}
    usable = [name for name, fitted in fits.items() if fitted.refusal is None]
    if not usable:
        raise UserError("; ".join(f"the {name} form {fitted.refusal}" for name, fitted in fits.items()))
    if form == AUTO:
        return fits, min(usable, key=lambda name: fits[name].loo_mape)
    if form not in usable:
        raise UserError(f"the {form} form {fits[form].refusal}; use --form {usable[0]}")
    return fits, form


def build_profile(
    name: str,
    identity: Identity,
    measurements: Sequence[Measurement],
    quantities: Sequence[Quantity],
    power: Power,
    provenance: Provenance,
    under_load: UnderLoad | None = None,
) -> Profile:
    """The profile of fitted quantities, with its models under load where there are some."""
    models = {quantity.name: cost_model(quantity, identity.kv_cache) for quantity in quantities}
    components: dict[Component, EnergyModel] = {
        component: _energy(models[component], power, component) for component in COMPONENTS if component in models
    }
    return Profile(
        schema_version=PROFILE_VERSION,
        name=name,
        identity=identity,
        runtime=models["runtime"],
        energy=_energy(models["energy"], power, "total") if "energy" in models else None,
        components=components,
        measurements=list(measurements),
        provenance=provenance,
        under_load=under_load,
    )


def _energy(model: CostModel, power: Power, what: str) -> EnergyModel:
    idle_w = power.idle_w.get(what)
    power_w, ci95_w = (idle_w.mean, idle_w.half_width) if idle_w else (None, None)
    metering = power.metering.get(what, UNKNOWN)
    return EnergyModel(
        method=power.methods.get(what),
        gain_ci95=metering.gain_ci95,
        gain_source=metering.source,
        meters=list(metering.meters),
        model=model,
        idle_power_w=power_w,
        idle_power_ci95_w=ci95_w,
    )


def cost_model(quantity: Quantity, kv_cache: bool) -> CostModel:
    """The chosen fit of a quantity as it is written in a profile."""
    fitted, observed = quantity.fits[quantity.chosen], quantity.used
    worst = point_error(observed, fitted, fitted.worst)
    return CostModel(
        form=quantity.chosen,
        kv_cache=kv_cache,
        unit=quantity.unit,
        **_parameters(fitted),
        coefficients=coefficients(fitted, quantity.unit),
        covariance=fitted.covariance.tolist(),
        freedom=stored_freedom(fitted.freedom),
        misfit=MisfitRecord.of(fitted.misfit),
        scatter=ScatterRecord.of(fitted.scatter) if fitted.scatter.factor > 0 else None,
        sessions=SessionsRecord.of(fitted.session),
        range=MeasuredSizes(**vars(observed.range)),
        mape=fitted.mape,
        held_out=HeldOutError(points=len(observed.cost), mape=fitted.loo_mape, rms=fitted.rms, worst=worst),
        suspects=[point_error(observed, fitted, i) for i in fitted.suspects],
        dropped=list(quantity.dropped),
        alternatives=[
            Alternative(form=name, mape=other.mape, loo_mape=other.loo_mape, refusal=other.refusal)
            for name, other in quantity.fits.items()
            if name != quantity.chosen
        ],
        notes=list(fitted.notes),
    )


def _parameters(fitted: Fit) -> dict[str, Any]:
    """The form's fixed choices as a file holds them."""
    found = fitted.form.parameters.items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found}


def coefficients(fitted: Fit, unit: str) -> list[Coefficient]:
    """The coefficients of a fit with their names, units and standard errors."""
    values, errors = fitted.coefficients.tolist(), fitted.standard_errors.tolist()
    named = zip(fitted.form.coefficients(unit), values, errors, strict=True)
    return [Coefficient(name=name, value=value, standard_error=error, unit=of) for (name, of), value, error in named]


def point_error(observed: Observations, fitted: Fit, point: int) -> PointError:
    """Where the point of this number lies and how far the fit without it is off there."""
    return _point_errors(observed, fitted.held_out)[point]
