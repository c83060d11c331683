"""Scenarios of a driver: each in a process of its own, because its package keeps the library that it has loaded."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.helpers import ROOT


def play_all(
    folder: Path,
    program: str,
    scenarios: Mapping[str, Mapping[str, Any]],
    variables: Callable[[Path, Mapping[str, Any]], Mapping[str, str]],
    at_once: int,
) -> dict[str, dict[str, Any]]:
    """The JSON that ``program`` prints for each scenario; many run at once, as they mostly sleep.

    A scenario has the ``text`` of its file and may have ``uuids``, what is added to the file ``during`` a window,
    ``seconds`` and ``by``, the attribution; ``variables`` gives the environment for its file.
    """

    def play(name: str, scenario: Mapping[str, Any]) -> dict[str, Any]:
        file = folder / name
        file.write_text(scenario["text"])
        asked = [json.dumps(scenario.get("uuids", ())), scenario.get("during", ""), str(scenario.get("seconds", 1.5))]
        done = subprocess.run(
            [sys.executable, "-c", program, *asked, scenario.get("by", "system")],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(variables(file, scenario)),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    with ThreadPoolExecutor(max_workers=at_once) as pool:
        futures = {name: pool.submit(play, name, scenario) for name, scenario in scenarios.items()}
        return {name: future.result() for name, future in futures.items()}


def agrees(figure: dict[str, Any], watts: float, seconds: float) -> bool:
    """Whether a figure of energy is that power over that time, as its interval of 95 % says: one draw in twenty lies
    outside, none outside twice as much."""
    return abs(figure["request_j"] - watts * seconds) <= 2 * figure["request_ci95_j"]
