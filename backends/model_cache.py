"""Where files with random weights are kept, and how they are written: under their name only when they are whole.

Writers hold a lock on their unfinished file; one without a lock is rubbish that a killed run left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backends.base import InvalidConfig

_UNFINISHED = ".unfinished"


def cache_directory() -> Path:
    """Where the files are kept: ``$JOULEBENCH_CACHE_DIR``, else ``joulebench`` in the user's cache directory."""
    override = os.environ.get("JOULEBENCH_CACHE_DIR")
    if override:
        return Path(override).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "joulebench"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "joulebench"


def check_room(path: Path, needed_bytes: int) -> None:
    """Raises InvalidConfig when the disk that is to hold ``path`` has no room for so much."""
    directory = path.parent
    while not directory.exists():
        directory = directory.parent
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < needed_bytes:
        raise _no_space(path, f"{needed_bytes / 1e9:.2f} GB needed, {free_bytes / 1e9:.2f} GB free")


@contextlib.contextmanager
def new_file(path: Path, needed_bytes: int) -> Iterator[tuple[BinaryIO, Path]]:
    """A file to write, and the path that it has meanwhile; at the end of the block it is on disk as ``path``.

    Where the block fails nothing is left. Raises InvalidConfig when the directory can't be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        check_room(path, needed_bytes)
        with _unfinished_file(path) as (file, unfinished):
            yield file, unfinished
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(path, str(error.strerror)) from error
        remedy = "set JOULEBENCH_CACHE_DIR to another directory"
        raise InvalidConfig(f"can't write '{path}': {error.strerror}; {remedy}") from error


def _no_space(path: Path, reason: str) -> InvalidConfig:
    remedy = "free some or set JOULEBENCH_CACHE_DIR to another disk"
    return InvalidConfig(f"too little disk for '{path}': {reason}; {remedy}")


@contextlib.contextmanager
def _unfinished_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new locked file beside ``path``, removed at the end unless it was renamed."""
    while True:
        descriptor, name = tempfile.mkstemp(suffix=_UNFINISHED, prefix=path.stem + "-", dir=path.parent)
        file = os.fdopen(descriptor, "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        file.close()  # another process took it for abandoned before it was locked
    unfinished = Path(name)
    try:
        with file:
            yield file, unfinished
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_abandoned(directory: Path) -> None:
    for unfinished in directory.glob(f"*{_UNFINISHED}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), unfinished.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unfinished.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
