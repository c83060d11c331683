"""``import joulebench`` is ``import harness``, ``python -m joulebench`` the command; installed as the top module."""

from typing import TYPE_CHECKING

from harness import __all__, __dir__, __getattr__  # noqa: F401
from harness.core.version import __version__  # noqa: F401

if TYPE_CHECKING:
    from harness import *  # noqa: F403

if __name__ == "__main__":
    from harness.cli import main

    main()
