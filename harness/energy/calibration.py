"""Corrections of power domains against a reference meter, as the user states them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from pathlib import Path

from harness.core.errors import UserError
from harness.energy.readings import Calibration


def parse_calibration(entries: Iterable[str]) -> dict[str, Calibration]:
    """Calibrations by domain name from ``DOMAIN=gain,offset_w`` entries and names of TOML files.

    A file has one table per domain with the keys ``gain`` and ``offset_w``. True power = gain × read power +
    offset_w, so a board that reads 0.954·P − 1.2 W has gain 1.048 and offset 1.26. A counter and a power reading of
    one board are calibrated both. Raises UserError.
    """
    calibrations: dict[str, Calibration] = {}
    for entry in entries:
        found = dict([_parse_entry(entry)]) if "=" in entry else _read_file(Path(entry))
        twice = calibrations.keys() & found.keys()
        if twice:
            raise UserError(f"domain {', '.join(sorted(twice))} is calibrated twice")
        calibrations |= found
    return calibrations


def _parse_entry(entry: str) -> tuple[str, Calibration]:
    domain, _, numbers = entry.rpartition("=")
    try:
        gain, offset_w = map(float, numbers.split(","))
    except ValueError:
        raise UserError(f"--calibrate {entry!r} is not DOMAIN=gain,offset (example: gpu0-counter=1.048,1.26)") from None
    if not domain:
        raise UserError(f"--calibrate {entry!r} names no domain")
    return domain, _checked(domain, gain, offset_w)


def _read_file(path: Path) -> dict[str, Calibration]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"calibration file {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"calibration file {path} is not TOML: {error}") from None
    calibrations = {}
    for domain, table in tables.items():
        if not isinstance(table, dict) or set(table) != {"gain", "offset_w"}:
            raise UserError(f"calibration file {path}: [{domain}] needs exactly the keys gain and offset_w")
        try:
            gain, offset_w = float(table["gain"]), float(table["offset_w"])
        except (TypeError, ValueError):
            raise UserError(f"calibration file {path}: [{domain}] gain and offset_w are numbers") from None
        calibrations[domain] = _checked(domain, gain, offset_w)
    return calibrations


def _checked(domain: str, gain: float, offset_w: float) -> Calibration:
    if not (math.isfinite(gain) and math.isfinite(offset_w) and gain > 0.0):
        raise UserError(f"calibration of {domain}: gain must be positive and both numbers finite")
    return Calibration(gain, offset_w)
