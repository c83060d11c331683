"""A server of canned pages that completes prompts by rules: every kind of server in a few lines, in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Rules:
    """How prompts are completed; what a server refuses it answers with 400."""

    takes: tuple[str, ...] = ("ids", "text", "chat")
    known: frozenset[str] | None = None
    """Fields that a strict server knows; None for one that ignores others."""
    vocabulary: int = 1 << 30
    added_tokens: int = 0
    """Such as those of a chat template."""
    tokens_of: Callable[[str], int] = lambda word: 1
    ends_after: int | None = None
    """Where the model ends by itself, unless the request says ``ignore_eos``."""
    ignores_eos: bool = True
    tells_usage: bool = True
    cached: int | None = None
    status: int = 200
    """Of every completion."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests that came."""


@dataclass(frozen=True)
class Canned:
    url: str
    rules: Rules
    seen: list[tuple[str, str, str | None]]
    """Method, path and authorization of each request."""


Pages = Mapping[str, Any]
"""By path, JSON, a text, or a status; ``POST /path`` for what isn't got."""


@contextmanager
def canned_server(pages: Pages, rules: Rules | None = None, server: str | None = None) -> Iterator[Canned]:
    """Serve pages and completions until the end of the context; ``server`` is the header of that name."""
    rules = rules or Rules()
    seen: list[tuple[str, str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def version_string(self) -> str:
            return server or "uvicorn"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            seen.append(("GET", self.path, self.headers.get("Authorization")))
            self._page(pages.get(self.path, 404))

        def do_POST(self) -> None:
            seen.append(("POST", self.path, self.headers.get("Authorization")))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/completions"):
                rules.asked.append(body)
                self._send(*_complete(rules, body, self.path))
            else:
                self._page(pages.get(f"POST {self.path}", 404))

        def _page(self, page: Any) -> None:
            if isinstance(page, int):
                self._send(page, "application/json", json.dumps({"error": {"message": f"code {page}"}}))
            elif isinstance(page, str):
                self._send(200, "text/plain", page)
            else:
                self._send(200, "application/json", json.dumps(page))

        def _send(self, status: int, kind: str, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Canned(f"http://127.0.0.1:{http.server_port}", rules, seen)
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def _complete(rules: Rules, body: dict[str, Any], path: str) -> tuple[int, str, str]:
    prompt: Any = body.get("messages", body.get("prompt"))
    form = "chat" if path.endswith("chat/completions") else "text" if isinstance(prompt, str) else "ids"
    unknown = set() if rules.known is None else body.keys() - rules.known
    if rules.status != 200 or form not in rules.takes or unknown:
        status = rules.status if rules.status != 200 else 400
        return status, "application/json", json.dumps({"error": {"message": f"can't: {form} {sorted(unknown)}"}})
    if form == "ids" and max(prompt) >= rules.vocabulary:
        return 400, "application/json", json.dumps({"detail": f"Token id {max(prompt)} is out of vocabulary"})
    text = prompt[0]["content"] if form == "chat" else prompt
    m = len(prompt) if form == "ids" else sum(rules.tokens_of(word) for word in text.split())
    m += 0 if form == "ids" else rules.added_tokens
    n = body["max_tokens"]
    if rules.ends_after is not None and not (rules.ignores_eos and body.get("ignore_eos")):
        n = min(n, rules.ends_after)
    delta = {"delta": {"content": "a"}} if form == "chat" else {"text": "a"}
    events: list[Any] = [{"choices": [{"index": 0, **delta}]} for _ in range(n)]
    if rules.tells_usage:
        usage: dict[str, Any] = {"prompt_tokens": m, "completion_tokens": n}
        if rules.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": rules.cached}
        events.append({"choices": [], "usage": usage})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return 200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n"])
