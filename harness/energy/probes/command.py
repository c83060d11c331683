"""A program of the user's own that prints watts or joules: IPMI, Redfish, a PDU, a smart plug.

``--probes command:FILE.toml`` names a file that describes it::

    argv = ["ipmitool", "dcmi", "power", "reading"]   # started as it stands, never by a shell
    kind = "power"                                    # or "energy": a count that grows
    unit = "W"                                        # W, mW, kW; J, mJ, kJ, Wh, kWh
    mode = "poll"                                     # run again and again, or "stream": run once, a number a line
    pattern = 'Instantaneous power reading:\\s+(\\d+)'  # where the number is, unless it stands alone
    poll_s = 1.0                                      # pause between two runs
    timeout_s = 10.0                                  # longest time of a run
    period_s = 1.0                                    # time between updates, where it is known
    averaging_s = 1.0                                 # length of time that power is averaged over, where it is known
    scope = "machine"                                 # or "module", "package", "dram", "gpu"
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MinLen

from harness.core.errors import ProbeFailed, ProbeUnavailable, UserError
from harness.core.quantities import Component
from harness.core.wording import number
from harness.energy.probes.base import Probe, ProbeContext, Role, update_periods
from harness.energy.program_readings import UNITS, Printed, ProgramReadings, number_finder
from harness.energy.readings import LOST, Domain, Reading, Scope

_WATCH_S = (3.0, 12.0)
"""How long updates are watched at the start: longer where there were few."""
_LOOK_S = 0.02
_UNITS = {"power": ("W", "mW", "kW"), "energy": ("J", "mJ", "kJ", "Wh", "kWh")}
_LONGEST_FILE = 1 << 16
_COMPONENTS: dict[Scope, Component] = {
    "machine": "system",
    "module": "system",
    "package": "cpu",
    "dram": "dram",
    "gpu": "gpu",
}


@dataclass(frozen=True)
class Description:
    """How a program is started and what it prints."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    argv: Annotated[tuple[Annotated[str, MinLen(1)], ...], MinLen(1)]
    kind: Literal["power", "energy"]
    unit: Literal["W", "mW", "kW", "J", "mJ", "kJ", "Wh", "kWh"]
    mode: Literal["poll", "stream"] = "poll"
    pattern: str | None = None
    poll_s: Annotated[float, Ge(0.0), Le(60.0)] = 1.0
    timeout_s: Annotated[float, Ge(0.1), Le(600.0)] = 10.0
    period_s: Annotated[float, Ge(0.001), Le(600.0)] | None = None
    averaging_s: Annotated[float, Ge(0.0), Le(600.0)] | None = None
    scope: Literal["machine", "module", "package", "dram", "gpu"] = "machine"


class Command(Probe):
    """One number of one program."""

    role: Role = "meter"
    note = ""

    def __init__(self, option: str | None = None) -> None:
        """``option`` is the file that describes the program. Raises UserError for one that is wrong."""
        self._path = Path(option) if option else None
        self._description = _read(self._path) if self._path else None
        self._readings: ProgramReadings | None = None
        self._scale = 1.0
        self._domain: Domain | None = None

    def open(self, context: ProbeContext) -> None:
        if self._description is None or self._path is None:
            raise ProbeUnavailable("no program is named", "describe yours in a file: --probes command:FILE.toml")
        its = self._description
        self._scale = UNITS[its.unit]
        try:
            find = number_finder(its.pattern, its.unit)
            poll_s = its.poll_s if its.mode == "poll" else None
            self._readings = ProgramReadings(its.argv, find, poll_s, its.timeout_s)
        except OSError as error:
            raise ProbeUnavailable(f"{its.argv[0]} can't be started: {error.strerror}") from None
        self._await_first(its)
        found_s, resolution, assumed = self._watch(its)
        counter = its.kind == "energy"
        self._domain = Domain(
            self._path.stem,
            _COMPONENTS[its.scope],
            "counter" if counter else "power",
            "counter" if counter else "integrated",
            "command",
            resolution,
            found_s,
            averaging_s=None if counter else (found_s if its.averaging_s is None else its.averaging_s),
            source=f"command:{self._path.stem}",
            scope="module" if its.scope == "module" else None,
        )
        how = "assumed: it hardly changed while watched" if assumed else "found by watching"
        how = "as declared" if its.period_s is not None else how
        self.note = f"what {its.argv[0]} prints, for the {its.scope}; a new value every {number(found_s, 2)} s ({how})"

    def domains(self) -> Sequence[Domain]:
        return [] if self._domain is None else [self._domain]

    def read(self) -> Sequence[Reading]:
        assert self._readings is not None
        assert self._domain is not None
        failure = self._readings.failure
        printed = self._readings.take()
        if not printed and failure is not None:
            raise ProbeFailed(f"{self._name()}: {failure}")
        return [Reading(self._domain.name, each.time_ns, self._value(each)) for each in printed]

    def close(self) -> None:
        if self._readings is not None:
            self._readings.close()

    def _name(self) -> str:
        return self._description.argv[0] if self._description else "the program"

    def _value(self, printed: Printed) -> float:
        return LOST if printed.text is None else float(printed.text) * self._scale

    def _await_first(self, its: Description) -> None:
        """Wait until the program has printed a number. Raises ProbeUnavailable."""
        assert self._readings is not None
        deadline = time.monotonic() + its.timeout_s
        while self._readings.latest is None:
            if self._readings.failure is not None:
                raise ProbeUnavailable(f"{self._name()}: {self._readings.failure}", _PATTERN_REMEDY)
            if time.monotonic() > deadline:
                raise ProbeUnavailable(f"{self._name()} printed no number in {its.timeout_s:g} s", _PATTERN_REMEDY)
            time.sleep(_LOOK_S)

    def _watch(self, its: Description) -> tuple[float, float, bool]:
        """Time between updates in s, the smallest step of a number, and whether the former had to be assumed."""
        assert self._readings is not None
        readings = self._readings
        period_s, still = its.period_s or 0.0, False
        for watch_s in () if its.period_s else _WATCH_S:
            found, assumed = update_periods({"": lambda: float(readings.latest or 0.0)}, watch_s)
            period_s, still = found[""], bool(assumed)
            if not still:
                break
        seen = [printed for printed in readings.take() if printed.text is not None]
        if len(seen) > 1:
            # Nothing is known between two runs of the program, however often its source is updated.
            period_s = max(period_s, (seen[-1].time_ns - seen[0].time_ns) / 1e9 / (len(seen) - 1))
        decimals = max((_decimals(printed.text or "") for printed in seen), default=0)
        return period_s, 10.0**-decimals * self._scale, still


_PATTERN_REMEDY = "run it yourself, and say with pattern = '…(\\d+)…' where in what it prints the number is"


def _decimals(text: str) -> int:
    return len(text.partition(".")[2].lower().partition("e")[0])


def _text(path: Path) -> str:
    """What is in a description's file. Raises OSError, UnicodeDecodeError, and UserError for what can't be one."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"the program's description {path} is not a file")
    with path.open("rb") as stream:
        content = stream.read(_LONGEST_FILE + 1)
    if len(content) > _LONGEST_FILE:
        raise UserError(f"the program's description {path} is larger than {_LONGEST_FILE >> 10} KiB")
    return content.decode()


def _read(path: Path) -> Description:
    """The description in a file. Raises UserError in one line."""
    from pydantic import TypeAdapter, ValidationError

    try:
        table = tomllib.loads(_text(path))
    except OSError as error:
        raise UserError(f"the program's description {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the program's description {path} is not TOML: {error}") from None
    try:
        described = TypeAdapter(Description).validate_python(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"the program's description {path}: {where}: {first['msg']}") from None
    if described.unit not in _UNITS[described.kind]:
        known = ", ".join(_UNITS[described.kind])
        raise UserError(
            f"the program's description {path}: {described.kind} is in one of {known}, not {described.unit}"
        )
    try:
        number_finder(described.pattern)
    except (re.error, ValueError) as error:
        raise UserError(f"the program's description {path}: pattern {described.pattern!r}: {error}") from None
    return described


create = Command
