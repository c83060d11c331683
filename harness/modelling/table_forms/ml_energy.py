"""The ML.ENERGY benchmark's ``results.json`` of language models (version 3).

Field names: ml-energy/benchmark, ``mlenergy/llm/benchmark.py``: results with input_len, output_len, latency in s,
success and energy in J, beside max_num_seqs of the server. A request's energy there is the steady state's mean energy
of an output token times its output tokens: an estimate, which doesn't say what input tokens cost.
"""

from __future__ import annotations

from typing import Any

from harness.core.errors import UserError
from harness.modelling.table_forms.form import Converted, Sheet, TableForm, TableRow, rows_words
from harness.modelling.table_forms.sheets import is_missing

_SHARED_OUT = (
    "ML.ENERGY shares the energy of the whole run out by output tokens: energies of requests are estimates, and what "
    "input tokens cost is in the output tokens"
)


def _requests(sheet: Sheet) -> Converted:
    rows, failed = [], 0
    per_token = sheet.called("steady_state_energy_per_token")
    for row in sheet.rows:
        # Zero where a request failed or came back without text.
        if is_missing(sheet.value(row, "latency")) or not _positive(sheet.value(row, "output_len")):
            failed += 1
            continue
        cells: dict[str, Any] = {
            "input_tokens": sheet.value(row, "input_len"),
            "output_tokens": sheet.value(row, "output_len"),
            "runtime_s": sheet.value(row, "latency"),
            "concurrency": sheet.value(row, "max_num_seqs"),
        }
        energy = sheet.value(row, "energy")
        if is_missing(energy) and per_token is not None and not is_missing(row.cells.get(per_token)):
            energy = float(row.cells[per_token]) * float(cells["output_tokens"])
        rows.append(TableRow(row.label, cells | ({} if is_missing(energy) else {"gpu_energy_j": energy})))
    if not rows:
        raise UserError(f"{sheet.path} holds no request that succeeded")
    notes = [_SHARED_OUT, "as many requests are taken to be in flight as the server's max_num_seqs"]
    return Converted(rows, [*notes, *([f"{rows_words(failed)}: no output"] if failed else [])], failed)


def _positive(cell: Any) -> bool:
    return isinstance(cell, int | float) and cell > 0


FORM = TableForm(
    name="ml-energy",
    what="the ML.ENERGY benchmark's results.json of a language model",
    marks=("input_len", "output_len", "latency", "max_num_seqs"),
    convert=_requests,
    only=True,
    machine=("gpu_model",),
    model=("model_id",),
    system=("model_id", "gpu_model", "num_gpus", "max_num_batched_tokens"),
    same_system=("max_num_seqs",),
    meter="estimate",
    own=("energy", "steady_state_energy", "steady_state_measurement", "entire_benchmark"),
)
