"""Compiled and captured decoding chooses the tokens of the plain loop, and compiles nothing while it is timed."""

import dataclasses
import functools
import gc
import shutil
import subprocess
import weakref

import pytest

from backends.base import BackendError, Config, InvalidConfig, Request
from backends.presets import PRESETS, RopeScaling
from tests.helpers import JOULEBENCH, environment, refused

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from backends.transformers import decode, devices, models  # noqa: E402
from backends.transformers.backend import TransformersBackend  # noqa: E402

# Compiling takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(900)

TINY = PRESETS["tiny-test"].architecture
SMALL = {
    "llama": dataclasses.replace(TINY, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64)),
    "qwen2": dataclasses.replace(TINY, family="qwen2", qkv_bias=True, tied_embeddings=True),
    "mistral": dataclasses.replace(TINY, family="mistral", sliding_window=16),
    "falcon": dataclasses.replace(TINY, family="falcon", kv_heads=1, tied_embeddings=True),
}
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")


@pytest.fixture
def backend():
    backend = TransformersBackend()
    yield backend
    backend.close()


@pytest.fixture(params=SMALL)
def folder(request, tmp_path):
    config = models.preset_config(SMALL[request.param])
    models.random_model(config, torch.float32, CPU, 0).save_pretrained(tmp_path)
    return str(tmp_path)


def tokens(backend, config, *requests):
    backend.load(config)
    produced = []
    for request in requests:
        backend.prepare(request)
        produced.append(backend.run(request).output_ids)
        assert backend.run(request).output_ids == produced[-1]
    return produced


class Recording(TorchDispatchMode):
    """What a CUDA graph does, on any device: operations are recorded with their tensors, and replayed on the same
    memory without any Python of the model. Reading a value on the host is an error, as it is in a capture."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = operation(*args, **kwargs)
        self.operations.append((operation, args, kwargs, result))
        return result

    def replay(self):
        for operation, args, kwargs, result in self.operations:
            again = operation(*args, **kwargs)
            old = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            new = [leaf for leaf in torch.utils._pytree.tree_leaves(again) if isinstance(leaf, torch.Tensor)]
            for kept, value in zip(old, new, strict=True):
                if kept.data_ptr() != value.data_ptr():
                    kept.copy_(value)


def record(first_steps, step):
    """``decode.cuda_graph`` without a GPU."""
    first_steps()
    step.__self__.begin()  # a capture executes nothing; this does, and so needs room in the cache
    recording = Recording()
    with recording:
        step()
    return recording.replay


@pytest.mark.parametrize("prefill_chunk", [None, 7])
@pytest.mark.parametrize("c", [1, 3])
def test_replayed_step_chooses_the_tokens_of_the_plain_loop(backend, folder, prefill_chunk, c, monkeypatch):
    """24 + 12 tokens cross Mistral's window of 16; every later token comes from one recorded step."""
    plain = Config(folder, device="cpu", dtype="float32", threads=1)
    requests = Request(24, 12, 1, c), Request(5, 2, 2, c), Request(1, 9, 3, c), Request(9, 1, 0, c)
    expected = tokens(backend, plain, *requests)

    for request, wanted in zip(requests, expected, strict=True):
        config = dataclasses.replace(plain, compile="graph", prefill_chunk=prefill_chunk)
        with torch.inference_mode():
            decoder = decode.StaticDecoder(
                backend.model, backend._draw_tokens(request), request.output_tokens, config, record
            )
            prepared = decoder.prepare()
            assert (prepared.capture_s is not None) == (request.output_tokens > 1)
            for _ in range(2):
                decoder.begin()
                decoder.prefill()
                with monkeypatch.context() as patch:
                    patch.setattr(type(backend.model), "forward", no_python)
                    decoder.decode()
                assert decoder.output_ids().shape == (c, request.output_tokens)
                assert tuple(decoder.output_ids()[0].tolist()) == wanted


def no_python(*arguments, **options):
    raise AssertionError("a replayed step ran Python of the model")


@needs_compiler
@pytest.mark.parametrize(
    "folder",
    ["llama", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SMALL if kind != "llama")],
    indirect=True,
)
def test_compiled_step_chooses_the_tokens_of_the_plain_loop(backend, folder):
    plain = Config(folder, device="cpu", dtype="float32", threads=1)
    requests = Request(24, 12, 1, 2), Request(5, 2, 2, 2), Request(5, 2, 2), Request(9, 1, 0, 2)
    expected = tokens(backend, plain, *requests)
    assert tokens(backend, dataclasses.replace(plain, compile="inductor"), *requests) == expected


def test_chunks_of_the_prefill_choose_the_tokens_of_one_pass(backend, folder):
    plain = Config(folder, device="cpu", dtype="float32", threads=1)
    requests = Request(24, 6, 1, concurrency=2), Request(25, 3, 2, concurrency=3), Request(3, 2, 0, 2)
    expected = tokens(backend, plain, *requests)
    for chunk in (1, 8, 24, 1000):
        assert tokens(backend, dataclasses.replace(plain, prefill_chunk=chunk), *requests) == expected


def test_chunks_are_as_long_as_asked(backend, monkeypatch):
    seen = []
    backend.load(Config("tiny-test", device="cpu", threads=1, prefill_chunk=10))
    forward = type(backend.model).forward

    @functools.wraps(forward)
    def watch(self, input_ids, **options):
        seen.append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(backend.model), "forward", watch)
    request = Request(24, 3)
    backend.prepare(request)
    seen.clear()  # what was compared with the model's own generation
    completion = backend.run(request)
    assert seen == [10, 10, 4, 1, 1]
    assert (completion.input_tokens, completion.output_tokens) == (24, 3)


@needs_compiler
def test_nothing_is_compiled_while_a_request_runs(backend, tmp_path):
    """More sizes than torch makes versions of one function: beyond that it gives up and runs eagerly."""
    config = models.preset_config(dataclasses.replace(TINY, layers=1))
    models.random_model(config, torch.float32, CPU, 0).save_pretrained(tmp_path)
    backend.load(Config(str(tmp_path), device="cpu", threads=1, compile="inductor"))
    for m in range(1, 11):
        request = Request(m, 6)
        prepared = backend.prepare(request)
        assert prepared.compile_s > 0
        assert prepared.capture_s is None
        with torch.compiler.set_stance("fail_on_recompile"):
            completion = backend.run(request)
            backend.run(request)
        assert completion.end_ns - completion.start_ns < 1e9 * prepared.compile_s
    assert backend.prepare(Request(4, 1)).compile_s is None


@needs_compiler
def test_compiling_is_recorded_apart_from_the_trials(tmp_path):
    from harness.runs.records import load_trials, read_run

    run = tmp_path / "run"
    command = [*JOULEBENCH, "measure", "-o", str(run), "-m", "tiny-test", "--device", "cpu", "--max-foreign-load", "1"]
    command += ["--threads", "1", "--compile", "inductor", "--point", "8,4", "--min-window", "0.05", "--probes", "none"]
    subprocess.run(command, check=True, capture_output=True, env=environment(), timeout=300)
    trials = load_trials(run).query("status == 'ok'")
    compiled = trials[trials["compile_s"].notna()]
    assert list(compiled["purpose"].unique()) == ["warmup"]
    assert (compiled["compile_s"] > 10 * compiled["runtime_s"]).all()
    assert trials["capture_s"].isna().all()
    backend = read_run(run).backend
    assert backend.config.compile == "inductor"
    assert (backend.settings["kv_cache_class"], backend.settings["kv_cache_length"]) == ("StaticCache", "m + n")
    plain = [*command[:-8], "--compile", "none", *command[-6:]]
    done = subprocess.run(plain, capture_output=True, text=True, env=environment())
    assert "differs in --compile: 'inductor' there and 'none' now" in refused(done)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"compile": "graph"}, r"CUDA graphs.*cpu; use none or inductor"),
        ({"compile": "jit"}, "none, graph, inductor"),
        ({"compile": "inductor", "kv_cache": False}, "--compile inductor needs the KV cache"),
        ({"prefill_chunk": 4, "kv_cache": False}, "--prefill-chunk needs the KV cache"),
        ({"prefill_chunk": 0}, "at least 1 token"),
    ],
)
def test_what_can_not_be_compiled_is_refused_before_loading(backend, changes, said):
    config = dataclasses.replace(Config("tiny-test", device="cpu"), **changes)
    for action in (backend.resolve, backend.load):
        with pytest.raises(InvalidConfig, match=said):
            action(config)


def test_graph_is_refused_on_apple_gpus(backend, monkeypatch):
    monkeypatch.setattr(devices, "usable", lambda: ("mps", "cpu"))
    with pytest.raises(InvalidConfig, match="can't run on mps"):
        backend.resolve(Config("tiny-test", device="mps", compile="graph"))


@needs_compiler
def test_what_torch_tells_its_developers_is_left_out(backend, monkeypatch):
    def failing(function, **options):
        def compiled(*arguments, **inputs):
            raise RuntimeError("no compiler\n\nSet TORCHDYNAMO_VERBOSE=1 for the internal stack trace")

        return compiled

    backend.load(Config("tiny-test", device="cpu", compile="inductor"))
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(BackendError, match=r"no compiler$"):
        backend.prepare(Request(4, 3))


def test_absent_compiler_is_refused_with_what_to_install(backend, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InvalidConfig, match=r"C\+\+ compiler \(g\+\+.*install"):
        backend.resolve(Config("tiny-test", device="cpu", compile="inductor"))


@needs_compiler
def test_cache_directory_that_can_not_be_written_is_refused(tmp_path):
    """In a process of its own: torch makes the directory while it is imported."""
    (tmp_path / "file").touch()
    command = [*JOULEBENCH, "measure", "-m", "tiny-test", "--compile", "inductor", "-o", str(tmp_path / "run")]
    surroundings = {**environment(), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "file" / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    assert "TORCHINDUCTOR_CACHE_DIR=" in refused(done)


def test_model_with_another_state_than_a_cache_is_refused(backend, tmp_path):
    """Mamba keeps a recurrent state: a static cache would be the wrong one."""
    config = transformers.JambaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=1, use_mamba_kernels=False,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    config = Config(str(tmp_path), device="cpu", compile="inductor")
    for action in (backend.resolve, backend.load):
        with pytest.raises(InvalidConfig, match=r"jamba.*--compile none"):
            action(config)


def test_triton_without_the_headers_of_python_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(decode, "find_spec", lambda package: object())
    monkeypatch.setattr(decode.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("CC", "/opt/cc")
    with pytest.raises(InvalidConfig, match=r"Python\.h is missing.*apt install python3-dev"):
        decode.refuse(Config("tiny-test", compile="inductor"), "cuda")


def test_models_that_index_with_lists_can_not_be_captured():
    for mode in ("none", "inductor"):
        decode.refuse_architecture(Config("falcon-7b", compile=mode), "falcon")
    decode.refuse_architecture(Config("llama-2-7b", compile="graph"), "llama")
    with pytest.raises(InvalidConfig, match=r"can't capture falcon.*use --compile inductor or none"):
        decode.refuse_architecture(Config("falcon-7b", compile="graph"), "falcon")


def test_triton_without_a_c_compiler_is_refused(monkeypatch, tmp_path):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(decode.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(decode, "find_spec", lambda package: object())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(InvalidConfig, match=r"needs a C compiler on CUDA.*apt install gcc"):
        decode.refuse(Config("tiny-test", compile="inductor"), "cuda")
    monkeypatch.setenv("CC", "/opt/cc")
    decode.refuse(Config("tiny-test", compile="inductor"), "cuda")


@needs_compiler
def test_former_cache_is_gone_before_the_next_one_is_made(backend, monkeypatch):
    """Two long caches may not fit side by side, and Python collects cycles when it likes."""
    from transformers.cache_utils import StaticLayer

    claim, former, alive = StaticLayer.lazy_initialization, [], []

    def watch(self, *states):
        alive.append([cache() for cache in former])
        return claim(self, *states)

    monkeypatch.setattr(StaticLayer, "lazy_initialization", watch)
    backend.load(Config("tiny-test", device="cpu", threads=1, compile="inductor"))
    gc.disable()
    try:
        for request in (Request(8, 4), Request(8, 1), Request(8, 1), Request(9, 4)):
            backend.prepare(request)
            backend.run(request)
            former.append(weakref.ref(backend._prepared[1]._cache))
    finally:
        gc.enable()
    assert alive
    assert not any(cache for caches in alive for cache in caches)


@needs_compiler
def test_failing_compiler_is_a_failed_trial(backend, monkeypatch):
    backend.load(Config("tiny-test", device="cpu", compile="inductor"))
    monkeypatch.setattr(torch, "compile", failing_compile)
    with pytest.raises(BackendError, match="no kernel for this"):
        backend.prepare(Request(4, 3))


def failing_compile(function, **options):
    def compiled(*arguments, **inputs):
        raise RuntimeError("no kernel for this")

    return compiled


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("mode", ["graph", "inductor"])
def test_cuda_modes_choose_the_tokens_of_the_plain_loop(backend, folder, mode):
    plain = Config(folder, device="cuda", dtype="float32")
    requests = Request(24, 12, 1, 2), Request(5, 2, 2, 3), Request(5, 2, 2), Request(9, 1, 0, 2)
    expected = tokens(backend, plain, *requests)
    assert tokens(backend, dataclasses.replace(plain, compile=mode), *requests) == expected
    assert backend.prepare(requests[0]).capture_s > 0
