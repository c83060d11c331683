"""What the columns of the table of trials mean, as a table for people and as JSON."""

from __future__ import annotations

import csv
import re
import sys

from rich import box
from rich.table import Table

from harness.energy.attribution import EnergyFigure
from harness.runs.records import RecordedRun
from harness.runs.schema import COLUMNS, component_columns
from harness.showing.terminal import open_console, print_json

ANY = "COMPONENT"
"""Stands for the name of a component with a meter, such as gpu or cpu."""

_UNITS = (
    (r"tokens_per_s$", "tokens/s"),
    (r"tokens_per_j$", "tokens/J"),
    (r"_per_s$", "1/s"),
    (r"_s$", "s"),
    (r"_per(_output)?_token(_ci95)?_j$", "J/token"),
    (r"_j$", "J"),
    (r"tokens(_produced|_max)?$", "tokens"),
)
"""A quantity carries its unit in its name: the end of the name, the unit."""

_COMPONENT_MEANINGS = {
    "energy_method": "how its energy was read: counter, integrated, modelled or estimated",
    "energy_j": "energy of this component, per request",
    "prefill_energy_j": "its energy in the prefill, per request",
    "decode_energy_j": "its energy in the decode steps, per request",
}
_NO_ENERGY = EnergyFigure(*[None] * 8)


def unit_of(column: str) -> str | None:
    """The unit of a column of trials, by its name; None for what has none."""
    return next((unit for end, unit in _UNITS if re.search(end, column)), None)


def meanings(components: tuple[str, ...] = (ANY,)) -> list[dict[str, str | None]]:
    """Name, unit and meaning of every column, those of each component last, in the order of ``joulebench trials``."""
    known = [(column.name, column.meaning) for column in COLUMNS]
    for component in components:
        for name in component_columns(component, _NO_ENERGY):
            known.append((name, _COMPONENT_MEANINGS.get(name.removeprefix(f"{component}_"), "")))
    return [{"name": name, "unit": unit_of(name), "meaning": _meaning(name, meaning)} for name, meaning in known]


def print_columns(run: RecordedRun | None, format: str) -> None:
    """Every column with unit and meaning: a table, or CSV or JSON; of a run, those of its own components."""
    described = meanings() if run is None else meanings(_components(run))
    if format == "json":
        print_json(described)
        return
    if format == "csv":
        writer = csv.DictWriter(sys.stdout, described[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(described)
        return
    table = Table("column", "unit", "meaning", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for column in described:
        table.add_row(*(cell or "" for cell in column.values()))
    console = open_console()
    console.print(table)
    if run is None:
        console.print(f"{ANY} is one of what is metered: gpu, cpu, dram, …")


def _components(run: RecordedRun) -> tuple[str, ...]:
    found = [component for trial in run.trials if trial.energy for component in trial.energy.components]
    return tuple(dict.fromkeys(found))


def _meaning(name: str, said: str) -> str:
    """What stands in a column, without the unit that ``COLUMNS`` may end it in."""
    if "_ci95_" in name:
        return f"half-width of the 95 % interval of {name.replace('_ci95', '')}"
    return re.sub(r", [sJ]( per request)?$", lambda unit: f",{unit[1]}" if unit[1] else "", said)
