"""What was measured of this machine's sensors, kept in the user's cache directory from run to run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from backends.model_cache import cache_directory
from harness.core.files import replace_file
from harness.energy.readings import AS_IT_STANDS
from harness.energy.step_response import StepResponse

_VERSION = 1
"""Of how timing is worked out: what an earlier way found is measured anew."""


@dataclass(frozen=True)
class CachedResponse:
    """A sensor's response and when it was measured."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    measured_at: str
    response: StepResponse


def load_responses() -> dict[str, CachedResponse]:
    """All that is cached, by key; what is damaged is left out, to be measured anew."""
    from pydantic import TypeAdapter, ValidationError

    try:
        content = json.loads(_path().read_text(encoding="utf-8"))
        entries = content["sensors"].items() if content["version"] == _VERSION else ()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    reader = TypeAdapter(CachedResponse)
    found = {}
    for key, entry in entries:
        try:
            found[key] = reader.validate_json(json.dumps(entry))
        except ValidationError:
            continue
    return found


def keep_responses(fresh: Mapping[str, CachedResponse]) -> str | None:
    """Add to the cache. Returns why it could not be kept, in one line, or None."""
    from pydantic import TypeAdapter

    if not fresh:
        return None
    path = _path()
    entries = TypeAdapter(dict[str, CachedResponse]).dump_python(load_responses() | dict(fresh))
    content = json.dumps({"version": _VERSION, "sensors": entries}, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content.encode(), path.with_name(f".{path.name}.{os.getpid()}.part"))
    except OSError as error:
        remedy = "set JOULEBENCH_CACHE_DIR to another directory"
        return f"the sensors' timing can't be kept for the next run ({path}: {error.strerror or error}); {remedy}"
    return None


def _path() -> Path:
    return cache_directory() / "sensors.json"
