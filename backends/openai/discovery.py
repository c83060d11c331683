"""What answers at an address: whether it serves models, which, and what kind of server it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.base import BackendError, InvalidConfig, Model
from backends.openai import kinds
from backends.openai.control import Control, NoAnswer, Response
from backends.openai.kinds.base import Kind, Signs, Told
from backends.openai.stream import error_message, one_line

LISTED_AT_MOST = 8
"""Names of models in a message."""


@dataclass(frozen=True)
class Served:
    """One model at a server."""

    kind: Kind
    name: str
    """As requests must write it."""
    told: Told

    def model(self) -> Model:
        """What is known of the model."""
        told = self.told
        return Model(
            name=one_line(self.name) or "unnamed",
            architecture=told.architecture or "unknown",
            source="server",
            random_weights=None,
            parameters=told.parameters,
            weight_bytes=told.weight_bytes,
            context_length=told.context_length,
            vocabulary_size=told.vocabulary_size,
            dtype=told.dtype,
        )


def read_key(name: str | None) -> str | None:
    """The server's key in the environment variable of this name; None without a name. Raises InvalidConfig."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise InvalidConfig(f"--api-key-env {name}: there is no key in this environment variable; export {name}=…")
    if not (key.isascii() and key.isprintable()):
        raise InvalidConfig(f"--api-key-env {name}: this environment variable has characters that no key may have")
    return key


def discover(control: Control, model: str, key_env: str | None = None) -> Served:
    """The model of this name at the server; the only one there where the name is empty.

    Raises InvalidConfig where it isn't there, wants another key, or isn't OpenAI-compatible, NoAnswer where nothing
    answers, BackendError where the server fails or is not ready yet.
    """
    answer = control.get("/v1/models")
    _refuse_failure(answer, control.address.url, key_env)
    cards = _cards(answer)
    if cards is None:
        raise InvalidConfig(
            f"what answers at {control.address.url} is no OpenAI-compatible server: GET /v1/models gave "
            f"{answer.status}; correct --url (its path ends before /v1)"
        )
    card = _chosen(cards, model, control.address.url)
    signs = Signs(card, answer.headers)
    kind = kinds.kind_of(signs)
    return Served(kind, str(card["id"]), kind.ask(control, signs))


def still_serves(control: Control, name: str) -> bool:
    """Whether a model is among those that the server lists now; true where it can't be told: requests will tell."""
    try:
        cards = _cards(control.get("/v1/models"))
    except NoAnswer:
        return True
    return cards is None or any(card["id"] == name for card in cards)


def _refuse_failure(answer: Response, url: str, key_env: str | None) -> None:
    said = error_message(answer.body)
    if answer.status in (401, 403):
        if key_env is None:
            raise InvalidConfig(
                f"the server at {url} wants a key ({answer.status}); name the variable: --api-key-env NAME"
            )
        raise InvalidConfig(f"the server at {url} refuses the key in {key_env} ({answer.status}); correct it")
    if answer.status in (429, 500, 502, 503, 504):
        raise BackendError(f"the server at {url} is not ready: {answer.status}, {said}; try again when it is")
    if answer.status == 400 and "https" in said.lower():
        raise InvalidConfig(f"the server at {url} speaks TLS; write https:// in --url")


def _cards(answer: Response) -> list[Mapping[str, Any]] | None:
    """The entries of ``/v1/models``; None where the answer is of another form."""
    found = answer.json() if answer.status == 200 else None
    listed = found.get("data") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        return None
    return [card for card in listed if isinstance(card, dict) and isinstance(card.get("id"), str)]


def _chosen(cards: list[Mapping[str, Any]], model: str, url: str) -> Mapping[str, Any]:
    names = [str(card["id"]) for card in cards]
    shown = one_line(", ".join(names[:LISTED_AT_MOST])) + (" …" if len(names) > LISTED_AT_MOST else "")
    if not cards:
        raise InvalidConfig(f"the server at {url} serves no model now; load one there")
    if not model:
        if len(cards) == 1:
            return cards[0]
        raise InvalidConfig(f"the server at {url} serves several models; choose one with -m: {shown}")
    for card in cards:
        aliases = card.get("aliases")
        if card["id"] == model or (isinstance(aliases, list) and model in aliases):
            return card
    raise InvalidConfig(f"the server at {url} serves no model '{model}'; it has {shown}")
