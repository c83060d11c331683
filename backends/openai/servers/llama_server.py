"""llama-server of llama.cpp, for GGUF files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.base import Config, InvalidConfig, Model
from backends.openai.servers.base import HOST, ServerModel, given
from backends.presets import classify

_OURS = "joulebench starts it with one of its own"
_NO_VOCABULARY = ("none", "no_vocab")


class LlamaServer:
    name = "llama-server"
    refused_flags: Mapping[str, str] = {
        **dict.fromkeys(("--host", "--port"), _OURS),
        **dict.fromkeys(("-m", "--model", "-a", "--alias", "-mu", "--model-url"), "name the model with -m before --"),
        **dict.fromkeys(("-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"), "name a .gguf file with -m before --"),
        "--api-prefix": "joulebench asks at /v1",
    }
    key_variable = "LLAMA_API_KEY"

    def find_model(self, name: str, dtype: str, seed: int) -> ServerModel:
        from backends.llama_cpp import gguf_file

        model = gguf_model(Config(name, dtype=dtype, seed=seed))
        if model.source == "preset":
            assert model.dtype
            return ServerModel(name, str(gguf_file.preset_file(name, model.dtype, seed)))
        _refuse_without_vocabulary(Path(name))
        return ServerModel(name, str(Path(name).resolve()))

    def command(
        self, program: str, model: ServerModel, port: int, threads: int, device: str, dtype: str, flags: Sequence[str]
    ) -> list[str]:
        command = [program, "-m", model.path, "--alias", model.name, "--host", HOST, "--port", str(port), "--metrics"]
        if not given(flags, "-t", "--threads") and "LLAMA_ARG_THREADS" not in os.environ:
            command += ["--threads", str(threads)]
        if device == "cpu":
            command += ["--device", "none"]
        elif device != "auto":
            raise InvalidConfig(
                f"llama-server takes --device auto or cpu, not '{device}'; name others in its own flags"
            )
        return [*command, "--no-ui", *flags]

    def environment(self, threads: int) -> dict[str, str]:
        return {}


def gguf_model(config: Config) -> Model:
    """What is known of a preset or a GGUF file before it is served. Raises InvalidConfig for what is neither."""
    from backends.llama_cpp.backend import file_model, preset_model

    source = classify(config.model)
    if source == "preset":
        return preset_model(config)
    if source == "gguf":
        return file_model(config)
    raise InvalidConfig(f"llama-server loads GGUF files; give a preset or a .gguf file instead of '{config.model}'")


def _refuse_without_vocabulary(path: Path) -> None:
    """The server turns every token into text, and aborts where it can't."""
    from backends.llama_cpp.gguf_header import read_header

    if read_header(path).metadata.get("tokenizer.ggml.model") in _NO_VOCABULARY:
        remedy = "take one that has it; presets are written with one now"
        raise InvalidConfig(f"'{path}' has no vocabulary, without which llama-server aborts; {remedy}")


launcher = LlamaServer()
