"""llama-server of llama.cpp: it tells its slots and their context; metrics only where it was started with --metrics."""

from __future__ import annotations

from typing import Any

from backends.openai.control import Control
from backends.openai.kinds.base import IGNORE_EOS, Form, Kind, Signs, Told, whole, word
from backends.openai.metrics import series


def _ask(control: Control, signs: Signs) -> Told:
    found = control.look("/props")
    props: dict[str, Any] = found if isinstance(found, dict) else {}
    described = signs.card.get("meta")
    meta: dict[str, Any] = described if isinstance(described, dict) else {}
    generation = props.get("default_generation_settings")
    slot = generation.get("n_ctx") if isinstance(generation, dict) else None
    slots = whole(props.get("total_slots"))
    return Told(
        version=word(props, "build_info"),
        context_length=whole(slot) or whole(meta.get("n_ctx")),
        most_in_flight=slots,
        vocabulary_size=whole(meta.get("n_vocab")),
        parameters=whole(meta.get("n_params")),
        weight_bytes=whole(meta.get("size")),
        dtype=_dtype(word(props, "model_ftype") or word(meta, "ftype")),
    )


def _dtype(told: str | None) -> str | None:
    """``F32`` for llama.cpp's ``all F32``, ``Q4_K_M`` for ``Q4_K - Medium``: as GGUF files are called elsewhere."""
    if told is None or told.startswith("unknown"):
        return None
    name, _, size = told.removeprefix("(guessed) ").removeprefix("all ").partition(" - ")
    return f"{name}_{size[0]}" if size in ("Small", "Medium", "Large") else name


KIND = Kind(
    name="llama-server",
    is_shown_by=lambda signs: signs.owner == "llamacpp" or signs.headers.get("server") == "llama.cpp",
    ask=_ask,
    forms=(Form("ids", extra={**IGNORE_EOS, "cache_prompt": False}),),
    figures={
        "requests_running": series("llamacpp:requests_processing"),
        "requests_waiting": series("llamacpp:requests_deferred"),
        "prompt_tokens_total": series("llamacpp:prompt_tokens_total"),
        "cached_tokens_total": series("llamacpp:prompt_tokens_cached_total"),
        "generation_tokens_total": series("llamacpp:tokens_predicted_total"),
        "prefill_s_total": series("llamacpp:prompt_seconds_total"),
        "decode_s_total": series("llamacpp:tokens_predicted_seconds_total"),
    },
    no_metrics="start it with --metrics",
)
