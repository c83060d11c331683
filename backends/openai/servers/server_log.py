"""Where a server's log is, and what it says of the server's end."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from backends.base import MEMORY_WORDS, BackendError, InvalidConfig, OutOfMemory

LOG_VARIABLE = "JOULEBENCH_SERVER_LOG"
"""Environment variable that names the file for the output of servers that are started, where none is given."""
PORT_TAKEN = re.compile(r"address already in use|couldn't bind|took port", re.IGNORECASE)
_FLAG = re.compile(
    r"(invalid|unrecognized|unknown) arguments?|error: .*expected .*argument|invalid choice", re.IGNORECASE
)
_TELLING = re.compile(
    r"\berror\b|\w+(Error|Exception): |exception|failed|abort|assert|can't|cannot|couldn't|invalid", re.I
)
_PREFIX = re.compile(r"^(\((\w+) pid=\d+\) )?(ERROR|CRITICAL)? ?(\d\d-\d\d \d\d:\d\d:\d\d)? ?(\[[\w.]+:\d+\])? ?")
_EMPTY_WORDS = ("root cause", "stack trace", "traceback (most", "exiting due to", "leaked")
_LONGEST = 400
_READ_BYTES = 1 << 16
"""Enough for a traceback of each of a server's processes; what was said long before the end doesn't tell of it."""


def lines(log: Path, start: int) -> list[str]:
    """The last lines of the file that were written since it had ``start`` bytes; empty where it can't be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _READ_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    written = (re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in re.split(r"[\r\n]+", text))
    return [line for line in written if line and not line.startswith("$ ")]


def last_line(log: Path, start: int) -> str:
    """The last line written, without colours; ``no output yet`` where there is none."""
    found = lines(log, start)
    return found[-1][:_LONGEST] if found else "no output yet"


def death(name: str, code: int | None, said: list[str], log: Path, out_of_memory: bool) -> BackendError:
    """The error for a server that ended with this code after it said this."""
    telling = next((line for line in said if MEMORY_WORDS.search(line)), None)
    if telling or (code == -signal.SIGKILL and out_of_memory):
        return OutOfMemory(_sentence(name, code, telling or "the kernel was out of memory", log))
    if flag := next((line for line in said if _FLAG.search(line)), None):
        return InvalidConfig(f"{name} doesn't take its flags: {_bare(flag)}; correct what follows --")
    by_itself = code is not None and -code not in (signal.SIGKILL, signal.SIGTERM)
    return BackendError(_sentence(name, code, _words(said, code) if by_itself else "", log))


def _words(said: list[str], code: int | None) -> str:
    """The last line that tells of a fault; where there is none, the last line of a server that failed."""
    for line in reversed(said):
        bare = _bare(line)
        if _TELLING.search(bare) and not any(words in bare.lower() for words in _EMPTY_WORDS):
            return bare
    return _bare(said[-1]) if said and code != 0 else ""


def _bare(line: str) -> str:
    return _PREFIX.sub("", line)[:_LONGEST].strip()


def _sentence(name: str, code: int | None, words: str, log: Path) -> str:
    if code is None:
        how = "was ended, because the process that watches it was"
    elif code < 0:
        how = f"was killed by {signal_name(-code)}"
    else:
        how = f"exited with code {code}"
    return f"{name} {how}{': ' if words else ''}{words} (log: {log})"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def kernel_oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since boot; None where it doesn't say."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None
