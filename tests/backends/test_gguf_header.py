"""The GGUF header reader on files that are whole, damaged and not GGUF."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.base import InvalidConfig
from backends.llama_cpp.gguf_header import read_header


def write(path, architecture="llama", tokens=("a", "b", "c"), keys=(), matrix_shape=(3, 64), kind=None, more=None):
    writer = gguf.GGUFWriter(path, architecture)
    if tokens:
        writer.add_token_list(list(tokens))
        writer.add_token_scores([0.0] * len(tokens))
    writer.add_context_length(512)
    if kind:
        writer.add_type(kind)
    for key, value in keys:
        writer.add_uint32(key, value)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.add_tensor("token_embd.weight", np.ones(matrix_shape, dtype=np.float16))
    writer.add_tensor("rope_freqs.weight", np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "whole.gguf").read_bytes()


def refusal(path) -> str:
    with pytest.raises(InvalidConfig) as refused:
        read_header(path)
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_header_of_a_file_written_by_the_gguf_package(tmp_path):
    path = write(tmp_path / "a.gguf")
    header = read_header(path)
    assert (header.architecture, header.context_length, header.vocabulary_size) == ("llama", 512, 3)
    assert header.parameters == 3 * 64  # constants of the rotary embedding are no weights
    assert header.weight_bytes == 3 * 64 * 2 + 4 * 4
    assert header.dtype == "F16"


def test_digest_tells_headers_apart(tmp_path):
    first, second = write(tmp_path / "a.gguf"), write(tmp_path / "b.gguf", tokens=("a", "b", "d"))
    assert read_header(first).digest != read_header(second).digest
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(first.read_bytes())
    assert read_header(copy).digest == read_header(first).digest


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04" + bytes(100), b"GGUF"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    assert "GGUF" in refusal(path) or "truncated" in refusal(path)


def test_old_version_is_refused(tmp_path, whole):
    path = tmp_path / "a.gguf"
    path.write_bytes(whole[:4] + struct.pack("<I", 1) + whole[8:])
    assert "version 1" in refusal(path)


def test_every_truncation_is_refused(tmp_path, whole):
    path = tmp_path / "a.gguf"
    last_byte = max(i for i, byte in enumerate(whole) if byte)  # after it there is padding only
    for length in range(0, last_byte + 1, 7):
        path.write_bytes(whole[:length])
        refusal(path)


def test_split_model_is_read_by_its_first_part(tmp_path):
    parts = [
        write(tmp_path / f"a-0000{i + 1}-of-00003.gguf", keys=[("split.count", 3), ("split.no", i)]) for i in range(3)
    ]
    whole = read_header(write(tmp_path / "whole.gguf"))
    header = read_header(parts[0])
    assert (header.parameters, header.weight_bytes) == (3 * whole.parameters, 3 * whole.weight_bytes)
    assert "give its first" in refusal(parts[1])
    parts[2].write_bytes(parts[2].read_bytes()[:-200])
    with pytest.raises(InvalidConfig, match=r"00003-of-00003\.gguf' is truncated"):
        read_header(parts[0])
    parts[2].unlink()
    assert "a-00003-of-00003.gguf (1 of 3 parts) is not beside it" in refusal(parts[0])


def test_part_of_a_split_model_under_another_name_is_refused(tmp_path):
    assert "split" in refusal(write(tmp_path / "a.gguf", keys=[("split.count", 3)]))


@pytest.mark.parametrize(
    ("architecture", "said"),
    [("bert", "an encoder"), ("t5", "an encoder–decoder"), ("clip", "mmproj"), ("dream", "a diffusion model")],
)
def test_what_is_no_decoder_is_refused_by_name(tmp_path, architecture, said):
    assert said in refusal(write(tmp_path / "a.gguf", architecture))


@pytest.mark.parametrize(
    ("kind", "said"), [("adapter", "LoRA"), ("imatrix", "importance matrix"), ("mmproj", "images")]
)
def test_what_is_no_model_is_refused_by_name(tmp_path, kind, said):
    assert said in refusal(write(tmp_path / "a.gguf", kind=kind))


def test_of_a_mixture_the_experts_that_are_chosen_are_read(tmp_path):
    experts = {"blk.0.ffn_up_exps.weight": np.ones((8, 4, 64), dtype=np.float16)}
    keys = [("llama.expert_count", 8), ("llama.expert_used_count", 2)]
    header = read_header(write(tmp_path / "a.gguf", keys=keys, more=experts))
    assert header.parameters == 3 * 64 + 8 * 4 * 64
    assert header.active_parameters == 3 * 64 + 2 * 4 * 64
    assert header.step_bytes == header.active_parameters * 2 + 4 * 4


def test_missing_vocabulary_is_refused(tmp_path):
    assert "tokenizer.ggml.tokens" in refusal(write(tmp_path / "a.gguf", tokens=()))


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("kind", "length", "content"),
    [
        (0, 2**62, b""),  # bytes
        (8, 2**62, b""),  # strings
        (8, 1, struct.pack("<Q", 2**62)),
        (9, 1, struct.pack("<IQI", 4, 1, 7)),  # an array in an array, which llama.cpp doesn't load
        (9, 1, struct.pack("<IQ", 9, 1) * 5000),
        (13, 1, b""),
    ],
)
def test_damaged_array_is_refused_at_once(tmp_path, kind, length, content):
    """No length in the file decides how much is read or allocated, no depth how far Python recurses."""
    path = tmp_path / "a.gguf"
    array = string(b"key") + struct.pack("<IIQ", 9, kind, length) + content
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array)
    assert "truncated" in refusal(path) or "damaged" in refusal(path)


def test_directory_is_refused(tmp_path):
    assert "can't read" in refusal(tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(4, 400), value=st.binary(min_size=1, max_size=8))
def test_damage_gives_a_header_or_one_clear_refusal(tmp_path, whole, position, value):
    position = min(position, len(whole) - len(value))
    path = tmp_path / "a.gguf"
    path.write_bytes(whole[:position] + value + whole[position + len(value) :])
    try:
        header = read_header(path)
    except InvalidConfig:
        return
    assert header.parameters > 0
