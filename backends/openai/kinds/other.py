"""Any other server: what it takes is found out by trying; of its metrics those with a known kind's names are read.

Servers in front of others pass their metrics on, and most new ones take over the names of vLLM."""

from __future__ import annotations

from backends.openai.control import Control
from backends.openai.kinds import llama_server, sglang, tensorrt_llm, vllm
from backends.openai.kinds.base import (
    EXACT_LENGTHS,
    IGNORE_EOS,
    RUNNING_USAGE,
    USAGE,
    Form,
    Kind,
    Signs,
    Told,
    whole,
    word,
)

_NAMES = ("max_model_len", "context_length", "context_window", "max_context_length")


def _ask(control: Control, signs: Signs) -> Told:
    lengths = [length for name in _NAMES if (length := whole(signs.card.get(name)))]
    return Told(version=word(control.look("/version"), "version"), context_length=lengths[0] if lengths else None)


_KNOWN = (vllm.KIND, sglang.KIND, llama_server.KIND, tensorrt_llm.KIND)
_FIGURES = dict.fromkeys(name for kind in _KNOWN for name in kind.figures)

KIND = Kind(
    name="other",
    is_shown_by=lambda signs: True,
    ask=_ask,
    forms=(
        Form("ids", EXACT_LENGTHS, RUNNING_USAGE),
        Form("ids", extra=USAGE),
        Form("text", EXACT_LENGTHS, IGNORE_EOS),
        Form("text", extra=USAGE),
        Form("chat", EXACT_LENGTHS, IGNORE_EOS),
        Form("chat", extra=USAGE),
    ),
    figures={name: tuple(one for kind in _KNOWN for one in kind.figures.get(name, ())) for name in _FIGURES},
    no_metrics="none of its metrics are known",
)
