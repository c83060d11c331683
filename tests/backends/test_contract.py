"""The contract of backends.base.Backend, for every backend on this machine's CPU."""

import contextlib
import dataclasses
import time

import pytest

import backends
from backends.base import MEMORY_WORDS, Backend, BackendError, Config, InvalidConfig, NotInstalled, Request
from tests.helpers import stub_server

CONFIGS = {
    "fake": Config("fake", device="cpu"),
    "llama-cpp": Config("tiny-test", device="cpu", threads=1),
    "mlx": Config("tiny-test", device="cpu"),
    "openai": Config("stub", device="cpu"),
    "transformers": Config("tiny-test", device="cpu", threads=1),
}
SIZES = [(1, 1), (1, 5), (7, 1), (32, 4), (3, 40)]


@pytest.fixture(scope="module")
def cache_directory(tmp_path_factory):
    """Generated files are shared by the tests and kept out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("JOULEBENCH_CACHE_DIR", str(path))
        yield path


@pytest.fixture(params=backends.names())
def name(request):
    return request.param


@pytest.fixture
def backend(name, cache_directory):
    backend = backends.create(name)
    try:
        backend.capabilities()
    except NotInstalled as absent:
        pytest.skip(str(absent))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def server():
    """URL of a stub server: what a real one does is tested where one is built."""
    # Tokens so far apart that a busy machine reads them one by one.
    with stub_server("--model", "stub", "--context", "8192", "--ttft", "0.02", "--tpot", "0.05") as url:
        yield url


@pytest.fixture
def config(name, request):
    config = CONFIGS[name]
    return dataclasses.replace(config, url=request.getfixturevalue("server")) if name == "openai" else config


def load(backend: Backend, config: Config):
    if not config.kv_cache and backend.capabilities().concurrency == "closed loop":
        assert "kv-cache" in refusal(backend.load, config)
        pytest.skip("a server keeps its cache")
    return backend.load(config)


def tells_its_tokens(backend: Backend) -> bool:
    """Whether one request gives the same tokens each time; servers get a fresh prompt each time."""
    capabilities = backend.capabilities()
    return capabilities.samples_tokens and capabilities.concurrency != "closed loop"


def complete(backend: Backend, request: Request):
    backend.prepare(request)
    return backend.run(request)


def refusal(action, *arguments) -> str:
    with pytest.raises(InvalidConfig) as refused:
        action(*arguments)
    return str(refused.value)


def resolves(backend: Backend, config: Config) -> bool:
    with contextlib.suppress(InvalidConfig):
        return backend.resolve(config).dtype == config.dtype
    return False


def test_every_backend_is_under_this_contract():
    assert set(backends.names()) == set(CONFIGS)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB",
        "cuMemCreate failed: CUDA_ERROR_OUT_OF_MEMORY",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "MPS backend out of memory (MPS allocated: 8.86 GB, other allocations: 0 bytes, max allowed: 9.07 GB)",
        "Invalid buffer size: 19.45 GB",
        "[metal::malloc] Attempting to allocate 19450000000 bytes greater than the maximum allowed buffer size",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 80000000000 bytes.",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes. Error code 12",
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 30517.58 MB)",
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size 30517578752",
        "unable to allocate CUDA0 buffer",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "OSError: [Errno 12] Cannot allocate memory",
        "MemoryError",
    ],
)
def test_every_way_to_say_that_memory_is_short_is_known(message):
    assert MEMORY_WORDS.search(message)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "size mismatch for lm_head.weight",
        "offloaded 33/33 layers to GPU",
        "CUDA0 KV buffer size = 1024.00 MiB",
    ],
)
def test_other_failures_do_not_speak_of_short_memory(message):
    assert not MEMORY_WORDS.search(message)


def test_unknown_backend_is_refused_with_the_names_there_are():
    assert "transformers" in refusal(backends.create, "tensorflow")


@pytest.mark.parametrize("kv_cache", [True, False])
def test_request_processes_and_produces_exactly_what_was_asked(backend, config, kv_cache):
    loaded = load(backend, dataclasses.replace(config, kv_cache=kv_cache))
    for m, n in SIZES:
        request = Request(m, n, seed=m)
        backend.prepare(request)
        before_ns = time.monotonic_ns()
        completion = backend.run(request)
        after_ns = time.monotonic_ns()
        assert (completion.input_tokens, completion.output_tokens) == (m, n)
        assert completion.start_ns < completion.prefill_end_ns <= completion.end_ns
        if n > 1:
            assert completion.prefill_end_ns < completion.end_ns
        if not loaded.settings.get("virtual_clock"):
            assert before_ns <= completion.start_ns
            assert completion.end_ns <= after_ns


@pytest.mark.parametrize("kv_cache", [True, False])
def test_repeats_do_not_see_each_other(backend, config, kv_cache):
    load(backend, dataclasses.replace(config, kv_cache=kv_cache))
    request = Request(12, 20, seed=3)
    first = complete(backend, request)
    again = backend.run(request)
    complete(backend, Request(30, 9, seed=8))
    later = complete(backend, request)
    assert first.output_ids == again.output_ids == later.output_ids
    assert len(first.output_ids) == (20 if tells_its_tokens(backend) else 0)


def test_greedy_tokens_do_not_depend_on_the_cache(backend, config):
    if not tells_its_tokens(backend):
        pytest.skip("this backend doesn't choose its tokens, or not for one prompt twice")
    request = Request(20, 24, seed=5)
    backend.load(dataclasses.replace(config, dtype="float32"))
    cached = complete(backend, request).output_ids
    backend.load(dataclasses.replace(config, dtype="float32", kv_cache=False))
    recomputed = complete(backend, request).output_ids
    assert cached == recomputed
    assert len(set(cached)) > 1


@pytest.mark.parametrize("kv_cache", [True, False])
@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_every_sequence_of_a_batch_has_the_asked_tokens(backend, config, concurrency, kv_cache):
    load(backend, dataclasses.replace(config, kv_cache=kv_cache))
    kind = backend.capabilities().concurrency
    if concurrency > 1 and kind != "static batch":
        if kind == "one":
            assert str(concurrency) in refusal(backend.prepare, Request(6, 5, concurrency=concurrency))
        return
    for m, n in [(6, 5), (1, 1), (30, 2)]:
        completion = complete(backend, Request(m, n, concurrency=concurrency))
        assert (completion.input_tokens, completion.output_tokens) == (m, n)
        assert completion.start_ns < completion.prefill_end_ns <= completion.end_ns


def test_first_sequence_of_a_batch_is_the_one_that_runs_alone(backend, config):
    capabilities = backend.capabilities()
    if not capabilities.samples_tokens or capabilities.concurrency != "static batch":
        pytest.skip("this backend chooses no tokens in batches")
    backend.load(dataclasses.replace(config, dtype="float32"))
    alone = complete(backend, Request(20, 12, seed=2))
    assert complete(backend, Request(20, 12, seed=2, concurrency=5)).output_ids == alone.output_ids


def test_resolve_tells_what_load_loads(backend, config):
    resolved = backend.resolve(config)
    loaded = backend.load(config)
    assert loaded.model == resolved
    assert resolved.name == config.model
    assert resolved.source == "server" or resolved.parameters > 0
    assert resolved.source == "server" or resolved.weight_bytes > 0
    assert loaded.device == "cpu"
    assert loaded.device_names
    assert loaded.gpu_uuids == ()


def test_capabilities_are_true(backend, config):
    capabilities = backend.capabilities()
    assert "cpu" in capabilities.devices
    for dtype in capabilities.dtypes:
        assert any(resolves(backend, dataclasses.replace(config, dtype=dtype, device=d)) for d in capabilities.devices)
    assert all(backend.versions().values())


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "no-such-model"), ("device", "tpu"), ("device", "cuda:99"), ("dtype", "int3"), ("compile", "graph")],
)
def test_what_can_not_work_is_refused_in_one_line_before_loading(backend, config, field, value):
    wrong = dataclasses.replace(config, **{field: value})
    for action in (backend.resolve, backend.load):
        message = refusal(action, wrong)
        assert value in message
        assert "\n" not in message
    backend.load(config)
    assert complete(backend, Request(2, 2)).output_tokens == 2


def test_request_beyond_the_context_is_refused(backend, config):
    context = backend.load(config).model.context_length
    message = refusal(backend.prepare, Request(context, 1))
    assert str(context) in message
    assert "\n" not in message
    assert complete(backend, Request(4, 2)).output_tokens == 2


@pytest.mark.parametrize(("m", "n", "concurrency"), [(0, 1, 1), (1, 0, 1), (6, 5, 0)])
def test_request_of_nothing_is_refused(backend, config, m, n, concurrency):
    backend.load(config)
    assert "at least 1" in refusal(backend.prepare, Request(m, n, concurrency=concurrency))


def test_close_twice_and_load_again(backend, config):
    backend.close()
    backend.load(config)
    request = Request(3, 3)
    backend.prepare(request)
    backend.close()
    backend.close()
    with pytest.raises(BackendError):
        backend.run(request)
    backend.load(config)
    assert complete(backend, request).output_tokens == 3
