"""A small HTTP server for one machine's own programs: few routes, hard limits, a token or loopback alone.

Every connection carries one request, which must have come whole within seconds and in a few KiB. Without a token only
requests to a loopback name are answered, so that no web page that a browser shows can reach it under another name.
"""

from __future__ import annotations

import errno
import hmac
import io
import ipaddress
import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from harness.core.errors import UserError

_REQUEST_S = 5.0
"""By when a request must have come."""
_SEND_S = 10.0
_LONGEST_REQUEST = 16 << 10
_LONGEST_BODY = 1 << 10
_MOST_CONNECTIONS = 64
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Asked:
    """A request that was let in."""

    method: str
    path: str
    query: Mapping[str, str]
    accept: str


@dataclass(frozen=True)
class Answer:
    """What is sent back; ``content`` is JSON unless ``content_type`` says otherwise."""

    content: object
    status: int = 200
    content_type: str = "application/json"

    @property
    def body(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        return json.dumps(self.content, allow_nan=False).encode() + b"\n"


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``9437``, ``127.0.0.1:9437`` or ``[::1]:9437``. Raises UserError."""
    found = re.fullmatch(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):)?(?P<port>\d{1,5})", text, re.ASCII)
    if not found or int(found["port"]) > 65535:
        raise UserError(f"--listen takes [HOST:]PORT, such as 9437 or 127.0.0.1:9437, not {text!r}")
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"])


class GuardedServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers requests with ``answer``, each in a thread of its own, until ``shutdown``; then ``server_close``."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, host: str, port: int, answer: Callable[[Asked], Answer], token: str | None = None) -> None:
        """Binds at once; port 0 takes a free one. Raises UserError for an address that can't be listened at.

        Without a ``token`` that must be loopback; with one every request must bear it. ``answer`` raises Refused.
        """
        self.answer = answer
        self.token = token
        self._slots = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise UserError(f"--listen: there is no address {host}: {error.strerror or error}") from None
        if token is None and not _is_loopback(str(address[0])):
            raise UserError(
                f"--listen {host}:{port} can be reached from other machines: name the environment variable that holds "
                "a token with --token-env, or listen at 127.0.0.1"
            )
        self.address_family = family
        try:
            super().__init__((str(address[0]), int(address[1])), _Handler)
        except OSError as error:
            raise UserError(_bind_failure(host, port, error)) from None

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            request.settimeout(0.1)
            try:
                request.sendall(_BUSY)
            except OSError:
                pass  # it was told all the same that there is no place
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up or sends garbage is no event of ours."""


def _bind_failure(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: name another one, such as --listen {host}:{port % 65535 + 1}"
    if error.errno == errno.EACCES:
        return f"port {port} is for administrators: name one from 1024 up"
    return f"--listen {host}:{port} does not work here: {error.strerror or error}"


def _is_loopback(host: str) -> bool:
    """Whether a host's name or number means this very machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _TooLong(Exception):
    pass


class _Limited(io.RawIOBase):
    """Reads a socket until a request is too long or late."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + _REQUEST_S
        self._left = _LONGEST_REQUEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise _TooLong
        self._connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    server: GuardedServer
    protocol_version = "HTTP/1.0"
    request_version = "HTTP/1.0"
    server_version, sys_version = "joulebench", ""
    requestline, command = "", ""
    close_connection = True

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Limited(self.connection), 4096)

    def handle(self) -> None:
        try:
            self.handle_one_request()
        except _TooLong:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def answer_request(self) -> None:
        """Let the request in or not, and send what the server's ``answer`` gives."""
        try:
            self._admit()
            self._read_body()
            address = urlsplit(self.path)
            query = dict(parse_qsl(address.query, keep_blank_values=True, max_num_fields=16))
            answer = self.server.answer(Asked(self.command, address.path, query, self.headers.get("Accept", "")))
            _ = answer.body  # what can't be written is a fault too
        except Refused as refused:
            answer = Answer({"error": str(refused)}, refused.status)
        except (OSError, _TooLong):
            raise
        except ValueError as error:
            answer = Answer({"error": f"the request can't be read: {error}"}, HTTPStatus.BAD_REQUEST)
        except Exception as error:  # a fault of ours must not end the server
            answer = Answer({"error": f"{type(error).__name__}: {error}"}, HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send(answer)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """The library calls ``do_GET`` and the like: which methods there are is for ``answer`` to say."""
        if name.startswith("do_"):
            return self.answer_request
        raise AttributeError(name)

    def _admit(self) -> None:
        """Raises Refused for who may not ask."""
        if self.server.token is not None:
            borne = self.headers.get("Authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(borne, f"Bearer {self.server.token}".encode("latin-1", "replace")):
                raise Refused(HTTPStatus.UNAUTHORIZED, "this needs the header Authorization: Bearer TOKEN")
        elif not all(_is_loopback(_host_of(named)) for named in self.headers.get_all("Host", [])):
            raise Refused(HTTPStatus.FORBIDDEN, "only requests to a loopback address are answered")
        if "Origin" in self.headers:
            raise Refused(HTTPStatus.FORBIDDEN, "requests of web pages are not answered")

    def _read_body(self) -> None:
        """Take what follows the headers, which nothing here needs. Raises Refused where it isn't small."""
        length = self.headers.get("Content-Length", "0").strip()
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "a request's body needs its length")
        if int(length) > _LONGEST_BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request's body has at most {_LONGEST_BODY} bytes")
        self.rfile.read(int(length))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses by itself, in our form."""
        self._send(Answer({"error": message or HTTPStatus(code).phrase}, code))

    def _send(self, answer: Answer) -> None:
        self.connection.settimeout(_SEND_S)
        body = answer.body
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: scrapes every few seconds are no news, and a request may hold what shouldn't be on a screen."""


def _host_of(named: str) -> str:
    """The host of a ``Host`` header, without its port."""
    found = re.fullmatch(r"\s*(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d*)?\s*", named)
    return (found[1] or found[2] or "") if found else ""
