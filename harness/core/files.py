"""Writing files whole or not at all, and saying why one could not be written."""

import contextlib
import errno
import os
from pathlib import Path

from harness.core.errors import DiskFull, UserError


def replace_file(path: Path, content: bytes, part: Path) -> None:
    """Replace ``path`` by ``content`` in one step, by way of the file ``part`` beside it. Raises OSError."""
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``, text in UTF-8, in one step. Raises UserError.

    A device or a pipe is written into; to replace it would destroy it.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        replace_file(path, data, path.with_name(f".{path.name}.{os.getpid()}.part"))
    except OSError as error:
        raise cant_write(path, error) from None


def make_directory(path: Path) -> None:
    """Make a directory and what it lies in, where they are absent. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cant_write(path, error) from None


def refuse_unwritable(path: Path) -> None:
    """Raises UserError where ``write_atomically`` could not write: to be asked before long work."""
    folder = path.parent
    if path.is_dir():
        raise UserError(f"can't write {path}: it is a directory")
    if not folder.is_dir():
        raise UserError(f"can't write {path}: there is no directory {folder}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"can't write {path}: {folder} is not writable")


def refuse_other_format(path: Path, suffix: str) -> None:
    """Raises UserError where the name of a file promises another format than that of ``suffix``, such as ``.json``."""
    if path.suffix.lower() in _FORMATS - {suffix}:
        raise UserError(f"{path} would hold {suffix[1:].upper()}: end its name in {suffix}")


_FORMATS = {".csv", ".html", ".json", ".md", ".parquet", ".pdf", ".png", ".svg", ".toml", ".txt", ".yaml", ".yml"}


def cant_write(path: Path, error: OSError) -> UserError:
    """What to raise where ``path`` could not be written."""
    message = f"can't write {path}: {error.strerror or error}"
    if isinstance(error, FileExistsError):
        return UserError(f"can't write into {path}: it is a file, not a directory; name another")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{message}; make room and run the same command again")
    return UserError(message)
