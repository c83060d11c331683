"""Models for mlx-lm: what a name means, its shapes, and its weights: random, read, or quantised.

MLX computes nothing before it is asked to, so that a model is made, cast and quantised without any memory for its
weights until ``evaluate``; ``resolve`` reads its figures from such a model.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import InvalidConfig
from backends.presets import PRESETS, Architecture, ModelSource, classify

DTYPES = ("float32", "bfloat16", "float16")
_MODULES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
"""mlx-lm's module for a preset's family. Mistral's window is left out there: attention sees all tokens."""
_HUB_FILES = ["*.json", "model*.safetensors"]


@dataclass(frozen=True)
class Quantization:
    """What mlx-lm's ``convert`` calls ``--q-mode``, ``--q-bits`` and ``--q-group-size``."""

    mode: str
    bits: int
    group_size: int
    """Columns that share a scale; matrices whose width is no multiple of it stay unquantised."""


QUANTIZATIONS = {
    **{f"{bits}bit": Quantization("affine", bits, 64) for bits in (3, 4, 5, 6, 8)},
    "mxfp4": Quantization("mxfp4", 4, 32),
    "mxfp8": Quantization("mxfp8", 8, 32),
    "nvfp4": Quantization("nvfp4", 4, 16),
}
"""By the names that models at mlx-community have; group sizes are mlx-lm's own."""


@dataclass(frozen=True)
class MlxModel:
    """A model whose weights may not be computed yet."""

    module: Any
    """mlx-lm's ``nn.Module``."""
    config: dict[str, Any]
    """Its config.json."""
    source: ModelSource
    dtype: str
    """A name in ``DTYPES`` or ``QUANTIZATIONS``, or another that a checkpoint is quantised by."""
    activations: str
    """Dtype of activations, cache and unquantised weights."""
    quantization: Quantization | None
    revision: str | None = None


def make(name: str, dtype: str, default: str, seed: int, fetch: bool) -> MlxModel:
    """The model that a name means, not computed yet.

    ``dtype`` is what was asked for, ``default`` what a preset has unless asked. Of a hub model the weights are there
    only with ``fetch``; without it config.json alone is fetched, and the model has its shapes.
    Raises InvalidConfig for a name that isn't a model, or one that mlx-lm can't run as it is.
    """
    source = classify(name)
    if source == "gguf":
        raise InvalidConfig(f"'{name}' is a GGUF file; run it with --backend llama-cpp")
    known = (*DTYPES, *QUANTIZATIONS)
    if dtype != "auto" and dtype not in known:
        raise InvalidConfig(f"dtype '{dtype}' isn't one of {', '.join(known)}")
    if source == "preset":
        module, config = _preset(name)
        _draw(module, seed)
        return _in_precision(MlxModel(module, config, source, default, default, None), name, dtype, default)
    folder = Path(name)
    try:
        if source == "hub":
            folder = _fetched(name, fetch)
        module, config = _read(folder, weights=fetch or source == "folder")
        stored, quantization = _stored_quantization(config)
    except Exception as error:  # a foreign config.json can fail in any way while a model is made of it
        raise _unreadable(name, source, error) from error
    if not isinstance(_text(config).get("max_position_embeddings"), int):
        raise InvalidConfig(f"'{name}' doesn't say its context length; give a decoder-only language model")
    revision = folder.name if source == "hub" else None
    activations = _dtype_of(module)
    found = MlxModel(module, config, source, stored or activations, activations, quantization, revision)
    return _in_precision(found, name, dtype, activations)


def evaluate(module: Any) -> None:
    """Compute or read the weights, one after the other, so that no other copy of the model ever exists."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    for _, weight in tree_flatten(module.parameters()):
        mx.eval(weight)


def size(module: Any) -> tuple[int, int]:
    """Number of weights, tied ones once and quantised ones as many as they stand for, and the bytes that they take."""
    from mlx.utils import tree_flatten

    weights = dict(tree_flatten(module.parameters()))
    modules = dict(module.named_modules())
    count = 0
    for name, weight in weights.items():
        path, _, kind = name.rpartition(".")
        if f"{path}.scales" not in weights or kind == "bias":
            count += weight.size
        elif kind == "weight":  # its numbers are packed into words of 32 bits
            count += weight.size * 32 // modules[path].bits
    return count, sum(weight.nbytes for weight in weights.values())


def context_length(model: MlxModel) -> int:
    """Longest m + n that the model is made for."""
    return int(_text(model.config)["max_position_embeddings"])


def vocabulary_size(model: MlxModel) -> int:
    return int(_text(model.config)["vocab_size"])


def _text(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that is about the language model."""
    return {**config, **(config.get("text_config") or {})}


def _preset(name: str) -> tuple[Any, dict[str, Any]]:
    architecture = PRESETS[name].architecture
    if architecture.family not in _MODULES:
        raise InvalidConfig(f"mlx-lm has no models of the family {architecture.family}; use --backend transformers")
    code = importlib.import_module(f"mlx_lm.models.{_MODULES[architecture.family]}")
    config = _preset_config(architecture)
    return code.Model(code.ModelArgs.from_dict(config)).eval(), config


def _preset_config(architecture: Architecture) -> dict[str, Any]:
    """A config.json with exactly the given shapes and arithmetic."""
    a = architecture
    config: dict[str, Any] = {
        "model_type": a.family,
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "intermediate_size": a.intermediate_size,
        "max_position_embeddings": a.context_length,
        "rms_norm_eps": a.norm_eps,
        "rope_theta": a.rope_theta,
        "tie_word_embeddings": a.tied_embeddings,
    }
    if a.rope_scaling is not None:
        config["rope_scaling"] = a.rope_scaling.hub_fields()
    return config


def _draw(module: Any, seed: int) -> None:
    """Random weights of the scale that the other backends' have: variance 1 / columns, norms 1, biases 0."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    key = mx.random.key(seed)
    drawn = []
    for name, weight in tree_flatten(module.parameters()):
        if weight.ndim > 1:
            key, own = mx.random.split(key)
            made = mx.random.normal(weight.shape, scale=weight.shape[-1] ** -0.5, key=own)
        else:
            made = (mx.zeros if name.endswith("bias") else mx.ones)(weight.shape)
        drawn.append((name, made))
    module.load_weights(drawn)


def _fetched(name: str, weights: bool) -> Path:
    """A hub model's folder in the hub's cache, named by its commit; without ``weights`` only config.json is fetched."""
    from huggingface_hub import hf_hub_download, snapshot_download

    folder = Path(hf_hub_download(name, "config.json")).parent
    if weights:
        folder = Path(snapshot_download(name, revision=folder.name, allow_patterns=_HUB_FILES))
    return folder


def _read(folder: Path, weights: bool) -> tuple[Any, dict[str, Any]]:
    """mlx-lm's model of a folder and its config.json; without ``weights`` only the latter is read."""
    from mlx_lm.utils import _get_classes, load_config, load_model

    config = load_config(folder)
    changes = _flat_rotary(config)
    if weights:
        module, config = load_model(folder, lazy=True, model_config=changes, trust_remote_code=False)
        return module, config
    config |= changes
    model_class, arguments = _get_classes(config)
    module = model_class(arguments.from_dict(config)).eval()
    _cast(module, _stated_dtype(config))
    _, stored = _stored_quantization(config)
    if stored is not None:
        _quantize(module, stored)
    return module, config


def _flat_rotary(config: dict[str, Any]) -> dict[str, Any]:
    """What most of mlx-lm's models call the rotary settings that transformers 5 writes as ``rope_parameters``.

    They would silently take their defaults for them.
    """
    rotary = config.get("rope_parameters")
    if not isinstance(rotary, dict) or "rope_theta" not in rotary or "rope_theta" in config:
        return {}
    scaled = rotary.get("rope_type", "default") != "default"
    return {"rope_theta": rotary["rope_theta"], **({"rope_scaling": rotary} if scaled else {})}


def _stated_dtype(config: dict[str, Any]) -> str:
    text = _text(config)
    stated = text.get("dtype") or text.get("torch_dtype")
    return stated if stated in DTYPES else "float32"


def _stored_quantization(config: dict[str, Any]) -> tuple[str | None, Quantization | None]:
    """By what a checkpoint is quantised, in mlx-lm's own form or another that it reads; None where it isn't."""
    stored = config.get("quantization")
    if not isinstance(stored, dict):
        # Of the forms that mlx-lm doesn't turn into its own, it unpacks all but this one while it reads them.
        foreign = config.get("quantization_config") or {}
        return ("bitnet" if foreign.get("quant_method") == "bitnet" else None), None
    found = Quantization(stored.get("mode", "affine"), int(stored["bits"]), int(stored["group_size"]))
    return (f"{found.bits}bit" if found.mode == "affine" else found.mode), found


def _in_precision(model: MlxModel, name: str, dtype: str, default: str) -> MlxModel:
    """The model in the precision that was asked for. Raises InvalidConfig where it holds another and no other."""
    if model.dtype not in DTYPES:
        if dtype not in ("auto", model.dtype):
            raise InvalidConfig(f"'{name}' holds {model.dtype} weights and no others; leave out {dtype}")
        return model
    activations = dtype if dtype in DTYPES else default
    _cast(model.module, activations)
    quantization = QUANTIZATIONS.get(dtype)
    if quantization is not None:
        _quantize(model.module, quantization)
    known = dtype if quantization else activations
    return MlxModel(model.module, model.config, model.source, known, activations, quantization, model.revision)


def _cast(module: Any, dtype: str) -> None:
    """Cast the weights, but those that mlx-lm keeps as they are."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    wanted, may_be = getattr(mx, dtype), getattr(module, "cast_predicate", lambda _: True)

    def cast(name: str, weight: Any) -> Any:
        return weight.astype(wanted) if mx.issubdtype(weight.dtype, mx.floating) and may_be(name) else weight

    module.update(tree_map_with_path(cast, module.parameters()))


def _quantize(module: Any, to: Quantization) -> None:
    from mlx_lm.utils import quantize_model

    with contextlib.redirect_stdout(io.StringIO()):  # it prints the bits per weight
        quantize_model(module, {}, to.group_size, to.bits, mode=to.mode)


def _dtype_of(module: Any) -> str:
    """Dtype of most of the unquantised weights, scales included, by number."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    counts: dict[str, int] = {}
    for _, weight in tree_flatten(module.parameters()):
        if mx.issubdtype(weight.dtype, mx.floating):
            dtype = str(weight.dtype).rpartition(".")[2]
            counts[dtype] = counts.get(dtype, 0) + weight.size
    return max(counts, key=counts.__getitem__)


def _unreadable(name: str, source: ModelSource, error: Exception) -> InvalidConfig:
    """One line that says why a folder or a hub model can't be used, and what to do."""
    reason = " ".join(str(error).split("\n\n")[0].split())[:300] or type(error).__name__
    what = f"the model folder '{name}'"
    hint = "mlx-lm needs a config.json of an architecture that it has, and model*.safetensors"
    if source == "hub":
        what = f"'{name}' from the Hugging Face hub"
        hint = "check the id, the network and, for gated models, `hf auth login`"
    return InvalidConfig(f"can't use {what}: {reason} ({hint})")
