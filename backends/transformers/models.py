"""Models for torch: what a name means, how large it is, and its weights on a device, random or real."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from backends.base import InvalidConfig
from backends.presets import PRESETS, Architecture, ModelSource, classify
from backends.transformers import checkpoints, kinds, quantizers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.utils.quantization_config import QuantizationConfigMixin


def read_config(name: str, random_weights: bool = False) -> tuple[ModelSource, PreTrainedConfig]:
    """Where the model comes from and its transformers configuration; only this is read or fetched.

    With ``random_weights`` it doesn't matter how the weights are stored. Raises InvalidConfig for a name that isn't a
    model, or one that transformers can't run as it is.
    """
    from transformers import AutoConfig

    source = classify(name)
    if source == "gguf":
        raise InvalidConfig(f"'{name}' is a GGUF file; run it with --backend llama-cpp")
    if source == "preset":
        return source, preset_config(PRESETS[name].architecture)
    checkpoints.refuse_other_content(name)
    try:
        if source == "hub":
            _check_hub(name)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a foreign config.json can fail in any way while it is parsed and validated
        raise unreadable(name, source, error) from error
    kinds.refuse(name, config, random_weights)
    if random_weights:
        config.__dict__.pop("quantization_config", None)
    else:
        checkpoints.refuse_unread_quantization(name, config)
        quantizers.of_checkpoint(name, config)  # refuses what can't be read
    return source, config


def _check_hub(name: str) -> None:
    """Fails at once where a model that isn't cached would be asked for again and again for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        # What the hub answers is left to transformers, which explains it; only silence is an error here.
        with contextlib.suppress(HfHubHTTPError):
            get_hf_file_metadata(hf_hub_url(name, "config.json"))


def unreadable(name: str, source: ModelSource, error: Exception) -> InvalidConfig:
    """One line that says why a folder or a hub model can't be used, and what to do."""
    first_paragraph = str(error).split("\n\n")[0]
    reason = " ".join(first_paragraph.split())[:300] or type(error).__name__
    what, hint = f"the model folder '{name}'", "it needs a valid config.json and safetensors files"
    if source != "folder":
        what = f"'{name}' from the Hugging Face hub"
        hint = "check the id, the network and, for gated models, `hf auth login`"
    return InvalidConfig(f"can't use {what}: {reason} ({hint})")


def preset_config(architecture: Architecture) -> PreTrainedConfig:
    """The transformers configuration with exactly the given shapes and arithmetic."""
    from transformers import FalconConfig, LlamaConfig, MistralConfig, Qwen2Config

    a = architecture
    common: dict[str, Any] = {
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "max_position_embeddings": a.context_length,
        "tie_word_embeddings": a.tied_embeddings,
        "rope_parameters": a.rope_parameters(),
    }
    kv_heads, width = a.kv_heads, a.intermediate_size
    if a.family == "falcon":
        return FalconConfig(**common, num_kv_heads=kv_heads, ffn_hidden_size=width, layer_norm_epsilon=a.norm_eps)
    common |= {"head_dim": a.head_dim, "rms_norm_eps": a.norm_eps}
    if a.family == "mistral":
        common["sliding_window"] = a.sliding_window
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config, "mistral": MistralConfig}[a.family]
    return kind(**common, num_key_value_heads=kv_heads, intermediate_size=width)


def empty_model(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    quantization: QuantizationConfigMixin | None = None,
    buffers: bool = False,
) -> tuple[PreTrainedModel, set[str]]:
    """A model whose parameters have shapes but no values, and the names of those to quantise.

    With ``quantization`` transformers' quantiser, kept as ``hf_quantizer``, has put its own layers in place.
    ``buffers`` computes buffers such as rotary frequencies, on the CPU.
    """
    import torch

    with contextlib.ExitStack() as stack:
        if buffers:
            from accelerate import init_empty_weights
            from transformers.initialization import no_init_weights

            # Each weight is allocated before accelerate throws it away; unwritten, it takes no memory.
            stack.enter_context(init_empty_weights(include_buffers=False))
            stack.enter_context(no_init_weights())
        else:
            stack.enter_context(torch.device("meta"))
        model = kinds.auto_class(config).from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()  # transformers 5.0 leaves them untied on the meta device
    if quantization is None:
        return model, set()
    quantizer = quantizers.quantizer(quantization, quantizers.is_stored(config))
    quantizer.preprocess_model(model=model, dtype=dtype, device_map=None)
    model.hf_quantizer = quantizer
    return model, {name for name, _ in model.named_parameters() if quantizer.param_needs_quantization(model, name)}


def random_model(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, seed: int) -> PreTrainedModel:
    """A model with seeded random weights, made in place on the device, so that no second copy ever exists.

    Matrices are normal with variance 1 / columns, so that a product keeps the scale of its input and
    activations stay finite in half precision at any width; norms are 1 and biases 0.
    """
    import torch
    from transformers.initialization import no_init_weights

    # Without transformers' own initialisation weights are allocated but not written, while buffers (rotary
    # frequencies) are computed; allocating on the meta device first would lose those.
    with torch.device(device), no_init_weights():
        model = kinds.auto_class(config).from_config(config, dtype=dtype)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw_weight(name, weight, generator)
    return model


def draw_weight(name: str, weight: torch.Tensor, generator: torch.Generator) -> None:
    """Write a parameter's random values in place; see ``random_model``."""
    if weight.dim() > 1:
        weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)
    else:
        weight.fill_(0.0 if name.endswith("bias") else 1.0)


def pretrained_model(
    name: str,
    source: ModelSource,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device | dict[str, int | str],
    quantization: QuantizationConfigMixin | None = None,
) -> PreTrainedModel:
    """A published model with its real weights; only safetensors files are read, as they can't hold code.

    ``device`` is one device or a map (``placement``); ``quantization`` quantises weights while they are read,
    which a checkpoint that is stored quantised doesn't need. Raises InvalidConfig for weights that are missing or
    unreadable.
    """
    from safetensors import SafetensorError

    options: dict[str, Any] = {}
    if quantization is not None and (not quantizers.is_stored(config) or getattr(quantization, "dequantize", False)):
        options["quantization_config"] = quantization
    if isinstance(device, dict):
        options["device_map"] = device
    try:
        model, loading = kinds.auto_class(config).from_pretrained(
            name,
            config=config,
            revision=getattr(config, "_commit_hash", None) or "main",
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        if loading["missing_keys"]:  # transformers would fill them at random
            raise ValueError(f"it has no weights for {min(loading['missing_keys'])}")
        checkpoints.refuse_scales(loading["unexpected_keys"])
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(name, source, error) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        shapes = ValueError(
            "its weights have other shapes than its config.json says: they are packed, or another model's"
        )
        raise unreadable(name, source, shapes) from error
    return model if isinstance(device, dict) else model.to(device)
