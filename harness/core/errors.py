"""Errors that end in one clear line for the person at the terminal."""

import shlex

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def pip_install(*requirements: str) -> str:
    """The command that installs packages, as a shell takes it: true in a checkout and beside an installed joulebench,
    of which no index has the extras.
    """
    return shlex.join(["pip", "install", *requirements])


class UserError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with code 2."""


class DiskFull(UserError):
    """There is no room left to write; the command line exits with code 1, as nothing was wrong with what was asked."""


class MissingDependency(UserError):
    """An optional package is absent; the message names the command that installs it."""


class ProbeUnavailable(Exception):
    """A power source does not work here.

    ``reason`` says why; ``remedy`` is what the user can do about it, or None when nothing can be done.
    """

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason if remedy is None else f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


class ProbeFailed(Exception):
    """A power source that worked has stopped working; its energies are null from here on.

    ``domains`` names what has failed where the rest of the probe still works; empty means all of it.
    """

    def __init__(self, reason: str, domains: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.domains = domains
