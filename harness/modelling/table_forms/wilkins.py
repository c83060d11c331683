"""The sweeps of Wilkins, Keshav and Mortier (2024): their tables with a header.

Columns: repository grantwilkins/energy-inference, the data behind Figures 1 and 2 of arXiv 2407.00010.
"""

from __future__ import annotations

from harness.core.errors import UserError
from harness.modelling.table_forms.form import Converted, Sheet, TableForm, TableRow, rows_words
from harness.modelling.table_forms.sheets import is_missing

WARM_UP = "the first trial of each point is a warm-up and left out"
PRODUCED = "output tokens are those produced: the total less the input"


def sweep_trials(sheet: Sheet) -> Converted:
    """Trials of inference without the first of each point; output tokens from the total."""
    limit = sheet.called("Output Token Limit") or sheet.called("Number of Output Tokens")
    energies = {
        "cpu_energy_j": sheet.called("CPU Energy (J)"),
        "gpu_energy_j": sheet.called("GPU Energy (J)"),
        "gpu_energy_mj": sheet.called("GPU Energy (mJ)"),
    }
    if limit is None:
        raise UserError(f"{sheet.path} lacks the column Output Token Limit or Number of Output Tokens")
    rows, others, warm = [], 0, 0
    for row in sheet.rows:
        if "inference" not in str(sheet.value(row, "Phase")):
            others += 1
        elif str(sheet.value(row, "Iteration")).strip() in ("0", "0.0"):
            warm += 1
        else:
            cells = {
                "input_tokens": sheet.value(row, "Number of Input Tokens"),
                "output_tokens": _produced(sheet, row),
                "output_tokens_requested": row.cells[limit],
                "runtime_s": sheet.value(row, "Runtime (s)"),
            }
            rows.append(
                TableRow(row.label, cells | {name: row.cells[column] for name, column in energies.items() if column})
            )
    notes = [f"{rows_words(others)}: no inference"] if others else []
    return Converted(rows, [*notes, PRODUCED, *([WARM_UP] if warm else [])], others + warm)


def _produced(sheet: Sheet, row: TableRow) -> object:
    total, given = sheet.value(row, "Total Number of Tokens"), sheet.value(row, "Number of Input Tokens")
    if is_missing(total) or is_missing(given):
        return None
    try:
        return float(total) - float(given)
    except (TypeError, ValueError, OverflowError):
        return None


FORM = TableForm(
    name="wilkins",
    what="the sweeps of Wilkins, Keshav and Mortier (2024)",
    marks=("Phase", "Runtime (s)", "Number of Input Tokens", "Iteration", "Total Number of Tokens"),
    convert=sweep_trials,
    machine=("System",),
    model=("Model",),
    system=("Number of GPUs", "Batch Size"),
    no_batch=True,
    kv_cache=False,
    own=("cpu_energy_j", "gpu_energy_"),
)
