"""Models, systems and machines as people call them: ``SmolLM2-135M on Intel Xeon, 2 cores``. Pure."""

from __future__ import annotations

import re

from harness.runs.run_schema import Machine

_FAMILIES = {
    "smollm2": "SmolLM2",
    "smollm3": "SmolLM3",
    "qwen2.5": "Qwen2.5",
    "qwen3": "Qwen3",
    "tinyllama": "TinyLlama",
    "llama": "Llama",
    "mistral": "Mistral",
    "falcon": "Falcon",
    "gemma": "Gemma",
    "phi": "Phi",
    "gpt2": "GPT-2",
}
"""How families of models write themselves; everything else is shown as it was given."""

_SYSTEMS = {
    # No line ends within a name.
    "m1-pro": "M1\u00a0Pro",
    "palmetto-v100": "V100\u00a0(Palmetto)",
    "palmetto-a100": "A100\u00a0(Palmetto)",
    "swing-a100": "A100\u00a0(Swing)",
}
"""How figures write the names of the paper's systems."""

_SIZE = re.compile(r"\d+(\.\d+)?[mb]")
_LEGAL = re.compile(r"\((?:R|TM|C)\)|®|™", re.IGNORECASE)
_FILLER = re.compile(r"\b(?:CPU|Processor|Corporation|\d+-Core)\b|@.*$")


def model_words(name: str) -> str:
    """``SmolLM2-135M`` of ``smollm2-135m``; of a path or a Hugging Face id its last part, without ``.gguf``.

    A name with letters in capitals is as its makers write it, and stays.
    """
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1] if "<" not in name else name
    last = re.sub(r"\.gguf$", "", last, flags=re.IGNORECASE)
    if last != last.lower():
        return last
    return "-".join(_FAMILIES.get(part, part.upper() if _SIZE.fullmatch(part) else part) for part in last.split("-"))


def system_words(name: str) -> str:
    """How figures write the name of a system: that of one of the paper's as people say it, any other as it is."""
    return _SYSTEMS.get(name, name)


def machine_words(machine: Machine) -> str:
    """The GPUs of a machine where it has some, else its processor with its cores: ``Intel Xeon, 2 cores``."""
    gpus = [gpu.name for gpu in machine.gpus if gpu.name]
    if gpus:
        names = dict.fromkeys(gpus)
        return " + ".join(f"{gpus.count(name)} × {name}" if gpus.count(name) > 1 else name for name in names)
    return f"{processor_words(machine.cpu_model)}, {_cores(machine.usable_cores)}"


def processor_words(cpu_model: str | None) -> str:
    """``Intel Xeon`` of ``Intel(R) Xeon(R) Processor``."""
    if not cpu_model:
        return "unknown CPU"
    return " ".join(_FILLER.sub(" ", _LEGAL.sub(" ", cpu_model)).split()) or cpu_model


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"


def several_words(concurrency: int, kind: str) -> str:
    """``8 requests in flight (static batch)``; empty for a single one."""
    if concurrency == 1:
        return ""
    return f"{concurrency} requests in flight" + (f" ({kind})" if kind else "")
