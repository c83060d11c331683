"""The engine of a profile: what its steps cost and what bounds them, for a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from harness.core.errors import UserError
from harness.core.quantities import Component
from harness.modelling.cost_function import CostFunction
from harness.modelling.forms.phase import Phase
from harness.modelling.load_schema import UnderLoad
from harness.modelling.served.engine import AMOUNTS, Engine, StepCosts
from harness.modelling.served.form import PHASE

REMEDY: Final = "measure at three or more numbers of requests in flight, 1 among them (joulebench measure -c 1,4,16)"


def engine_under_load(
    load: UnderLoad, components: Sequence[Component] | None, idle_power_w: float | None, name: str
) -> Engine:
    """The engine of a profile of this ``name``, with the energy of some components, or of all together (None).

    Raises UserError where that can't be told step by step.
    """
    models = [load.energy] if components is None else [load.components.get(component) for component in components]
    energies = [model.function.steps() for model in models if model is not None]
    if components is not None and len(energies) < len(models):
        raise UserError(f"the energy of {'+'.join(components)} of profile {name} was not measured under load; {REMEDY}")
    return Engine(
        seconds=load.runtime.function.steps(),
        joules=_sum(energies, name) if energies else None,
        idle_power_w=idle_power_w,
        slots=load.runtime.slots,
        chunk_tokens=load.chunk_tokens,
        kv_tokens=load.cache_tokens,
    )


def engine_of_one(
    runtime: CostFunction, energies: Sequence[CostFunction], idle_power_w: float | None, name: str
) -> Engine:
    """The engine of one request at a time, from models of the phase form that are sums of steps.

    ``energies`` add up to the energy. Raises UserError for models that tell no steps.
    """
    return Engine(
        seconds=_steps_of(runtime, name),
        joules=_sum([_steps_of(function, name) for function in energies], name) if energies else None,
        idle_power_w=idle_power_w,
        slots=1,
    )


def _sum(costs: Sequence[StepCosts], name: str) -> StepCosts:
    """Costs of several components together, whose steps must be of one form."""
    first, *others = costs
    if any((c.prefill_joined, c.experts_share) != (first.prefill_joined, first.experts_share) for c in others):
        raise UserError(
            f"the energies of the components of profile {name} grow in different ways under load and can't be added "
            "step by step: ask for one of them, or for all"
        )
    return replace(first, **{name: sum(getattr(c, name) for c in costs) for name in AMOUNTS})


def _steps_of(function: CostFunction, name: str) -> StepCosts:
    form = function.form
    if form != PHASE:
        what = "without a KV cache" if isinstance(form, Phase) and not form.kv_cache else f"of the {form.describe()}"
        raise UserError(f"profile {name} has a model {what}, which tells no steps; {REMEDY}")
    c0, c1, c2, d0, d1 = function.coefficients.tolist()
    return StepCosts(
        floor=d0,
        per_sequence=0.0,
        per_context=d1,
        prefill_floor=c0,
        per_prefill_token=c1,
        per_prefill_token2=c2,
    )
