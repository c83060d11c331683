"""Keeps a worker with the model loaded: starts it, loads, and puts another in its place when it dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends.base import Config, Loaded, Model
from harness.core.errors import UserError
from harness.measuring.observer import Observer
from harness.measuring.same_run import AT_START
from harness.measuring.worker_process import LoadRefused, Look, TrialFailed, WorkerProcess

LOAD_TIMEOUT_S = 3600.0
LOAD_ATTEMPTS = 3
RELOAD_PAUSE_S = 5.0


class SweepStopped(Exception):
    """The sweep can't go on; everything measured so far is kept."""


class ModelHost:
    """One model in one worker process after another. A context manager; at its end no worker is left."""

    def __init__(self, backend: str, config: Config, log: Path, observer: Observer) -> None:
        self._backend = backend
        self._config = config
        self._log = log
        self._observer = observer
        self._started = 0
        self._worker = self._start()
        self._first: dict[str, Any] = {}
        self.server_pids: tuple[int, ...] = ()
        """Processes outside the present worker that compute for it."""

    def __enter__(self) -> ModelHost:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    @property
    def pid(self) -> int:
        """Process id of the present worker."""
        return self._worker.pid

    @property
    def number(self) -> int:
        """How many workers came before the present one."""
        return self._started - 1

    @property
    def alive(self) -> bool:
        """Whether the present worker can be asked."""
        return self._worker.alive

    def resolve(self) -> Model:
        """What would be loaded. Raises UserError where the backend refuses it, SweepStopped where it fails."""
        try:
            return self._worker.resolve(self._config, LOAD_TIMEOUT_S)
        except LoadRefused as refusal:
            raise UserError(str(refusal)) from None
        except TrialFailed as failure:
            raise SweepStopped(f"the backend failed before the model was loaded: {failure.reason}") from None

    def load(self) -> tuple[Loaded, dict[str, str]]:
        """Load the model, in a new worker if the present one dies of it. Returns it and the backend's versions.

        Raises UserError where the backend refuses the configuration, SweepStopped where it fails.
        """
        try:
            loaded, versions = self._load()
        except LoadRefused as refusal:
            raise UserError(str(refusal)) from None
        self._first = _identity(loaded, versions)
        return loaded, versions

    def reload(self) -> None:
        """Load the model into a new worker after a failed trial. Raises SweepStopped, also where it is another now."""
        self._worker.close()
        try:
            loaded, versions = self._load()
        except LoadRefused as refusal:
            raise SweepStopped(f"the model can't be loaded any more: {refusal}") from None
        now = _identity(loaded, versions)
        for key in self._first | now:
            if self._first.get(key) != now.get(key):
                was, is_now = self._first.get(key), now.get(key)
                raise SweepStopped(f"what is measured has changed: its {key} was {was!r} and is {is_now!r} now")

    def run(
        self, timeout_s: float, at_edge: Callable[[], None], look: Look | None = None, **request: Any
    ) -> dict[str, Any]:
        """Run one window or loop; returns the worker's answer. Raises TrialFailed; see ``reload`` then.

        ``at_edge`` and ``look`` as in ``WorkerProcess.run``.
        """
        return self._worker.run(timeout_s, at_edge, look, **request)

    def _load(self) -> tuple[Loaded, dict[str, str]]:
        for attempt in range(1, LOAD_ATTEMPTS + 1):
            try:
                if not self._worker.alive:
                    self._worker = self._start()
                loaded, versions = self._worker.load(self._config, LOAD_TIMEOUT_S)
                self.server_pids = tuple(loaded.server_pids)
                return loaded, versions
            except TrialFailed as failure:
                # What a worker could answer, and no server is behind, would fail again.
                permanent = failure.status == "error" and self._worker.alive and not self._is_served
                self._worker.close()
                self._observer.notice(f"loading the model failed ({attempt} of {LOAD_ATTEMPTS}): {failure.reason}")
                reason = failure.reason
                if permanent:
                    break
                # What a killed process held may take a moment to be free again.
                time.sleep(RELOAD_PAUSE_S if failure.status == "oom" else 0.0)
        raise SweepStopped(f"the model can't be loaded: {reason}")

    @property
    def _is_served(self) -> bool:
        """Whether a server loads the model, which may be well in a moment."""
        return self._config.url is not None or self._config.serve is not None

    def _start(self) -> WorkerProcess:
        self._started += 1
        return WorkerProcess(self._backend, self._log, self._observer.notice)


def _identity(loaded: Loaded, versions: Mapping[str, str]) -> dict[str, Any]:
    """What must stay as it is when the model is loaded again: others may have started another server meanwhile."""
    settings = {name: value for name, value in loaded.settings.items() if name not in AT_START}
    place = {name: getattr(loaded, name) for name in ("device", "device_names", "gpu_uuids", "no_energy")}
    return {**asdict(loaded.model), **place, **versions, **settings}
