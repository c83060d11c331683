"""Numbers that a program prints, read in a thread of its own, so that a slow program holds nobody up."""

from __future__ import annotations

import math
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO, NamedTuple

_LONGEST_LINE = 1 << 16
_LONGEST_OUTPUT = 1 << 18
"""Bytes that one run may print."""
_MOST_A_SECOND = 1000
"""Numbers that a stream may print: to read more would take the time of what is measured."""
_LOOK_S = 0.2
_PATIENCE_S = 2.0
_FAILURES = 3
"""Runs in a row that fail before a program that is run again and again is given up."""


UNITS = {
    "W": 1.0,
    "mW": 1e-3,
    "kW": 1e3,
    "J": 1.0,
    "mJ": 1e-3,
    "kJ": 1e3,
    "Wh": 3600.0,
    "kWh": 3.6e6,
}
"""W or J in each unit."""
_ALONE = re.compile(r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Z]*)")
_LONGEST_NUMBER = 200


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
        second_s, lines = time.monotonic(), 0
        with self._process.stdout as pipe:
            for line in iter(lambda: pipe.readline(_LONGEST_LINE), b""):
                if self._closing.is_set():
                    return "it was closed"
                lines += 1
                if time.monotonic() > second_s + 1.0:
                    second_s, lines = time.monotonic(), 0
                elif lines > _MOST_A_SECOND:
                    return f"it prints more than {_MOST_A_SECOND} lines a second: print fewer, or use mode = 'poll'"
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
            self._kill()  # what it left behind
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
        assert self._process.stdout is not None
        out = b""
        deadline = time.monotonic() + self._timeout_s
        with self._process.stdout as pipe:
            while time.monotonic() < deadline and len(out) <= _LONGEST_OUTPUT and not self._closing.is_set():
                if select.select([pipe], [], [], _LOOK_S)[0]:
                    chunk = os.read(pipe.fileno(), _LONGEST_LINE)
                    if not chunk:
                        break
                    out += chunk
        too_much = len(out) > _LONGEST_OUTPUT
        if too_much or not self._ends_by(deadline):
            self._kill()
            self._ends_by(time.monotonic() + _PATIENCE_S)
            much = f"it printed more than {_LONGEST_OUTPUT >> 10} KiB"
            return None, much if too_much else f"it did not end within {self._timeout_s:g} s"
        if self._process.returncode != 0:
            return None, self._last_words()
        return out.decode(errors="replace"), ""

    def _ends_by(self, deadline_s: float) -> bool:
        assert self._process is not None
        try:
            self._process.wait(timeout=max(deadline_s - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True

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


def number_finder(pattern: str | None, unit: str = "") -> Callable[[str], str | None]:
    """Finds the number in a text: the last match of ``pattern``'s first group, or the last line that is a number alone.

    Raises re.error for a pattern that is none, and ValueError for one without a group. What is returned raises
    ValueError for a number alone that carries another unit of ``UNITS`` than ``unit``.
    """
    if pattern is None:
        return partial(_number_alone, unit=unit)
    compiled = re.compile(pattern, re.MULTILINE)
    if compiled.groups < 1:
        raise ValueError("it has no group (…) around the number")

    def find(text: str) -> str | None:
        matches = list(compiled.finditer(text))
        return _if_number(matches[-1].group(1) if matches else None)

    return find


def _number_alone(text: str, unit: str) -> str | None:
    for line in reversed(text.splitlines()):
        found = _ALONE.fullmatch(line.strip()) if len(line) <= _LONGEST_NUMBER else None
        if found is not None:
            if found[2] in UNITS and unit and found[2] != unit:
                raise ValueError(f"it prints {line.strip()!r}, and its description says unit = '{unit}'")
            return _if_number(found[1])
    return None


def _if_number(text: str | None) -> str | None:
    """The text where it stands for a finite number."""
    try:
        return text if text is not None and math.isfinite(float(text)) else None
    except ValueError:
        return None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return " ".join(lines[-1].split())[:200] if lines else ""
