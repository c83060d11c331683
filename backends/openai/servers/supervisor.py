"""Ends a server and everything that it started, however it ends or we do.

``python supervisor.py COMMAND…`` has a pipe as stdin whose other end only we hold. When that end closes, when the
server ends or when SIGTERM comes, every descendant is ended. vLLM's workers would outlive their server otherwise.

Two of these run, one inside the other, and each is the subreaper of what it started: whatever loses its parent falls
to them, daemons too. When the inner one is killed the outer one does its work, and the other way round. Where the
system has no subreapers (macOS), the server's process group and its tree while it stands are ended.

On stdout: a line ``{"pid": …}`` once the server runs, ``{"ended": code}`` when it has ended, ``{"failed": reason}``
where it can't be started. Needs nothing of ours, so that the server's environment stays as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

INNER = "--inner"
GRACE_S = 5.0
"""How long a server may take to end itself and its own, once it is told to."""
REST_GRACE_S = 1.0
KILLED_WITHIN_S = 30.0
"""How long the kernel may take to end what was killed; a process in a driver's call may never end."""
_LOOK_S = 0.05
_PARENT_CHECK_S = 5.0
_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == [INNER]:
        supervisor = Supervisor(_say, GRACE_S)
        supervisor.start(arguments[1:], signal.SIGKILL)
    else:
        # The inner one is given the time that it gives.
        supervisor = Supervisor(lambda message: None, GRACE_S + REST_GRACE_S + KILLED_WITHIN_S)
        supervisor.start([sys.executable, "-P", __file__, INNER, *arguments], signal.SIGTERM)
    supervisor.wait()
    supervisor.end_all()


class Supervisor:
    """Starts one process and ends whatever comes of it."""

    def __init__(self, say: Callable[[dict[str, Any]], None], grace_s: float) -> None:
        self._say = say
        self._grace_s = grace_s
        self._parent = os.getppid()
        self._child = 0
        self._child_ended = False
        self._told = False
        self._wake = _waking_signals(self._on_signal)
        _prctl(_SET_SUBREAPER, 1)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._told = self._told or number in (signal.SIGTERM, signal.SIGHUP)

    def start(self, command: list[str], when_we_die: signal.Signals) -> None:
        """Start the process, in a session of its own; the kernel sends it ``when_we_die`` when this one is killed."""
        us = os.getpid()

        def tie() -> None:
            _prctl(_SET_DEATH_SIGNAL, when_we_die)
            if os.getppid() != us:
                os._exit(1)

        inner = when_we_die != signal.SIGKILL
        try:
            process = subprocess.Popen(
                command,
                stdin=None if inner else subprocess.DEVNULL,
                stdout=None if inner else 2,
                preexec_fn=tie,  # no threads here
                start_new_session=True,
            )
        except OSError as error:
            self._say({"failed": f"can't start {command[0]}: {error.strerror}"})
            sys.exit(1)
        self._child = process.pid
        process.returncode = 0  # reaped here, not by subprocess
        self._say({"pid": self._child})

    def wait(self) -> None:
        """Return when the process ended, when its owner or ours did, or when told."""
        poll = select.poll()
        poll.register(0, select.POLLHUP)
        poll.register(self._wake, select.POLLIN)
        while not (self._child_ended or self._told or os.getppid() != self._parent):
            for descriptor, _ in poll.poll(_PARENT_CHECK_S * 1000):
                if descriptor == 0:
                    return
                self._wake.recv(4096)
            self._reap()

    def end_all(self) -> None:
        """End every descendant: the process first, so that it can end its own, then those that are left."""
        if not self._child_ended:
            os.kill(self._child, signal.SIGTERM)
            self._await(lambda: self._child_ended, self._grace_s)
        _send(self._descendants(), signal.SIGTERM)
        self._await(lambda: False, REST_GRACE_S)
        until = time.monotonic() + KILLED_WITHIN_S
        while left := self._descendants():
            _send(left, signal.SIGKILL)
            self._await(lambda: False, _LOOK_S)
            if time.monotonic() > until:
                print(f"these processes can't be ended: {left}", file=sys.stderr, flush=True)
                return

    def _await(self, enough: Callable[[], bool], seconds: float) -> None:
        """Wait until nothing is left, or until enough has happened."""
        until = time.monotonic() + seconds
        while self._descendants() and not enough() and time.monotonic() < until:
            time.sleep(_LOOK_S)

    def _descendants(self) -> list[psutil.Process]:
        """Processes that live and that came of the one started."""
        import psutil

        self._reap()
        found = psutil.Process().children(recursive=True)
        if sys.platform != "linux":
            found += [process for process in psutil.process_iter() if _group(process.pid) == self._child]
        return [process for process in found if lives(process)]

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid == self._child:
                    self._child_ended = True
                    self._say({"ended": os.waitstatus_to_exitcode(status)})


def _waking_signals(handler: Callable[[int, FrameType | None], None]) -> socket.socket:
    """Handle the signals that concern us; what is returned can be read after each."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    reading.setblocking(False)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    # Handled rather than ignored: what is ignored here would be ignored by the server too.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, handler)
    return reading


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; a process that ended and that nobody has asked after doesn't."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _say(message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody may be left who reads it
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
