"""The llama-cpp backend: what the contract of all backends doesn't cover."""

import ctypes
import dataclasses
import math
import signal
import subprocess
import sys

import gguf
import pytest

import backends
from backends.base import BackendError, Config, InvalidConfig, Request
from backends.llama_cpp import library
from backends.llama_cpp.backend import _uuids
from backends.llama_cpp.gguf_file import DTYPES, preset_file
from backends.llama_cpp.gguf_header import read_header
from backends.presets import PRESETS, RopeScaling
from tests.helpers import refusal_of

llama_cpp = pytest.importorskip("llama_cpp")

TINY = PRESETS["tiny-test"]
SHAPES = {
    "llama": TINY.architecture,
    "llama3": dataclasses.replace(TINY.architecture, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192)),
    "tied": dataclasses.replace(TINY.architecture, tied_embeddings=True),
    "mistral": dataclasses.replace(TINY.architecture, family="mistral", sliding_window=8),
    "qwen2": dataclasses.replace(TINY.architecture, family="qwen2", qkv_bias=True, tied_embeddings=True),
    "falcon": dataclasses.replace(TINY.architecture, family="falcon", kv_heads=1, tied_embeddings=True),
}

RUN_OUT_OF_MEMORY = """
import dataclasses, resource
import backends
from backends.base import Config, OutOfMemory, Request
from backends.presets import PRESETS
tiny = PRESETS["tiny-test"]
wide = dataclasses.replace(tiny.architecture, context_length=10_000_000, kv_heads=4, head_dim=256)
PRESETS["wide"] = dataclasses.replace(tiny, architecture=wide)
backend = backends.create("llama-cpp")
backend.load(Config("wide", device="cpu", threads=1))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    backend.prepare(Request(2_000_000, 1))
except OutOfMemory as refused:
    print("out of memory:", refused)
request = Request(3, 4)
backend.prepare(request)
print(backend.run(request).output_tokens)
"""


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def backend():
    backend = backends.create("llama-cpp")
    yield backend
    backend.close()


@pytest.fixture
def decoded(monkeypatch):
    """Numbers of tokens of all batches that llama.cpp decodes, and how many the cache held before each."""
    seen = []
    decode = llama_cpp.llama_decode

    def watch(context, batch):
        cached = llama_cpp.llama_memory_seq_pos_max(llama_cpp.llama_get_memory(context), 0) + 1
        seen.append((cached, batch.n_tokens))
        return decode(context, batch)

    monkeypatch.setattr(llama_cpp, "llama_decode", watch)
    return seen


def cpu(model="tiny-test", **fields):
    return Config(str(model), device="cpu", threads=1, **fields)


def complete(backend, m, n, seed=0, concurrency=1):
    request = Request(m, n, seed, concurrency)
    backend.prepare(request)
    return backend.run(request)


def logits(backend, sequence=-1):
    pointer = llama_cpp.llama_get_logits_ith(backend._context, sequence)
    return ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * TINY.architecture.vocab_size)).contents[:]


def renamed_tensor(folder):
    """A file with a sound header that llama.cpp can't load, as it misses the tensor ``blk.1.attn_q.weight``."""
    path = folder / "renamed.gguf"
    content = preset_file("tiny-test", "F16", 0).read_bytes()
    path.write_bytes(content.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"))
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_family_and_dtype_runs_and_agrees_with_llama_cpp(backend, monkeypatch, shape, dtype):
    monkeypatch.setitem(PRESETS, shape, dataclasses.replace(TINY, architecture=SHAPES[shape]))
    model = backend.load(cpu(shape, dtype=dtype)).model
    rope_constants = SHAPES[shape].head_dim // 2 if shape == "llama3" else 0
    assert llama_cpp.llama_model_n_params(backend._model) == model.parameters + rope_constants
    assert llama_cpp.llama_model_size(backend._model) == model.weight_bytes
    assert llama_cpp.llama_model_n_ctx_train(backend._model) == model.context_length
    vocabulary = llama_cpp.llama_model_get_vocab(backend._model)
    assert llama_cpp.llama_vocab_n_tokens(vocabulary) == model.vocabulary_size

    assert complete(backend, 40, 3).output_tokens == 3
    values = logits(backend)
    assert all(map(math.isfinite, values))
    assert len(set(values)) > 1


def test_logits_do_not_depend_on_the_cache_and_do_on_the_tokens(backend):
    found = {}
    for kv_cache, seed in [(True, 0), (False, 0), (True, 1)]:
        backend.load(cpu(kv_cache=kv_cache))
        complete(backend, 20, 12, seed)
        found[kv_cache, seed] = logits(backend)
    # Half-precision keys and values, and another order of additions, leave small differences.
    assert found[False, 0] == pytest.approx(found[True, 0], abs=5e-3)
    assert found[True, 1] != pytest.approx(found[True, 0], abs=5e-3)


def test_cached_steps_decode_one_token_each(backend, decoded):
    backend.load(cpu())
    complete(backend, 6, 4)
    assert decoded == [(0, 6), (6, 1), (7, 1), (8, 1)]


def test_without_cache_every_step_decodes_everything_again(backend, decoded):
    backend.load(cpu(kv_cache=False))
    complete(backend, 6, 4)
    assert decoded == [(0, 6), (0, 7), (0, 8), (0, 9)]


@pytest.mark.parametrize("kv_cache", [True, False])
def test_long_sequences_are_decoded_in_batches(backend, decoded, kv_cache):
    backend.load(cpu(kv_cache=kv_cache))
    complete(backend, 2048, 2)
    step = [(2048, 1)] if kv_cache else [(0, 2048), (2048, 1)]
    assert decoded == [(0, 2048), *step]
    decoded.clear()
    complete(backend, 4000, 1)
    assert decoded == [(0, 2048), (2048, 1952)]


@pytest.mark.parametrize(("kv_cache", "m", "n"), [(True, 20, 6), (False, 20, 6), (True, 900, 2), (False, 700, 2)])
def test_logits_of_each_sequence_are_those_of_its_tokens_alone(backend, kv_cache, m, n):
    backend.load(cpu(kv_cache=kv_cache))
    count, positions = 5, m + n - 1
    complete(backend, m, n, seed=4, concurrency=count)
    # The last tokens that were decoded are the last of the last batch, one of each sequence in their order.
    last = [logits(backend, sequence - count) for sequence in range(count)]
    tokens = backend._prepared[1].arrays[0][:]
    for sequence in range(count):
        alone = Request(m, n)
        backend.prepare(alone)
        array = backend._prepared[1].arrays[0]
        array[:] = tokens[sequence::count]
        assert len(array) == positions
        backend.run(alone)
        assert last[sequence] == pytest.approx(logits(backend), abs=5e-3)
        assert last[sequence] != pytest.approx(last[sequence - 1], abs=5e-3)


def test_each_step_of_a_batch_decodes_one_token_of_each_sequence(backend, decoded):
    backend.load(cpu())
    complete(backend, 6, 4, concurrency=3)
    assert decoded == [(0, 18), (6, 3), (7, 3), (8, 3)]
    decoded.clear()
    complete(backend, 1000, 2, concurrency=3)
    assert [count for _, count in decoded] == [2048, 952, 3]
    decoded.clear()
    backend.load(cpu(kv_cache=False))
    complete(backend, 6, 3, concurrency=2)
    assert decoded == [(0, 12), (0, 14), (0, 16)]


@pytest.mark.parametrize("kv_cache", [True, False])
def test_logits_come_out_for_the_last_token_of_each_sequence_and_no_other(backend, monkeypatch, kv_cache):
    """llama-batched-bench asks for the same; without them the output layer would be left out, unnoticed."""
    asked = []
    decode = llama_cpp.llama_decode

    def watch(context, batch):
        asked.append("".join(str(batch.logits[i]) for i in range(batch.n_tokens)))
        return decode(context, batch)

    monkeypatch.setattr(llama_cpp, "llama_decode", watch)
    backend.load(cpu(kv_cache=kv_cache))
    complete(backend, 5, 3, concurrency=3)
    steps = ["111", "111"] if kv_cache else ["0" * 15 + "111", "0" * 18 + "111"]
    assert asked == ["0" * 12 + "111", *steps]
    asked.clear()
    complete(backend, 683, 1, concurrency=3)
    assert asked == ["0" * 2046 + "11", "1"]


def test_more_sequences_than_llama_cpp_holds_are_refused(backend):
    backend.load(cpu())
    most = llama_cpp.llama_max_parallel_sequences()
    assert complete(backend, 2, 2, concurrency=most).output_tokens == 2
    with pytest.raises(InvalidConfig, match=f"at most {most} sequences"):
        backend.prepare(Request(2, 2, concurrency=most + 1))


def test_repeat_starts_with_an_empty_cache(backend, decoded):
    backend.load(cpu())
    request = Request(5, 2)
    backend.prepare(request)
    for _ in range(3):
        backend.run(request)
    assert decoded == [(0, 5), (5, 1)] * 3


def test_file_runs_and_is_told_apart_from_a_preset(backend, tmp_path):
    path = tmp_path / "modèle größe.gguf"
    path.write_bytes(preset_file("tiny-test", "Q8_0", 0).read_bytes())
    model = backend.load(cpu(path)).model
    assert (model.source, model.name, model.dtype) == ("gguf", path.name, "Q8_0")
    assert model.random_weights  # the file says so itself
    assert model.revision == read_header(path).digest
    assert complete(backend, 3, 3).output_tokens == 3


def test_settings_say_what_decides_the_speed(backend):
    settings = backend.load(cpu()).settings
    assert settings["threads"] == 1
    assert settings["gpu_offload_supported"] is llama_cpp.llama_supports_gpu_offload()
    assert settings["gpu_layers_offloaded"] == 0
    assert isinstance(settings["flash_attention"], bool)
    chosen = backend.load(dataclasses.replace(cpu(), threads=None)).settings["threads"]
    assert chosen >= 1


def test_dtype_is_read_in_any_case(backend):
    assert backend.resolve(cpu(dtype="q4_0")).dtype == "Q4_0"
    assert backend.resolve(cpu(dtype="auto")).dtype == "F16"


def test_gpu_is_never_a_cpu_in_disguise(backend):
    if library.gpus():
        pytest.skip("this build of llama.cpp has a GPU")
    for device, flag in [("cuda", "-DGGML_CUDA=on"), ("metal", "-DGGML_METAL=on")]:
        assert flag in refusal_of(backend, dataclasses.replace(cpu(), device=device))
    assert backend.load(dataclasses.replace(cpu(), device="auto")).device == "cpu"


def test_models_that_can_not_be_loaded_are_refused(backend, tmp_path):
    assert "no GGUF file" in refusal_of(backend, cpu(tmp_path / "absent.gguf"))
    other = tmp_path / "other.gguf"
    other.write_bytes(b"not a model")
    assert "not a GGUF file" in refusal_of(backend, cpu(other))
    short = tmp_path / "short.gguf"
    short.write_bytes(preset_file("tiny-test", "F16", 0).read_bytes()[:-5000])
    assert "truncated" in refusal_of(backend, cpu(short))
    assert "holds 2 models; name one" in refusal_of(backend, cpu(tmp_path))
    (tmp_path / "empty").mkdir()
    for hub_or_folder in ("meta-llama/Llama-2-7b-hf", tmp_path / "empty"):
        assert "--backend transformers" in refusal_of(backend, cpu(hub_or_folder))


def split_in_parts(path, folder):
    """The parts of a model, as llama-gguf-split leaves them."""
    reader = gguf.GGUFReader(path)
    field = reader.fields["general.architecture"]
    writer = gguf.GGUFWriter(folder / "model.gguf", bytes(field.parts[field.data[0]]).decode(), split_max_tensors=5)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value, kind = field.contents(), field.types[0]
        writer.add_key_value(key, value, kind, sub_type=field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


def test_split_model_and_the_folder_that_holds_it_are_the_whole_model(backend, tmp_path):
    whole = preset_file("tiny-test", "F16", 0)
    expected = backend.load(cpu(whole)).model
    complete(backend, 12, 3)
    wanted = logits(backend)
    parts = split_in_parts(whole, tmp_path)
    assert len(parts) > 2
    for given in (parts[0], tmp_path):
        model = backend.load(cpu(given)).model
        assert (model.parameters, model.weight_bytes) == (expected.parameters, expected.weight_bytes)
        complete(backend, 12, 3)
        assert logits(backend) == wanted
    assert "give its first" in refusal_of(backend, cpu(parts[1]))


def test_settings_that_make_no_sense_are_refused(backend):
    path = preset_file("tiny-test", "F16", 0)
    assert "auto" in refusal_of(backend, cpu(path, dtype="Q8_0"))
    assert "0 threads" in refusal_of(backend, dataclasses.replace(cpu(), threads=0))
    backend.load(cpu())
    for m, n in [(0, 1), (1, 0)]:
        with pytest.raises(InvalidConfig, match="at least 1"):
            backend.prepare(Request(m, n))


def test_file_that_only_llama_cpp_can_refuse_gives_its_reason(backend, tmp_path):
    with pytest.raises(BackendError, match=r"attn_q\.weight"):
        backend.load(cpu(renamed_tensor(tmp_path)))
    backend.load(cpu())
    assert complete(backend, 2, 2).output_tokens == 2


def test_context_that_does_not_fit_is_out_of_memory_and_survived():
    output = subprocess.run(
        [sys.executable, "-c", RUN_OUT_OF_MEMORY], capture_output=True, text=True, check=True, timeout=120
    ).stdout.splitlines()
    assert len(output) == 2
    assert output[0].startswith("out of memory:")
    assert "allocate" in output[0]
    assert output[1] == "4"


def test_only_errors_are_printed_and_only_to_stderr(backend, capfd, tmp_path):
    backend.load(cpu())
    complete(backend, 4, 4)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(BackendError):
        backend.load(cpu(renamed_tensor(tmp_path)))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "attn_q.weight" in printed.err
    assert "error" in printed.err.lower()


def test_last_error_survives_an_abort(tmp_path):
    """ggml aborts the process when a GPU runs out of memory; its reason must be on stderr by then."""
    code = (
        "import contextlib, os, backends\n"
        "from backends.base import BackendError, Config\n"
        "with contextlib.suppress(BackendError):\n"
        f"    backends.create('llama-cpp').load(Config({str(renamed_tensor(tmp_path))!r}, device='cpu'))\n"
        "os.abort()"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert died.returncode == -signal.SIGABRT
    assert "attn_q.weight" in died.stderr


@pytest.mark.parametrize(
    ("bus_ids", "uuids"),
    [
        (["0000:01:00.0", "0000:c1:00.0"], ("GPU-0000:01:00.0", "GPU-0000:c1:00.0")),
        (["0000:01:00.0", None], ()),  # one GPU of two would look like all of the energy
        (["0000:01:00.0", "0000:ff:00.0"], ()),
        ([], ()),
    ],
)
def test_uuids_are_those_of_all_gpus_or_none(monkeypatch, bus_ids, uuids):
    pynvml = pytest.importorskip("pynvml")
    opened = []

    def handle(bus_id):
        if bus_id == "0000:ff:00.0":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return bus_id

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: opened.append("nvml"))
    monkeypatch.setattr(pynvml, "nvmlShutdown", opened.pop)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByPciBusId", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", "GPU-{}".format)
    monkeypatch.setattr(library, "pci_bus_id", lambda gpu: gpu.description)
    gpus = [library.GpuDevice("cuda", 0, bus_id) for bus_id in bus_ids]
    assert _uuids(gpus) == uuids
    assert not opened


def test_missing_package_names_the_install_command():
    code = (
        "import sys; sys.modules['llama_cpp'] = None\n"
        "import backends\n"
        "try: backends.create('llama-cpp').capabilities()\n"
        "except backends.base.NotInstalled as absent: print(absent)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'llama-cpp-python>=" in output
