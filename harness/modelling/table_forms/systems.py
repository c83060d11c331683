"""Which columns tell systems apart, and the choice of one by ``--where COLUMN=VALUE``. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.core.errors import UserError
from harness.modelling.table_forms.form import Sheet, TableForm, TableRow, plain_column
from harness.modelling.table_forms.names import meaning, speaks_of_energy
from harness.modelling.table_forms.sheets import is_missing

_SAYS = {
    *("model", "models", "system", "machine", "host", "hostname", "server", "node", "device", "devices", "gpu", "gpus"),
    *("cpu", "cpus", "accelerator", "accelerators", "hardware", "hw", "platform", "backend", "backends", "engine"),
    *("framework", "precision", "dtype", "quant", "quantization", "quantisation", "bits", "weights", "batch", "bs"),
    *("seqs", "tp", "pp", "dp", "ep", "tensor", "pipeline", "parallel", "parallelism", "attention", "attn", "kv"),
    *("cache", "compile", "compiled", "threads", "cores", "layers", "cap", "limit", "governor", "driver", "version"),
    *("build", "software", "instance", "chip", "soc", "os", "sku", "adapter", "lora", "draft", "speculative"),
    *("config", "configuration", "setup", "optimization", "offload"),
}
_WITH = {
    *("name", "names", "id", "index", "type", "types", "info", "size", "count", "num", "number", "of", "n", "nr"),
    *("filename", "file", "path", "kind", "variant", "label", "mode", "max", "requested", "setting", "the", "used"),
    *("power", "tdp", "torch", "cuda", "python", "vllm", "transformers", "weight", "format", "level", "per", "flash"),
    *("params", "parameters", "sequences", "total", "use", "enabled", "family"),
}
MACHINE = ("system", "machine", "system_name", "hardware", "host", "hostname", "device_name", "gpu_name", "gpu_model",
           "gpu", "gpu_info", "gpu_type", "device", "accelerator", "cpu_model", "cpu_info")  # fmt: skip
MODEL = ("model", "model_name", "model_id", "model_type", "model_filename")
_SHOWN = 3


def chosen_rows(sheet: Sheet, where: Sequence[tuple[str, str]]) -> Sheet:
    """The rows that have one of the values asked for in each of the columns. Raises UserError."""
    wanted: dict[str, list[str]] = {}
    for name, value in where:
        column = sheet.called(name)
        if column is None:
            raise UserError(f"--where {name}=…: {sheet.path} has no such column; {columns_words(sheet.columns)}")
        wanted.setdefault(column, []).append(value)
    rows = sheet.rows
    for column, values in wanted.items():
        asked = {_value(value) for value in values}
        found = tuple(row for row in rows if _value(row.cells.get(column)) in asked)
        if not found:
            there = _shown(rows, column) if _tells(column, ()) else ""
            raise UserError(f"--where {column}={values[0]}: no row of {sheet.path} has that{there and f'; {there}'}")
        rows = found
    return replace(sheet, rows=rows)


def refuse_several(sheet: Sheet, form: TableForm) -> None:
    """Raise UserError where columns that mean another system hold more than one value."""
    further = {plain_column(name) for name in (*form.system, *MACHINE, *MODEL)}
    same = {plain_column(name) for name in form.same_system}
    # A form that names what it uses names what tells systems apart too.
    telling = [
        name
        for name in sheet.columns
        if (plain_column(name) in further if form.only else _tells(name, further) or _names_runtime(sheet.rows, name))
        and plain_column(name) not in same
    ]
    several = [name for name in telling if len(_values(sheet.rows, name)) > 1]
    if not several:
        return
    said = ", ".join(_shown(sheet.rows, name) for name in several[:6])
    more = f" and {len(several) - 6} more columns" if len(several) > 6 else ""
    raise UserError(
        f"{sheet.path} holds several systems, and a profile is of one: {said}{more}. "
        f"Choose one: joulebench fit --measurements takes {_remedy(sheet.rows, several)}"
    )


def named(sheet: Sheet, columns: Sequence[str]) -> str | None:
    """The one value of the first of these columns that has just one; None where none has."""
    for name in columns:
        column = sheet.called(name)
        values = _values(sheet.rows, column) if column else {}
        if len(values) == 1 and len(said := next(iter(values.values())).strip()) <= 200 and not _is_number(said):
            return said
    return None


def says_no_cache(sheet: Sheet) -> bool | None:
    """Whether the KV cache was on, as a column says; None where none does."""
    said = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
    for name in ("kv_cache", "use_cache", "use_kv_cache"):
        values = _values(sheet.rows, sheet.called(name) or "")
        if len(values) == 1 and (value := next(iter(values))) in said:
            return said[value]
    return None


def columns_words(columns: Sequence[str]) -> str:
    """What a table has instead of what it needs; a first line with numbers is no header, and not to be shown."""
    if any(_is_number(name) for name in columns):
        return "its first line holds numbers: give it a header"
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    return f"it has {', '.join(map(_cut, columns[:20]))}{more}"


def _tells(name: str, further: Sequence[str] | set[str]) -> bool:
    """Whether each value of a column is another system."""
    if plain_column(name) in further:
        return True
    limits = {"limit", "cap", "tdp"} & set(plain_column(name).split("_"))
    if (meaning(name) is not None or speaks_of_energy(name)) and not limits:
        return False
    for said in (plain_column(name), plain_column(name.split(".")[-1])):
        # Units of limits, such as the W of power_limit_w, say nothing.
        words = [word for word in said.split("_") if word not in ("w", "b", "gb")]
        if words and set(words) <= _SAYS | _WITH and set(words) & _SAYS:
            return True
    return False


def _names_runtime(rows: Sequence[TableRow], name: str) -> bool:
    """Whether ``runtime`` is a program, not a time."""
    return plain_column(name) == "runtime" and not any(_is_number(value) for value in _values(rows, name))


def _value(cell: Any) -> str:
    """A cell as it is compared: 1 and 1.0, A100 and a100 are alike."""
    said = "" if is_missing(cell) else str(cell).strip().casefold()
    try:
        return f"{float(said):g}"
    except ValueError:
        return said


def _values(rows: Sequence[TableRow], column: str) -> Mapping[str, str]:
    """The different values of a column and how the first row with each spells it; missing ones say nothing."""
    found: dict[str, str] = {}
    for row in rows:
        cell = row.cells.get(column)
        if not is_missing(cell):
            found.setdefault(_value(cell), str(cell).strip())
    return found


def _shown(rows: Sequence[TableRow], column: str) -> str:
    values = [_cut(said) for said in _values(rows, column).values()]
    return f"{column} is {_listed(values)}"


def _listed(values: Sequence[str]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return " or ".join(map(_cut, values[:_SHOWN])) + more


def _cut(said: str) -> str:
    """A value, unless it may be somebody's text."""
    return said if len(said) <= 40 and len(said.split()) <= 6 and said.isprintable() else "a longer text"


def _remedy(rows: Sequence[TableRow], columns: Sequence[str]) -> str:
    """The fewest choices, taken one after the other, that leave the system of the first row."""
    options: list[str] = []
    left, open_columns = list(rows), list(columns)
    while open_columns := [name for name in open_columns if len(_values(left, name)) > 1]:
        first = {name: next(row.cells[name] for row in left if not is_missing(row.cells.get(name))) for name in columns}
        fits = {name: [r for r in left if _value(r.cells.get(name)) == _value(first[name])] for name in open_columns}
        # Of those that leave the fewest other differences the first one.
        best = min(open_columns, key=lambda name: sum(len(_values(fits[name], other)) > 1 for other in open_columns))
        value = str(first[best]).strip()
        options.append(f"--where {shlex.quote(f'{best}={value}' if _cut(value) == value else f'{best}=VALUE')}")
        left = fits[best]
    return " ".join(options)


def _is_number(said: str) -> bool:
    try:
        float(said)
    except ValueError:
        return False
    return True
