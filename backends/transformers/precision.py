"""The precision that a model runs in: of its weights, its activations, and how they are quantised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.base import Config, InvalidConfig
from backends.transformers import devices, quantizers, stored

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from transformers.utils.quantization_config import QuantizationConfigMixin

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Precision:
    """What a configuration's dtype comes to on its devices."""

    name: str
    """A torch dtype, or the name of a quantisation: what a run records."""
    activations: str
    """The torch dtype of activations, the cache and unquantised weights."""
    quantization: QuantizationConfigMixin | None = None
    packages: tuple[str, ...] = ()
    """Needed for it beside torch and transformers."""
    packed_by_others: bool = False
    """Whether the weights stay as a checkpoint has them, by a method of ``stored``."""
    unpacked: bool = False
    """Whether the weights of a quantised checkpoint become numbers of the activations' dtype."""
    description: str = ""

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """What a run records of it beside its name."""
        if self.quantization is None:
            return {}
        described = {"quantization": self.description} if self.description else {}
        return {"activation_dtype": self.activations, **described}


def chosen_precision(config: Config, model_config: PreTrainedConfig, on: tuple[torch.device, ...]) -> Precision:
    """The precision that is asked for, or that the checkpoint has. Raises InvalidConfig or NotInstalled."""
    import torch

    default = devices.default_dtype(on[0])
    checkpoint = quantizers.of_checkpoint(config.model, model_config)
    if checkpoint is not None and checkpoint[0] not in quantizers.METHODS:
        return _of_others(config, model_config, *checkpoint, on)
    if checkpoint is not None and config.dtype not in ("auto", checkpoint[0]):
        raise InvalidConfig(f"'{config.model}' holds {checkpoint[0]} weights and no others; leave out {config.dtype}")
    name = checkpoint[0] if checkpoint is not None else config.dtype
    if name not in quantizers.METHODS:
        name = default if name == "auto" else name
        if name not in DTYPES:
            choices = ", ".join((*DTYPES, *quantizers.METHODS))
            raise InvalidConfig(f"dtype '{config.dtype}' isn't one of {choices}")
        return Precision(name, name)
    for device in on:
        quantizers.refuse(name, device, config.compile)
    activations = quantizers.activation_dtype(name, default)
    made = checkpoint[1] if checkpoint else quantizers.of_method(name, getattr(torch, activations))
    return Precision(name, activations, made, quantizers.METHODS[name].packages)


def _of_others(
    config: Config,
    model_config: PreTrainedConfig,
    method: str,
    quantization: QuantizationConfigMixin,
    on: tuple[torch.device, ...],
) -> Precision:
    """That of a checkpoint that is stored quantised by a method of ``stored``; a torch dtype is its activations'."""
    import torch

    if config.dtype not in ("auto", method, *DTYPES):
        raise InvalidConfig(f"'{config.model}' holds {method} weights and no others; leave out {config.dtype}")
    asked = config.dtype if config.dtype in DTYPES else devices.default_dtype(on[0])
    each = [
        stored.on_device(config.model, method, quantization, device, getattr(torch, asked), config.compile)
        for device in on
    ]
    found = each[0]
    activations = str(found.activations).removeprefix("torch.")
    if config.dtype in DTYPES and activations != config.dtype:
        raise InvalidConfig(f"{method} weights here need activations of {activations}; leave out {config.dtype}")
    raw = model_config.quantization_config
    return Precision(
        name=f"{method} unpacked to {activations}" if found.unpacked else method,
        activations=activations,
        quantization=found.quantization,
        packages=stored.packages(method),
        packed_by_others=not found.unpacked,
        unpacked=found.unpacked,
        description=stored.description(raw if isinstance(raw, dict) else raw.to_dict()),
    )
