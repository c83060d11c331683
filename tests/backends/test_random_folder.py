"""Presets as Hugging Face stores models: what transformers makes of them is what it makes of the preset itself."""

import json

import numpy as np
import pytest

from backends.base import InvalidConfig
from backends.openai.servers.random_folder import CONFIG, WEIGHTS, hub_config, random_folder, shapes
from backends.presets import PRESETS

models = pytest.importorskip("backends.transformers.models")
transformers = pytest.importorskip("transformers")
TINY = PRESETS["tiny-test"].architecture


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("name", PRESETS)
def test_configuration_is_that_of_the_preset(name):
    written = hub_config(PRESETS[name].architecture)
    ours = transformers.AutoConfig.for_model(**written).to_dict()
    theirs = models.preset_config(PRESETS[name].architecture).to_dict()
    told = {"architectures", "dtype", "bos_token_id", "eos_token_id", "rope_parameters"}
    assert {key: value for key, value in ours.items() if key not in told and key in theirs} == {
        key: value for key, value in theirs.items() if key not in told
    }
    assert theirs["rope_parameters"].items() <= ours["rope_parameters"].items()


@pytest.mark.parametrize("name", PRESETS)
def test_tensors_are_those_of_transformers(name):
    import torch

    architecture = PRESETS[name].architecture
    model, _ = models.empty_model(models.preset_config(architecture), torch.bfloat16)
    assert shapes(architecture) == {key: tuple(weight.shape) for key, weight in model.named_parameters()}
    assert model.__class__.__name__ == hub_config(architecture)["architectures"][0]


def test_folder_is_loaded_without_a_missing_weight():
    import torch

    folder = random_folder("tiny-test", 3)
    options = {"dtype": torch.bfloat16, "use_safetensors": True, "output_loading_info": True}
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    weights = dict(model.named_parameters())
    assert bool((weights["model.norm.weight"] == 1).all())
    matrix = weights["model.layers.0.mlp.down_proj.weight"].float().detach().numpy()
    assert abs(matrix.mean()) < 5 * matrix.std() / np.sqrt(matrix.size)
    assert matrix.std() == pytest.approx(TINY.intermediate_size**-0.5, rel=0.03)
    assert len(np.unique(matrix)) > 100


def test_content_follows_the_seed_and_is_written_once():
    folder = random_folder("tiny-test", 1)
    first, written_ns = (folder / WEIGHTS).read_bytes(), (folder / WEIGHTS).stat().st_mtime_ns
    assert random_folder("tiny-test", 1) == folder
    assert (folder / WEIGHTS).stat().st_mtime_ns == written_ns
    assert (random_folder("tiny-test", 2) / WEIGHTS).read_bytes() != first
    (folder / WEIGHTS).unlink()
    (folder / CONFIG).unlink()
    assert (random_folder("tiny-test", 1) / WEIGHTS).read_bytes() == first
    assert json.loads((folder / CONFIG).read_text())["vocab_size"] == TINY.vocab_size
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_full_disk_is_refused_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(InvalidConfig, match="too little disk"):
        random_folder("tiny-test", 0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
