"""GGUF files with random weights: content, sizes, and what is left when writing is cut short."""

import dataclasses
import math
import random
import resource
import subprocess
import sys
import time

import gguf
import numpy as np
import pytest

from backends import model_cache
from backends.base import InvalidConfig, NotInstalled
from backends.llama_cpp import gguf_file
from backends.llama_cpp.gguf_header import read_header
from backends.llama_cpp.gguf_layout import ROPE_FREQS, tensors
from backends.presets import PRESETS

TINY = PRESETS["tiny-test"].architecture

# Writes a file that takes long enough to be killed in the middle of it.
WRITE_IN_CHILD = """
import dataclasses
from backends.llama_cpp import gguf_file
from backends.presets import PRESETS
tiny = PRESETS["tiny-test"]
big = dataclasses.replace(tiny.architecture, vocab_size=120_000, hidden_size=64)
PRESETS["big"] = dataclasses.replace(tiny, architecture=big)
import gguf, numpy
print("ready", flush=True)
try:
    print(gguf_file.preset_file("big", "Q8_0", 0))
except gguf_file.InvalidConfig as refused:
    print("refused:", refused)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path))
    return tmp_path / "gguf"


def read_tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def start_child(**options):
    child = subprocess.Popen([sys.executable, "-c", WRITE_IN_CHILD], stdout=subprocess.PIPE, text=True, **options)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("name", PRESETS)
def test_weights_are_as_many_as_the_published_models(name):
    preset = PRESETS[name]
    count = sum(math.prod(tensor.shape) for tensor in tensors(preset.architecture) if tensor.name != ROPE_FREQS)
    assert count == (preset.published_parameters or preset.architecture.parameters())


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", gguf_file.DTYPES)
def test_rows_of_every_preset_divide_into_blocks(name, dtype):
    block = 1 if dtype == "F16" else 32
    for tensor in tensors(PRESETS[name].architecture):
        if tensor.values is None:
            assert tensor.shape[1] % block == 0
        else:
            assert tensor.shape == (len(tensor.values),)


@pytest.mark.parametrize("dtype", gguf_file.DTYPES)
def test_file_says_what_the_preset_is(dtype):
    header = read_header(gguf_file.preset_file("tiny-test", dtype, 0))
    assert header.parameters == TINY.parameters()
    assert header.weight_bytes == gguf_file.weight_bytes(TINY, dtype)
    assert (header.context_length, header.vocabulary_size) == (TINY.context_length, TINY.vocab_size)
    assert header.dtype == dtype
    assert header.metadata[gguf_file.RANDOM_WEIGHTS]


@pytest.mark.parametrize("dtype", gguf_file.DTYPES)
def test_matrices_are_normal_noise_and_norms_are_one(dtype):
    for name, tensor in read_tensors(gguf_file.preset_file("tiny-test", dtype, 0)).items():
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if "norm" in name:
            assert np.all(values == 1.0)
            continue
        # 4096 weights at least: 5 standard errors of mean and deviation, and a little for 4-bit rounding.
        assert abs(values.mean()) < 5 * 0.02 / math.sqrt(values.size) + 2e-4
        assert values.std() == pytest.approx(0.02, rel=0.08)
        assert len(np.unique(values[0])) > 8
        assert not np.array_equal(values[0], values[1])


def test_content_follows_the_seed_alone(tmp_path, monkeypatch):
    first = gguf_file.preset_file("tiny-test", "F16", 1).read_bytes()
    other_seed = gguf_file.preset_file("tiny-test", "F16", 2).read_bytes()
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert gguf_file.preset_file("tiny-test", "F16", 1).read_bytes() == first
    assert other_seed != first


def test_whole_file_is_used_again():
    path = gguf_file.preset_file("tiny-test", "Q8_0", 0)
    written_ns = path.stat().st_mtime_ns
    assert gguf_file.preset_file("tiny-test", "Q8_0", 0) == path
    assert path.stat().st_mtime_ns == written_ns


def test_truncated_file_is_written_again():
    path = gguf_file.preset_file("tiny-test", "Q8_0", 0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert gguf_file.preset_file("tiny-test", "Q8_0", 0).read_bytes() == content


def test_changed_shape_gets_another_file(monkeypatch):
    path = gguf_file.preset_file("tiny-test", "F16", 0)
    wider = dataclasses.replace(TINY, intermediate_size=256)
    monkeypatch.setitem(PRESETS, "tiny-test", dataclasses.replace(PRESETS["tiny-test"], architecture=wider))
    other = gguf_file.preset_file("tiny-test", "F16", 0)
    assert other != path
    assert read_header(other).parameters == wider.parameters()


def test_rope_factors_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    architecture = PRESETS["llama-3.1-8b"].architecture
    (stored,) = [tensor.values for tensor in tensors(architecture) if tensor.name == ROPE_FREQS]
    scaling = architecture.rope_scaling
    config = transformers.LlamaConfig(
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.heads,
        head_dim=architecture.head_dim,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": architecture.rope_theta,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        },
    )
    scaled, _ = rope.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = architecture.rope_theta ** -(np.arange(0, architecture.head_dim, 2) / architecture.head_dim)
    np.testing.assert_allclose(stored, plain / scaled.numpy(), rtol=1e-5)


def test_killed_writers_leave_nothing_that_is_used(cache):
    began = time.monotonic()
    child = start_child()
    (path,) = child.communicate()[0].split()
    duration_s = time.monotonic() - began
    whole = (cache / path).read_bytes()
    (cache / path).unlink()

    rng = random.Random(0)
    interrupted = 0
    for _ in range(8):
        child = start_child()
        time.sleep(rng.uniform(0, duration_s / 2))
        child.kill()
        child.communicate()
        if (cache / path).exists():
            assert (cache / path).read_bytes() == whole
            (cache / path).unlink()
        else:
            interrupted += 1
    assert interrupted
    start_child().communicate()
    assert (cache / path).read_bytes() == whole
    assert [file.name for file in cache.iterdir()] == [(cache / path).name]


def test_writers_at_the_same_time_do_not_disturb_each_other(cache):
    children = [start_child() for _ in range(2)]
    paths = {child.communicate()[0].strip() for child in children}
    assert len(paths) == 1
    read_header(cache / paths.pop())
    assert len(list(cache.iterdir())) == 1


def test_disk_that_fills_up_is_one_clear_refusal(cache):
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    child = start_child(preexec_fn=limit_file_size)
    output = child.communicate()[0]
    assert child.returncode == 0
    assert "refused: too little disk" in output
    assert list(cache.iterdir()) == []


def test_too_little_disk_is_said_before_writing(cache, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])(10_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    for ask in (gguf_file.check_space, gguf_file.preset_file):
        with pytest.raises(InvalidConfig, match=r"13\.48 GB needed, 0\.01 GB free"):
            ask("llama-2-7b", "F16", 0)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_every_seed_needs_room_of_its_own(monkeypatch):
    gguf_file.preset_file("tiny-test", "F16", 0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: dataclasses.make_dataclass("Usage", ["free"])(100))
    gguf_file.check_space("tiny-test", "F16", 0)
    with pytest.raises(InvalidConfig, match="too little disk"):
        gguf_file.check_space("tiny-test", "F16", 1)


def test_unusable_cache_directory_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(InvalidConfig, match="JOULEBENCH_CACHE_DIR"):
        gguf_file.preset_file("tiny-test", "F16", 0)


def test_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    assert model_cache.cache_directory() == tmp_path
    monkeypatch.delenv("JOULEBENCH_CACHE_DIR")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(model_cache.cache_directory()) == "/somewhere/joulebench"
    monkeypatch.setattr("sys.platform", "darwin")
    assert str(model_cache.cache_directory()).endswith("/Library/Caches/joulebench")


def test_absent_package_is_refused_before_writing_and_reading(cache, monkeypatch):
    path = gguf_file.preset_file("tiny-test", "F16", 0)
    monkeypatch.setattr("backends.llama_cpp.gguf_header.find_spec", lambda _: None)
    for seed in (0, 1):
        with pytest.raises(NotInstalled, match=r"pip install 'gguf>="):
            gguf_file.preset_file("tiny-test", "F16", seed)
    assert list(cache.iterdir()) == [path]
