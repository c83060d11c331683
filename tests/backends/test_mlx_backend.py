"""The mlx backend: what the contract of all backends doesn't cover. It runs here on MLX's build for the CPU."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

import backends
from backends.base import BackendError, Config, InvalidConfig, OutOfMemory, Request
from backends.presets import PRESETS, RopeScaling
from tests.helpers import refusal_of

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
from mlx.utils import tree_flatten  # noqa: E402

from backends.mlx import backend as mlx_backend  # noqa: E402
from backends.mlx import models  # noqa: E402

TINY = PRESETS["tiny-test"].architecture
SHAPES = {
    "llama": dataclasses.replace(TINY, rope_theta=5e5),
    "llama3": dataclasses.replace(TINY, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16), tied_embeddings=True),
    "mistral": dataclasses.replace(TINY, family="mistral", rope_theta=1e3),
    "qwen2": dataclasses.replace(TINY, family="qwen2", qkv_bias=True, tied_embeddings=True, rope_theta=1e6),
}


@pytest.fixture
def backend():
    backend = backends.create("mlx")
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that transformers saved, llama in shape."""
    path = tmp_path_factory.mktemp("llama")
    save(path, "llama")
    return path


def save(folder, shape, dtype="float32"):
    torch = pytest.importorskip("torch")
    from backends.transformers import models as torch_models

    config = torch_models.preset_config(SHAPES[shape])
    model = torch_models.random_model(config, getattr(torch, dtype), torch.device("cpu"), seed=3)
    model.save_pretrained(folder)
    return model


def cpu(model="tiny-test", **fields):
    return Config(str(model), device="cpu", **fields)


def complete(backend, request):
    backend.prepare(request)
    return backend.run(request)


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_of_every_sequence_are_those_of_transformers(backend, tmp_path, shape):
    model = save(tmp_path, shape)
    request = Request(24, 12, seed=11, concurrency=3)
    loaded = backend.load(cpu(tmp_path))
    assert loaded.model.parameters == SHAPES[shape].parameters()
    assert (loaded.model.source, loaded.model.random_weights, loaded.model.dtype) == ("folder", False, "float32")
    complete(backend, request)
    decoder = backend._prepared[1]

    import torch

    ids = torch.tensor(decoder._input_ids.tolist())
    options = {"min_new_tokens": 12, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, 24:].tolist()
    assert decoder.output_ids() == expected
    assert expected[0] != expected[1] != expected[2]


@pytest.mark.parametrize("kv_cache", [True, False])
def test_steps_of_the_prefill_choose_the_tokens_of_one_pass(backend, folder, kv_cache):
    requests = Request(24, 6, seed=1), Request(25, 3, seed=2, concurrency=2), Request(1, 4)
    found = set()
    for chunk in (None, 1, 8, 23, 24, 1000):
        backend.load(cpu(folder, prefill_chunk=chunk, kv_cache=kv_cache))
        found.add(tuple(complete(backend, request).output_ids for request in requests))
    assert len(found) == 1


def test_steps_are_as_long_as_asked_and_keep_the_output_layer_to_the_last_token(backend, monkeypatch):
    seen = []
    backend.load(cpu(prefill_chunk=10))
    layer = type(backend._module)
    forward = layer.__call__

    def watch(self, ids, cache):
        seen.append((ids.shape, cache[0].offset))
        return forward(self, ids, cache=cache)

    request = Request(24, 3, concurrency=2)
    backend.prepare(request)
    monkeypatch.setattr(layer, "__call__", watch)
    completion = backend.run(request)
    assert seen == [((2, 10), 0), ((2, 10), 10), ((2, 3), 20), ((2, 1), 23), ((2, 1), 24), ((2, 1), 25)]
    assert (completion.input_tokens, completion.output_tokens) == (24, 3)


@pytest.mark.parametrize("dtype", [*models.DTYPES, *models.QUANTIZATIONS])
def test_every_dtype_runs_and_its_bytes_are_those_in_memory(backend, dtype):
    model = backend.resolve(cpu(dtype=dtype))
    loaded = backend.load(cpu(dtype=dtype))
    assert loaded.model == model
    assert (model.dtype, model.parameters) == (dtype, TINY.parameters())
    assert model.weight_bytes == sum(weight.nbytes for _, weight in tree_flatten(backend._module.parameters()))
    bits = models.QUANTIZATIONS[dtype].bits if dtype in models.QUANTIZATIONS else 32 if dtype == "float32" else 16
    # Scales, and biases where there are any, come on top of the packed numbers.
    assert bits <= 8 * model.weight_bytes / model.parameters < bits + 1.5
    assert complete(backend, Request(9, 5, concurrency=2)).output_tokens == 5


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.architecture.family != "falcon"])
def test_presets_are_described_without_memory_for_their_weights(backend, name):
    before = mx.get_active_memory()
    start_s = time.monotonic()
    for dtype, bytes_each in (("float16", 2), ("4bit", 0.5)):
        model = backend.resolve(cpu(name, dtype=dtype))
        assert model.parameters == PRESETS[name].architecture.parameters()
        assert model.weight_bytes == pytest.approx(bytes_each * model.parameters, rel=0.3)
    assert mx.get_active_memory() - before < 1e6
    assert time.monotonic() - start_s < 10


def test_family_that_mlx_lm_lacks_is_refused(backend):
    assert "falcon; use --backend transformers" in refusal_of(backend, cpu("falcon-7b"))


@pytest.mark.parametrize("dtype", models.DTYPES)
def test_random_weights_keep_logits_finite_and_unequal(backend, monkeypatch, dtype):
    """Wide enough that a scale which ignores the width would overflow half precision or vanish."""
    wide = dataclasses.replace(TINY, hidden_size=512, heads=8, kv_heads=2, head_dim=64, intermediate_size=1024)
    monkeypatch.setitem(PRESETS, "wide", dataclasses.replace(PRESETS["tiny-test"], architecture=wide))
    backend.load(cpu("wide", dtype=dtype))
    logits = backend._module(mx.arange(24)[None]).astype(mx.float32)
    assert mx.isfinite(logits).all()
    assert 0.1 < mx.std(logits).item() < 10


def test_seeds_decide_weights_and_input(backend):
    def tokens(weights_seed, input_seed):
        backend.load(cpu(seed=weights_seed))
        return complete(backend, Request(16, 8, seed=input_seed)).output_ids

    assert tokens(0, 1) == tokens(0, 1)
    assert tokens(0, 1) != tokens(0, 2)
    assert tokens(0, 1) != tokens(9, 1)


def test_quantised_checkpoint_is_named_as_it_is_and_runs_as_one_that_is_quantised_here(backend, folder, tmp_path):
    request = Request(20, 10, seed=2)
    backend.load(cpu(folder, dtype="8bit"))
    expected = complete(backend, request).output_ids
    made = backend.resolve(cpu(folder, dtype="8bit"))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), dict(tree_flatten(backend._module.parameters())))
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"group_size": 64, "bits": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))

    loaded = backend.load(cpu(tmp_path))
    assert (loaded.model.dtype, loaded.model.weight_bytes) == ("8bit", made.weight_bytes)
    assert loaded.settings["quantization_group_size"] == 64
    assert loaded.settings["activation_dtype"] == "float32"
    assert complete(backend, request).output_ids == expected
    assert backend.load(cpu(tmp_path, dtype="8bit")).model.dtype == "8bit"
    assert "holds 8bit weights and no others" in refusal_of(backend, cpu(tmp_path, dtype="4bit"))


def test_folder_has_its_own_precision_unless_another_is_asked_for(backend, tmp_path):
    save(tmp_path, "qwen2", "bfloat16")
    assert backend.load(cpu(tmp_path)).model.dtype == "bfloat16"
    assert backend.load(cpu(tmp_path, dtype="float16")).model.dtype == "float16"
    loaded = backend.load(cpu(tmp_path, dtype="mxfp4"))
    assert loaded.model.dtype == "mxfp4"
    assert loaded.settings["activation_dtype"] == "bfloat16"
    assert complete(backend, Request(5, 4)).output_tokens == 4


def test_hub_model_is_described_by_its_config_and_loaded_from_its_commit(backend, folder, tmp_path, monkeypatch):
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--tiny"
    snapshot = cached / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_bytes((folder / "config.json").read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = backend.resolve(cpu("someone/tiny"))
    assert (model.source, model.revision, model.parameters) == ("hub", commit, TINY.parameters())
    (snapshot / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert backend.load(cpu("someone/tiny")).model == model
    assert complete(backend, Request(5, 4)).output_tokens == 4
    assert "organisation/absent" in refusal_of(backend, cpu("organisation/absent"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "no_such_architecture"}, "no_such_architecture"),
        ({"model_file": "x.py"}, "x.py"),
        ({"max_position_embeddings": None}, "context length"),
        ({"vocab_size": 300}, "300"),
        ({"quantization": {"bits": 4}}, "group_size"),
        ({"hidden_size": None}, "can't use the model folder"),
        ("[]", "can't use the model folder"),
        ("{", "can't use the model folder"),
    ],
)
def test_folder_that_mlx_lm_can_not_run_is_refused(backend, folder, tmp_path, change, said):
    config = json.loads((folder / "config.json").read_text())
    content = change if isinstance(change, str) else json.dumps(config | change)
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "x.py").write_text("raise SystemExit('code of a model was run')")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert said in refusal_of(backend, cpu(tmp_path))


def test_folder_with_a_damaged_or_missing_weight_file_is_refused(backend, folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert "safetensors" in refusal_of(backend, cpu(tmp_path))
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100], b"", b"x" * 1000):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises((InvalidConfig, BackendError)) as refused:
            backend.load(cpu(tmp_path))
        assert "\n" not in str(refused.value)
    backend.load(cpu())
    assert complete(backend, Request(2, 2)).output_tokens == 2


def test_what_mlx_has_no_use_for_is_refused(backend, tmp_path):
    assert "--threads 2" in refusal_of(backend, cpu(threads=2))
    assert "prefill chunk" in refusal_of(backend, cpu(prefill_chunk=0))
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    assert "--backend llama-cpp" in refusal_of(backend, cpu(gguf))
    if not mx.metal.is_available():
        assert "choose cpu" in refusal_of(backend, dataclasses.replace(cpu(), device="metal"))
        assert backend.load(dataclasses.replace(cpu(), device="auto")).device == "cpu"


def test_memory_that_is_not_there_is_out_of_memory_and_survived(backend, monkeypatch):
    """On the CPU MLX would die of a signal where an allocation fails."""
    backend.load(cpu())
    huge = Request(4000, 1, concurrency=10**9)
    with pytest.raises(OutOfMemory, match="GB are free"):
        backend.prepare(huge)
    with pytest.raises(BackendError, match="not prepared"):
        backend.run(huge)
    cache = Request(200, 56, concurrency=4)
    # Keys and values of 2 layers, 2 heads of 16 numbers, 256 tokens, 4 sequences, in 4 bytes.
    monkeypatch.setattr(mlx_backend, "_free_bytes", lambda device: 2 * 2 * 2 * 16 * 256 * 4 * 4 - 1)
    with pytest.raises(OutOfMemory):
        backend.prepare(cache)
    with pytest.raises(OutOfMemory, match="weights"):
        backend.load(cpu("tiny-test"))
    monkeypatch.setattr(mlx_backend, "_free_bytes", lambda device: 10**6)
    backend.load(cpu())
    assert complete(backend, cache).output_tokens == 56


@pytest.mark.parametrize("error", [RuntimeError("[malloc] Unable to allocate 999 bytes."), MemoryError()])
def test_failing_allocation_is_out_of_memory(backend, monkeypatch, error):
    backend.load(cpu())
    request = Request(3, 3)
    backend.prepare(request)

    def fail(self, *arguments, **options):
        raise error

    monkeypatch.setattr(type(backend._module), "__call__", fail)
    with pytest.raises(OutOfMemory):
        backend.run(request)


def test_nothing_is_printed(backend, folder, capfd):
    backend.load(cpu(folder, dtype="4bit"))
    complete(backend, Request(4, 4))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["mlx.core", "mlx_lm"])
def test_absent_package_names_the_install_command(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import backends\n"
        "try: backends.create('mlx').capabilities()\n"
        "except backends.base.NotInstalled as absent: print(absent)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert "pip install 'mlx-lm[cpu]>=" in done.stdout


@pytest.mark.metal
@pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU")
def test_metal(backend):
    assert backend.capabilities().devices == ("metal", "cpu")
    loaded = backend.load(Config("smollm2-135m"))
    assert (loaded.device, loaded.model.dtype) == ("metal", "float16")
    assert loaded.settings["wired_limit_bytes"] > 0
    request = Request(64, 32, concurrency=2)
    assert complete(backend, request).output_ids == backend.run(request).output_ids
    backend.load(Config("smollm2-135m", dtype="4bit"))
    assert complete(backend, request).output_tokens == 32
