"""Small files of Linux's sysfs, and of folders that stand for it in containers."""

from __future__ import annotations

import os
from pathlib import Path


def read_quickly(file: Path) -> bytes:
    """A small file's content, at a third of the cost of opening it as text. Raises OSError."""
    handle = os.open(file, os.O_RDONLY)
    try:
        return os.read(handle, 64)
    finally:
        os.close(handle)


def read_text(file: Path) -> str | None:
    """A file's text without the space around it; None where it can't be read."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return None


def read_number(file: Path) -> int | None:
    """A file's whole number, which may be negative; None where it has none or can't be read."""
    text = read_text(file)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
