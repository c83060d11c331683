"""Ollama: it takes text only and ends where the model wants to, so that it can only be measured as it comes."""

from __future__ import annotations

from typing import Any

from backends.openai.control import Control, NoAnswer
from backends.openai.kinds.base import USAGE, Form, Kind, Signs, Told, picked, whole, word


def _ask(control: Control, signs: Signs) -> Told:
    shown = _show(control, str(signs.card.get("id", "")))
    info = shown.get("model_info")
    facts: dict[str, Any] = info if isinstance(info, dict) else {}
    family = facts.get("general.architecture")
    running = _running(control, signs)
    return Told(
        version=word(control.look("/api/version"), "version"),
        context_length=whole(running.get("context_length")) or whole(facts.get(f"{family}.context_length")),
        architecture=word(facts, "general.architecture"),
        parameters=whole(facts.get("general.parameter_count")),
        weight_bytes=whole(running.get("size")),
        dtype=word(shown.get("details"), "quantization_level"),
        settings=picked(running, ("size_vram",)),
    )


def _show(control: Control, model: str) -> dict[str, Any]:
    try:
        answer = control.post("/api/show", {"model": model})
    except NoAnswer:
        return {}
    found = answer.json()
    return found if answer.status == 200 and isinstance(found, dict) else {}


def _running(control: Control, signs: Signs) -> dict[str, Any]:
    """What Ollama says of the model in memory; nothing where it isn't there yet."""
    found = control.look("/api/ps")
    models = found.get("models") if isinstance(found, dict) else None
    for model in models if isinstance(models, list) else ():
        if isinstance(model, dict) and model.get("name") == signs.card.get("id"):
            return model
    return {}


KIND = Kind(
    name="ollama",
    is_shown_by=lambda signs: signs.owner == "library",
    ask=_ask,
    forms=(Form("chat", extra=USAGE), Form("text", extra=USAGE)),
    no_metrics="Ollama has none",
    inexact="Ollama takes no token ids and can't be kept from ending early",
)
