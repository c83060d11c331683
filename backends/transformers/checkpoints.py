"""What a folder or hub repository holds beside a config.json, where its weights can't be read as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import InvalidConfig
from backends.transformers import stored

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PACKED = re.compile(
    r"(^|[._])(\w*scales?|\w*scale_inv|biases|\w*zero_points?|zeros|qweight|qzeros|g_idx|absmax)$|packed"
)
"""Ends of the names of what lies beside quantised weights."""
_RANDOM = "or measure its shapes with --random-weights"


def refuse_other_content(name: str) -> None:
    """Raises InvalidConfig for a folder without a model of its own: an adapter (LoRA) of another, or a GGUF file."""
    folder = Path(name)
    if (folder / "config.json").is_file():
        return
    if next(folder.glob("*.gguf"), None) is not None:
        raise InvalidConfig(f"'{name}' holds a GGUF file and no config.json; run it with --backend llama-cpp")
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    try:
        found = json.loads(file.read_text())
        kind, base = found.get("peft_type"), found.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        kind = base = None
    of = f" of {str(base)[:100]}" if base else ""
    raise InvalidConfig(
        f"'{name}' is an adapter ({kind or 'PEFT'}){of}, no model; merge it into its model (merge_and_unload of peft, "
        "then save_pretrained) and give that folder"
    )


def refuse_unread_quantization(name: str, config: PreTrainedConfig) -> None:
    """Raises InvalidConfig for quantised weights whose description transformers doesn't read, unless it is its own.

    That of compressed-tensors by its first name is put where transformers looks for it.
    """
    if getattr(config, "quantization_config", None) is not None:
        return
    compression = getattr(config, "compression_config", None)
    if isinstance(compression, dict):
        # What compressed-tensors called its description at first; transformers reads it by its new name only.
        config.quantization_config = {"quant_method": "compressed-tensors", **compression}
        return
    if isinstance(getattr(config, "quantization", None), dict):
        raise InvalidConfig(f"'{name}' holds weights quantised for MLX; run it with --backend mlx, {_RANDOM}")
    described = None
    for file in ("hf_quant_config.json", "quant_config.json", "quantize_config.json"):
        if (Path(name) / file).is_file():
            described = file
    if described is not None:
        raise InvalidConfig(
            f"'{name}' holds quantised weights described in {described}, which transformers doesn't read; "
            f"{stored.REMEDY}"
        )


def refuse_scales(unexpected: Iterable[str]) -> None:
    """Raises ValueError where weights were left over that belong to quantised ones: the others are wrong without."""
    scales = sorted(key for key in unexpected if _PACKED.search(key))
    if scales:
        raise ValueError(f"its weights are quantised, and {scales[0]} and {len(scales) - 1} more belong to them")
