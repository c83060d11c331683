"""SGLang: it tells its settings, limits and version in one answer; metrics where started with --enable-metrics."""

from __future__ import annotations

from typing import Any

from backends.openai.control import Control
from backends.openai.kinds.base import EXACT_LENGTHS, RUNNING_USAGE, Form, Kind, Signs, Told, picked, whole, word
from backends.openai.metrics import series

_FLAGS = (
    *("dtype", "quantization", "kv_cache_dtype", "device", "tp_size", "dp_size", "attention_backend"),
    *("max_running_requests", "max_total_num_tokens", "chunked_prefill_size", "max_prefill_tokens", "schedule_policy"),
    *("disable_radix_cache", "disable_cuda_graph", "enable_metrics", "enable_cache_report", "mem_fraction_static"),
)
"""Listed, since SGLang tells its API key among its settings."""


def _ask(control: Control, signs: Signs) -> Told:
    found = control.look("/get_server_info") or control.look("/server_info")
    info: dict[str, Any] = found if isinstance(found, dict) else {}
    states = info.get("internal_states")
    each = [whole(state.get("effective_max_running_requests_per_dp")) for state in states or () if type(state) is dict]
    known = [requests for requests in each if requests]
    return Told(
        version=word(info, "version"),
        context_length=whole(signs.card.get("max_model_len")) or whole(info.get("context_length")),
        most_in_flight=sum(known) if known else whole(info.get("max_running_requests")),
        cache_tokens=whole(info.get("max_total_num_tokens")),
        dtype=None if info.get("dtype") == "auto" else word(info, "dtype"),
        settings=picked(info, _FLAGS),
    )


KIND = Kind(
    name="sglang",
    is_shown_by=lambda signs: signs.owner == "sglang",
    ask=_ask,
    forms=(
        Form("ids", EXACT_LENGTHS, RUNNING_USAGE),
        Form("chat", EXACT_LENGTHS, RUNNING_USAGE),
    ),
    figures={
        "requests_running": series("sglang:num_running_reqs"),
        "requests_waiting": series("sglang:num_queue_reqs"),
        "prompt_tokens_total": series("sglang:prompt_tokens_total"),
        "cached_tokens_total": series("sglang:cached_tokens_total"),
        "generation_tokens_total": series("sglang:generation_tokens_total"),
        "requests_total": series("sglang:num_requests_total"),
        "preemptions_total": series("sglang:num_retracted_requests_total"),
        "prefill_s_total": series("sglang:per_stage_req_latency_seconds_sum", stage="prefill_forward"),
        "queue_s_total": series("sglang:queue_time_seconds_sum"),
        "ttft_s_total": series("sglang:time_to_first_token_seconds_sum"),
        "ttft_requests_total": series("sglang:time_to_first_token_seconds_count"),
    },
    no_metrics="start it with --enable-metrics",
)
