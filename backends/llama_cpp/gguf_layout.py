"""The tensors and metadata that llama.cpp expects in a GGUF file of a given architecture.

Names and meanings are those of the GGUF specification and of llama.cpp's own converter. The vocabulary is made up; it
is there because servers turn every token into text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from backends.presets import Architecture

ROPE_FREQS = "rope_freqs.weight"
"""Constants of the rotary embedding, kept as a tensor but not a weight of the model."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file. ``values`` are those of a vector, stored in F32; None is a random matrix."""

    name: str
    shape: tuple[int, ...]
    """(rows, columns) with columns contiguous, or (length,)."""
    values: tuple[float, ...] | None = None


def gguf_architecture(architecture: Architecture) -> str:
    """Value of ``general.architecture``, which prefixes the other metadata keys.

    Mistral is stored as llama, as llama.cpp's converter does: its sliding window is then not applied.
    """
    return "llama" if architecture.family == "mistral" else architecture.family


def vocabulary(size: int) -> list[str]:
    """The text of each token: short, not empty, no two alike, whole characters each.

    The first 256 are the names under which llama.cpp looks for bytes, so that it can split any text. None is of the
    type byte: a server holds back bytes until they make up a character.
    """
    names = [f"<0x{byte:02X}>" for byte in range(min(size, 256))]
    return names + [f"▁{number:x}" for number in range(256, size)]


def metadata(architecture: Architecture) -> dict[str, int | float | str]:
    """Metadata keys and values that describe the model; the prefix of the architecture included."""
    a = architecture
    prefix = gguf_architecture(a)
    norm = "layer_norm_epsilon" if a.family == "falcon" else "layer_norm_rms_epsilon"
    own: dict[str, int | float | str] = {
        "vocab_size": a.vocab_size,
        "context_length": a.context_length,
        "embedding_length": a.hidden_size,
        "block_count": a.layers,
        "feed_forward_length": a.intermediate_size,
        "attention.head_count": a.heads,
        "attention.head_count_kv": a.kv_heads,
        "attention.key_length": a.head_dim,
        "attention.value_length": a.head_dim,
        f"attention.{norm}": a.norm_eps,
        "rope.dimension_count": a.head_dim,
        "rope.freq_base": a.rope_theta,
    }
    tokenizer: dict[str, int | float | str] = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": False}
    return {f"{prefix}.{key}": value for key, value in own.items()} | tokenizer


def tensors(architecture: Architecture) -> list[Tensor]:
    """All tensors in the order in which they are stored: embedding, blocks from first to last, output."""
    a = architecture
    found = [Tensor("token_embd.weight", (a.vocab_size, a.hidden_size))]
    if a.rope_scaling is not None:
        factors = _rope_factors(a)
        found.append(Tensor(ROPE_FREQS, (len(factors),), factors))
    for layer in range(a.layers):
        found += _block(a, f"blk.{layer}.")
    found += _norm("output_norm", a)
    if not a.tied_embeddings:
        found.append(Tensor("output.weight", (a.vocab_size, a.hidden_size)))
    return found


def _block(a: Architecture, prefix: str) -> list[Tensor]:
    query, key_value = a.heads * a.head_dim, a.kv_heads * a.head_dim
    projections = [("attn_q", query), ("attn_k", key_value), ("attn_v", key_value)]
    gate = [*_norm(f"{prefix}ffn_norm", a), Tensor(f"{prefix}ffn_gate.weight", (a.intermediate_size, a.hidden_size))]
    if a.family == "falcon":  # attention and MLP side by side, from one norm
        projections, gate = [("attn_qkv", query + 2 * key_value)], []
    return [
        *_norm(f"{prefix}attn_norm", a),
        *(Tensor(f"{prefix}{name}.weight", (rows, a.hidden_size)) for name, rows in projections),
        *(_constant(f"{prefix}{name}.bias", rows, 0.0) for name, rows in projections if a.qkv_bias),
        Tensor(f"{prefix}attn_output.weight", (a.hidden_size, query)),
        *gate,
        Tensor(f"{prefix}ffn_up.weight", (a.intermediate_size, a.hidden_size)),
        Tensor(f"{prefix}ffn_down.weight", (a.hidden_size, a.intermediate_size)),
    ]


def _norm(name: str, a: Architecture) -> list[Tensor]:
    bias = [_constant(f"{name}.bias", a.hidden_size, 0.0)] if a.family == "falcon" else []
    return [_constant(f"{name}.weight", a.hidden_size, 1.0), *bias]


def _constant(name: str, length: int, value: float) -> Tensor:
    return Tensor(name, (length,), (value,) * length)


def _rope_factors(a: Architecture) -> tuple[float, ...]:
    """Divisors of the rotary frequencies of Llama 3.1 and later, one for each pair of dimensions.

    Wavelengths shorter than original context / high_freq_factor stay, those longer than original context /
    low_freq_factor are stretched by ``factor``, those between are interpolated (Llama 3.1's reference code).
    """
    scaling = a.rope_scaling
    assert scaling is not None
    factors = []
    for pair in range(a.head_dim // 2):
        wavelength = 2 * math.pi * a.rope_theta ** (2 * pair / a.head_dim)
        turns = scaling.original_context_length / wavelength
        keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        keep = min(max(keep, 0.0), 1.0)
        factors.append(1.0 / ((1.0 - keep) / scaling.factor + keep))
    return tuple(factors)
