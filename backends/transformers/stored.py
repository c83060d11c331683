"""Checkpoints that are stored quantised in other ways than the methods of ``quantizers``.

transformers has a quantiser for each, which needs packages and devices of its own. Some have no kernels here and unpack
the weights to a torch dtype, while they load or in the first forward pass: such a model is measured as what it is then.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.base import InvalidConfig, NotInstalled, pip_install

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

PACKAGES = {
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel", "accelerate"),
    "fp8": ("accelerate",),
    "mxfp8": ("accelerate",),
    "mxfp4": ("accelerate",),
    "compressed-tensors": ("compressed-tensors", "accelerate"),
    "hqq": ("hqq", "accelerate"),
    "quanto": ("optimum-quanto", "accelerate"),
    "bitnet": ("accelerate",),
    "auto-round": ("auto-round", "accelerate"),
    "aqlm": ("aqlm", "accelerate"),
    "eetq": ("kernels", "accelerate"),
    "vptq": ("vptq", "accelerate"),
    "quark": ("amd-quark", "accelerate"),
    "fbgemm_fp8": ("fbgemm-gpu", "accelerate"),
    "spqr": ("spqr_quant", "accelerate"),
    "metal": ("kernels", "accelerate"),
}
"""What each method's quantiser needs beside torch and transformers, by the names that pip knows."""
_ON_CUDA = ("eetq", "vptq", "fbgemm_fp8", "spqr", "fp_quant", "higgs", "nvfp4")
"""Methods whose kernels are for NVIDIA GPUs alone; quantisers ask whether there is one, not whether it is used."""
_UNPACK_OFF_CUDA = ("fp8", "mxfp8", "mxfp4")
_ROOM = 1.25
"""How many times its stored bytes a model may hold in memory: workspaces, and embeddings in a wider dtype."""
REMEDY = "measure it at a server that reads it (--serve vllm), give the unquantised model, or measure its shapes with "
REMEDY += "--random-weights"


@dataclass(frozen=True)
class Stored:
    """How a checkpoint runs on a device."""

    quantization: QuantizationConfigMixin
    activations: torch.dtype
    unpacked: bool
    """Whether the weights become numbers of the activations' dtype, which each step reads then."""


def of_settings(model: str, settings: dict[str, Any]) -> tuple[str, QuantizationConfigMixin]:
    """The method of a checkpoint's ``quantization_config``, and transformers' own form of it.

    Raises InvalidConfig for one that transformers has no quantiser for, NotInstalled for absent packages.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, AutoQuantizationConfig

    method = settings.get("quant_method")
    if not isinstance(method, str) or method in ("bitsandbytes", "torchao") or method not in AUTO_QUANTIZER_MAPPING:
        kind = f"a quantised checkpoint ({method})" if isinstance(method, str) else "a quantised checkpoint"
        raise InvalidConfig(f"'{model}' is {kind} of a kind that isn't read here; {REMEDY}")
    if missing := _missing(method):
        remedy = pip_install(*missing)
        raise NotInstalled(
            f"'{model}' has {method} weights, which need {' and '.join(missing)}; install with: {remedy}"
        )
    try:
        found = AutoQuantizationConfig.from_dict(dict(settings))
    except ImportError as error:
        raise NotInstalled(f"'{model}' has {method} weights: {_one_line(error)}") from error
    except Exception as error:  # a foreign file says what it likes, and each method's package checks it in its own way
        said = _one_line(error)
        raise InvalidConfig(f"'{model}' has a quantization_config that can't be used ({said}); {REMEDY}") from error
    if method == "compressed-tensors" and not getattr(found, "is_quantized", True):
        raise InvalidConfig(f"'{model}' says compressed-tensors and not which layers are quantised; {REMEDY}")
    return method, found


def on_device(
    model: str, method: str, quantization: QuantizationConfigMixin, device: torch.device, dtype: torch.dtype, mode: str
) -> Stored:
    """How the checkpoint runs on a device, as its quantiser says. ``mode`` is the one that steps are compiled in.

    Raises InvalidConfig where it can't run there, NotInstalled where a package is absent.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    settings: Any = quantization
    if method in _ON_CUDA and device.type != "cuda":
        raise InvalidConfig(f"'{model}' has {method} weights, which run on NVIDIA GPUs only; {REMEDY}")
    if method in _UNPACK_OFF_CUDA and device.type != "cuda":
        settings.dequantize = True
    try:
        quantizer: Any = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
        quantizer.validate_environment(device_map={"": str(device)})
        wanted = quantizer.update_dtype(dtype)
    except ImportError as error:
        raise NotInstalled(f"'{model}' has {method} weights: {_one_line(error)}") from error
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        raise InvalidConfig(f"'{model}' has {method} weights: {_one_line(error)}; {REMEDY}") from error
    if mode != "none" and not quantizer.is_compileable:
        raise InvalidConfig(f"{method} weights can't run with --compile {mode}; use --compile none")
    # compressed-tensors unpacks in the first forward pass all that has no kernel of transformers' own.
    unpacks = method == "compressed-tensors" and not getattr(quantizer, "use_fp8_kernel", False)
    return Stored(quantization, wanted, unpacks or bool(getattr(settings, "dequantize", False)))


def packages(method: str) -> tuple[str, ...]:
    """The installed packages that a method's numbers depend on."""
    return tuple(name for name in (*PACKAGES.get(method, ()), "kernels") if _version(name) is not None)


def description(settings: Mapping[str, Any]) -> str:
    """Bits, group sizes and format, as the checkpoint says them."""
    names = ("format", "fmt", "bits", "group_size", "weight_block_size", "activation_scheme", "sym", "desc_act")
    said = [f"{name} {settings[name]}" for name in names if settings.get(name) is not None]
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            said.append(f"{weights.get('type')}{weights.get('num_bits')} by {weights.get('strategy')}")
    return ", ".join(said)[:200]


def refuse_unpacked(model: PreTrainedModel, weight_bytes: int) -> None:
    """Raises InvalidConfig where a model holds more than its packed weights after its first forward pass."""
    held = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
    held_bytes = sum(held.values())
    if held_bytes > _ROOM * weight_bytes:
        raise InvalidConfig(
            f"its quantised weights take {weight_bytes / 1e9:.3g} GB and the loaded model {held_bytes / 1e9:.3g} GB: "
            f"they were unpacked, for want of kernels for this device; {REMEDY}"
        )


def _missing(method: str) -> list[str]:
    return [name for name in PACKAGES.get(method, ()) if _version(name) is None]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
