"""Child processes that run a module of this very package, whatever the current directory is."""

import os
import sys
from pathlib import Path


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours; ``module_environment`` is what it needs to find it."""
    # -P: a harness/ or json.py in the current directory is not ours.
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """This process's environment, with the folder of our packages first on Python's path."""
    packages = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search_path}
