"""The power cap and clock setting under which a run's GPUs were measured, as the driver told them in its trials. Pure.

They decide what a request costs, so that they are part of what a run measured: joulebench records and never sets them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from harness.core.errors import UserError
from harness.runs.records import RecordedRun

POWER_LIMIT = "power_limit_w"
APPLICATION_CLOCK = "application_clock_mhz"
_CONDITIONS = {POWER_LIMIT: ("power_cap_w", "power_limit_w"), APPLICATION_CLOCK: ("application_clock_mhz",)}
"""By the setting of an identity, what a trial's conditions call it, the surest first: the cap that was set, or in older
runs the limit in force, which on laptops also follows what the CPU draws."""
_PROBES = ("nvml", "amd")
_WORDS = {POWER_LIMIT: ("power cap", "W"), APPLICATION_CLOCK: ("application clock", "MHz")}


def gpu_settings(run: RecordedRun) -> dict[str, float | str]:
    """``power_limit_w`` and ``application_clock_mhz`` of the GPUs used, where NVIDIA's or AMD's driver told them.

    A text such as ``300 + 250`` where boards differ. Raises UserError where one changed between or within trials.
    """
    settings: dict[str, float | str] = {}
    for setting, names in _CONDITIONS.items():
        boards: dict[str, set[float]] = {}
        for uuid, seen in _boards(run):
            if found := next(filter(None, (_range(seen.get(name)) for name in names)), None):
                boards.setdefault(uuid, set()).update(found)
        for uuid, values in boards.items():
            if len(values) > 1:
                raise UserError(_changed(run, uuid, setting, sorted(values)))
        each = [values.pop() for _, values in sorted(boards.items())]
        if each:
            settings[setting] = each[0] if len(set(each)) == 1 else " + ".join(f"{value:g}" for value in each)
    return settings


def setting_words(setting: str, value: object) -> str:
    """``300 W power cap``: how names of systems say such a setting."""
    what, unit = _WORDS[setting]
    return f"{value:g} {unit} {what}" if isinstance(value, int | float) else f"{value} {unit} {what}"


def _changed(run: RecordedRun, uuid: str, setting: str, values: list[float]) -> str:
    what, unit = _WORDS[setting]
    listed = " and ".join(f"{value:g} {unit}" for value in values)
    return (
        f"{run.directory} was measured at more than one {what} of {uuid}, {listed}: requests cost otherwise at each; "
        "measure each into a directory of its own (-o)"
    )


def _boards(run: RecordedRun) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """UUID or address and conditions of each NVIDIA and AMD GPU during each trial that counts."""
    for trial, probe in product(run.trials, _PROBES):
        told = trial.conditions.get(probe)
        gpus = told.get("gpus") if trial.usable and isinstance(told, Mapping) else None
        for uuid, seen in gpus.items() if isinstance(gpus, Mapping) else ():
            if isinstance(seen, Mapping):
                yield str(uuid), seen


def _range(seen: object) -> set[float]:
    """The least and the greatest value during a trial; empty where nothing was told."""
    ends = (seen.get("min"), seen.get("max")) if isinstance(seen, Mapping) else ()
    return {float(end) for end in ends if isinstance(end, int | float)}
