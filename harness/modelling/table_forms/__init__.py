"""Forms of tables of measurements: one file each, one line each in ``MODULES``; see ``form``.

Another package adds its own through an entry point of the group ``joulebench.table_forms`` whose object is a
``TableForm``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from harness.core.errors import UserError
from harness.core.registries import registered_forms
from harness.modelling.table_forms.form import TableForm, plain_column
from harness.modelling.table_forms.names import meaning

ENTRY_POINTS = "joulebench.table_forms"
MODULES = (
    *(
        "joulebench_trials",
        "joulebench_profile",
        "llama_bench",
        "llama_bench_table",
        "llama_batched_bench",
        "optimum_benchmark",
    ),
    *("optimum_report", "ml_energy", "ml_energy_board", "codecarbon", "wilkins", "wilkins_raw", "columns"),
)
"""Modules with a ``FORM``, in the order in which they are tried: ``columns`` takes every table."""


@cache
def table_forms() -> dict[str, TableForm]:
    """All forms by name: those of other packages first, then ours in their order.

    Raises UserError where a package's form can't be loaded.
    """
    return registered_forms(TableForm, "form of tables", ENTRY_POINTS, __name__, MODULES)


def table_form_called(name: str) -> TableForm:
    """The form of that name. Raises UserError."""
    if name not in table_forms():
        raise UserError(f"unknown form of tables {name!r}: choose from {', '.join(sorted(table_forms()))}")
    return table_forms()[name]


def form_of(columns: Sequence[str]) -> TableForm:
    """The first form whose marks are all among a table's columns."""
    held = {plain_column(name) for name in columns}
    return next(form for form in table_forms().values() if form.headerless is None and _marked(form, held))


def is_recognised(columns: Sequence[str]) -> bool:
    """Whether these are the columns of some form's table, or those that every table needs."""
    said = {found.column for name in columns if (found := meaning(name)) is not None}
    return bool(form_of(columns).marks) or {"input_tokens", "output_tokens"} <= said


def headerless_form(cells: Sequence[str]) -> TableForm | None:
    """The form of a table that comes without a header, by the cells of its first line; None where it has one."""
    forms = (form for form in table_forms().values() if form.headerless is not None and form.headerless(cells))
    return next(forms, None)


def _marked(form: TableForm, held: set[str]) -> bool:
    """Whether all marks are there. What could be taken for a table of trials is refused by no form."""
    if form.refused and {"input_tokens", "output_tokens", "runtime_s"} <= held:
        return False
    return all(any(plain_column(mark) in held for mark in marks.split("|")) for marks in form.marks)
