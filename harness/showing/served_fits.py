"""What the person at the terminal sees of the models under load: errors three ways, rivals, form, slots, power."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from harness.core.sizes import request_words
from harness.core.wording import percent, plus_minus
from harness.modelling.load_schema import LatencyModel, LoadError, ServedModel, UnderLoad
from harness.modelling.served.held_out import KINDS, HeldOutKind
from harness.showing.terminal import table_of

_HEADINGS = ("held-out error:\nsizes", "\ninner c", "\nlargest c")
LEFT_OUT = (
    "held-out error under load: mean relative error at what was left out of the fit: one size at a time, one number c "
    "of requests in flight between others, or the largest"
)


def served_models(load: UnderLoad) -> dict[str, ServedModel]:
    """The models under load by quantity: ``runtime``, ``energy`` and each component."""
    models = {"runtime": load.runtime} | ({"energy": load.energy} if load.energy else {})
    return models | {str(component): model for component, model in load.components.items()}


def load_lines(load: UnderLoad, shown: Sequence[str], slots_found: bool = False) -> Iterator[RenderableType]:
    """Held-out errors beside those of the rivals, then what the models say of the machine; ``shown`` are quantities."""
    models = {name: model for name, model in served_models(load).items() if name in shown}
    counts = sorted({c for _, _, c in load.runtime.points})
    yield f"under load: {len(load.runtime.points)} points at {', '.join(map(str, counts))} in flight"
    yield _errors_table(models, load.latency)
    yield LEFT_OUT
    for name, model in models.items():
        yield f"{name} under load: {form_words(model)}; {_verdict(model)}"
    yield slots_words(load, slots_found)
    if load.static_power_w is not None:
        power = plus_minus(load.static_power_w, load.static_power_ci95_w, "W")
        yield f"static power: {power}, derived from energy = power · time + what tokens take; no model uses it"
    yield from load.notes


def _errors_table(models: Mapping[str, ServedModel], latency: LatencyModel | None) -> Table:
    table = table_of("quantity", "form", *_HEADINGS, "worst point")
    for column in (table.columns[1], table.columns[-1]):
        column.justify = "left"
    for name, model in models.items():
        _add(table, name, "served", model.held_out)
        for rival in model.rivals:
            table.add_row("", rival.name, *_percents(rival.mape), "")
    for name, held_out in ({} if latency is None else latency.held_out).items():
        _add(table, name.upper(), "station" if latency and latency.batching == "closed loop" else "served", held_out)
    return table


def _add(table: Table, quantity: str, form: str, held_out: Mapping[HeldOutKind, LoadError]) -> None:
    worst = max(held_out.values(), key=lambda error: abs(error.worst.relative_error))
    errors = {kind: error.mape for kind, error in held_out.items()}
    table.add_row(quantity, form, *_percents(errors), _worst_words(worst))


def _percents(errors: Mapping[HeldOutKind, float]) -> list[str]:
    return [percent(errors[kind]) if kind in errors else "–" for kind in KINDS]


def _worst_words(error: LoadError) -> str:
    worst = error.worst
    size = request_words(worst.input_tokens, worst.output_tokens, worst.concurrency)
    return f"{size} ({percent(worst.relative_error, signed=True, digits=0)})"


def form_words(model: ServedModel) -> str:
    """``prefills join other work, experts of share 0.06``: the choices of a served model in words."""
    said = ["prefills join other work" if model.prefill_joined else "each prefill is a step of its own"]
    if model.experts_share is not None:
        said.append(f"steps grow as if a sequence needed {percent(model.experts_share)} of a mixture's experts")
    if model.factors:
        said.append("what it misses is interpolated in log c")
    return ", ".join(said)


def _verdict(model: ServedModel) -> str:
    """The mean of the errors against that of the best rival, of what both have."""
    kinds = [kind for kind in KINDS if kind in model.held_out]

    def mean(errors: Mapping[HeldOutKind, float]) -> float:
        return sum(errors[kind] for kind in kinds) / len(kinds)

    own = mean({kind: error.mape for kind, error in model.held_out.items()})
    rivals = {rival.name: mean(rival.mape) for rival in model.rivals if all(kind in rival.mape for kind in kinds)}
    if not rivals:
        return f"mean held-out error {percent(own)}"
    best = min(rivals, key=lambda name: rivals[name])
    how = "better than" if own <= rivals[best] else "worse than"
    return f"{how} {best} (mean held-out error {percent(own)} against {percent(rivals[best])})"


def slots_words(load: UnderLoad, found: bool = False) -> str:
    """How many requests are worked on at once, as far as that is known."""
    slots = load.runtime.slots
    if slots is None:
        return "no limit of requests that are worked on at once is known, nor shows"
    where = ", as the costs show" if found else ""
    return f"{slots} requests are worked on at once{where}; beyond them requests wait"


def load_json(load: UnderLoad, slots_found: bool) -> dict[str, Any]:
    """The same for programs, with coefficients."""
    keys = ("in_flight_as", "static_power_w", "static_power_ci95_w", "chunk_tokens", "cache_tokens", "notes")
    return {
        "concurrencies": sorted({c for _, _, c in load.runtime.points}),
        "slots": load.runtime.slots,
        "slots_found": slots_found,
        **load.model_dump(mode="json", include=set(keys)),
        "latency": load.latency and load.latency.model_dump(mode="json", exclude={"points"}),
        "quantities": {
            name: {**model.model_dump(mode="json", exclude={"points", "covariance"}), "points": len(model.points)}
            for name, model in served_models(load).items()
        },
    }
