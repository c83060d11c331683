"""Requests to a server over connections of our own, with the times of their bytes taken at the socket.

A time is the first thing taken when the loop has read from a socket, and the last before it writes to one. Connections
are open before a request is stamped. While requests are in flight only HTTP's framing is parsed; events, JSON and
tokens are read afterwards. Where many requests could be sent at once, sockets are read between a few of them and the
next few.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httptools

from backends.base import BackendError, InvalidConfig, Reply, Request
from backends.openai.address import parse_url
from backends.openai.prompts import RequestForm, form_from_json
from backends.openai.stream import Answer, error_message, read_reply

SENDS_BETWEEN_READS = 4
"""Requests sent before the sockets are looked at again: writing 256 at once would delay every stamp by milliseconds."""
OPENED_AT_ONCE = 64
"""Below the queue of 128 that servers usually let the system keep for connections not yet accepted."""
OPEN_TIMEOUT_S = 10.0
CLOSED_BEFORE_S = 1.0
"""A used or idle connection that closes so soon after a request, without a byte, was closed before it."""
CLOSED_AFTER_S = 0.1
"""A server that closes within this time after an answer doesn't keep connections, whatever it announced."""


@dataclass(frozen=True)
class ClientSettings:
    """What a client needs to reach a server and to write requests for it; without any key."""

    url: str
    """``http://127.0.0.1:8000``; the path of the form is added to it."""
    form: RequestForm
    exact: bool = True
    """Whether a reply of other sizes than asked for is an error."""

    def as_json(self) -> dict[str, Any]:
        """The settings, as ``settings_from_json`` takes them."""
        return {**asdict(self), "form": self.form.as_json()}


def settings_from_json(fields: Mapping[str, Any]) -> ClientSettings:
    """The settings that ``as_json`` described, also after a way through a file."""
    return ClientSettings(**{**fields, "form": form_from_json(fields["form"])})


class RefusedByServer(BackendError):
    """The server answered a request with a failure; ``status`` is HTTP's."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"the server answered {status}: {said}")
        self.status = status


class _NeverAnswered(Exception):
    """The connection was closed without a byte of the answer."""


class _Connection(asyncio.Protocol):
    """One connection; carries one request at a time."""

    def __init__(self, client: OpenAIClient, place: int) -> None:
        self._client = client
        self._place = place
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._answer: Answer | None = None
        self._ended: asyncio.Future[Answer] | None = None
        self._made_ns = time.monotonic_ns()
        self._stamp_ns = 0
        self._heard = self._headed = self._framed = False
        self.ended_ns = 0
        """When the last answer had come; 0 before the first."""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        plain = transport.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def exchange(self, message: bytes, request: Request) -> Answer:
        """Send a request and wait for the end of its answer. Raises _NeverAnswered or BackendError."""
        self._ended = asyncio.get_running_loop().create_future()
        self._heard = self._headed = self._framed = False
        transport = self._transport
        self._answer = Answer(request, time.monotonic_ns())
        transport.write(message)
        try:
            return await self._ended
        except asyncio.CancelledError:
            self.drop()
            raise

    def data_received(self, data: bytes) -> None:
        self._stamp_ns = time.monotonic_ns()
        if self._answer is None:
            # Bytes that nobody asked for, such as a notice that the connection was idle for too long.
            self.drop()
            return
        self._heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(BackendError("the server's answer isn't HTTP, or breaks off within it"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        self._headed = True

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.parts.append((self._stamp_ns, body))

    def on_message_complete(self) -> None:
        if self._answer is not None and self._status() >= 200:
            self._finish(self._parser.should_keep_alive())

    def _status(self) -> int:
        return self._parser.get_status_code() if self._heard else 0

    def _finish(self, keep: bool) -> None:
        answer, ended = self._answer, self._ended
        self._answer = None
        self.ended_ns = self._stamp_ns
        if not keep or self._client.closes_after:
            self.lost = True
            self._transport.close()
            self._client.reopen(self._place)
        if ended is not None and answer is not None and not ended.done():
            answer.status = self._status()
            ended.set_result(answer)

    def _fail(self, error: Exception) -> None:
        ended = self._ended
        self.drop()
        if ended is not None and not ended.done():
            ended.set_exception(error)

    def drop(self) -> None:
        """Close without waiting for what is under way."""
        self._answer = None
        self.lost = True
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        lost, self.lost = self.lost, True
        now_ns = time.monotonic_ns()
        if self._answer is None:
            if not lost and self.ended_ns:
                self._client.closed(self._place, soon=now_ns - self.ended_ns < CLOSED_AFTER_S * 1e9)
            return
        start_ns, patience_ns = self._answer.start_ns, CLOSED_BEFORE_S * 1e9
        if self._headed and not self._framed:
            # The end of the connection is the end of the answer.
            self._finish(keep=False)
        elif self._heard:
            self._fail(BackendError(f"the server closed the connection in mid answer{_why(exc)}"))
        elif now_ns - start_ns < patience_ns and (self.ended_ns or start_ns - self._made_ns > patience_ns):
            if self.ended_ns:
                self._client.closed(self._place, soon=start_ns - self.ended_ns < CLOSED_AFTER_S * 1e9)
            self._fail(_NeverAnswered())
        else:
            self._fail(BackendError(f"the server closed the connection before it answered{_why(exc)}"))


class OpenAIClient:
    """The connections of one process to a server, one request on each at a time: a ``backends.base.Client``."""

    def __init__(self, settings: ClientSettings, key: str | None = None) -> None:
        """``key`` is sent as a bearer token and is neither kept in messages nor described anywhere."""
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
            raise InvalidConfig("the server's API key is empty or has characters that no header may have")
        self._settings = settings
        self._address = parse_url(settings.url)
        self._key = key
        self._head = self._write_head()
        self._bodies: dict[int, tuple[Request, bytes]] = {}
        self._connections: list[_Connection | None] = []
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._tls = ssl.create_default_context() if self._address.secure else None
        self._queue: deque[asyncio.Future[None]] = deque()
        self._sends_left = SENDS_BETWEEN_READS
        self._renewing = False
        self._open = False
        self.closes_after = False
        """Whether the server was seen to close connections after an answer; each request gets a new one then."""

    def _write_head(self) -> bytes:
        address, key = self._address, self._key
        is_default = address.port == (443 if address.secure else 80)
        headers = {
            "Host": address.netloc.removesuffix(f":{address.port}") if is_default else address.netloc,
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            **({} if key is None else {"Authorization": f"Bearer {key}"}),
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([f"POST {address.path}{self._settings.form.path} HTTP/1.1", *lines, ""]).encode("latin-1")

    async def open(self, connections: int) -> None:
        """Open that many connections. Raises BackendError where the server doesn't take them."""
        self._open = True
        self._connections = [None] * connections
        try:
            for first in range(0, connections, OPENED_AT_ONCE):
                places = range(first, min(first + OPENED_AT_ONCE, connections))
                await asyncio.gather(*(self._connect(place) for place in places))
        except BackendError:
            await self.close()
            raise

    async def _connect(self, place: int) -> None:
        address = self._address
        loop = asyncio.get_running_loop()
        made = loop.create_connection(lambda: _Connection(self, place), address.host, address.port, ssl=self._tls)
        try:
            transport, protocol = await asyncio.wait_for(made, OPEN_TIMEOUT_S)
        except TimeoutError:
            raise BackendError(f"no server took a connection at {address.netloc} within {OPEN_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise BackendError(f"no server takes a connection at {address.netloc}: {_reason(error)}") from None
        if self._open:
            self._connections[place] = protocol
        else:
            transport.abort()

    def reopen(self, place: int) -> None:
        """Open a connection in the place of one that closed, in the background."""
        if self._open and place not in self._opening:
            task = asyncio.get_running_loop().create_task(self._connect(place))
            self._opening[place] = task
            task.add_done_callback(lambda done: self._opened(place, done))

    def _opened(self, place: int, task: asyncio.Task[None]) -> None:
        self._opening.pop(place, None)
        # Whoever sends next tries again, and is told then.
        _ = task.cancelled() or task.exception()

    def closed(self, place: int, soon: bool) -> None:
        """A connection was closed by the server after an answer; ``soon`` after it, where that is its habit."""
        self.closes_after |= soon
        self.reopen(place)

    def get_ready(self, request: Request, numbers: Sequence[int]) -> None:
        """Draw and write requests that will be sent soon, beside those that are ready; ``close`` drops what is left."""
        self._bodies |= {number: (request, self._write(request, number)) for number in numbers}

    def _write(self, request: Request, number: int) -> bytes:
        body = self._settings.form.body(request, number)
        return b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)

    async def send(self, connection: int, request: Request, number: int) -> Answer:
        """Send one request and wait for the end of its answer. See ``Client.send``. Raises BackendError.

        A request that meets a connection closed before it came is sent once more, on a new one, and stamped anew.
        """
        ready = self._bodies.pop(number, None)
        message = ready[1] if ready and ready[0] == request else self._write(request, number)
        try:
            answer = await (await self._usable(connection)).exchange(message, request)
        except _NeverAnswered:
            try:
                answer = await (await self._usable(connection)).exchange(message, request)
            except _NeverAnswered:
                raise BackendError("the server closed the connection before it answered") from None
        if answer.status != 200:
            said = error_message(b"".join(part for _, part in answer.parts))
            raise RefusedByServer(answer.status, self._without_key(said))
        return answer

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "(key)") if self._key else text

    async def _usable(self, place: int) -> _Connection:
        """An open connection, at a moment when a request may be sent."""
        while True:
            await self._turn()
            found = self._connections[place]
            if found is not None and not found.lost:
                return found
            opening = self._opening.get(place)
            if opening is not None:
                await asyncio.wait([opening])
                if opening.cancelled() or opening.exception() is None:
                    continue
            await self._connect(place)

    async def _turn(self) -> None:
        """Wait until a few more may be sent: sockets are read in between."""
        loop = asyncio.get_running_loop()
        if not self._renewing:
            self._renewing = True
            loop.call_soon(self._renew)
        if self._sends_left and not self._queue:
            self._sends_left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.append(turn)
        await turn

    def _renew(self) -> None:
        """The loop has come round: sockets were read since the last sends."""
        self._sends_left = SENDS_BETWEEN_READS
        while self._queue and self._sends_left:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                self._sends_left -= 1
        self._renewing = self._sends_left < SENDS_BETWEEN_READS
        if self._renewing:
            asyncio.get_running_loop().call_soon(self._renew)

    def read(self, answer: Answer) -> Reply:
        """What an answer says; see ``Client.read`` and ``read_reply``. Raises BackendError."""
        try:
            return read_reply(answer, self._settings.exact)
        except BackendError as error:
            raise BackendError(self._without_key(str(error))) from None

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._open = False
        self._bodies = {}
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for connection in self._connections:
            if connection is not None and not connection.lost:
                connection.drop()
        self._connections = []
        await asyncio.sleep(0)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error})"
    if error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def _why(exc: Exception | None) -> str:
    return f": {_reason(exc)}" if isinstance(exc, OSError) else ""
