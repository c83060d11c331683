"""Architecture presets, and what a model name given by the user means.

A preset carries the exact shapes of a published model, so that random weights of that shape cost the same
time and energy as the real ones. Shapes are those of each model's ``config.json`` on the Hugging Face hub.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from typing import Literal

from backends.base import InvalidConfig

Family = Literal["llama", "qwen2", "mistral", "falcon"]
ModelSource = Literal["preset", "gguf", "folder", "hub"]


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's rescaling of rotary frequencies (``rope_type: llama3``)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_length: int

    def hub_fields(self) -> dict[str, str | float]:
        """As a config.json of Hugging Face's has it."""
        return {
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original_context_length,
        }


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes and the arithmetic of a decoder-only transformer.

    ``llama``, ``qwen2`` and ``mistral`` blocks are sequential: RMSNorm, attention, RMSNorm, gated SiLU MLP
    with three matrices. ``falcon`` blocks are those of Falcon-7B: one LayerNorm with bias feeds attention and
    a GELU MLP with two matrices in parallel, and query, key and value are one fused matrix.
    Linear layers have no bias, except query, key and value where ``qkv_bias`` is set.
    """

    family: Family
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int
    """Longest m + n the model is made for, in tokens."""
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tied_embeddings: bool = False
    qkv_bias: bool = False
    sliding_window: int | None = None
    """Number of latest tokens that attention sees; None where it sees all."""

    def rope_parameters(self) -> dict[str, str | float]:
        """What a config.json of Hugging Face's says of the rotary embedding."""
        scaled = self.rope_scaling.hub_fields() if self.rope_scaling else {"rope_type": "default"}
        return {"rope_theta": self.rope_theta, **scaled}

    def parameters(self) -> int:
        """Number of weights; tied embeddings count once."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden_size * (query + 2 * key_value) + query * self.hidden_size
        if self.qkv_bias:
            attention += query + 2 * key_value
        mlp_matrices, norm_vectors, norms = (2, 2, 1) if self.family == "falcon" else (3, 1, 2)
        norm = norm_vectors * self.hidden_size
        layer = attention + mlp_matrices * self.hidden_size * self.intermediate_size + norms * norm
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return embeddings + self.layers * layer + norm


@dataclass(frozen=True)
class Preset:
    """An architecture that can be run by name, with random weights."""

    hub_id: str | None
    """Hugging Face model whose ``config.json`` the shapes are from; None for shapes that nobody published."""
    published_parameters: int | None
    """Number of weights of the published checkpoint, tied embeddings counted once."""
    architecture: Architecture


# fmt: off
PRESETS: dict[str, Preset] = {
    # family, vocabulary, hidden size, layers, heads, KV heads, head size, MLP, context, epsilon of norms, theta of RoPE
    "smollm2-135m": Preset("HuggingFaceTB/SmolLM2-135M", 134_515_008, Architecture(
        "llama", 49_152, 576, 30, 9, 3, 64, 1536, 8192, 1e-5, 1e5, tied_embeddings=True)),
    "qwen2.5-0.5b": Preset("Qwen/Qwen2.5-0.5B", 494_032_768, Architecture(
        "qwen2", 151_936, 896, 24, 14, 2, 64, 4864, 32_768, 1e-6, 1e6, tied_embeddings=True, qkv_bias=True)),
    "llama-3.2-1b": Preset("meta-llama/Llama-3.2-1B", 1_235_814_400, Architecture(
        "llama", 128_256, 2048, 16, 32, 8, 64, 8192, 131_072, 1e-5, 5e5, RopeScaling(32.0, 1.0, 4.0, 8192),
        tied_embeddings=True)),
    "llama-2-7b": Preset("meta-llama/Llama-2-7b-hf", 6_738_415_616, Architecture(
        "llama", 32_000, 4096, 32, 32, 32, 128, 11_008, 4096, 1e-5, 1e4)),
    "mistral-7b-v0.1": Preset("mistralai/Mistral-7B-v0.1", 7_241_732_096, Architecture(
        "mistral", 32_000, 4096, 32, 32, 8, 128, 14_336, 32_768, 1e-5, 1e4, sliding_window=4096)),
    "falcon-7b": Preset("tiiuae/falcon-7b", 6_921_720_704, Architecture(
        "falcon", 65_024, 4544, 32, 71, 1, 64, 18_176, 2048, 1e-5, 1e4, tied_embeddings=True)),
    "llama-3.1-8b": Preset("meta-llama/Llama-3.1-8B", 8_030_261_248, Architecture(
        "llama", 128_256, 4096, 32, 32, 8, 128, 14_336, 131_072, 1e-5, 5e5, RopeScaling(8.0, 1.0, 4.0, 8192))),
    # For tests: answers in milliseconds, stands for no model that anyone runs.
    "tiny-test": Preset(None, None, Architecture("llama", 256, 64, 2, 4, 2, 16, 192, 4096, 1e-5, 1e4)),
}
# fmt: on

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def classify(name: str) -> ModelSource:
    """What kind of model a name given by the user means; presets come before files, files before hub ids.

    Raises InvalidConfig when it is none, and for a GGUF file or a path that isn't there.
    """
    if name in PRESETS:
        return "preset"
    if name.lower().endswith(".gguf"):
        if not os.path.isfile(name):
            raise InvalidConfig(f"no GGUF file at '{name}'; check the path")
        return "gguf"
    if os.path.isdir(name):
        return "folder"
    if HUB_ID.fullmatch(name):
        return "hub"
    if "/" in name or "\\" in name:
        raise InvalidConfig(f"no model folder at '{name}'; check the path")
    close = difflib.get_close_matches(name.lower(), PRESETS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise InvalidConfig(
        f"unknown model '{name}'; {hint}give a preset ({', '.join(PRESETS)}), "
        "a Hugging Face id (organisation/name), a folder or a .gguf file"
    )
