"""vLLM: it tells its context length and its cache; its other limits are in its command line or, in development mode,
in ``/server_info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backends.openai.control import Control, NoAnswer
from backends.openai.kinds.base import EXACT_LENGTHS, RUNNING_USAGE, Form, Kind, Scalar, Signs, Told, whole, word
from backends.openai.metrics import samples, series

_CACHE_FLAGS = ("block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching", "gpu_memory_utilization")
_SCHEDULER_FLAGS = ("max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "async_scheduling")


def _ask(control: Control, signs: Signs) -> Told:
    cache = _cache(control)
    scheduler = _scheduler(control)
    model = _local_config(signs.card.get("root"))
    blocks, size = whole(cache.get("num_gpu_blocks")), whole(cache.get("block_size"))
    return Told(
        version=word(control.look("/version"), "version"),
        context_length=whole(signs.card.get("max_model_len")),
        most_in_flight=whole(scheduler.get("max_num_seqs")),
        cache_tokens=blocks * size if blocks and size else None,
        vocabulary_size=whole(model.get("vocab_size")),
        architecture=word(model, "model_type"),
        settings={name: value for name, value in {**cache, **scheduler}.items() if name != "num_gpu_blocks"},
    )


def _cache(control: Control) -> dict[str, Scalar]:
    """The cache's settings, which vLLM writes as labels of a metric."""
    try:
        answer = control.get("/metrics")
        found = samples(answer.body.decode(errors="replace"), ("vllm:cache_config_info",))
    except (NoAnswer, ValueError):
        return {}
    labels = found[0][1] if found else {}
    return {name: _plain(labels[name]) for name in _CACHE_FLAGS if name in labels}


def _plain(text: str) -> Scalar:
    """A label's value: Python's own spelling of a plain value, or a word."""
    named: dict[str, Scalar] = {"True": True, "False": False, "None": None}
    if text in named:
        return named[text]
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def _scheduler(control: Control) -> dict[str, Scalar]:
    found = control.look("/server_info?config_format=json")
    config: Any = found.get("vllm_config") if isinstance(found, dict) else None
    scheduler = config.get("scheduler_config") if isinstance(config, dict) else None
    if not isinstance(scheduler, dict):
        return {}
    return {name: scheduler[name] for name in _SCHEDULER_FLAGS if isinstance(scheduler.get(name), bool | int)}


def _local_config(root: Any) -> dict[str, Any]:
    """The model's own description, where its folder is on this machine."""
    try:
        found = json.loads((Path(root) / "config.json").read_text())
    except (OSError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


KIND = Kind(
    name="vllm",
    is_shown_by=lambda signs: signs.owner == "vllm",
    ask=_ask,
    forms=(
        Form("ids", EXACT_LENGTHS, {**RUNNING_USAGE, "detokenize": False}),
        Form("chat", EXACT_LENGTHS, RUNNING_USAGE),
    ),
    figures={
        "requests_running": series("vllm:num_requests_running"),
        "requests_waiting": series("vllm:num_requests_waiting"),
        "prompt_tokens_total": series("vllm:prompt_tokens_total"),
        "cached_tokens_total": series("vllm:prompt_tokens_cached_total", "vllm:prefix_cache_hits_total"),
        "generation_tokens_total": series("vllm:generation_tokens_total"),
        "requests_total": series("vllm:request_success_total"),
        "preemptions_total": series("vllm:num_preemptions_total"),
        "prefill_s_total": series("vllm:request_prefill_time_seconds_sum"),
        "decode_s_total": series("vllm:request_decode_time_seconds_sum"),
        "queue_s_total": series("vllm:request_queue_time_seconds_sum"),
        "ttft_s_total": series("vllm:time_to_first_token_seconds_sum"),
        "ttft_requests_total": series("vllm:time_to_first_token_seconds_count"),
    },
    in_flight_flags=("--max-num-seqs", "--max_num_seqs"),
    no_metrics="it was started with --disable-log-stats",
)
