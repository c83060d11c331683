"""What may go on in a run directory: only what is measured as its first trials were."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from backends.base import Config
from harness.core.errors import UserError
from harness.measuring.machine import identity


def refuse_other_run(directory: Path, held: dict[str, Any], asked: dict[str, Any]) -> None:
    """Compare what is known before a model is loaded. Raises UserError naming the first difference.

    ``held`` is the directory's ``run.json``; ``asked`` has the same keys plan, backend, energy and machine.
    """
    refuse = _Refusal(directory)
    refuse.difference("plan", held["plan"], asked["plan"])
    refuse.difference("backend", {"name": held["backend"]["name"]}, {"name": asked["backend"]["name"]})
    # An option that the earlier program did not have was at its default.
    defaults = {option.name: option.default for option in fields(Config) if option.default is not MISSING}
    refuse.difference("option", defaults | held["backend"]["config"], asked["backend"]["config"])
    # How much foreign load is let pass decides which trials count, not what they are.
    ours, theirs = ({**run["energy"], "max_foreign_load": None} for run in (held, asked))
    refuse.difference("option", ours, theirs)
    refuse.difference("machine", identity(held["machine"]), identity(asked["machine"]))


def refuse_other_hardware(directory: Path, held: dict[str, Any], loaded: dict[str, Any]) -> None:
    """Compare what the backend and the power sources turned out to be. Raises UserError.

    ``loaded`` has the model, the backend's device and versions, and what measures energy now.
    """
    refuse = _Refusal(directory)
    refuse.difference("model", held["model"], loaded["model"])
    for key in ("device", "device_names", "gpu_uuids"):
        refuse.difference("backend", {key: held["backend"][key]}, {key: loaded["backend"][key]})
    refuse.difference("backend's version", held["backend"]["versions"], loaded["backend"]["versions"])
    # A setting that only one program records says nothing: the options that decide it agree.
    then, now = held["backend"]["settings"], loaded["backend"]["settings"]
    shared = then.keys() & now.keys()
    refuse.difference("backend's setting", {key: then[key] for key in shared}, {key: now[key] for key in shared})
    first = held["sessions"][0]["energy"] if held["sessions"] else loaded["energy"]
    refuse.difference("power source", first["components"], loaded["energy"]["components"])


class _Refusal:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def difference(self, what: str, held: dict[str, Any], now: dict[str, Any]) -> None:
        # JSON has no tuples: what would be stored is compared.
        now = json.loads(json.dumps(now))
        for key in held | now:
            if held.get(key) != now.get(key):
                raise UserError(
                    f"{self._directory} holds a run whose {what} differs: {key} is {_short(held.get(key))} there "
                    f"and {_short(now.get(key))} now; use the same options or another directory"
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
