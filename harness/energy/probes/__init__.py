"""Power sources: one file each, one line each in ``PROBES``; see ``base``.

Another package adds its own through an entry point of the group ``joulebench.probes``, whose name is that of the probe
and whose object is a function like ``create`` in ``harness.energy.probes.base``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from harness.core.errors import UserError
from harness.energy.probes.base import Probe

GROUP = "joulebench.probes"

PROBES = {
    "estimate": "harness.energy.probes.estimate",
    "fake": "harness.energy.probes.fake",
    "ioreport": "harness.energy.probes.ioreport",
    "nvml": "harness.energy.probes.nvml",
    "powermetrics": "harness.energy.probes.powermetrics",
    "rapl": "harness.energy.probes.rapl",
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
        return entry.load()(option or None)
    raise UserError(f"unknown probe {base!r}: choose from {', '.join(names())}, or auto or none")


def refuse_option(name: str, option: str | None) -> None:
    """For probes that take no option. Raises UserError when there is one."""
    if option is not None:
        raise UserError(f"probe {name} takes no option, but was given {option!r}")
