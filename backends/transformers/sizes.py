"""How large a model is, and how much of it a step reads; from its shapes alone."""

from __future__ import annotations

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


def size_of(config: PreTrainedConfig, dtype: torch.dtype, quantization: QuantizationConfigMixin | None = None) -> Size:
    """The size of a model, found without allocating any.

    Quantised weights count as many as they stand for, and their bytes are those of the packed numbers with padding,
    scales, zero points and code tables. Raises ValueError for a configuration that is no causal language model.
    """
    model, _ = empty_model(config, dtype)
    weights = dict(model.named_parameters())
    sizes = {name: weight.numel() * weight.element_size() for name, weight in weights.items()}
    if quantization is not None:
        for name in empty_model(config, dtype, quantization)[1]:
            rows, columns = weights[name].shape
            sizes[name] = quantizers.matrix_bytes(quantization, rows, columns, dtype.itemsize)
    share = _chosen_share(config)
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings().weight
    tied = output is not None and output.weight is embedding
    active, read = 0.0, 0.0
    for name, weight in weights.items():
        if any(word in name for word in _OF_IMAGES):
            continue
        used = share if ".experts." in name else 1.0
        active += used * weight.numel()
        # Of an embedding that isn't the output matrix too, a step reads one row.
        read += used * sizes[name] * (1 / weight.shape[0] if weight is embedding and not tied else 1.0)
    total = sum(weight.numel() for weight in weights.values())
    return Size(total, sum(sizes.values()), round(active), round(read))


def _chosen_share(config: PreTrainedConfig) -> float:
    """Share of a mixture's experts that a token uses; 1 where there are none, or it isn't said."""
    text = config.get_text_config()
    experts = next((found for name in _EXPERTS if isinstance(found := getattr(text, name, None), int)), None)
    chosen = next((found for name in _CHOSEN if isinstance(found := getattr(text, name, None), int)), None)
    return min(chosen / experts, 1.0) if experts and chosen else 1.0
