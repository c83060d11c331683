"""Plain requests to a server outside of measured windows: what it is, what it says of itself, its metrics."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.base import BackendError
from backends.openai.address import Address

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
MOST_BYTES = 16 << 20
"""Of an answer; more than any of the answers asked for here has."""


@dataclass(frozen=True)
class Response:
    """A whole answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class NoAnswer(BackendError):
    """Nothing at the address answered, or not in HTTP; the message is one line and says how to mend it."""


class Control:
    """One connection to a server; it is opened again when the server closed it. Threads may share it."""

    def __init__(self, address: Address, key: str | None = None) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str) -> Response:
        """The answer to GET. Raises NoAnswer."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Response:
        """The answer to a POST of JSON. Raises NoAnswer."""
        return self._ask("POST", path, json.dumps(body).encode())

    def look(self, path: str) -> Any:
        """The JSON at a path; None where there is none, whatever the reason."""
        try:
            answer = self.get(path)
        except NoAnswer:
            return None
        return answer.json() if answer.status == 200 else None

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        with self._lock:
            self._drop()

    def _ask(self, method: str, path: str, body: bytes | None) -> Response:
        with self._lock:
            kept = self._connection is not None
            try:
                return self._once(method, path, body)
            except (http.client.HTTPException, OSError) as error:
                self._drop()
                # A server may close a kept connection at any time: that says nothing yet.
                closed = isinstance(error, http.client.RemoteDisconnected | ConnectionError)
                if not (kept and closed):
                    raise NoAnswer(self._why(error)) from None
            try:
                return self._once(method, path, body)
            except (http.client.HTTPException, OSError) as error:
                self._drop()
                raise NoAnswer(self._why(error)) from None

    def _once(self, method: str, path: str, body: bytes | None) -> Response:
        if self._connection is None:
            self._connection = self._open()
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        self._connection.request(method, self.address.path + path, body=body, headers=headers)
        response = self._connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        data = response.read(MOST_BYTES)
        if not response.isclosed():
            self._drop()
        return Response(response.status, found, data)

    def _open(self) -> http.client.HTTPConnection:
        host, port = self.address.host, self.address.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=ssl.create_default_context())
            if self.address.secure
            else http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
        )
        connection.connect()
        connection.sock.settimeout(ANSWER_TIMEOUT_S)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _why(self, error: Exception) -> str:
        url = self.address.url
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = error.verify_message
            return f"the certificate of {url} is not trusted: {reason}; name its authority's file in SSL_CERT_FILE"
        if isinstance(error, ssl.SSLError):
            return f"the server at {url} speaks no TLS; write http:// in --url"
        if isinstance(error, TimeoutError):
            return f"the server at {url} doesn't answer in time; see whether it hangs, or correct --url"
        if isinstance(error, http.client.HTTPException | ConnectionResetError):
            other = "http" if self.address.secure else "https"
            return f"what listens at {url} doesn't speak HTTP here; correct --url, or try {other}://"
        reason = getattr(error, "strerror", None) or str(error)
        return f"no server answers at {url} ({reason}); start it, or correct --url"
