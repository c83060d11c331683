"""NUL-separated documents from a pipe, each with the time it arrived."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import IO

_CHECK_S = 0.2
_CHUNK_BYTES = 1 << 16


class DocumentStream:
    """Reads a pipe in a thread of its own, so that a slow reader never holds the writer up."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._documents: deque[tuple[int, bytes]] = deque()
        self._closing = threading.Event()
        self.ended = False
        """Whether the writer has closed its end."""
        self._thread = threading.Thread(target=self._run, name="documents", daemon=True)
        self._thread.start()

    def take(self) -> list[tuple[int, bytes]]:
        """Complete documents since the last call, with their CLOCK_MONOTONIC arrival times in ns."""
        taken = []
        while self._documents:
            taken.append(self._documents.popleft())
        return taken

    def close(self) -> None:
        """Stop reading and close the pipe."""
        self._closing.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        """Collect documents; what follows the last NUL at the end is truncated and dropped."""
        rest = b""
        with self._pipe:
            while not self._closing.is_set():
                ready, _, _ = select.select([self._pipe], [], [], _CHECK_S)
                if not ready:
                    continue
                chunk = os.read(self._pipe.fileno(), _CHUNK_BYTES)
                if not chunk:
                    break
                arrived_ns = time.monotonic_ns()
                *complete, rest = (rest + chunk).split(b"\0")
                self._documents.extend((arrived_ns, text) for text in complete if text.strip())
        self.ended = True
