"""How a model's forward pass is called, and the caches that it is given."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.base import Config, InvalidConfig

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class ForwardPass:
    """How a model's forward pass is called, which architectures differ in."""

    model: PreTrainedModel
    cache_name: str | None
    """What it calls its cache: transformers 5.24 renamed ``past_key_values`` to ``cache``. None where it takes none."""
    takes_positions: bool
    """Some models can't tell positions from their cache, such as those with recurrent layers."""
    takes_logits_to_keep: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> ForwardPass:
        """By the parameters of the model's own ``forward``."""
        names = inspect.signature(type(model).forward).parameters
        cache_name = next((name for name in ("cache", "past_key_values") if name in names), None)
        return cls(model, cache_name, "position_ids" in names, "logits_to_keep" in names)

    def inputs(self, ids: torch.Tensor, positions: torch.Tensor, cache: Cache | None, keep: int = 1) -> dict[str, Any]:
        """Arguments for ids and their positions, each of shape (concurrency, k), after those in the cache.

        Logits of the last ``keep`` are asked for; a model may return more.
        """
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": cache is not None}
        if self.cache_name is not None:
            inputs[self.cache_name] = cache
        if self.takes_positions:
            inputs["position_ids"] = positions
        if self.takes_logits_to_keep:
            inputs["logits_to_keep"] = keep
        return inputs

    def logits(self, ids: torch.Tensor, positions: torch.Tensor, cache: Cache | None, keep: int = 1) -> torch.Tensor:
        """Logits of the last ``keep`` positions, of shape (concurrency, keep, vocabulary)."""
        logits: torch.Tensor = self.model(**self.inputs(ids, positions, cache, keep)).logits
        return logits[:, -keep:]


def positions_of(ids: torch.Tensor, total: int) -> torch.Tensor:
    """Positions 0 … total − 1 for each sequence of ``ids``: shape (concurrency, total)."""
    import torch

    return torch.arange(total, device=ids.device).repeat(ids.shape[0], 1)


def chunked(ids: torch.Tensor, positions: torch.Tensor, most: int | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids with their positions in parts of at most so many tokens; None: all in one."""
    most = most or ids.shape[1]
    return list(zip(ids.split(most, dim=1), positions.split(most, dim=1), strict=True))


def cache_settings(model: PreTrainedModel, config: Config) -> dict[str, str | None]:
    """The cache's class and how many positions it has, as part of a run's identity.

    Layers that keep a state in place of keys and values are named.
    """
    if not config.kv_cache:
        return {"kv_cache_class": None, "kv_cache_length": None}
    if config.compile == "none":
        kinds = list(dict.fromkeys(type(layer).__name__ for layer in growing_cache(model).layers))
        plain = set(kinds) <= {"DynamicLayer", "DynamicSlidingWindowLayer"}
        described = "DynamicCache" if plain else f"DynamicCache: {' + '.join(kinds)}"
        return {"kv_cache_class": described, "kv_cache_length": "grows"}
    return {"kv_cache_class": "StaticCache", "kv_cache_length": "m + n"}


def growing_cache(model: PreTrainedModel) -> Cache:
    """An empty cache that grows with the sequence."""
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def static_cache(model_config: PreTrainedConfig, length: int) -> Cache:
    """A cache of ``length`` positions in every layer, written in place; its memory is claimed by the first prefill.

    Raises InvalidConfig for models that keep another state.

    Layers with a sliding window hold all positions too: the window is in the mask, and a ring buffer moves by rules
    that a captured graph can't follow.
    """
    from transformers import StaticCache
    from transformers.cache_utils import Cache, StaticLayer, StaticSlidingWindowLayer

    layers = StaticCache(config=model_config, max_cache_len=length).layers
    if any(type(layer) not in (StaticLayer, StaticSlidingWindowLayer) for layer in layers):
        kind = model_config.model_type
        raise InvalidConfig(f"models of type {kind} keep other state than a cache of fixed size; use --compile none")
    return Cache(layers=[StaticLayer(max_cache_len=length) for _ in layers])


def starting_cache(model: PreTrainedModel, config: Config, length: int) -> Cache:
    """An empty cache of the kind that ``config`` asks for, with room for so many tokens."""
    return growing_cache(model) if config.compile == "none" else static_cache(model.config, length)
