"""A GGUF file that makes llama.cpp abort its process: the reason is the library's own assertion."""

import gguf
import numpy as np
import pytest

from tests.helpers import joulebench

pytest.importorskip("llama_cpp")


def test_assertion_of_the_library_is_shown_and_loading_is_not_blamed_on_a_debugger(tmp_path):
    path = tmp_path / "doubled.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "a", "a", *(f"<0x{byte:02X}>" for byte in range(256)), "\n"])
    count = 262
    writer.add_token_scores([0.0] * count)
    writer.add_token_types([2, 3, 3, 1, 1, *[6] * 256, 1])
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.ones((count, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = ("--point", "8,4", "--max-trials", "1", "--probes", "none", "--max-foreign-load", "1")
    ended = joulebench("measure", "-m", path, "--backend", "llama-cpp", *size, "-o", tmp_path / "run")
    assert ended.returncode == 1
    assert "GGML_ASSERT(" in ended.stderr
    assert "failed" in ended.stderr
    assert "gdb" not in ended.stderr
