"""Property lists from a pipe, each with the time it arrived, and the times of the intervals they tell of."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import IO

_CHECK_S = 0.2
_END = b"</plist>"
"""Where a document is complete. The NUL between two documents comes right before the next: whoever waits for it learns
of every document one interval late."""
_CHUNK_BYTES = 1 << 16
_LONGEST_DOCUMENT = 1 << 24
"""Bytes without an end after which they are handed on as they are: as something that can't be read."""
_MEMORY_NS = 30_000_000_000


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
        return [self._documents.popleft() for _ in range(len(self._documents))]

    def close(self) -> None:
        """Stop reading and close the pipe."""
        self._closing.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        """Collect documents; what follows the last complete one at the end is truncated and dropped."""
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
                # The end of a document may lie across two chunks; what was searched before holds none.
                searched = max(0, len(rest) - len(_END))
                rest += chunk
                while (end := rest.find(_END, searched)) >= 0:
                    document, rest, searched = rest[: end + len(_END)], rest[end + len(_END) :], 0
                    self._documents.extend((arrived_ns, text) for text in document.split(b"\0") if text.strip())
                if len(rest) > _LONGEST_DOCUMENT:
                    self._documents.append((arrived_ns, rest[:_CHUNK_BYTES]))
                    rest = b""
        self.ended = True


class IntervalEnds:
    """When each of a row of intervals ended, from their lengths and the later times at which they were reported.

    Lengths alone drift from the clock, and arrivals alone carry each report's delay. An interval can only be reported
    after its end, so the report that was least late within the last 30 s ties the sum of lengths to the clock.
    """

    def __init__(self) -> None:
        self._elapsed_ns = 0
        self._reports: deque[tuple[int, int]] = deque()

    def add(self, arrived_ns: int, length_ns: int) -> int:
        """The end of the next interval, in ns on the clock of ``arrived_ns``, and never later than that."""
        self._elapsed_ns += length_ns
        self._reports.append((self._elapsed_ns, arrived_ns - self._elapsed_ns))
        while self._reports[0][0] < self._elapsed_ns - _MEMORY_NS:
            self._reports.popleft()
        return self._elapsed_ns + min(offset_ns for _, offset_ns in self._reports)
