"""How large a model is, and how much of it a step reads; from its shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.transformers import quantizers
from backends.transformers.models import empty_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from transformers.utils.quantization_config import QuantizationConfigMixin

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "experts_per_token")
_OF_IMAGES = ("vision", "visual", "image", "audio", "multi_modal", "multimodal", "mm_projector", "embed_audio")


@dataclass(frozen=True)
class Size:
    """Weights of a model; tied ones count once."""

    parameters: int
    weight_bytes: int
    active_parameters: int
    """That one token uses."""
    step_bytes: int
    """That a decode step of one sequence reads."""


def size_of(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    quantization: QuantizationConfigMixin | None = None,
    stored: Mapping[str, int] | None = None,
) -> Size:
    """The size of a model, found without allocating any.

    Quantised weights count as many as they stand for, and their bytes are those of the packed numbers with padding,
    scales, zero points and code tables. ``stored`` has the bytes of each tensor of a checkpoint, which are taken in
    place of those. Raises ValueError for a configuration that is no causal language model.
    """
    model, _ = empty_model(config, dtype)
    weights = dict(model.named_parameters())
    sizes = {name: weight.numel() * weight.element_size() for name, weight in weights.items()}
    if quantization is not None and stored is None:
        for name in empty_model(config, dtype, quantization)[1]:
            rows, columns = weights[name].shape
            sizes[name] = quantizers.matrix_bytes(quantization, rows, columns, dtype.itemsize)
    share = _chosen_share(config)
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings().weight
    tied = output is not None and output.weight is embedding
    embeds = next((name for name, weight in weights.items() if weight is embedding), "")
    sizes = dict(stored) if stored is not None else sizes
    # The same tensor may lie under another prefix in a checkpoint.
    ending = "." + ".".join(embeds.split(".")[-2:])

    def used(name: str) -> float:
        """Share of a tensor that a step of one sequence uses."""
        if any(word in name for word in _OF_IMAGES):
            return 0.0
        return share if ".experts." in name else 1.0

    active = sum(used(name) * weight.numel() for name, weight in weights.items())
    # Of an embedding that isn't the output matrix too, a step reads one row.
    rows = {name for name in sizes if f".{name}".endswith(ending) and not tied}
    read = sum(used(name) * size / (embedding.shape[0] if name in rows else 1) for name, size in sizes.items())
    total = sum(weight.numel() for weight in weights.values())
    return Size(total, sum(sizes.values()), round(active), round(read))


def _chosen_share(config: PreTrainedConfig) -> float:
    """Share of a mixture's experts that a token uses; 1 where there are none, or it isn't said."""
    text = config.get_text_config()
    experts = next((found for name in _EXPERTS if isinstance(found := getattr(text, name, None), int)), None)
    chosen = next((found for name in _CHOSEN if isinstance(found := getattr(text, name, None), int)), None)
    return min(chosen / experts, 1.0) if experts and chosen else 1.0
