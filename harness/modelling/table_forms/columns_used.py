"""Which columns of a table a trial is read from, and which are not used though they speak of energy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.modelling.table_forms.form import Sheet, TableForm, plain_column
from harness.modelling.table_forms.names import ColumnMeaning, meaning, speaks_of_energy

_BATCHES = ("batch_size", "batch", "bs", "batchsize")
_SUMS = ("num_requests", "n_requests", "request_count", "requests_count", "number_of_requests", "total_requests",
         "num_prompts", "n_prompts", "num_queries", "prompt_count")  # fmt: skip
_AS_THEY_ARE = ("requests", "repeats", "runtime_sd_s")
"""Further columns of the table of trials that statistics use."""
_SHOWN = 12


@dataclass(frozen=True)
class Used:
    """By a trial's column, the file's columns that are added up for it, each with its factor to s, J, W or tokens."""

    columns: Mapping[str, tuple[tuple[str, float], ...]]
    unused: tuple[str, ...] = ()
    """Columns that speak of energy or power and are not used."""
    without_unit: Mapping[str, str] = field(default_factory=dict)
    """By quantity, such as ``runtime``, the column that says no unit."""
    batches: tuple[str, ...] = ()
    """Columns that say how many requests were computed together."""
    sums: tuple[str, ...] = ()
    """Columns that say how many requests a row sums up."""

    def notes(self, before: Sequence[str] = (), own: tuple[str, ...] = ()) -> list[str]:
        """What is to be said; ``before`` are the file's columns where its form has turned them into others, of which it
        knows those that begin with one of its ``own``.
        """
        read = [
            f"{' + '.join(name for name, _ in of)} as {column}"
            for column, of in self.columns.items()
            if not before and (len(of) > 1 or of[0][0].strip().lower() != column)
        ]
        notes = [f"columns read: {', '.join(read)}"] if read else []
        further = (name for name in before if speaks_of_energy(name) and not plain_column(name).startswith(own))
        unused = [*self.unused, *further]
        if unused:
            more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
            notes.append(f"not used, though named energy or power: {', '.join(unused[:_SHOWN])}{more}")
        return notes


def used_columns(sheet: Sheet, form: TableForm) -> Used:
    """The columns of a trial that a table has."""
    renamed = {plain_column(name): column for name, column in form.columns.items()}
    found: dict[str, list[tuple[str, ColumnMeaning]]] = {}
    without_unit: dict[str, str] = {}
    for name in sheet.columns:
        said = _nested(renamed.get(plain_column(name), name))
        if said is None and plain_column(name) in _AS_THEY_ARE:
            said = ColumnMeaning(plain_column(name), 0)
        if said is not None and said.factor is None:
            without_unit.setdefault(said.column, name)
        elif said is not None:
            found.setdefault(said.column, []).append((name, said))
    columns = {column: _chosen(of) for column, of in found.items()}
    if any(column.endswith("energy_j") for column in columns):
        columns = {column: of for column, of in columns.items() if not column.endswith("power_w")}
    taken = {name for of in columns.values() for name, _ in of}
    unused = [name for name in sheet.columns if speaks_of_energy(name) and name not in taken]
    batches = tuple(name for name in sheet.columns if plain_column(name) in _BATCHES)
    sums = tuple(name for name in sheet.columns if plain_column(name) in _SUMS)
    silent = form.convert is not None
    return Used(columns, () if silent else tuple(unused), without_unit, batches, sums)


def _nested(name: str) -> ColumnMeaning | None:
    """What a name says, or the end of one with dots, as of JSON objects within each other."""
    folders = name.split(".")
    said = (meaning(".".join(folders[k:])) for k in range(len(folders)))
    return next((found for found in said if found is not None), None)


def _chosen(of: Sequence[tuple[str, ColumnMeaning]]) -> tuple[tuple[str, float], ...]:
    """The column whose name says it best, or all where they are numbered parts."""
    numbered = [(name, said.factor or 1.0) for name, said in of if said.numbered]
    if numbered and len(numbered) == len(of):
        return tuple(numbered)
    name, said = min(((name, said) for name, said in of if not said.numbered), key=lambda each: each[1].rank)
    return ((name, said.factor or 1.0),)
