"""What kind of model a configuration describes: a decoder-only language model, alone or in a model of images, or not.

All that isn't is refused by its name before anything is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.base import InvalidConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
"""What configurations call the longest sequence that the model is made for."""


def refuse(name: str, config: PreTrainedConfig, random_weights: bool = False) -> None:
    """Raises InvalidConfig for a configuration that is no decoder-only language model, or has no weights for it."""
    kind = config.model_type
    measured = "decoder-only language models are measured"
    if config.is_encoder_decoder:
        raise InvalidConfig(f"'{name}' is an encoder–decoder ({kind}); {measured}")
    if _is_encoder(config):
        raise InvalidConfig(f"'{name}' is an encoder ({kind}), which generates no text; {measured}")
    declared = config.architectures or []
    heads = ("CausalLM", "ConditionalGeneration", "LMHeadModel", "LMHead", "ImageTextToText")
    # A bare "…Model" has no output matrix, unless that is its embedding.
    tied = getattr(config.get_text_config(), "tie_word_embeddings", True)
    bare = not random_weights and not tied
    other = [
        each for each in declared if not each.endswith(heads) and ("For" in each or (bare and each.endswith("Model")))
    ]
    if declared and len(other) == len(declared):
        raise InvalidConfig(f"'{name}' is a {other[0]}, which has no head that generates text; {measured}")
    if _class_name(config) is None:
        raise InvalidConfig(f"'{name}' is of type {kind}, of which transformers has no language model; {measured}")


def auto_class(config: PreTrainedConfig) -> type[_BaseAutoModelClass]:
    """The class of transformers that makes the model: of text, or of text and images, whose text part is measured."""
    import transformers

    found: type[_BaseAutoModelClass] = getattr(transformers, _class_name(config) or "AutoModelForCausalLM")
    return found


def context_length(config: PreTrainedConfig) -> int | None:
    """Longest sequence that the model is made for; None where it is made for any, as recurrent ones are."""
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in _LENGTHS)
    return next((length for length in found if isinstance(length, int) and length > 0), None)


def _class_name(config: PreTrainedConfig) -> str | None:
    from transformers.models.auto import modeling_auto

    if config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForCausalLM"
    if config.model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "AutoModelForImageTextToText"
    return None


def _is_encoder(config: PreTrainedConfig) -> bool:
    from transformers.models.auto import modeling_auto

    fills_masks = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return fills_masks and not getattr(config, "is_decoder", False)
