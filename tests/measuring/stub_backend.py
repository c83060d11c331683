"""A serving backend for the stub server, as another package would bring it: ``url`` names the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.base import Capabilities, Config, InvalidConfig, Loaded, Model, Prepared, Request
from backends.openai.client import ClientSettings, OpenAIClient, settings_from_json
from backends.openai.prompts import RequestForm

MODEL = Model("stub", "stub", "server", None, None, None, context_length=4096, vocabulary_size=None, dtype=None)


class StubBackend:
    """Knows of its server only where it is."""

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._reads = 0

    def capabilities(self) -> Capabilities:
        return Capabilities(("cpu",), ("auto",), concurrency="closed loop", samples_tokens=False)

    def resolve(self, config: Config) -> Model:
        return MODEL

    def load(self, config: Config) -> Loaded:
        self._url = config.url
        return Loaded(MODEL, "cpu", ("stub",))

    def prepare(self, request: Request) -> Prepared:
        if request.input_tokens + request.output_tokens > MODEL.context_length:
            raise InvalidConfig("more tokens than the server takes")
        return Prepared()

    def client_description(self) -> Mapping[str, object]:
        extra = {"stream_options": {"include_usage": True}, "return_token_ids": True}
        assert self._url
        return ClientSettings(self._url, RequestForm("stub", 0, 32000, extra=extra)).as_json()

    def client(self, description: Mapping[str, Any]) -> OpenAIClient:
        return OpenAIClient(settings_from_json(description))

    def server_figures(self) -> dict[str, float]:
        self._reads += 1
        return {"reads_total": float(self._reads)}

    def versions(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass
