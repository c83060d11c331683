"""How a server must be asked so that it counts exactly m and n tokens: found by asking, before anything is timed.

What a server counts in its usage decides, never why it says that it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from backends.base import BackendError, InvalidConfig, Reply, Request
from backends.openai.client import RefusedByServer
from backends.openai.kinds.base import Form, Kind
from backends.openai.prompts import RequestForm
from backends.openai.words import WORDS

Ask = Callable[[RequestForm, Request], Reply]
"""Sends one request and reads its answer, whatever sizes it has. Raises BackendError."""

ASSUMED_VOCABULARIES = (32_000, 2_048, 256)
"""Sizes tried in turn where a server doesn't tell its vocabulary's. Nearly every model has more than the first."""
PROBES = (Request(5, 3), Request(19, 6, seed=1))
MANY_WORDS = 33
FEWEST_WORDS = 16
"""With fewer words of one token each, prompts would begin alike too often."""


@dataclass(frozen=True)
class Asking:
    """How a server is asked, and what came back."""

    form: RequestForm
    reply: Reply
    problem: str | None = None
    """Why sizes come out otherwise than asked for; None where they come out exactly."""


def find_asking(ask: Ask, kind: Kind, model: str, vocabulary_size: int | None) -> Asking:
    """The first form of the kind's that the server takes and answers exactly, or else the first that it takes.

    Raises InvalidConfig where it takes none, BackendError where it fails.
    """
    inexact: Asking | None = None
    refused: RefusedByServer | None = None
    uncounted: BackendError | None = None
    for form in kind.forms:
        for written in _written(ask, kind, form, model, vocabulary_size):
            try:
                asking = _tried(ask, written)
            except RefusedByServer as error:
                if error.status in (401, 403, 429) or error.status >= 500:
                    raise
                refused = refused or error
            except BackendError as error:
                uncounted = uncounted or error
            else:
                if asking.problem is None and kind.inexact is None:
                    return asking
                inexact = inexact or replace(asking, problem=kind.inexact or asking.problem)
                break
    if inexact is not None:
        return inexact
    if refused is None and uncounted is not None:
        raise uncounted
    raise InvalidConfig(f"the server takes no request of this benchmark: {uncounted or refused}; see docs/servers.md")


def _written(ask: Ask, kind: Kind, form: Form, model: str, vocabulary_size: int | None) -> list[RequestForm]:
    """The ways to write a form, to be tried in turn."""
    if form.prompt == "ids":
        sizes = (vocabulary_size,) if vocabulary_size else ASSUMED_VOCABULARIES
        return [
            RequestForm(model, *ordinary_ids(size), length_keys=form.lengths, extra=dict(form.extra)) for size in sizes
        ]
    is_chat = form.prompt == "chat"
    written = RequestForm(
        model,
        0,
        len(WORDS),
        path="/v1/chat/completions" if is_chat else "/v1/completions",
        prompt_key="messages" if is_chat else "prompt",
        length_keys=form.lengths,
        words=WORDS,
        extra=dict(form.extra),
    )
    return [written]


def ordinary_ids(vocabulary_size: int) -> tuple[int, int]:
    """First id, and the one after the last, of those that are drawn: the middle half of a vocabulary.

    Special tokens lie at its beginning (llama) or its end (Llama 3, Qwen), and placeholders of images with them.
    """
    return vocabulary_size // 4, max(3 * vocabulary_size // 4, vocabulary_size // 4 + 1)


def _tried(ask: Ask, written: RequestForm) -> Asking:
    form = _calibrated(ask, written) if written.words else written
    problem = None
    for request in PROBES:
        asked = replace(request, input_tokens=request.input_tokens + form.template_tokens)
        reply = ask(form, asked)
        problem = problem or mismatch(asked, reply)
    return Asking(form, reply, problem)


def mismatch(asked: Request, reply: Reply) -> str | None:
    """How the counts of a reply differ from what was asked for, in words; None where they don't."""
    m, n = asked.input_tokens, asked.output_tokens
    if (reply.input_tokens, reply.output_tokens) == (m, n):
        return None
    return f"asked for {m} input and {n} output tokens it counted {reply.input_tokens} and {reply.output_tokens}"


def _calibrated(ask: Ask, form: RequestForm) -> RequestForm:
    """The form with the tokens that the server adds by itself, and with words of one token each.

    Where no such words are found it comes back as it was, and its counts will show it.
    """

    def count(words: tuple[str, ...], length: int) -> int:
        chosen = replace(form, words=words, end_id=len(words))
        return ask(chosen, Request(length, 1, seed=length)).input_tokens

    one, many = count(form.words, 1), count(form.words, MANY_WORDS)
    if many - one == MANY_WORDS - 1:
        return replace(form, template_tokens=one - 1)
    counts = {word: count((word,), MANY_WORDS) for word in form.words}
    fewest = min(counts.values())
    single = tuple(word for word, counted in counts.items() if counted == fewest)
    if len(single) < FEWEST_WORDS or fewest - count(single[:1], 1) != MANY_WORDS - 1:
        return form
    return replace(form, words=single, end_id=len(single), template_tokens=fewest - MANY_WORDS)
