"""Prometheus text of servers as one small vocabulary."""

import pytest

from backends.openai import kinds
from backends.openai.metrics import COUNTERS, figures

KINDS = {kind.name: kind for kind in kinds.KINDS}
VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"b\\", {c}"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7959116721293113e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 16.0
vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 15.0
vllm:request_decode_time_seconds_bucket{engine="0",le="0.3",model_name="m"} 4.0
vllm:request_decode_time_seconds_sum{engine="0",model_name="m"} 12.5
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} NaN
"""
LLAMA_SERVER = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 1.23457e+06
# TYPE llamacpp:tokens_predicted_seconds_total counter
llamacpp:tokens_predicted_seconds_total 0.000644
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
"""
SGLANG = """\
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 5
sglang:cached_tokens_total{cache_source="device",model_name="m"} 30.0
sglang:cached_tokens_total{cache_source="host",model_name="m"} 2.0
sglang:per_stage_req_latency_seconds_sum{model_name="m",stage="prefill_forward"} 1.5
sglang:per_stage_req_latency_seconds_sum{model_name="m",stage="request_process"} 9.0
"""
TENSORRT_LLM = """\
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 8
trtllm_prompt_cached_tokens_total{engine_type="trtllm",model_name="m"} 64
trtllm_request_prefill_time_seconds_sum{engine_type="trtllm",model_name="m"} 0.25
"""


def read(kind: str, text: str) -> dict[str, float]:
    return figures(text, KINDS[kind].figures)


def test_figures_of_several_engines_are_added_up_and_what_is_not_told_is_left_out():
    assert read("vllm", VLLM) == {
        "requests_running": 4.0,
        "requests_waiting": 0.0,
        "preemptions_total": 2.0,
        "cached_tokens_total": 15.0,
        "decode_s_total": 12.5,
        "ttft_requests_total": 4.0,
    }


def test_an_older_name_stands_in_for_the_newer_one():
    older = "\n".join(line for line in VLLM.splitlines() if "prompt_tokens_cached" not in line)
    assert read("vllm", older)["cached_tokens_total"] == 16.0


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (
            "llama-server",
            LLAMA_SERVER,
            {"prompt_tokens_total": 1234570.0, "decode_s_total": 0.000644, "requests_waiting": 2.0},
        ),
        ("sglang", SGLANG, {"requests_waiting": 5.0, "cached_tokens_total": 32.0, "prefill_s_total": 1.5}),
        (
            "tensorrt-llm",
            TENSORRT_LLM,
            {"requests_running": 8.0, "cached_tokens_total": 64.0, "prefill_s_total": 0.25},
        ),
    ],
)
def test_every_kind_has_its_own_names(kind, text, expected):
    assert read(kind, text) == expected


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.name)
def test_all_kinds_use_one_vocabulary(kind):
    assert set(kind.figures) <= {*COUNTERS, "requests_running", "requests_waiting"}


@pytest.mark.parametrize("text", ["", "<html>502 Bad Gateway</html>", "[]", "vllm:num_requests_running_of_another 3"])
def test_text_without_figures_gives_none(text):
    assert read("vllm", text) == {}


@pytest.mark.parametrize("text", ["vllm:num_requests_running abc", 'vllm:num_requests_running{engine="0" 3'])
def test_broken_text_is_an_error(text):
    with pytest.raises(ValueError, match=r"float|label|quote|Invalid"):
        read("vllm", text)


def test_a_value_beyond_all_numbers_is_no_figure():
    with pytest.raises(ValueError, match="beyond"):
        figures("vllm:num_requests_waiting 1\nvllm:prompt_tokens_total " + "9" * 400, kinds.vllm.KIND.figures)
