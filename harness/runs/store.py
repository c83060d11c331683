"""Writing a run directory so that no kill and no full disk loses more than the trial in progress."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from harness.core.errors import UserError
from harness.core.files import cant_write, replace_file
from harness.energy import trace_file
from harness.energy.readings import Trace, Window
from harness.runs.load_stamps import LoopStamps
from harness.runs.records import RUN_FILE, TRIALS_FILE, dump_trial, first_fault, parse_trials, read_run, whole_length
from harness.runs.run_schema import Run
from harness.runs.schema import Trial

LOG_FILE = "worker.log"
SERVER_LOG_FILE = "server.log"
"""What a server wrote that was started for the run."""
_TRACES = "traces"
_RESERVE = ".reserve"
_RESERVE_BYTES = 1 << 20


class StorageError(Exception):
    """The disk takes no more; everything up to and including the last ``append`` that returned is kept."""


class RunStore(contextlib.AbstractContextManager["RunStore"]):
    """A run directory opened for writing by this process alone. A context manager."""

    def __init__(self, directory: Path) -> None:
        """Open or create the directory and prove that it can be written. Raises UserError."""
        self.directory = directory
        self.run: Run | None = None
        self.records: list[Trial] = []
        self.notices: list[str] = []
        """What had to be mended, one line each."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _refuse_strangers(directory)
            (directory / _TRACES).mkdir(exist_ok=True)
            self._trials = (directory / TRIALS_FILE).open("a+b", buffering=0)
            self._lock()
            with contextlib.ExitStack() as undo:
                undo.callback(self.close)
                if (directory / RUN_FILE).exists():
                    self.run = read_run(directory)
                self._fill_reserve()
                (directory / LOG_FILE).open("ab").close()
                self.records = self._repair()
                undo.pop_all()
        except OSError as error:
            raise cant_write(directory, error) from None

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory; one in which nothing was begun is taken away again, unless a server that did not
        start has left words there. Safe to call twice.
        """
        self._release_reserve()
        if self.run is None and not (self.directory / RUN_FILE).exists():
            with contextlib.suppress(OSError):
                server_log = self.directory / SERVER_LOG_FILE
                said = server_log.exists() and server_log.stat().st_size
                if (self.directory / TRIALS_FILE).stat().st_size == 0 and not said:
                    (self.directory / _TRACES).rmdir()
                    for name in (SERVER_LOG_FILE, LOG_FILE, TRIALS_FILE):
                        (self.directory / name).unlink(missing_ok=True)
                    self.directory.rmdir()
        self._trials.close()

    def write_run(self, run: Run) -> None:
        """Replace ``run.json`` as a whole. Raises StorageError."""
        content = json.dumps(run.model_dump(mode="json", warnings=False), indent=1, allow_nan=False).encode()
        try:
            Run.model_validate_json(content)
        except ValidationError as error:
            # Found out now, nothing is lost: nobody could read what was measured into such a run.
            raise StorageError(f"{self.directory / RUN_FILE} could not be read again: {first_fault(error)}") from None
        # Set first: an interrupt while the directory is synced finds the file there.
        before, self.run = self.run, run
        try:
            _replace(self.directory / RUN_FILE, content)
        except OSError as error:
            self.run = before
            raise StorageError(f"{self.directory}: {error.strerror or error}") from None

    def append(
        self,
        record: Trial,
        window: Window | None = None,
        readings: Sequence[Trace] = (),
        stamps: LoopStamps | None = None,
    ) -> Trial:
        """Add a record, with its raw marks, readings and stamps when it has any; on return it is on the disk.

        Returns the record, which names the file of its readings. When the disk is full, space kept in reserve takes
        this last record before StorageError is raised.
        """
        if window is not None:
            record = replace(record, trace=f"{_TRACES}/{record.id}.npz")
        try:
            self._append(record, window, readings, stamps)
        except OSError as error:
            self._release_reserve()
            with contextlib.suppress(OSError):
                self._append(record, window, readings, stamps)
            raise StorageError(f"{self.directory}: {error.strerror or error}") from None
        return record

    def _append(
        self, record: Trial, window: Window | None, readings: Sequence[Trace], stamps: LoopStamps | None
    ) -> None:
        if window is not None and record.trace is not None:
            content = io.BytesIO()
            trace_file.write_trace(content, window, readings, stamps.arrays() if stamps else None)
            _replace(self.directory / record.trace, content.getvalue())
        length = os.fstat(self._trials.fileno()).st_size
        line = dump_trial(record)
        try:
            if self._trials.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._trials.fileno())
        except OSError:
            os.ftruncate(self._trials.fileno(), length)
            raise
        self.records.append(record)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._trials.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another joulebench is writing to {self.directory}; wait for it or choose another directory"
            ) from None
        if os.fstat(self._trials.fileno()).st_nlink == 0:
            # Opened just before the other took its empty directory away: what is written here would be lost.
            raise UserError(f"another joulebench has just left {self.directory}; start again")

    def _repair(self) -> list[Trial]:
        path = self.directory / TRIALS_FILE
        content = path.read_bytes()
        whole = whole_length(content)
        if whole < len(content):
            os.ftruncate(self._trials.fileno(), whole)
            os.fsync(self._trials.fileno())
            self.notices.append(
                f"the last line of {path} was torn by an earlier kill; its {len(content) - whole} bytes are removed"
            )
        return parse_trials(content[:whole], path, self.run.backend.config.batch_size if self.run else 1)

    def _fill_reserve(self) -> None:
        with (self.directory / _RESERVE).open("wb") as stream:
            stream.write(os.urandom(_RESERVE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())

    def _release_reserve(self) -> None:
        with contextlib.suppress(OSError):
            (self.directory / _RESERVE).unlink()


def _refuse_strangers(directory: Path) -> None:
    """Refuse a directory without ``run.json`` unless it is empty or the empty shell of a start that was killed."""
    names = {entry.name for entry in directory.iterdir() if entry.name != ".DS_Store"}
    if RUN_FILE in names:
        return
    begun = TRIALS_FILE in names
    if begun and (directory / TRIALS_FILE).stat().st_size:
        raise UserError(f"{directory} has a {TRIALS_FILE} but no {RUN_FILE}: it is damaged; choose another directory")
    ours = {TRIALS_FILE, LOG_FILE, SERVER_LOG_FILE, _RESERVE, f"{RUN_FILE}.part"} if begun else set()
    if _TRACES in names and not any((directory / _TRACES).iterdir()):
        ours.add(_TRACES)
    strangers = sorted(names - ours)
    if strangers:
        raise UserError(f"{directory} is not empty and holds no run (it has {strangers[0]}); choose another directory")


def _replace(path: Path, content: bytes) -> None:
    replace_file(path, content, path.with_name(f"{path.name}.part"))
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
