"""Kinds of servers, one file each, in the order in which they are told apart; the last takes what is none of them."""

from __future__ import annotations

from backends.openai.kinds import llama_server, mlx, ollama, other, sglang, tensorrt_llm, vllm
from backends.openai.kinds.base import Kind, Signs

KINDS: tuple[Kind, ...] = (
    vllm.KIND,
    sglang.KIND,
    llama_server.KIND,
    tensorrt_llm.KIND,
    ollama.KIND,
    mlx.KIND,
    other.KIND,
)


def kind_of(signs: Signs) -> Kind:
    """The first kind that the signs show."""
    return next(kind for kind in KINDS if kind.is_shown_by(signs))
