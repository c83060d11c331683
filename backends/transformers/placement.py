"""Models spread over several NVIDIA GPUs by accelerate, and quantised ones: which module lies where, and its weights.

A device map names for every module, by its prefix, the device that holds it: ``{"model.embed_tokens": 0, …}``, where a
number is the index of a CUDA device. Only the GPUs that were asked for appear in one; nothing is ever offloaded to the
host's memory or a disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from backends.base import Config, InvalidConfig, NotInstalled, OutOfMemory
from backends.transformers import models, quantizers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

DeviceMap = dict[str, int | str]

CAPS = 64
"""How many shares of the weights are tried as the most that one GPU gets, beginning with an even one."""


def refuse(config: Config, indices: tuple[int, ...]) -> None:
    """Refuse what can't run over several GPUs. Raises InvalidConfig or NotInstalled, before any weights are made."""
    if len(indices) < 2:
        return
    if find_spec("accelerate") is None:
        raise NotInstalled("spreading a model over several GPUs needs accelerate; install with: pip install accelerate")
    if config.compile != "none":
        raise InvalidConfig(
            f"--compile {config.compile} works on one GPU: between several, Python moves the activations; "
            "use --compile none or one GPU"
        )


def free_bytes(indices: tuple[int, ...]) -> dict[int, int]:
    """Bytes that each GPU has free, by its index."""
    import torch

    return {index: torch.cuda.mem_get_info(index)[0] for index in indices}


def device_map(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    free: Mapping[int, int],
    quantization: QuantizationConfigMixin | None = None,
) -> DeviceMap:
    """Where each module goes on the GPUs in ``free`` (bytes by index): as evenly as they have room.

    Layers are never split. Room for one layer is left on every GPU. Raises OutOfMemory where the weights don't fit,
    InvalidConfig where a GPU would get none of them.
    """
    import torch
    from accelerate import infer_auto_device_map
    from accelerate.utils import CustomDtype, compute_module_sizes, get_max_layer_size

    model, quantised = models.empty_model(config, dtype, quantization)
    four_bits = quantization is not None and quantizers.is_four_bit(quantization)
    special = dict.fromkeys(quantised, CustomDtype.INT4 if four_bits else torch.int8)
    whole = sorted(model._no_split_modules or ())
    sizes = compute_module_sizes(model, special_dtypes=special)
    layer_bytes, _ = get_max_layer_size(list(model.named_children()), sizes, whole)
    first = min(free)
    for step in range(CAPS + 1):
        cap = round(sizes[""] * (1 / len(free) + step / CAPS))
        memory = {index: min(max(number - layer_bytes, 0), cap) for index, number in free.items()}
        memory[first] += layer_bytes  # which accelerate keeps for a layer there, and only there
        found: DeviceMap = infer_auto_device_map(model, memory, no_split_module_classes=whole, special_dtypes=special)
        if set(found.values()) <= set(free):
            _refuse_unused(set(free) - set(found.values()), {i: free[i] < 2 * layer_bytes for i in free})
            return found
    room = ", ".join(f"cuda:{index} {number / 1e9:.1f} GB" for index, number in free.items())
    raise OutOfMemory(
        f"the weights don't fit into what is free ({room}), with room for one more layer on each GPU; "
        "name more GPUs, free their memory, or take quantised weights (--dtype bnb-nf4)"
    )


def _refuse_unused(indices: set[int], full: Mapping[int, bool]) -> None:
    """Raise InvalidConfig for GPUs that would get no layer, saying whether they have no room for one."""
    names = ", ".join(f"cuda:{index}" for index in sorted(indices))
    if any(full[index] for index in indices):
        raise InvalidConfig(f"{names} has no room for a layer; free its memory or leave it out")
    if indices:
        raise InvalidConfig(f"the model is too small to spread that far: {names} would stay empty; leave it out")


def random_model(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    placed: DeviceMap,
    seed: int,
    quantization: QuantizationConfigMixin | None = None,
) -> PreTrainedModel:
    """A model with seeded random weights, each made on its own device and quantised there, one after the other.

    Neither the host nor a GPU ever holds more than its share and one unquantised matrix. On one device the numbers are
    those of ``models.random_model``.
    """
    import torch
    from accelerate import dispatch_model

    model, quantised = models.empty_model(config, dtype, quantization, buffers=True)
    quantizer = model.hf_quantizer if quantization is not None else None
    devices = list(dict.fromkeys(placed.values()))
    generators = {
        device: torch.Generator(torch.device(device)).manual_seed(seed + position)
        for position, device in enumerate(devices)
    }
    for name, weight in list(model.named_parameters()):
        device = _device_of(name, placed)
        # The empty weight may already have the type of a packed one.
        made = torch.empty(weight.shape, dtype=dtype if name in quantised else weight.dtype, device=device)
        with torch.no_grad():
            models.draw_weight(name, made, generators[device])
        results = {name: made}
        if quantizer is not None and name in quantised:
            results = quantizer.get_quantize_ops().convert(
                {name: [made]}, model=model, full_layer_name=name, missing_keys=set()
            )
        for key, value in results.items():  # empty where the quantiser has put the weight into the model itself
            module, _, attribute = key.rpartition(".")
            parameter = value if isinstance(value, torch.nn.Parameter) else torch.nn.Parameter(value, False)
            setattr(model.get_submodule(module), attribute, parameter)
    model.tie_weights()
    if quantizer is not None:
        quantizer.postprocess_model(model)
    # Hooks carry the activations from device to device; caches stay where their layers are.
    return dispatch_model(
        model,
        device_map=placed,
        main_device=devices[0],
        skip_keys=model._skip_keys_device_placement,
        force_hooks=len(placed) > 1,
    )


def _device_of(name: str, placed: DeviceMap) -> int | str:
    """The device of a parameter: that of the longest prefix in the map."""
    prefix = name
    while prefix not in placed:
        if not prefix:
            raise InvalidConfig(f"no device is given for {name}")
        prefix = prefix.rpartition(".")[0]
    return placed[prefix]
