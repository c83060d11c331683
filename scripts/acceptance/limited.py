"""Run a command for a limited time: ``python limited.py SECONDS COMMAND…``.

What runs too long is told to end, and is killed a minute later. The exit status is the command's, or 124 where its time
was up: as of ``timeout``, which macOS doesn't have. Being told to end is passed on.
"""

from __future__ import annotations

import signal
import subprocess
import sys

TIME_IS_UP = 124
_GRACE_S = 60


def main(seconds: float, command: list[str]) -> int:
    """Run ``command``; returns the exit status."""
    ends = {signal.SIGTERM, signal.SIGHUP}
    watched = {*ends, signal.SIGALRM}
    # None is lost that comes before there is a process to pass it on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    # The lock that the script holds on its folder is inherited.
    child = subprocess.Popen(command, close_fds=False, preexec_fn=lambda: _unblock(watched))
    late = False

    def time_is_up(*_: object) -> None:
        nonlocal late
        if late:
            child.kill()
        else:
            late = True
            child.terminate()
            signal.alarm(_GRACE_S)

    signal.signal(signal.SIGALRM, time_is_up)
    for number in ends:
        signal.signal(number, lambda *_: child.terminate())
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _unblock(watched)
    status = child.wait()
    if late:
        return TIME_IS_UP
    return status if status >= 0 else 128 - status


def _unblock(numbers: set[signal.Signals]) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
