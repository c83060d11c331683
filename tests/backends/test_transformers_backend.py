"""The transformers backend against transformers itself, and what only torch can do wrong."""

import dataclasses
import functools
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from backends.base import Config, InvalidConfig, NotInstalled, OutOfMemory, Request
from backends.presets import PRESETS, RopeScaling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch", reason="comes with transformers")

from backends.transformers import devices, models  # noqa: E402
from backends.transformers.backend import TransformersBackend  # noqa: E402

TINY = PRESETS["tiny-test"].architecture
SMALL = {
    "llama": dataclasses.replace(TINY, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64)),
    "tied": dataclasses.replace(TINY, tied_embeddings=True),
    "qwen2": dataclasses.replace(TINY, family="qwen2", qkv_bias=True, tied_embeddings=True),
    "mistral": dataclasses.replace(TINY, family="mistral", sliding_window=16),
    "falcon": dataclasses.replace(TINY, family="falcon", kv_heads=1, tied_embeddings=True),
}
CPU = torch.device("cpu")


@pytest.fixture
def backend():
    backend = TransformersBackend()
    yield backend
    backend.close()


def complete(backend: TransformersBackend, request: Request):
    backend.prepare(request)
    return backend.run(request)


def save(folder, architecture, dtype=torch.float32, seed=0):
    config = models.preset_config(architecture)
    model = models.random_model(config, dtype, CPU, seed)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("kv_cache", [True, False])
def test_tokens_are_those_of_generate(backend, tmp_path, family, kv_cache):
    """A saved folder of every family: 24 + 12 tokens also cross Mistral's sliding window of 16."""
    save(tmp_path, SMALL[family])
    loaded = backend.load(Config(str(tmp_path), device="cpu", dtype="float32", kv_cache=kv_cache))
    assert not loaded.model.random_weights
    assert loaded.model.source == "folder"
    assert loaded.model.parameters == SMALL[family].parameters()

    request = Request(24, 12, seed=11, concurrency=2)
    produced = complete(backend, request).output_ids
    input_ids = backend._draw_tokens(request)
    sequences = backend.model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        min_new_tokens=12,
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    assert sequences.shape == (2, 36)
    assert produced == tuple(sequences[0, 24:].tolist())


def test_end_of_sequence_does_not_stop(backend, tmp_path):
    save(tmp_path, TINY)
    backend.load(Config(str(tmp_path), device="cpu", threads=1))
    request = Request(8, 20, seed=2)
    free = complete(backend, request).output_ids
    config = json.loads((tmp_path / "config.json").read_text())
    config["eos_token_id"] = free[3]
    (tmp_path / "config.json").write_text(json.dumps(config))
    backend.load(Config(str(tmp_path), device="cpu", threads=1))
    assert complete(backend, request).output_ids == free


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_random_weights_keep_logits_finite_and_unequal(family, dtype):
    """Wide enough that a scale which ignores the width would overflow half precision or vanish."""
    wide = dataclasses.replace(SMALL[family], hidden_size=512, heads=8, head_dim=64, intermediate_size=2048, layers=4)
    config = models.preset_config(wide)
    model = models.random_model(config, getattr(torch, dtype), CPU, seed=1)
    with torch.inference_mode():
        logits = model(input_ids=torch.arange(24).reshape(1, 24)).logits
    assert logits.dtype == getattr(torch, dtype)
    assert torch.isfinite(logits).all()
    assert 0.1 < logits.float().std() < 10


@pytest.mark.parametrize("family", SMALL)
def test_random_model_is_the_one_transformers_would_build(family):
    """Same modules and buffers (rotary frequencies) as the library's own, ties included; only weights differ."""
    config = models.preset_config(SMALL[family])
    ours = models.random_model(config, torch.float32, CPU, seed=1)
    theirs = transformers.AutoModelForCausalLM.from_config(config)
    assert {k: v.shape for k, v in ours.named_parameters()} == {k: v.shape for k, v in theirs.named_parameters()}
    for (name, buffer), (_, expected) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)
    tied = ours.get_input_embeddings().weight is ours.get_output_embeddings().weight
    assert tied == SMALL[family].tied_embeddings


def test_seeds_decide_weights_and_input(backend):
    request = Request(16, 8, seed=1)

    def tokens(weights_seed: int, input_seed: int):
        backend.load(Config("tiny-test", device="cpu", threads=1, seed=weights_seed))
        return complete(backend, dataclasses.replace(request, seed=input_seed)).output_ids

    assert tokens(0, 1) == tokens(0, 1)
    assert tokens(0, 1) != tokens(0, 2)
    assert tokens(0, 1) != tokens(9, 1)


def test_random_weights_exist_once_in_memory():
    """Peak memory of a fresh process grows by about the weights, 179 MB here, not by twice as much."""
    script = """
        import dataclasses, re, torch
        from backends.transformers import models
        from backends.presets import PRESETS
        def make(layers):
            architecture = dataclasses.replace(PRESETS["qwen2.5-0.5b"].architecture, layers=layers)
            config = models.preset_config(dataclasses.replace(architecture, vocab_size=10_000))
            model = models.random_model(config, torch.float32, torch.device("cpu"), 0)
            return sum(w.numel() * w.element_size() for w in model.parameters())
        def peak_bytes():
            return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
        small = make(1)
        before = peak_bytes()
        weights = make(4) - small
        print((peak_bytes() - before) / weights, weights)
    """
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs /proc to read the peak")
    ratio, weights = map(float, run_python(script).split())
    assert weights > 150e6
    assert 0.8 < ratio < 1.3


def test_memory_that_is_not_there_is_reported_and_given_back():
    script = """
        import os, resource
        from backends.base import Config, OutOfMemory, Request
        from backends.transformers.backend import create
        backend = create()
        backend.load(Config("tiny-test", device="cpu", threads=1))
        small, large = Request(4, 4, concurrency=64), Request(4000, 2, concurrency=64)
        backend.prepare(small)
        expected = backend.run(small).output_ids
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + 200 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for _ in range(3):
            backend.prepare(large)
            try:
                backend.run(large)
            except OutOfMemory as error:
                print(error)
        backend.prepare(small)
        assert backend.run(small).output_ids == expected
    """
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc and a limit on the address space")
    lines = run_python(script).splitlines()
    assert len(lines) == 3
    assert all("allocate memory" in line for line in lines)


def run_python(script: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_input_larger_than_memory_is_out_of_memory(backend):
    backend.load(Config("tiny-test", device="cpu", threads=1))
    request = Request(4000, 1, concurrency=10**12)
    with pytest.raises(OutOfMemory):
        backend.prepare(request)
    with pytest.raises(Exception, match="not prepared"):
        backend.run(request)


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), OutOfMemory),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
    ],
)
def test_errors_of_torch_become_those_of_the_border(backend, monkeypatch, raised, reported):
    from backends.base import BackendError

    backend.load(Config("tiny-test", device="cpu", threads=1))
    request = Request(4, 2)
    expected = complete(backend, request).output_ids

    def fail(*arguments, **options):
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(type(backend.model), "forward", fail)
        with pytest.raises(BackendError) as failure:
            complete(backend, request)
    assert type(failure.value) is (reported or BackendError)
    assert "\n" not in str(failure.value)
    assert complete(backend, request).output_ids == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "config.json"),
        ('{"model_type": "llama", "hid', "not a valid JSON"),
        ("[1, 2]", "config.json"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "str"),
        ('{"model_type": "llama", "vocab_size": -5}', "dimension -5"),
        ('{"model_type": "no-such-architecture"}', "no-such-architecture"),
        ('{"model_type": "t5"}', "encoder–decoder (t5)"),
        ('{"model_type": "bert"}', "an encoder (bert)"),
        (
            '{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}',
            "LlamaForSequenceClassification",
        ),
        ('{"model_type": "llama", "quantization_config": {"quant_method": "modelopt"}}', "quantised"),
        ('{"model_type": "x", "auto_map": {"AutoConfig": "x.X", "AutoModelForCausalLM": "x.Y"}}', "code"),
    ],
)
def test_unusable_folder_is_refused_in_one_line(backend, tmp_path, content, said):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    (tmp_path / "x.py").write_text("raise SystemExit('code of a model was run')")
    for action in (backend.resolve, backend.load):
        with pytest.raises(InvalidConfig) as refused:
            action(Config(str(tmp_path), device="cpu"))
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)


def test_folder_with_a_damaged_or_missing_weight_file_is_refused(backend, tmp_path):
    save(tmp_path, TINY)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidConfig, match="safetensors"):
        backend.load(Config(str(tmp_path), device="cpu"))
    safetensors.save_file({"lm_head.weight": torch.zeros(256, 64)}, weights, {"format": "pt"})
    with pytest.raises(InvalidConfig, match="no weights for model"):
        backend.load(Config(str(tmp_path), device="cpu"))
    weights.unlink()
    with pytest.raises(InvalidConfig, match="safetensors"):
        backend.load(Config(str(tmp_path), device="cpu"))
    assert backend.model is None


def test_hub_model_without_network_is_refused_in_one_line(backend, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidConfig) as refused:
        backend.resolve(Config("organisation/no-such-model-anywhere", device="cpu"))
    assert "organisation/no-such-model-anywhere" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unreachable_hub_is_not_asked_again(backend, monkeypatch):
    import huggingface_hub

    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with socket.socket() as unheard:  # bound, but nobody listens: connections are refused
        unheard.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.raises(InvalidConfig, match=r"organisation/no-such-model-anywhere.*check the id, the network"):
            backend.resolve(Config("organisation/no-such-model-anywhere", device="cpu"))
    assert waits == []


def test_gguf_file_is_left_to_llama_cpp(backend, tmp_path):
    path = tmp_path / "model.gguf"
    path.touch()
    with pytest.raises(InvalidConfig, match="--backend llama-cpp"):
        backend.resolve(Config(str(path)))


def test_number_of_threads_below_one_is_refused(backend):
    with pytest.raises(InvalidConfig, match="at least 1"):
        backend.resolve(Config("tiny-test", threads=0))


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_absent_package_names_the_install_command(backend, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for action in (backend.capabilities, backend.versions, lambda: backend.resolve(Config("tiny-test"))):
        with pytest.raises(NotInstalled, match=r"pip install 'torch>=\S+ 'transformers>="):
            action()


def test_old_transformers_names_the_upgrade(backend, monkeypatch):
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    for action in (backend.capabilities, lambda: backend.resolve(Config("tiny-test"))):
        with pytest.raises(NotInstalled, match=r"transformers 4\.57\.1 is too old.*--upgrade 'transformers>=5\.14'"):
            action()


def test_torch_without_a_library_it_needs_is_refused_with_the_reason(backend, monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudnn.so.9: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(NotInstalled, match=r"libcudnn\.so\.9.*pip install 'torch>=\S+ 'transformers>="):
        backend.capabilities()


@pytest.mark.parametrize(
    ("capability", "dtype"), [((6, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_gpus_without_bfloat16_get_float16(backend, monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    config = Config("tiny-test", device="cuda:0")
    assert backend.resolve(config).dtype == dtype
    assert backend.resolve(dataclasses.replace(config, dtype="bfloat16")).dtype == "bfloat16"
    assert backend.resolve(dataclasses.replace(config, device="cpu")).dtype == "float32"


def test_threads_are_used_reported_and_put_back(backend):
    before = torch.get_num_threads()
    loaded = backend.load(Config("tiny-test", device="cpu", threads=before + 1))
    assert loaded.settings["threads"] == torch.get_num_threads() == before + 1
    backend.close()
    assert torch.get_num_threads() == before
    assert backend.load(Config("tiny-test", device="cpu")).settings["threads"] == before


def test_settings_name_what_changes_the_speed(backend):
    settings = backend.load(Config("tiny-test", device="cpu", threads=1)).settings
    assert settings["attention"] == "sdpa"
    assert settings["kv_cache_class"] == "DynamicCache"
    assert settings["float32_matmul_precision"] == "highest"
    settings = backend.load(Config("tiny-test", device="cpu", threads=1, kv_cache=False)).settings
    assert settings["kv_cache_class"] is None


def test_nothing_reaches_stdout(capfd, backend, tmp_path):
    save(tmp_path, TINY)
    capfd.readouterr()
    backend.load(Config(str(tmp_path), device="cpu", threads=1))
    complete(backend, Request(4, 4))
    assert capfd.readouterr().out == ""


def test_each_phase_processes_the_tokens_it_should(backend, monkeypatch):
    """With the cache one token a step, without it the whole sequence so far; logits for one position only."""
    seen = []
    for kv_cache in (True, False):
        backend.load(Config("tiny-test", device="cpu", threads=1, kv_cache=kv_cache))
        forward = type(backend.model).forward

        @functools.wraps(forward)
        def record(self, input_ids, forward=forward, **options):
            output = forward(self, input_ids=input_ids, **options)
            seen.append((input_ids.shape[1], output.logits.shape[1]))
            return output

        with monkeypatch.context() as patch:
            patch.setattr(type(backend.model), "forward", record)
            complete(backend, Request(5, 4))
    assert seen == [(5, 1), (1, 1), (1, 1), (1, 1), (5, 1), (6, 1), (7, 1), (8, 1)]


def test_a_driver_too_old_for_torch_is_why_a_gpu_can_not_be_used(monkeypatch):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update it.\nMore")

    if torch.cuda.is_available():
        pytest.skip("torch computes on a GPU here")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", init)
    said = devices.cuda_unusable()
    assert said.startswith(
        f"torch {torch.__version__}, built for CUDA 12.8, says: The NVIDIA driver on your system is too old"
    )
    assert "update the NVIDIA driver" in said
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.cuda_unusable() == "CUDA_VISIBLE_DEVICES hides it; unset it"


def test_an_apple_gpu_that_is_listed_and_can_not_compute_is_not_usable(backend, monkeypatch):
    """As on hosted virtual machines, where it has no memory; here torch itself refuses what is placed on it."""
    if devices.mps_works():
        pytest.skip("this Apple GPU computes")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "mps" not in backend.capabilities().devices
    assert backend.load(Config("tiny-test", threads=1)).device != "mps"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda(backend):
    assert backend.capabilities().devices[0] == "cuda"
    loaded = backend.load(Config("smollm2-135m"))
    assert (loaded.device, loaded.model.dtype) == ("cuda", "bfloat16")
    assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", loaded.gpu_uuids[0])
    request = Request(64, 32)
    assert complete(backend, request).output_ids == backend.run(request).output_ids
    with pytest.raises(InvalidConfig, match="cuda:99"):
        backend.resolve(Config("smollm2-135m", device="cuda:99"))
    with pytest.raises(OutOfMemory):
        complete(backend, Request(8000, 1, concurrency=10**6))
    backend.load(Config("smollm2-135m", device="cuda:0", dtype="float16"))
    assert complete(backend, request).output_tokens == 32


@pytest.mark.metal
@pytest.mark.skipif(not devices.mps_works(), reason="needs an Apple GPU that computes")
def test_metal(backend):
    assert backend.capabilities().devices[0] == "mps"
    loaded = backend.load(Config("smollm2-135m"))
    assert (loaded.device, loaded.model.dtype) == ("mps", "float16")
    request = Request(64, 32)
    assert complete(backend, request).output_ids == backend.run(request).output_ids
