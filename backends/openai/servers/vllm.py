"""vLLM's OpenAI-compatible server, for models as Hugging Face stores them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.base import InvalidConfig
from backends.openai.servers.base import HOST, ServerModel, given
from backends.openai.servers.random_folder import random_folder
from backends.presets import PRESETS, classify

_OURS = "joulebench starts it with one of its own"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tekken.json", "vocab.json")
_SMALLEST_HEAD = 32
"""vLLM has attention kernels for heads of 32, 64, 80, … numbers."""


class Vllm:
    name = "vllm"
    refused_flags: Mapping[str, str] = {
        **dict.fromkeys(("--host", "--port", "--uds", "--headless"), _OURS),
        **dict.fromkeys(("--model", "--model-tag", "--served-model-name"), "name the model with -m before --"),
        "--root-path": "joulebench asks at /v1",
        "--dtype": "name it with --dtype before --",
    }
    key_variable = "VLLM_API_KEY"

    def find_model(self, name: str, dtype: str, seed: int) -> ServerModel:
        source = classify(name)
        if source == "gguf":
            raise InvalidConfig(f"vLLM is started with models as Hugging Face stores them; '{name}' is a GGUF file")
        if source != "preset":
            return ServerModel(name, str(Path(name).resolve()) if source == "folder" else name)
        head = PRESETS[name].architecture.head_dim
        if head < _SMALLEST_HEAD:
            raise InvalidConfig(f"vLLM has no attention for the heads of {head} numbers of {name}; take smollm2-135m")
        return ServerModel(name, str(random_folder(name, seed)))

    def command(
        self, program: str, model: ServerModel, port: int, threads: int, device: str, dtype: str, flags: Sequence[str]
    ) -> list[str]:
        if device != "auto":
            raise InvalidConfig(f"vLLM takes the device that it was built for; leave --device {device} out")
        command = [program, "serve", model.path, "--host", HOST, "--port", str(port)]
        command += ["--served-model-name", model.name]
        if dtype != "auto":
            command += ["--dtype", dtype]
        folder = Path(model.path)
        has_tokenizer = not folder.is_dir() or any((folder / file).exists() for file in _TOKENIZERS)
        if not has_tokenizer and not given(flags, "--tokenizer", "--skip-tokenizer-init"):
            command.append("--skip-tokenizer-init")
        return [*command, *flags]

    def environment(self, threads: int) -> dict[str, str]:
        # Unbuffered, so that its log tells how far it is; nothing about this use is sent away.
        added = {"PYTHONUNBUFFERED": "1", "VLLM_NO_USAGE_STATS": "1"}
        if "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
            # The CPU build counts its threads by the processors that it is bound to, unless it is bound to none.
            added |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
        return added


launcher = Vllm()
