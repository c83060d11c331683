"""Quantised weights: sizes, tokens and refusals. What needs bitsandbytes or torchao skips where it is absent."""

import dataclasses
import json

import pytest

from backends.base import InvalidConfig, NotInstalled
from backends.presets import PRESETS

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from backends.transformers import models, placement, quantizers  # noqa: E402
from backends.transformers.sizes import size_of  # noqa: E402

TINY = PRESETS["tiny-test"].architecture
CPU = torch.device("cpu")
ON_CPU = [name for name, method in quantizers.METHODS.items() if "cpu" in method.devices]


def prepared(name, architecture=TINY):
    """Configuration of the model, dtype of its activations and its quantisation; skips where the package is absent."""
    if name not in quantizers.usable(("cuda", "cpu")):
        pytest.skip(f"needs {' and '.join(quantizers.METHODS[name].packages)}")
    dtype = getattr(torch, quantizers.activation_dtype(name, "float32"))
    return models.preset_config(architecture), dtype, quantizers.of_method(name, dtype)


def tensors(value):
    """Every plain tensor that a parameter is made of, wherever its package keeps it."""
    if hasattr(value, "__tensor_flatten__"):
        return [part for name in value.__tensor_flatten__()[0] for part in tensors(getattr(value, name))]
    found = [value.data] if isinstance(value, torch.Tensor) else []
    for name, part in vars(value).items():
        if name in ("quant_state", "state2") and part is not None:
            found += tensors(part)
        elif name in ("SCB", "absmax", "code", "offset") and part is not None:
            found.append(part)
    return found


def bytes_of(model):
    return sum(part.numel() * part.element_size() for weight in model.parameters() for part in tensors(weight))


def tokens(model, count=8):
    with torch.inference_mode():
        ids = torch.arange(12)[None]
        for _ in range(count):
            ids = torch.cat((ids, model(input_ids=ids, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)), 1)
    return ids[0, 12:].tolist()


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("tied", [True, False])
def test_predicted_size_is_that_of_the_tensors(name, tied):
    config, dtype, quantization = prepared(name, dataclasses.replace(TINY, tied_embeddings=tied))
    size = size_of(config, dtype, quantization)
    parameters, weight_bytes = size.parameters, size.weight_bytes
    model = placement.random_model(config, dtype, {"": "cpu"}, 0, quantization)
    assert weight_bytes == bytes_of(model)
    plain = size_of(config, dtype)
    plain_parameters, plain_bytes = plain.parameters, plain.weight_bytes
    assert parameters == plain_parameters
    assert weight_bytes < plain_bytes
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("name", ON_CPU)
def test_drawn_weights_are_those_of_a_quantised_folder(name, tmp_path):
    """A preset's weights, quantised one after the other, against from_pretrained on the same weights unquantised."""
    config, dtype, quantization = prepared(name)
    plain = models.random_model(config, dtype, CPU, 0)
    plain.save_pretrained(tmp_path)
    read_config = models.read_config(str(tmp_path))[1]
    read = models.pretrained_model(
        str(tmp_path), "folder", read_config, dtype, {"": "cpu"}, quantizers.of_method(name, dtype)
    ).eval()
    drawn = placement.random_model(config, dtype, {"": "cpu"}, 0, quantization).eval()
    assert bytes_of(read) == bytes_of(drawn)
    with torch.inference_mode():
        ids = torch.arange(12)[None]
        assert torch.equal(read(input_ids=ids).logits, drawn(input_ids=ids).logits)
        difference = (drawn(input_ids=ids).logits - plain(input_ids=ids).logits).float().std()
    assert 0 < difference < 0.5
    assert tokens(read) == tokens(drawn)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("double_quant", [False, True])
def test_folder_that_is_stored_quantised(name, double_quant, tmp_path):
    config, dtype, quantization = prepared(name)
    if double_quant:
        if name != "bnb-nf4":
            pytest.skip("only bitsandbytes' 4-bit weights can have quantised scales")
        quantization.bnb_4bit_use_double_quant = True
    drawn = placement.random_model(config, dtype, {"": "cpu"}, 0, quantization).eval()
    drawn.save_pretrained(tmp_path)  # before a forward pass: bitsandbytes may repack weights for this CPU in the first
    expected = tokens(drawn)
    _, stored_config = models.read_config(str(tmp_path))
    stored_name, stored = quantizers.of_checkpoint(str(tmp_path), stored_config)
    assert stored_name == name
    read = models.pretrained_model(str(tmp_path), "folder", stored_config, dtype, {"": "cpu"})
    assert size_of(stored_config, dtype, stored) == size_of(config, dtype, quantization)
    assert bytes_of(read) == size_of(config, dtype, quantization).weight_bytes
    assert tokens(read.eval()) == expected


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig", "_data": {}}}},
        {"quant_method": "torchao", "quant_type": "int4_weight_only"},
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        {},
    ],
)
def test_checkpoint_of_another_method_is_refused_in_one_line(tmp_path, quantization):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": quantization}))
    with pytest.raises(InvalidConfig, match=r"quantised checkpoint.*give the unquantised model") as refused:
        models.read_config(str(tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", quantizers.METHODS)
def test_absent_package_names_the_install_command(monkeypatch, tmp_path, name):
    monkeypatch.setattr(quantizers, "find_spec", lambda package: None)
    assert quantizers.usable(("cuda", "cpu")) == ()
    packages = " ".join(quantizers.METHODS[name].packages)
    with pytest.raises(NotInstalled, match=f"pip install {packages}"):
        quantizers.refuse(name, torch.device("cuda", 0))
    stored = {
        "bnb-int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "bnb-nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "torchao-int8": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
    }.get(name)
    if stored:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": stored}))
        with pytest.raises(NotInstalled, match=f"pip install {packages}"):
            models.read_config(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "device", "capability", "said"),
    [
        ("torchao-int4", "cpu", None, "can't run on cpu; take bnb-int8 or bnb-nf4 or torchao-int8"),
        ("bnb-nf4", "mps", None, "can't run on mps; leave the weights unquantised"),
        ("torchao-int4", "cuda", (7, 5), "compute capability 8.0"),
        ("bnb-int8", "cuda", (7, 0), "compute capability 7.5"),
    ],
)
def test_device_without_kernels_is_refused(monkeypatch, name, device, capability, said):
    monkeypatch.setattr(quantizers, "find_spec", lambda package: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(InvalidConfig, match=said) as refused:
        quantizers.refuse(name, torch.device(device))
    assert "\n" not in str(refused.value)
    assert not isinstance(refused.value, NotInstalled)


def test_int8_of_bitsandbytes_is_not_compiled(monkeypatch):
    monkeypatch.setattr(quantizers, "find_spec", lambda package: object())
    quantizers.refuse("bnb-int8", CPU)
    quantizers.refuse("torchao-int8", CPU, "inductor")
    with pytest.raises(InvalidConfig, match="--compile inductor; take torchao-int8 or none"):
        quantizers.refuse("bnb-int8", CPU, "inductor")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", quantizers.METHODS)
def test_quantised_on_cuda(name):
    device = torch.device("cuda", 0)
    config, _, _ = prepared(name, dataclasses.replace(TINY, hidden_size=1024, head_dim=256, intermediate_size=1536))
    quantizers.refuse(name, device)
    dtype = getattr(torch, quantizers.activation_dtype(name, "bfloat16"))
    quantization = quantizers.of_method(name, dtype)
    model = placement.random_model(config, dtype, {"": 0}, 0, quantization).eval()
    assert {weight.device for weight in model.parameters()} == {device}
    assert bytes_of(model) == size_of(config, dtype, quantization).weight_bytes
    with torch.inference_mode():
        assert torch.isfinite(model(input_ids=torch.arange(12, device=device)[None]).logits).all()
