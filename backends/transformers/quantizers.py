"""Quantised weights for torch, by transformers' own quantisers over bitsandbytes and torchao.

A method quantises the matrices of the linear layers; embeddings, the output layer, norms and biases stay in the
activation dtype, and so do activations and the KV cache. ``of_method`` makes the configuration for weights that are
quantised while they are read or drawn, ``of_checkpoint`` reads that of weights which are stored quantised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from backends.base import InvalidConfig, NotInstalled
from backends.transformers import stored as others

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from transformers.quantizers import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

GROUP_SIZE = 128
"""Columns that share a scale in torchao-int4; layers whose width is no multiple of it stay unquantised."""


@dataclass(frozen=True)
class Method:
    """A way to quantise weights."""

    packages: tuple[str, ...]
    """Packages that it needs beside torch and transformers."""
    devices: tuple[str, ...]
    """Kinds of device that its kernels exist for."""
    activation_dtype: str | None = None
    """The only dtype that its kernels multiply with, None where that is free."""
    compute_capability: tuple[int, int] = (0, 0)
    """Oldest NVIDIA GPU that can run it."""


METHODS = {
    "bnb-int8": Method(("bitsandbytes", "accelerate"), ("cuda", "cpu"), "float16", (7, 5)),
    "bnb-nf4": Method(("bitsandbytes", "accelerate"), ("cuda", "cpu"), None, (6, 0)),
    "torchao-int8": Method(("torchao", "accelerate"), ("cuda", "cpu")),
    "torchao-int4": Method(("torchao", "accelerate"), ("cuda",), "bfloat16", (8, 0)),
}


def usable(devices: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the methods whose packages are here, and which can run on one of these kinds of device."""
    here = {name: method for name, method in METHODS.items() if not _missing(method)}
    return tuple(name for name, method in here.items() if set(method.devices) & set(devices))


def refuse(name: str, device: torch.device, compile_mode: str = "none") -> None:
    """Refuse a method that can't run here, before any weights are made.

    Raises NotInstalled for an absent package, InvalidConfig for a device that the method has no kernels for or a mode
    that it can't be compiled in.
    """
    import torch

    method = METHODS[name]
    if missing := _missing(method):
        remedy = f"install with: pip install {' '.join(missing)}"
        raise NotInstalled(f"{name} weights need {' and '.join(missing)}; {remedy}")
    if device.type not in method.devices:
        others = [other for other, its in METHODS.items() if device.type in its.devices]
        instead = f"take {' or '.join(others)}, or --device cuda" if others else "leave the weights unquantised"
        raise InvalidConfig(f"{name} weights can't run on {device.type}; {instead}")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < method.compute_capability:
        needed = "compute capability " + ".".join(map(str, method.compute_capability))
        raise InvalidConfig(f"{name} weights need a GPU of {needed} or newer; leave the weights unquantised")
    if name == "bnb-int8" and compile_mode != "none":
        # Columns with outliers are looked for in every layer, and the host waits for their number.
        raise InvalidConfig(f"bnb-int8 weights can't run with --compile {compile_mode}; take torchao-int8 or none")


def activation_dtype(name: str, default: str) -> str:
    """The dtype that a method's unquantised weights, activations and KV cache have; ``default`` where it is free."""
    return METHODS[name].activation_dtype or default


def of_method(name: str, dtype: torch.dtype) -> QuantizationConfigMixin:
    """transformers' configuration of a method; ``dtype`` is that of the activations."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if name == "bnb-int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if name == "bnb-nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    # torchao's own settings for Inductor would outlive the model and change what later ones are compiled to.
    if name == "torchao-int8":
        return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))
    return TorchAoConfig(
        Int4WeightOnlyConfig(group_size=GROUP_SIZE, int4_packing_format="tile_packed_to_4d", set_inductor_config=False)
    )


def of_checkpoint(model: str, config: PreTrainedConfig) -> tuple[str, QuantizationConfigMixin] | None:
    """Method and configuration of a model that is stored quantised; None where it isn't.

    A method that isn't one of ``METHODS`` is one of ``stored``. Raises InvalidConfig for a quantisation that
    transformers doesn't read, NotInstalled for an absent package.
    """
    from transformers import BitsAndBytesConfig, TorchAoConfig

    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    settings = stored if isinstance(stored, dict) else stored.to_dict()
    name = _stored_method(settings)
    if name is None:
        return others.of_settings(model, dict(settings))
    if missing := _missing(METHODS[name]):
        remedy = f"install with: pip install {' '.join(missing)}"
        raise NotInstalled(f"'{model}' has {name} weights, which need {' and '.join(missing)}; {remedy}")
    try:
        kind = BitsAndBytesConfig if name.startswith("bnb") else TorchAoConfig
        return name, kind.from_dict(dict(settings))
    except (ValueError, TypeError, AssertionError, KeyError) as error:  # a foreign file says what it likes
        problem = f"a quantization_config that can't be used ({' '.join(str(error).split())[:200]})"
        raise InvalidConfig(f"'{model}' has {problem}; give the unquantised checkpoint") from error


def _stored_method(settings: dict[str, Any]) -> str | None:
    """The method that a checkpoint's settings describe, None for another."""
    if settings.get("quant_method") == "bitsandbytes":
        if settings.get("load_in_4bit"):
            return "bnb-nf4" if settings.get("bnb_4bit_quant_type") == "nf4" else None
        return "bnb-int8" if settings.get("load_in_8bit") else None
    if settings.get("quant_method") == "torchao":
        quant_type = settings.get("quant_type")
        default = quant_type.get("default") if isinstance(quant_type, dict) else None
        # torchao has dozens of kinds, whose sizes and kernels differ; only the one that is also made here is known.
        if isinstance(default, dict) and default.get("_type") == "Int8WeightOnlyConfig":
            return "torchao-int8"
    return None


def is_stored(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint holds quantised weights."""
    return getattr(config, "quantization_config", None) is not None


def quantizer(quantization: QuantizationConfigMixin, stored: bool) -> HfQuantizer:
    """transformers' quantiser for a configuration; ``stored`` where the weights are read quantised."""
    from transformers.quantizers.auto import AutoHfQuantizer

    made = AutoHfQuantizer.from_config(quantization, pre_quantized=stored)
    made.validate_environment(device_map=None)
    return made


def is_four_bit(quantization: QuantizationConfigMixin) -> bool:
    """Whether the packed numbers take half a byte each, rather than one."""
    if hasattr(quantization, "quant_type"):  # torchao's
        return type(quantization.quant_type).__name__.startswith("Int4")
    return bool(getattr(quantization, "load_in_4bit", False))


def matrix_bytes(quantization: QuantizationConfigMixin, rows: int, columns: int, element_bytes: int) -> int:
    """Bytes of one quantised matrix with everything that is needed to multiply by it, as it lies in memory.

    That is the packed numbers, padding included, and their scales, zero points and code tables; ``element_bytes`` is
    what an activation takes, in which torchao keeps its scales. It is the size after loading: on some CPUs bitsandbytes
    repacks 4-bit weights in the first forward pass and halves their scales.
    """
    numbers = rows * columns
    torchao = hasattr(quantization, "quant_type")
    if not is_four_bit(quantization):
        # A scale for each row: float32, or torchao's, with a zero point of a byte even where all are zero.
        return numbers + (element_bytes + 1 if torchao else 4) * rows
    if not torchao:
        blocks = math.ceil(numbers / 64)
        # Scales are float32, or are themselves quantised: a byte each, and a scale for every 256, a table, an offset.
        nested = blocks + 4 * math.ceil(blocks / 256) + 4 * 256 + 4
        scales = nested if getattr(quantization, "bnb_4bit_use_double_quant", False) else 4 * blocks
        return math.ceil(numbers / 2) + scales + 4 * 16
    if columns % GROUP_SIZE:
        return element_bytes * numbers
    padded = _multiple(rows, 8) * _multiple(columns, 1024)
    return padded // 2 + 2 * element_bytes * padded // GROUP_SIZE


def _multiple(number: int, of: int) -> int:
    return math.ceil(number / of) * of


def _missing(method: Method) -> list[str]:
    return [package for package in method.packages if find_spec(package) is None]
