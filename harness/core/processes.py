"""Child processes that run a module of this very package, whatever the current directory is."""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours; ``module_environment`` is what it needs to find it."""
    # -P: a harness/ or json.py in the current directory is not ours.
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """This process's environment, with the folder of our packages first on Python's path."""
    packages = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search_path}


def die_with_parent() -> None:
    """On Linux, have the kernel kill this process when the parent dies, whatever it is computing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def private_stdout() -> BinaryIO:
    """The stream to the parent; file descriptor 1 becomes stderr, so that prints can't break a protocol."""
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return stream


def read_messages(put: Callable[[Any], object]) -> None:
    """Hand on each line of JSON from the parent; when there are no more, end this process at once."""
    try:
        for line in sys.stdin:
            put(json.loads(line))
    finally:
        # The parent is gone or has closed this process. What is in progress is of no use to anybody.
        os._exit(0)
