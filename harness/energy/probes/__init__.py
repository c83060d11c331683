"""Power sources: one file each, one line each in ``PROBES``; see ``base``.

Another package adds its own through an entry point of the group ``joulebench.probes``, whose name is that of the probe
and whose object is a function like ``create`` in ``harness.energy.probes.base``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

from harness.core.errors import ProbeUnavailable, UserError
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.readings import Domain, Reading

GROUP = "joulebench.probes"

PROBES = {
    "amd": "harness.energy.probes.amd",
    "battery": "harness.energy.probes.battery",
    "command": "harness.energy.probes.command",
    "estimate": "harness.energy.probes.estimate",
    "fake": "harness.energy.probes.fake",
    "hwmon": "harness.energy.probes.hwmon",
    "ioreport": "harness.energy.probes.ioreport",
    "nvml": "harness.energy.probes.nvml",
    "powermetrics": "harness.energy.probes.powermetrics",
    "rapl": "harness.energy.probes.rapl",
    "remote": "harness.energy.probes.remote",
    "replay": "harness.energy.probes.replay",
}
"""By the name on the command line, the module that has ``create(option) -> Probe``; imported when it is asked for."""


def names() -> list[str]:
    """Names of all probes, in alphabetical order. Imports none of them."""
    return sorted({*PROBES, *entry_points(group=GROUP).names})


def create(name: str) -> Probe:
    """The probe called ``name``; what follows a colon is handed to it (``replay:trial.npz``).

    Raises UserError for an unknown name or an option that the probe doesn't take.
    """
    base, _, option = name.partition(":")
    if base in PROBES:
        return import_module(PROBES[base]).create(option or None)
    for entry in entry_points(group=GROUP, name=base):
        try:
            return entry.load()(option or None)
        except UserError:
            raise
        except Exception as error:  # a broken package must not take the other power sources along
            return _Broken(f"its package can't be loaded: {type(error).__name__}: {error}")
    raise UserError(f"unknown probe {base!r}: choose from {', '.join(names())}, or auto or none")


class _Broken(Probe):
    """Stands for a probe of another package that can't be loaded."""

    role: Role = "meter"
    note = ""

    def __init__(self, reason: str) -> None:
        self._reason = " ".join(reason.split())

    def open(self, context: ProbeContext) -> None:
        raise ProbeUnavailable(self._reason, "mend that package or uninstall it")

    def domains(self) -> Sequence[Domain]:
        return ()

    def read(self) -> Sequence[Reading]:
        return ()


def refuse_option(name: str, option: str | None) -> None:
    """For probes that take no option. Raises UserError when there is one."""
    if option is not None:
        raise UserError(f"probe {name} takes no option, but was given {option!r}")
