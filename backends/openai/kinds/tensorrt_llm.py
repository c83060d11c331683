"""TensorRT-LLM's trtllm-serve: it refuses fields that it doesn't know; its limits are among its metrics."""

from __future__ import annotations

from backends.openai.control import Control, NoAnswer
from backends.openai.kinds.base import EXACT_LENGTHS, RUNNING_USAGE, Form, Kind, Signs, Told, word
from backends.openai.metrics import Names, figures, series

_METRICS = "/prometheus/metrics"
_LIMITS: Names = {
    "max_batch_size": series("trtllm_max_batch_size_runtime", "trtllm_max_batch_size_static"),
    "max_num_tokens": series("trtllm_max_num_tokens_runtime"),
    "kv_cache_blocks": series("trtllm_kv_cache_max_blocks"),
    "kv_cache_tokens_per_block": series("trtllm_kv_cache_tokens_per_block"),
}


def _ask(control: Control, signs: Signs) -> Told:
    try:
        found = figures(control.get(_METRICS).body.decode(errors="replace"), _LIMITS)
    except (NoAnswer, ValueError):
        found = {}
    limits = {name: int(value) for name, value in found.items() if value > 0}
    blocks, size = limits.get("kv_cache_blocks"), limits.get("kv_cache_tokens_per_block")
    return Told(
        version=word(control.look("/version"), "version"),
        most_in_flight=limits.get("max_batch_size"),
        cache_tokens=blocks * size if blocks and size else None,
        settings=limits,
    )


KIND = Kind(
    name="tensorrt-llm",
    is_shown_by=lambda signs: signs.owner == "tensorrt_llm",
    ask=_ask,
    forms=(Form("ids", EXACT_LENGTHS, {**RUNNING_USAGE, "detokenize": False}),),
    figures={
        "requests_running": series("trtllm_num_requests_running"),
        "requests_waiting": series("trtllm_num_requests_waiting"),
        "prompt_tokens_total": series("trtllm_prompt_tokens_total"),
        "cached_tokens_total": series("trtllm_prompt_cached_tokens_total"),
        "generation_tokens_total": series("trtllm_generation_tokens_total"),
        "requests_total": series("trtllm_request_success_total"),
        "prefill_s_total": series("trtllm_request_prefill_time_seconds_sum"),
        "decode_s_total": series("trtllm_request_decode_time_seconds_sum"),
        "queue_s_total": series("trtllm_request_queue_time_seconds_sum"),
        "ttft_s_total": series("trtllm_time_to_first_token_seconds_sum"),
        "ttft_requests_total": series("trtllm_time_to_first_token_seconds_count"),
    },
    metrics_path=_METRICS,
    in_flight_flags=("--max_batch_size", "--max-batch-size"),
    no_metrics="set return_perf_metrics: true in its configuration",
)
