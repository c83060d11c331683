"""Numbers that a program prints, read in a thread of its own, so that a slow program holds nobody up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

_LONGEST_LINE = 1 << 16
_PATIENCE_S = 2.0
_FAILURES = 3
"""Runs in a row that fail before a program that is run again and again is given up."""


class Printed(NamedTuple):
    """A number as a program printed it, and when."""

    time_ns: int
    """CLOCK_MONOTONIC: the middle of the program's run, or when the line arrived."""
    text: str | None
    """None where the program ran and said nothing that can be understood."""


class ProgramReadings:
    """Runs ``argv``, never by a shell: once, for a number in each line, or again and again with pauses of ``poll_s``.

    ``find`` picks the number out of a text, or returns None.
    """

    def __init__(
        self,
        argv: Sequence[str],
        find: Callable[[str], str | None],
        poll_s: float | None,
        timeout_s: float,
    ) -> None:
        """``poll_s`` None runs it once. Raises OSError when it can't be started."""
        self._argv, self._find = list(argv), find
        self._poll_s, self._timeout_s = poll_s, timeout_s
        self._printed: deque[Printed] = deque()
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.latest: str | None = None
        """The number printed last."""
        self.failure: str | None = None
        """Why nothing comes any more."""
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the thread
        try:
            # Here, so that a program that isn't there is known at once.
            self._start()
        except OSError:
            self._messages.close()
            raise
        self._thread = threading.Thread(target=self._run, name="program", daemon=True)
        self._thread.start()

    def take(self) -> list[Printed]:
        """What was printed since the last call."""
        return [self._printed.popleft() for _ in range(len(self._printed))]

    def close(self) -> None:
        """Kill the program with its children and end the thread. Safe to call twice."""
        self._closing.set()
        if self._process is not None and self._process.returncode is None:
            self._kill()
        self._thread.join(timeout=_PATIENCE_S)

    def _start(self) -> None:
        # A session of its own, so that its children can be ended with it.
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            start_new_session=True,
        )

    def _kill(self) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except OSError:
                pass  # it is gone, or it runs as root and ends when nobody reads what it writes

    def _run(self) -> None:
        with self._messages:
            try:
                reason = self._follow() if self._poll_s is None else self._repeat(self._poll_s)
            except (OSError, ValueError) as error:
                reason = str(error)
            self._kill()
            self.failure = reason

    def _follow(self) -> str:
        """Read lines until the program ends. Returns why it did."""
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in iter(lambda: pipe.readline(_LONGEST_LINE), b""):
                number = self._find(line.decode(errors="replace"))
                if number is not None:
                    self._add(Printed(time.monotonic_ns(), number))
        return self._last_words()

    def _repeat(self, poll_s: float) -> str:
        """Run the program again and again until it fails several times in a row. Returns why it did."""
        failed = 0
        while True:
            before_ns = time.monotonic_ns()
            text, reason = self._once()
            number = None if text is None else self._find(text)
            middle_ns = (before_ns + time.monotonic_ns()) // 2
            failed = 0 if number is not None else failed + 1
            self._add(Printed(middle_ns, number))
            if failed == _FAILURES:
                return reason if text is None else f"it printed no number: {_last_line(text)!r}"
            if self._closing.wait(poll_s):
                return "it was closed"
            self._messages.seek(0)
            self._messages.truncate()
            self._start()
            if self._closing.is_set():
                return "it was closed"

    def _once(self) -> tuple[str | None, str]:
        """What one run printed, or None and why it failed."""
        assert self._process is not None
        try:
            out, _ = self._process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            self._kill()
            try:
                self._process.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                pass
            return None, f"it did not end within {self._timeout_s:g} s"
        if self._process.returncode != 0:
            return None, self._last_words()
        return out.decode(errors="replace"), ""

    def _add(self, printed: Printed) -> None:
        if printed.text is not None:
            self.latest = printed.text
        self._printed.append(printed)

    def _last_words(self) -> str:
        """What a program that ended wrote last to its standard error, with its exit status."""
        assert self._process is not None
        try:
            status = f"it ended with exit status {self._process.wait(timeout=_PATIENCE_S)}"
        except subprocess.TimeoutExpired:
            return "it closed its output without ending"
        self._messages.seek(0)
        words = _last_line(self._messages.read().decode(errors="replace"))
        return f"{status}: {words}" if words else status


def number_finder(pattern: str | None) -> Callable[[str], str | None]:
    """Finds the number in a text: the last match of ``pattern``'s first group, or a last line that is a number alone.

    Raises re.error for a pattern that is none, and ValueError for one without a group.
    """
    if pattern is None:
        alone = re.compile(r"^\s*([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*[a-zA-Z]*\s*$", re.MULTILINE)
    else:
        alone = re.compile(pattern, re.MULTILINE)
        if alone.groups < 1:
            raise ValueError("it has no group (…) around the number")

    def find(text: str) -> str | None:
        matches = list(alone.finditer(text))
        found = matches[-1].group(1) if matches else None
        try:
            float(found or "")
        except ValueError:
            return None
        return found

    return find


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return " ".join(lines[-1].split())[:200] if lines else ""
