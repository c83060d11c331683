"""Checkpoints that are stored quantised: read by transformers' quantiser, or refused with what they need."""

import json
import shutil

import pytest

from backends.base import Config, InvalidConfig, NotInstalled, Request

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from safetensors.torch import load_file, save_file  # noqa: E402

from backends.transformers import stored  # noqa: E402
from backends.transformers.backend import TransformersBackend  # noqa: E402

SIZES = {
    "vocab_size": 300,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
REQUEST = Request(8, 4)


@pytest.fixture
def backend():
    backend = TransformersBackend()
    yield backend
    backend.close()


def plain(folder):
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


def describe(folder, **entries):
    content = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps(content))


def fp8(folder):
    """Matrices of float8 with a scale for each block, as DeepSeek stores them; returns what they stand for."""
    weights, meant = {}, {}
    for name, weight in load_file(plain(folder) / "model.safetensors").items():
        meant[name] = weights[name] = weight
        if "proj" in name:
            rows, columns = weight.shape
            blocks = weight.reshape(rows // 128, 128, columns // 128, 128)
            scales = blocks.abs().amax((1, 3)) / 448
            packed = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
            weights[name], weights[name + "_scale_inv"] = packed.reshape(rows, columns), scales
            meant[name] = (packed.float() * scales[:, None, :, None]).reshape(rows, columns)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    describe(folder, quantization_config=FP8)
    return meant


def produced(backend, folder):
    backend.load(Config(str(folder), device="cpu"))
    backend.prepare(REQUEST)
    return backend.run(REQUEST).output_ids


def test_fp8_without_kernels_is_measured_as_what_it_is_unpacked_to(backend, tmp_path):
    meant = fp8(tmp_path / "fp8")
    save_file(meant, plain(tmp_path / "meant") / "model.safetensors", metadata={"format": "pt"})
    tokens = produced(backend, tmp_path / "fp8")
    loaded = backend.load(Config(str(tmp_path / "fp8"), device="cpu"))
    assert loaded.model == backend.resolve(Config(str(tmp_path / "fp8"), device="cpu"))
    assert loaded.model.dtype == "fp8 unpacked to float32"
    assert loaded.model.parameters == sum(weight.numel() for weight in meant.values())
    assert loaded.model.weight_bytes == 4 * loaded.model.parameters
    assert loaded.settings["activation_dtype"] == "float32"
    assert "accelerate" in backend.versions()
    assert tokens == produced(backend, tmp_path / "meant")


# torch compiles how they are unpacked, which takes most of a minute.
@pytest.mark.slow
def test_weights_that_stay_packed_are_recorded_with_their_stored_bytes(backend, tmp_path):
    pack_weights = pytest.importorskip("transformers.integrations.bitnet").pack_weights
    weights = load_file(plain(tmp_path) / "model.safetensors")
    count = sum(weight.numel() for weight in weights.values())
    for name, weight in list(weights.items()):
        if "proj" in name:
            scale = weight.abs().mean()
            weights[name] = pack_weights((weight / scale).round().clamp(-1, 1))
            weights[name + "_scale"] = scale.reshape(1)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    describe(tmp_path, quantization_config={"quant_method": "bitnet"})
    assert len(produced(backend, tmp_path)) == REQUEST.output_tokens
    model = backend.resolve(Config(str(tmp_path), device="cpu"))
    assert (model.dtype, model.parameters) == ("bitnet", count)
    assert model.weight_bytes == sum(weight.nbytes for weight in weights.values())
    # A step reads a single row of the embedding.
    embedding = weights["model.embed_tokens.weight"]
    assert model.step_bytes == model.weight_bytes - embedding.nbytes + embedding[0].nbytes


@pytest.mark.parametrize(
    ("quantization", "packages"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "gptqmodel"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "hqq", "quant_config": {}}, "hqq"),
    ],
)
def test_absent_quantiser_is_named_before_anything_is_loaded(backend, tmp_path, monkeypatch, quantization, packages):
    versions = {"accelerate": "1"}
    monkeypatch.setattr(stored, "_version", versions.get)
    plain(tmp_path)
    describe(tmp_path, quantization_config=quantization)
    with pytest.raises(NotInstalled, match=f"pip install {packages}$"):
        backend.resolve(Config(str(tmp_path), device="cpu"))
    drawn = backend.resolve(Config(str(tmp_path), device="cpu", random_weights=True))
    assert (drawn.dtype, drawn.random_weights) == ("float32", True)


def test_description_of_compressed_tensors_by_its_first_name(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_version", lambda package: None)
    plain(tmp_path)
    describe(tmp_path, compression_config={"format": "float-quantized"})
    with pytest.raises(NotInstalled, match="compressed-tensors weights"):
        backend.resolve(Config(str(tmp_path), device="cpu"))


def test_kernels_for_gpus_alone_are_refused_on_a_cpu(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_version", lambda package: "1")
    plain(tmp_path)
    describe(tmp_path, quantization_config={"quant_method": "eetq", "weights": "int8"})
    with pytest.raises(InvalidConfig, match="eetq weights, which run on NVIDIA GPUs only"):
        backend.resolve(Config(str(tmp_path), device="cpu"))


def test_weights_that_a_quantiser_unpacks_unasked_are_noticed(backend, tmp_path, monkeypatch):
    fp8(tmp_path)
    real = stored.on_device
    monkeypatch.setattr(
        stored, "on_device", lambda *given: stored.Stored(real(*given).quantization, torch.float32, unpacked=False)
    )
    with pytest.raises(InvalidConfig, match="they were unpacked, for want of kernels"):
        backend.load(Config(str(tmp_path), device="cpu"))


def test_folders_without_their_weights_are_refused_before_loading(backend, tmp_path):
    config = Config(str(plain(tmp_path)), device="cpu")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidConfig, match=r"pytorch_model\.bin, a format that can run code.*--random-weights"):
        backend.resolve(config)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(InvalidConfig, match=r"no weights.*--random-weights measures"):
        backend.resolve(config)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidConfig, match=r"lacks model-1\.safetensors, of 2 files"):
        backend.resolve(config)
    assert backend.resolve(Config(str(tmp_path), device="cpu", random_weights=True)).random_weights


def test_scales_that_no_description_names_are_never_dropped(backend, tmp_path):
    fp8(tmp_path / "a")
    describe(tmp_path / "a", quantization_config=None)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "hf_quant_config.json").write_text("{}")
    with pytest.raises(InvalidConfig, match=r"its weights are quantised, and .*scale_inv"):
        backend.load(Config(str(tmp_path / "a"), device="cpu"))
    with pytest.raises(InvalidConfig, match=r"hf_quant_config\.json, which transformers doesn't read"):
        backend.resolve(Config(str(tmp_path / "b"), device="cpu"))
