"""What a meter counted while the requests of a log ran: one number, the answer of a meter, or its readings."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.quantities import Method, check_number
from harness.deciding.arrivals import TIME_COLUMNS
from harness.deciding.attributing.log_times import seconds_of
from harness.deciding.trace_files import describe, rows_of
from harness.energy.gains import gain_of
from harness.energy.integrate import window_energy
from harness.energy.readings import Domain, Trace
from harness.energy.stretches import stretches
from harness.energy.trace_file import load_trace

_NS: Final = 1e9
_BATCH: Final = 50_000
_LONG_GAP: Final = 10
"""Usual steps between readings of power, beyond which there is a gap."""
_GAP_SHARE: Final = 0.05
"""Of the requests' time: what a gap may take."""
_POWER: Final = {"power_w": 1.0, "watts": 1.0, "power_mw": 1e-3, "power_kw": 1e3, "power.draw [w]": 1.0, "w": 1.0}
_COUNTER: Final = {"energy_j": 1.0, "joules": 1.0, "energy_wh": 3600.0, "energy_kwh": 3.6e6, "energy_mj": 1e-3}
"""Columns of a meter's readings, in any case, and W or J in each unit."""


@dataclass(frozen=True)
class MeteredEnergy:
    """Energy while the requests ran, idle time between them included."""

    energy_j: float
    ci95_j: float | None
    """None where nobody says."""
    gain_ci95: float | None
    """Relative half-width of the 95 % interval of the meter's gain, which is in no ``ci95_j``; None where unknown."""
    method: Method | None
    duration_s: float | None
    """Of what was metered; None for the time from the log's first request to its last."""
    source: str
    """In words."""


def given_energy(energy_j: float) -> MeteredEnergy:
    """An energy that a person read. Raises UserError for what is none."""
    check_number("--energy", energy_j)
    if not energy_j > 0:
        raise UserError(f"--energy {energy_j:g}: an energy in joules is above 0")
    return MeteredEnergy(energy_j, None, None, None, None, "--energy")


def read_metered(path: Path, start_s: float, end_s: float) -> MeteredEnergy:
    """The energy in a meter's file: a window's answer of ``joulebench meter``, the trace of a trial, or readings.

    Of readings what lies between two times of the log's clock, in s, counts. Raises UserError.
    """
    if path.suffix.lower() == ".npz":
        return _of_trace(path)
    if path.suffix.lower() == ".json" and (answer := _answer(path)) is not None:
        return _of_answer(path, answer)
    return _of_readings(path, start_s, end_s)


def _of_trace(path: Path) -> MeteredEnergy:
    window, traces = load_trace(path)
    window.check()
    edges = int(window.start_ns[0]), int(window.end_ns[-1])
    total = stretches(traces, edges)[-1].total
    if total.energy_j is None or total.energy_j <= 0:
        raise UserError(f"{path} has no energy: {total.reason or 'nothing was counted'}")
    seconds = (edges[1] - edges[0]) / _NS
    return MeteredEnergy(total.energy_j, total.ci95_j, total.gain_ci95, total.method, seconds, path.name)


def _answer(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None for an array, which holds readings."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _of_answer(path: Path, answer: dict[str, Any]) -> MeteredEnergy:
    energy_j, method = _positive(answer.get("energy_j")), answer.get("method")
    if energy_j is None:
        reason = answer.get("reason") or "it has no energy_j above 0"
        raise UserError(f"{path} is no window that a meter answered, or one without energy: {reason}")
    return MeteredEnergy(
        energy_j,
        _positive(answer.get("ci95_j")),
        _positive(answer.get("gain_ci95")),
        method if method in get_args(Method) else None,
        _positive(answer.get("duration_s")),
        path.name,
    )


def _positive(value: object) -> float | None:
    """A number above 0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def _of_readings(path: Path, start_s: float, end_s: float) -> MeteredEnergy:
    """A column of times beside one of power, or of a counter's energy."""
    table = describe(path)
    present = {name.strip().lower(): name for name in table.columns}
    time = next((present[name] for name in ("time_s", *TIME_COLUMNS) if name in present), None)
    kind, value, unit = next(
        ((kind, present[name], unit) for kind, names in (("power", _POWER), ("counter", _COUNTER))
         for name, unit in names.items() if name in present),
        ("", "", 0.0),
    )  # fmt: skip
    if time is None or not kind:
        raise UserError(
            f"{path} has no readings of a meter: it needs a column of times ({', '.join(TIME_COLUMNS)}) and one of "
            f"{', '.join([*_POWER, *_COUNTER])}; it has {', '.join(table.columns[:20])}"
        )
    rows = [row for batch in rows_of(table, [time, value], _BATCH) for row in batch]
    columns = [np.array(column, dtype=object) for column in zip(*rows, strict=True)] or [np.empty(0, dtype=object)] * 2
    ((times, _),) = seconds_of(path, [columns[0]])
    values = np.array([_reading(text) for text in columns[1].tolist()], dtype=float) * unit
    known = np.isfinite(times) & np.isfinite(values)
    times, values = times[known], values[known]
    if times.size < 2 or (np.diff(times) < 0).any():
        raise UserError(f"{path} needs at least two readings, in the order of time")
    if times[-1] < start_s or times[0] > end_s:
        raise UserError(
            f"the readings of {path} and the requests are of different times: give both by one clock, or the energy by "
            "--energy"
        )
    step_s = float(np.median(np.diff(times)))
    if times[0] > start_s + step_s or times[-1] < end_s - step_s:
        raise UserError(
            f"{path} has readings of {times[-1] - times[0]:,.1f} s, which don't reach over the {end_s - start_s:,.1f} "
            "s of the requests: give more of them, or the requests of that time alone"
        )
    if kind == "power":
        _check_gaps(path, times, step_s, start_s, end_s)
    method: Method = "integrated" if kind == "power" else "counter"
    # Readings that a file holds were shown when they were taken: they are as old as their times.
    domain = Domain("meter", "system", "power" if kind == "power" else "counter", method, "command", 0.0, step_s,
                    averaging_s=step_s if kind == "power" else None, stamped=True)  # fmt: skip
    ends = np.clip([start_s, end_s], times[0], times[-1]) - times[0]
    trace = Trace(domain, np.round((times - times[0]) * _NS).astype(np.int64), values)
    found = window_energy(trace, *(int(each * _NS) for each in ends))
    if found.joules is None or found.joules <= 0:
        raise UserError(f"{path} tells no energy of the requests: {found.reason or 'nothing was counted'}")
    return MeteredEnergy(found.joules, found.ci95_j, gain_of(domain).ci95, method, end_s - start_s, path.name)


def _check_gaps(path: Path, times: Floats, step_s: float, start_s: float, end_s: float) -> None:
    """Raise UserError where readings of power are absent for a good part of the requests' time."""
    within = np.clip(times, start_s, end_s)
    longest = int(np.argmax(np.diff(within)))
    gap_s = float(within[longest + 1] - within[longest])
    if gap_s > max(_LONG_GAP * step_s, _GAP_SHARE * (end_s - start_s)):
        raise UserError(
            f"{path} has no readings for {gap_s:,.1f} of the {end_s - start_s:,.1f} s of the requests: give the "
            "requests of the time before or after alone, or the energy by --energy"
        )


def _reading(value: Any) -> float:
    """``120.5 W`` as nvidia-smi writes it, too; NaN for what is no number."""
    words = str(value).split()
    try:
        return float(words[0]) if words else math.nan
    except ValueError:
        return math.nan
