"""Exit with 0 when the environment already has joulebench, from this checkout, and all that some extras need.

Usage: python scripts/setup/satisfied.py EXTRA,EXTRA. Asks no network; unlike pip, it is quick and works offline.
"""

import importlib.metadata
import importlib.util
import sys
import tomllib
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2]


def requirements(project: dict, extras: list[str]) -> list[Requirement]:
    """What the project needs with ``extras``, the extras it names of itself unfolded."""
    found = []
    lines = [line for extra in extras for line in project["optional-dependencies"][extra]]
    for line in project["dependencies"] + lines:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            found += requirements(project, sorted(requirement.extras))
        elif requirement.marker is None or requirement.marker.evaluate():
            found.append(requirement)
    return found


def satisfied(requirement: Requirement) -> bool:
    """Whether the installed version, if any, is one that will do."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def from_this_checkout() -> bool:
    """Whether ``import harness`` would take this checkout's package, not another one's, and ``joulebench`` is there.

    An environment made before that module existed must be brought up to date.
    """
    # The folder of this file comes first on the path and holds no package.
    spec = importlib.util.find_spec("harness")
    ours = spec is not None and spec.origin is not None and CHECKOUT in Path(spec.origin).resolve().parents
    return ours and importlib.util.find_spec("joulebench") is not None


def main() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    installed = satisfied(Requirement(f"{project['name']}=={project['version']}")) and from_this_checkout()
    sys.exit(not (installed and all(map(satisfied, requirements(project, sys.argv[1].split(","))))))


if __name__ == "__main__":
    main()
