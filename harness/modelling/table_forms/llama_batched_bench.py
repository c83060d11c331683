"""llama-batched-bench of llama.cpp: its JSON lines, or its table as CSV.

Field names: ggml-org/llama.cpp, ``tools/batched-bench``. ``pl`` sequences of ``pp`` tokens each are computed together,
then ``tg`` decode steps of all of them; times are those of the whole batch.
"""

from __future__ import annotations

from harness.core.errors import UserError
from harness.modelling.table_forms.form import Converted, Sheet, TableForm, TableRow, rows_words

_STEPS = "tg decode steps after a prefill make tg + 1 output tokens, the first of which comes out of the prefill"
_SHARED = "is_pp_shared: the prompt was computed once for all sequences, so that no request has its own prefill"


def _requests(sheet: Sheet) -> Converted:
    rows, shared = [], 0
    for row in sheet.rows:
        together = _number(sheet, row, "pl", "b", "n_pl")
        if _number(sheet, row, "is_pp_shared", missing=0.0) and together > 1:
            shared += 1
            continue
        prefill, decode = _number(sheet, row, "t_pp", "t_pp_s"), _number(sheet, row, "t_tg", "t_tg_s")
        cells = {
            "input_tokens": _number(sheet, row, "pp"),
            "output_tokens": _number(sheet, row, "tg") + 1,
            "concurrency": together,
            "runtime_s": prefill + decode,
            "prefill_s": prefill,
            "decode_s": decode,
        }
        rows.append(TableRow(row.label, cells))
    if not rows:
        raise UserError(f"{sheet.path} holds no usable row ({_SHARED}): run it without -pps")
    return Converted(rows, [_STEPS, *([f"{rows_words(shared)} ({_SHARED})"] if shared else [])], shared)


def _number(sheet: Sheet, row: TableRow, *names: str, missing: float | None = None) -> float:
    cell = next((value for name in names if (value := sheet.value(row, name)) is not None), missing)
    try:
        return float(cell)  # type: ignore[arg-type]  # what is none is said below
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{sheet.path}, {row.label}: {names[0]} is no number") from None


FORM = TableForm(
    name="llama-batched-bench",
    what="llama-batched-bench --output-format jsonl, or its table as CSV (llama.cpp)",
    marks=("pp", "tg", "pl|b|n_pl", "t_pp|t_pp_s", "t_tg|t_tg_s"),
    convert=_requests,
    only=True,
    system=("n_batch", "n_ubatch", "flash_attn", "n_gpu_layers", "n_threads", "n_threads_batch", "is_pp_shared"),
)
