"""A sysfs made of files whose values a thread keeps up to date, as drivers do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Value = str | int | Callable[[float], int]


def write_files(folder: Path, **values: Value) -> Path:
    """A folder with one file for each value; a function of time gives its value now."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        _replace(folder / name, value(time.monotonic()) if callable(value) else value)
    return folder


@contextmanager
def kept_up_to_date(folder: Path, period_s: float, **values: Callable[[float], int]) -> Iterator[None]:
    """Rewrite the files of a folder with their values of now, every ``period_s``."""
    write_files(folder, **values)
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(period_s):
            if folder.exists():
                write_files(folder, **values)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _replace(file: Path, value: str | int) -> None:
    """At once: a reader never sees an empty file."""
    fresh = file.with_name(f".{file.name}")
    fresh.write_text(f"{value}\n")
    fresh.replace(file)
