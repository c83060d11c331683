"""Exit with 0 when the environment already has joulebench, from this checkout, and all that an extra needs.

Usage: python scripts/satisfied.py EXTRA. Asks no network; unlike pip, it is quick and works offline.
"""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[1]


def requirements(project: dict, extra: str) -> list[Requirement]:
    """What the project needs with ``extra``, the extras it names of itself unfolded."""
    found = []
    for line in project["dependencies"] + project["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            found += [inner for name in requirement.extras for inner in requirements(project, name)]
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


def main() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    installed = satisfied(Requirement(f"{project['name']}=={project['version']}"))
    sys.exit(not (installed and all(map(satisfied, requirements(project, sys.argv[1])))))


if __name__ == "__main__":
    main()
