"""Models over several devices. Without GPUs: the pure parts, and maps whose entries all name the CPU."""

import dataclasses
import importlib.util

import pytest

from backends.base import Config, InvalidConfig, NotInstalled, OutOfMemory
from backends.presets import PRESETS

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from backends.transformers import decode, devices, models, placement  # noqa: E402
from backends.transformers.sizes import size_of  # noqa: E402

needs_accelerate = pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs accelerate")

TINY = PRESETS["tiny-test"].architecture
TWELVE = dataclasses.replace(TINY, layers=12)
FAMILIES = {
    "llama": dataclasses.replace(TWELVE, tied_embeddings=False),
    "tied": dataclasses.replace(TWELVE, tied_embeddings=True),
    "qwen2": dataclasses.replace(TWELVE, family="qwen2", qkv_bias=True, tied_embeddings=True),
    "mistral": dataclasses.replace(TWELVE, family="mistral", sliding_window=16),
    "falcon": dataclasses.replace(TWELVE, family="falcon", kv_heads=1, tied_embeddings=True),
}
CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "indices"), [("cuda:0,1", (0, 1)), ("cuda:3,0,2", (0, 2, 3)), ("cuda:1", (1,))])
def test_gpus_are_named_by_their_numbers(name, indices):
    assert devices.gpu_indices(name, 4) == indices


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda:0,0", "names GPU 0 more than once"),
        ("cuda:1,01", "names GPU 1 more than once"),
        ("cuda:0,4", "no device 'cuda:4'; the last one is cuda:3"),
        ("cuda:0,", "write their numbers"),
        ("cuda:,1", "write their numbers"),
        ("cuda:0,-1", "write their numbers"),
        ("cuda:0,²", "write their numbers"),
        ("cuda:0, 1", "write their numbers"),
        ("cpu:0,1", "write their numbers"),
        ("mps:0,1", "write their numbers"),
        ("cuda", "write their numbers"),
    ],
)
def test_unusable_gpu_numbers_are_refused_in_one_line(name, said):
    with pytest.raises(InvalidConfig, match=said) as refused:
        devices.gpu_indices(name, 4)
    assert "\n" not in str(refused.value)


def test_several_gpus_need_accelerate_and_plain_decoding(monkeypatch):
    placement.refuse(Config("tiny-test", compile="graph"), (0,))
    monkeypatch.setattr(placement, "find_spec", lambda package: object())
    placement.refuse(Config("tiny-test"), (0, 1))
    for mode in ("graph", "inductor"):
        with pytest.raises(InvalidConfig, match=f"--compile {mode} works on one GPU"):
            placement.refuse(Config("tiny-test", compile=mode), (0, 1))
    monkeypatch.setattr(placement, "find_spec", lambda package: None)
    with pytest.raises(NotInstalled, match="pip install accelerate"):
        placement.refuse(Config("tiny-test"), (0, 1))
    placement.refuse(Config("tiny-test"), (0,))


@needs_accelerate
def test_model_too_small_for_the_gpus_is_refused():
    config = models.preset_config(dataclasses.replace(TINY, layers=2))
    with pytest.raises(InvalidConfig, match="too small to spread that far: cuda:"):
        placement.device_map(config, torch.float32, dict.fromkeys(range(8), 10**9))


def bytes_by_device(config, placed):
    model, _ = models.empty_model(config, torch.float32)
    used = dict.fromkeys(placed.values(), 0)
    for name, weight in model.named_parameters():
        prefix = max((p for p in placed if not p or f"{name}.".startswith(f"{p}.")), key=len)
        used[placed[prefix]] += weight.numel() * weight.element_size()
    return used


@needs_accelerate
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_spread_evenly_over_exactly_the_chosen_gpus(family):
    config = models.preset_config(FAMILIES[family])
    placed = placement.device_map(config, torch.float32, {1: 10**9, 3: 10**9})
    assert set(placed.values()) == {1, 3}
    used = bytes_by_device(config, placed)
    total = size_of(config, torch.float32).weight_bytes
    assert sum(used.values()) == total
    assert max(used.values()) < 0.7 * total
    # A layer is never split: its activations would cross between GPUs within it.
    layers = [name for name in placed if ".layers." in name or ".h." in name]
    assert len(layers) == 12
    assert all(name.rpartition(".")[2].isdecimal() for name in layers)


@needs_accelerate
def test_gpu_with_little_free_memory_gets_less():
    config = models.preset_config(TWELVE)
    total = size_of(config, torch.float32).weight_bytes
    for free in ({0: total // 3, 1: 2 * total}, {0: 3 * total, 1: total // 3}):
        used = bytes_by_device(config, placement.device_map(config, torch.float32, free))
        little = min(free, key=free.get)
        assert 0 < used[little] < used[1 - little]


@needs_accelerate
@pytest.mark.parametrize("family", FAMILIES)
def test_every_gpu_keeps_room_for_a_layer(family):
    """Even where they have hardly more than they need."""
    config = models.preset_config(FAMILIES[family])
    model, _ = models.empty_model(config, torch.float32)
    layers = next(m for name, m in model.named_modules() if name.endswith((".layers", ".h")))
    layer_bytes = sum(w.numel() * w.element_size() for w in layers[0].parameters())
    total = size_of(config, torch.float32).weight_bytes
    for share in (0.45, 0.5, 0.55, 0.7):
        free = {0: int(share * total) + 2 * layer_bytes, 2: int((1 - share) * total) + 3 * layer_bytes}
        used = bytes_by_device(config, placement.device_map(config, torch.float32, free))
        assert all(free[index] - used[index] >= layer_bytes for index in free), (share, free, used)


@needs_accelerate
def test_full_gpu_is_refused():
    config = models.preset_config(TWELVE)
    total = size_of(config, torch.float32).weight_bytes
    with pytest.raises(InvalidConfig, match="cuda:1 has no room for a layer; free its memory or leave it out"):
        placement.device_map(config, torch.float32, {0: 3 * total, 1: 10})


@needs_accelerate
def test_nothing_is_offloaded_where_the_weights_do_not_fit():
    config = models.preset_config(TWELVE)
    total = size_of(config, torch.float32).weight_bytes
    with pytest.raises(OutOfMemory, match=r"don't fit.*cuda:0 0\.0 GB, cuda:1.*name more GPUs") as refused:
        placement.device_map(config, torch.float32, {0: total // 3, 1: total // 3})
    assert "\n" not in str(refused.value)


def two_entries(config):
    """A map of several entries, as for several GPUs, whose devices are all the CPU."""
    placed = placement.device_map(config, torch.float32, {0: 10**9, 1: 10**9})
    assert len(placed) > 2
    return dict.fromkeys(placed, "cpu")


def tokens(model, count=12):
    with torch.inference_mode():
        decoder = decode.decoder(model, torch.arange(24)[None], count, Config(""))
        decoder.begin()
        decoder.prefill()
        decoder.decode()
        return decoder.output_ids()[0].tolist()


@needs_accelerate
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("entries", ["one", "several"])
def test_mapped_model_is_the_plain_one(family, entries):
    config = models.preset_config(FAMILIES[family])
    plain = models.random_model(config, torch.float32, CPU, 7).eval()
    placed = {"": "cpu"} if entries == "one" else two_entries(config)
    mapped = placement.random_model(config, torch.float32, placed, 7).eval()
    expected = dict(plain.named_parameters())
    found = dict(mapped.named_parameters())
    assert found.keys() == expected.keys()  # tied weights are one parameter in both
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(a, b) for a, b in zip(mapped.buffers(), plain.buffers(), strict=True))
    assert tokens(mapped) == tokens(plain)


@needs_accelerate
def test_folder_is_read_through_a_map(tmp_path):
    plain = models.random_model(models.preset_config(FAMILIES["tied"]), torch.float32, CPU, 7).eval()
    plain.save_pretrained(tmp_path)
    _, config = models.read_config(str(tmp_path))
    mapped = models.pretrained_model(str(tmp_path), "folder", config, torch.float32, two_entries(config)).eval()
    assert tokens(mapped) == tokens(plain)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InvalidConfig, match="safetensors"):
        models.pretrained_model(str(tmp_path), "folder", config, torch.float32, two_entries(config))


@needs_accelerate
@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_two_gpus():
    config = models.preset_config(FAMILIES["tied"])
    placed = placement.device_map(config, torch.float32, placement.free_bytes((0, 1)))
    model = placement.random_model(config, torch.float32, placed, 7).eval()
    assert {weight.device.index for weight in model.parameters()} == {0, 1}
    with torch.inference_mode():
        assert torch.isfinite(model(input_ids=torch.arange(24, device="cuda:0")[None]).logits).all()
