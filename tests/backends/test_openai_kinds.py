"""Every kind of server is recognised by what it shows, and what it tells of itself is understood."""

import pytest

from backends.openai import kinds
from backends.openai.address import parse_url
from backends.openai.control import Control
from backends.openai.discovery import Served, discover
from tests.backends.canned_server import canned_server

KINDS = {kind.name: kind for kind in kinds.KINDS}


def models(**card) -> dict:
    return {"object": "list", "data": [{"id": "m", "object": "model", **card}]}


CACHE_INFO = (
    'vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",'
    'gpu_memory_utilization="0.92",num_gpu_blocks="364",sliding_window="None"} 1.0\n'
)
VLLM = {
    "/v1/models": models(owned_by="vllm", root="org/model", max_model_len=8192),
    "/version": {"version": "0.32.0"},
    "/metrics": CACHE_INFO,
    "/server_info?config_format=json": {
        "vllm_config": {"scheduler_config": {"max_num_seqs": 256, "enable_chunked_prefill": True, "policy": "fcfs"}}
    },
}
LLAMA_SERVER = {
    "/v1/models": models(
        owned_by="llamacpp",
        aliases=["short"],
        meta={"n_vocab": 49152, "n_ctx": 2048, "n_params": 134515584, "size": 271000000, "ftype": "F16"},
    ),
    "/props": {
        "default_generation_settings": {"n_ctx": 2048, "params": {"temperature": 0.8}},
        "total_slots": 4,
        "model_ftype": "F16",
        "build_info": "b7000-abc",
        "endpoint_metrics": True,
    },
}
SGLANG = {
    "/v1/models": models(owned_by="sglang", root="m", max_model_len=131072),
    "/get_server_info": {
        "api_key": "sk-secret",
        "admin_api_key": "sk-secret",
        "dtype": "bfloat16",
        "context_length": None,
        "max_total_num_tokens": 20480,
        "disable_radix_cache": False,
        "internal_states": [
            {"effective_max_running_requests_per_dp": 128},
            {"effective_max_running_requests_per_dp": 128},
        ],
        "version": "0.5.18",
    },
}
TENSORRT_LLM = {
    "/v1/models": models(owned_by="tensorrt_llm"),
    "/version": {"version": "1.3.0"},
    "/prometheus/metrics": (
        'trtllm_max_batch_size_runtime{model_name="m"} 64\n'
        'trtllm_kv_cache_max_blocks{model_name="m"} 100\ntrtllm_kv_cache_tokens_per_block{model_name="m"} 32\n'
    ),
}
OLLAMA = {
    "/v1/models": models(owned_by="library"),
    "/api/version": {"version": "0.9.2"},
    "POST /api/show": {
        "details": {"quantization_level": "Q4_K_M"},
        "model_info": {
            "general.architecture": "llama",
            "general.parameter_count": 1235814432,
            "llama.context_length": 131072,
        },
    },
    "/api/ps": {"models": [{"name": "m", "context_length": 4096, "size": 2000, "size_vram": 0}]},
}
MLX = {"/v1/models": models(created=1)}
OTHER = {"/v1/models": models(owned_by="me", context_window=4096)}


def look(pages, model="", server=None) -> Served:
    with canned_server(pages, server=server) as canned:
        control = Control(parse_url(canned.url))
        try:
            return discover(control, model)
        finally:
            control.close()


@pytest.mark.parametrize(
    ("pages", "server", "kind", "version", "context", "in_flight", "cache"),
    [
        (VLLM, None, "vllm", "0.32.0", 8192, 256, 364 * 16),
        (LLAMA_SERVER, "llama.cpp", "llama-server", "b7000-abc", 2048, 4, None),
        (SGLANG, None, "sglang", "0.5.18", 131072, 256, 20480),
        (TENSORRT_LLM, None, "tensorrt-llm", "1.3.0", None, 64, 3200),
        (OLLAMA, None, "ollama", "0.9.2", 4096, None, None),
        (MLX, "BaseHTTP/0.6 Python/3.12.1", "mlx", None, None, None, None),
        (OTHER, None, "other", None, 4096, None, None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_server_is_known_by_what_it_shows_and_asked_for_its_limits(
    pages, server, kind, version, context, in_flight, cache
):
    served = look(pages, server=server)
    told = served.told
    assert served.kind.name == kind
    assert (told.version, told.context_length) == (version, context)
    assert (told.most_in_flight, told.cache_tokens) == (in_flight, cache)


@pytest.mark.parametrize(
    ("pages", "dtype"),
    [
        (LLAMA_SERVER, "F16"),
        (LLAMA_SERVER | {"/props": {"model_ftype": "(guessed) all F32"}}, "F32"),
        (LLAMA_SERVER | {"/props": {"model_ftype": "Q4_K - Medium"}}, "Q4_K_M"),
        (LLAMA_SERVER | {"/props": {"model_ftype": "IQ4_NL - 4.5 bpw"}}, "IQ4_NL"),
        (LLAMA_SERVER | {"/props": {"model_ftype": "unknown, may not work"}}, None),
        (SGLANG, "bfloat16"),
        (SGLANG | {"/get_server_info": {"dtype": "auto"}}, None),
        (OLLAMA, "Q4_K_M"),
        (VLLM, None),
    ],
)
def test_a_precision_has_the_name_that_other_backends_give_it(pages, dtype):
    """Runs of different precision are not compared."""
    assert look(pages).model().dtype == dtype


@pytest.mark.parametrize(
    ("pages", "kind"), [(VLLM, "vllm"), (LLAMA_SERVER, "llama-server"), (SGLANG, "sglang"), (OLLAMA, "ollama")]
)
def test_a_server_that_tells_nothing_more_is_still_known(pages, kind):
    served = look({"/v1/models": pages["/v1/models"]})
    assert served.kind.name == kind
    assert served.told.version is None
    assert served.told.most_in_flight is None


@pytest.mark.parametrize("page", [[], "text", {"vllm_config": 3, "internal_states": "x", "total_slots": "4"}, 500])
@pytest.mark.parametrize("pages", [VLLM, LLAMA_SERVER, SGLANG, TENSORRT_LLM, OLLAMA])
def test_nonsense_in_the_further_pages_is_not_believed(pages, page):
    served = look({path: pages[path] if path == "/v1/models" else page for path in pages})
    assert served.told.most_in_flight is None
    assert served.told.cache_tokens is None


def test_the_flags_that_a_server_tells_are_kept_by_its_own_names():
    assert look(VLLM).told.settings == {
        "block_size": 16,
        "cache_dtype": "auto",
        "enable_prefix_caching": True,
        "gpu_memory_utilization": 0.92,
        "max_num_seqs": 256,
        "enable_chunked_prefill": True,
    }
    assert look(LLAMA_SERVER).model().parameters == 134515584


def test_keys_among_a_servers_settings_are_not_kept():
    assert "sk-secret" not in repr(look(SGLANG))


def test_a_models_alias_is_its_name_too():
    assert look(LLAMA_SERVER, "short").name == "m"


def test_no_two_kinds_share_a_name():
    names = [kind.name for kind in kinds.KINDS]
    assert len(set(names)) == len(names) == 7
    assert names[-1] == "other"


KNOWN_TO_TENSORRT_LLM = {
    *("model", "prompt", "max_tokens", "min_tokens", "ignore_eos", "stream", "stream_options", "temperature"),
    "detokenize",
}


@pytest.mark.parametrize("kind", ["vllm", "llama-server", "sglang", "tensorrt-llm", "other"])
def test_a_request_of_every_exact_kind_says_what_makes_it_exact(kind):
    form = KINDS[kind].forms[0]
    assert form.prompt == "ids"
    assert form.extra["ignore_eos"] is True
    assert form.extra["stream_options"]["include_usage"] is True
    assert form.extra["temperature"] == 0
    assert kind == "llama-server" or "min_tokens" in form.lengths
    assert kind != "llama-server" or form.extra["cache_prompt"] is False


def test_fields_for_tensorrt_llm_are_those_that_it_knows():
    form = KINDS["tensorrt-llm"].forms[0]
    assert {"model", "prompt", "stream", *form.lengths, *form.extra} <= KNOWN_TO_TENSORRT_LLM
