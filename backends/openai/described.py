"""What is known of a model before the server that will serve it is started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends.base import Config, InvalidConfig, Model
from backends.openai.kinds.base import Told, whole, word
from backends.openai.servers import launcher
from backends.openai.servers.base import find_program, refuse_flags
from backends.openai.servers.llama_server import gguf_model
from backends.presets import PRESETS, classify

UNKNOWN = "unknown"


def describe(config: Config) -> Model:
    """The model that a server to be started would serve, without starting it or writing files.

    Raises InvalidConfig for a server, a model or flags that can't be, NotInstalled without the server's program.
    """
    assert config.serve is not None
    kind = launcher(config.serve)
    refuse_flags(config.server_flags, kind)
    find_program(kind.name)
    if not config.model:
        raise InvalidConfig(f"name the model that {kind.name} shall serve: -m MODEL")
    if kind.name == "llama-server":
        return gguf_model(config)
    source = classify(config.model)
    if source == "gguf":
        raise InvalidConfig(f"{kind.name} is started with models as Hugging Face stores them, not with a GGUF file")
    return _random_model(config) if source == "preset" else _hub_model(config, source)


def completed(model: Model, told: Told) -> Model:
    """A described model with what its server tells; the server's context is the one that holds."""
    return replace(
        model,
        architecture=model.architecture if model.architecture != UNKNOWN else told.architecture or UNKNOWN,
        parameters=model.parameters or told.parameters,
        weight_bytes=model.weight_bytes or told.weight_bytes,
        vocabulary_size=model.vocabulary_size or told.vocabulary_size,
        context_length=told.context_length or model.context_length,
        dtype=model.dtype or told.dtype,
    )


def _random_model(config: Config) -> Model:
    """A preset in a folder of its own, in bfloat16."""
    architecture = PRESETS[config.model].architecture
    return Model(
        name=config.model,
        architecture=architecture.family,
        source="preset",
        random_weights=True,
        parameters=architecture.parameters(),
        weight_bytes=2 * architecture.parameters(),
        context_length=architecture.context_length,
        vocabulary_size=architecture.vocab_size,
        dtype="bfloat16" if config.dtype == "auto" else config.dtype,
    )


def _hub_model(config: Config, source: str) -> Model:
    found = _config(config.model) if source == "folder" else {}
    return Model(
        name=config.model,
        architecture=word(found, "model_type") or UNKNOWN,
        source=source,
        random_weights=None,
        parameters=None,
        weight_bytes=None,
        context_length=whole(found.get("max_position_embeddings")),
        vocabulary_size=whole(found.get("vocab_size")),
        dtype=_dtype(config, found),
    )


def _dtype(config: Config, found: dict[str, Any]) -> str:
    """What vLLM computes in: what it is told, else what the checkpoint has; float32 it casts as it likes."""
    if config.dtype != "auto":
        return config.dtype
    stored = word(found, "torch_dtype") or word(found, "dtype") or UNKNOWN
    return UNKNOWN if stored == "float32" else stored


def _config(folder: str) -> dict[str, Any]:
    try:
        found = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"no model in '{folder}': config.json can't be read ({type(error).__name__})") from None
    return found if isinstance(found, dict) else {}
