"""Presets with random weights as Hugging Face stores models: a folder with config.json and model.safetensors.

Written without torch and transformers, since the server has its own. Names and shapes are those of transformers'
classes; safetensors is described at https://github.com/huggingface/safetensors#format. There is no tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from backends import model_cache
from backends.presets import PRESETS, Architecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_VERSION = 1
"""Of the content: a change gives folders another name."""
_BYTES = 2
"""Of a weight, in bfloat16."""
_HEADER_BYTES = 1 << 20
"""More than the header of any preset; only for the check of free space."""
_CHUNK_ELEMENTS = 1 << 22


def random_folder(preset: str, seed: int) -> Path:
    """The preset's folder; it is written first if the cache doesn't hold it.

    Raises InvalidConfig when the cache directory can't be written or the disk is too small.
    """
    architecture = PRESETS[preset].architecture
    identity = repr((_VERSION, architecture, seed))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    folder = model_cache.cache_directory() / "hugging-face" / f"{preset}-random-{seed}-{digest}"
    config = json.dumps(hub_config(architecture), indent=2).encode()
    with_room = architecture.parameters() * _BYTES + _HEADER_BYTES
    if not (folder / WEIGHTS).is_file():
        with model_cache.new_file(folder / WEIGHTS, with_room) as (file, _):
            _write_weights(file, architecture, seed)
    # Each is whole or absent: a run that is killed in between leaves what is written here now.
    if not (folder / CONFIG).is_file():
        with model_cache.new_file(folder / CONFIG, len(config)) as (file, _):
            file.write(config)
    return folder


def hub_config(a: Architecture) -> dict[str, Any]:
    """What config.json says of the architecture."""
    config: dict[str, Any] = {
        "architectures": [f"{a.family.capitalize()}ForCausalLM"],
        "model_type": a.family,
        "dtype": "bfloat16",
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "max_position_embeddings": a.context_length,
        "tie_word_embeddings": a.tied_embeddings,
        "rope_parameters": a.rope_parameters(),
        "rope_theta": a.rope_theta,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if a.family == "falcon":
        return config | _falcon_config(a)
    config |= {"num_key_value_heads": a.kv_heads, "head_dim": a.head_dim, "intermediate_size": a.intermediate_size}
    config |= {"rms_norm_eps": a.norm_eps, "hidden_act": "silu"}
    if a.family == "mistral":
        config["sliding_window"] = a.sliding_window
    return config


def _falcon_config(a: Architecture) -> dict[str, Any]:
    """One norm for attention and MLP side by side, one head of keys and values, no biases: Falcon-7B."""
    return {
        "num_kv_heads": a.kv_heads,
        "ffn_hidden_size": a.intermediate_size,
        "layer_norm_epsilon": a.norm_eps,
        "parallel_attn": True,
        "multi_query": True,
        "new_decoder_architecture": False,
        "bias": False,
        "alibi": False,
    }


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors' names and shapes; tied embeddings once."""
    a = architecture
    embedding = (a.vocab_size, a.hidden_size)
    found: dict[str, tuple[int, ...]] = {}
    if a.family == "falcon":
        found["transformer.word_embeddings.weight"] = embedding
        for layer in range(a.layers):
            found |= {f"transformer.h.{layer}.{name}": shape for name, shape in _falcon_block(a).items()}
        found |= {f"transformer.ln_f.{part}": (a.hidden_size,) for part in ("weight", "bias")}
    else:
        found["model.embed_tokens.weight"] = embedding
        for layer in range(a.layers):
            found |= {f"model.layers.{layer}.{name}": shape for name, shape in _block(a).items()}
        found["model.norm.weight"] = (a.hidden_size,)
    return found if a.tied_embeddings else found | {"lm_head.weight": embedding}


def _block(a: Architecture) -> dict[str, tuple[int, ...]]:
    width, query, key_value = a.hidden_size, a.heads * a.head_dim, a.kv_heads * a.head_dim
    projections = {"q": query, "k": key_value, "v": key_value}
    return {
        **{f"{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")},
        **{f"self_attn.{letter}_proj.weight": (rows, width) for letter, rows in projections.items()},
        **{f"self_attn.{letter}_proj.bias": (rows,) for letter, rows in projections.items() if a.qkv_bias},
        "self_attn.o_proj.weight": (width, query),
        **{f"mlp.{part}_proj.weight": (a.intermediate_size, width) for part in ("gate", "up")},
        "mlp.down_proj.weight": (width, a.intermediate_size),
    }


def _falcon_block(a: Architecture) -> dict[str, tuple[int, ...]]:
    width, query, key_value = a.hidden_size, a.heads * a.head_dim, a.kv_heads * a.head_dim
    return {
        **{f"input_layernorm.{part}": (width,) for part in ("weight", "bias")},
        "self_attention.query_key_value.weight": (query + 2 * key_value, width),
        "self_attention.dense.weight": (width, query),
        "mlp.dense_h_to_4h.weight": (a.intermediate_size, width),
        "mlp.dense_4h_to_h.weight": (width, a.intermediate_size),
    }


def _write_weights(file: BinaryIO, architecture: Architecture, seed: int) -> None:
    tensors = shapes(architecture)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + math.prod(shape) * _BYTES
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for index, (name, shape) in enumerate(tensors.items()):
        for values in _values(name, shape, (seed, index)):
            file.write(_bfloat16(values).data)


def _values(name: str, shape: tuple[int, ...], seed: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    """A tensor's values, a few at a time: matrices normal with variance 1 / columns, norms 1, biases 0."""
    import numpy as np

    if len(shape) == 1:
        yield np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
        return
    generator = np.random.Generator(np.random.SFC64(seed))
    count, deviation = math.prod(shape), np.float32(shape[-1] ** -0.5)
    for first in range(0, count, _CHUNK_ELEMENTS):
        yield generator.standard_normal(min(_CHUNK_ELEMENTS, count - first), dtype=np.float32) * deviation


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves, rounded to the nearest, ties to even."""
    import numpy as np

    bits = values.view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return rounded
