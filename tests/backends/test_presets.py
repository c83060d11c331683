"""Presets against the published models, and what a model name means."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import InvalidConfig
from backends.presets import PRESETS, Architecture, classify

PUBLISHED = [name for name, preset in PRESETS.items() if preset.published_parameters is not None]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_published_checkpoint(name):
    preset = PRESETS[name]
    assert preset.architecture.parameters() == preset.published_parameters
    assert preset.hub_id is not None


def test_models_of_the_issue_are_there():
    asked = {
        "smollm2-135m",
        "qwen2.5-0.5b",
        "llama-3.2-1b",
        "llama-2-7b",
        "mistral-7b-v0.1",
        "falcon-7b",
        "llama-3.1-8b",
    }
    assert asked <= set(PUBLISHED)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_transformers_model(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from backends.transformers import models
    from backends.transformers.sizes import size_of

    architecture = PRESETS[name].architecture
    config = models.preset_config(architecture)
    expected = architecture.parameters()
    size = size_of(config, torch.float16)
    assert (size.parameters, size.weight_bytes, size.active_parameters) == (expected, 2 * expected, expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_reach_the_transformers_configuration(name):
    pytest.importorskip("transformers")
    from backends.transformers import models

    a = PRESETS[name].architecture
    config = models.preset_config(a)
    assert config.max_position_embeddings == a.context_length
    assert config.rope_parameters["rope_theta"] == a.rope_theta
    assert config.rope_parameters.get("factor") == (a.rope_scaling.factor if a.rope_scaling else None)
    assert config.head_dim == a.head_dim if hasattr(config, "head_dim") else a.hidden_size // a.heads
    assert getattr(config, "sliding_window", None) == a.sliding_window
    assert a.norm_eps in (getattr(config, "rms_norm_eps", None), getattr(config, "layer_norm_epsilon", None))


@given(
    family=st.sampled_from(["llama", "qwen2", "mistral", "falcon"]),
    groups=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    half_head=st.integers(1, 16),
    layers=st.integers(1, 3),
    intermediate=st.integers(1, 64),
    vocabulary=st.integers(1, 300),
    tied=st.booleans(),
)
def test_parameters_of_any_shape_are_those_of_transformers(
    family, groups, kv_heads, half_head, layers, intermediate, vocabulary, tied
):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from backends.transformers import models

    kv_heads = 1 if family == "falcon" else kv_heads
    heads, head_dim = groups * kv_heads, 2 * half_head
    architecture = Architecture(
        family=family,
        vocab_size=vocabulary,
        hidden_size=heads * head_dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        context_length=64,
        norm_eps=1e-5,
        rope_theta=1e4,
        tied_embeddings=tied,
        qkv_bias=family == "qwen2",
    )
    from backends.transformers.sizes import size_of

    config = models.preset_config(architecture)
    assert size_of(config, torch.float32).parameters == architecture.parameters()


def test_architecture_can_not_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["falcon-7b"].architecture.layers = 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_go_before_folders(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert classify(name) == "preset"


def test_files_and_folders_go_before_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert classify("organisation/model") == "hub"
    (tmp_path / "organisation" / "model").mkdir(parents=True)
    assert classify("organisation/model") == "folder"
    (tmp_path / "organisation" / "model.gguf").touch()
    assert classify("organisation/model.gguf") == "gguf"
    assert classify(str(tmp_path)) == "folder"


@pytest.mark.parametrize("name", ["meta-llama/Llama-2-7b-hf", "Qwen/Qwen2.5-0.5B", "a/b", "tiiuae/falcon-7b"])
def test_hub_ids(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert classify(name) == "hub"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("falcon7b", "did you mean falcon-7b"),
        ("Llama-2-7B", "did you mean llama-2-7b"),
        ("smollm-135", "smollm2-135m"),
        ("xyzzy", "give a preset (smollm2-135m, "),
        ("", "unknown model ''"),
        ("model.gguf", "no GGUF file"),
        ("./weights", "no model folder"),
        ("/nowhere/at/all", "no model folder"),
        ("../a/b", "no model folder"),
        ("a/" * 3000, "no model folder"),
    ],
)
def test_what_is_no_model_is_refused_with_a_remedy(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig) as refused:
        classify(name)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=40))
def test_any_name_is_classified_or_refused(name):
    try:
        source = classify(name)
    except InvalidConfig:
        return
    assert source in ("preset", "gguf", "folder", "hub")
