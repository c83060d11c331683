"""Profiles as earlier versions wrote them: costs of whole batches. Pure.

They call the requests in flight ``batch_size``, and every energy in them is that of the whole batch. Every form is
homogeneous of degree one in its coefficients: a c-th of each coefficient is a c-th of the cost.
"""

from __future__ import annotations

import json

from harness.modelling.profile_schema import CostModel, EnergyModel, Measurement, Statistic

OLDER_KEY = "batch_size"
_ENERGIES = ("energy_j", "prefill_energy_j", "decode_energy_j")


def with_concurrency(text: str | bytes) -> str | None:
    """The text of a profile with ``concurrency`` for ``batch_size``; None for one that has it, or isn't a profile."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    identity = content.get("identity") if isinstance(content, dict) else None
    if not isinstance(identity, dict) or OLDER_KEY not in identity or "concurrency" in identity:
        return None
    renamed = {"concurrency" if key == OLDER_KEY else key: value for key, value in identity.items()}
    return json.dumps(content | {"identity": renamed})


def energy_of_each(part: EnergyModel, batch: int) -> EnergyModel:
    """The energy of one of the ``batch`` requests whose energy together ``part`` is; idle power stays the machine's."""
    return part.model_copy(update={"model": _of_each(part.model, batch)})


def _of_each(model: CostModel, batch: int) -> CostModel:
    coefficients = [
        coefficient.model_copy(
            update={"value": coefficient.value / batch, "standard_error": coefficient.standard_error / batch}
        )
        for coefficient in model.coefficients
    ]
    covariance = [[value / batch**2 for value in row] for row in model.covariance]
    # Misfit and errors are relative. Made anew, not copied: a copy would keep the function of the old coefficients.
    held = {name: getattr(model, name) for name in CostModel.model_fields}
    return CostModel(**{**held, "coefficients": coefficients, "covariance": covariance})


def measurement_of_each(point: Measurement, batch: int) -> Measurement:
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
