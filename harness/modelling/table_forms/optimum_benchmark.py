"""optimum-benchmark: ``benchmark.json``, ``benchmark.csv`` and the tables of the LLM-Perf leaderboard.

Field names: huggingface/optimum-benchmark, ``trackers/latency.py``, ``trackers/energy.py`` (CodeCarbon, kWh) and
``scenarios/inference``. Figures are of a whole batch; prefill is the pass that makes the first token, decode is
generate less prefill.
"""

from __future__ import annotations

from typing import Any

from harness.core.errors import UserError
from harness.modelling.table_forms.form import Converted, Sheet, TableForm, TableRow, rows_words
from harness.modelling.table_forms.sheets import is_missing

_SIZES = {
    "m": ("config.scenario.input_shapes.sequence_length", "config.benchmark.input_shapes.sequence_length"),
    "c": ("config.scenario.input_shapes.batch_size", "config.benchmark.input_shapes.batch_size"),
    "n": (
        "config.scenario.generate_kwargs.max_new_tokens",
        "config.scenario.new_tokens",
        "config.benchmark.generate_kwargs.max_new_tokens",
        "config.benchmark.new_tokens",
    ),
}
_PARTS = {"cpu": "cpu_energy", "gpu": "gpu_energy", "ram": "ram_energy", "total": "energy"}
_KWH_J = 3.6e6


def _requests(sheet: Sheet) -> Converted:
    rows, left_out = [], 0
    for row in sheet.rows:
        prefill, decode = (_latency_s(sheet, row, phase) for phase in ("prefill", "decode"))
        if prefill is None or decode is None:
            left_out += 1
            continue
        m, n, c = (_size(sheet, row, what) for what in ("m", "n", "c"))
        cells: dict[str, Any] = {"input_tokens": m, "output_tokens": n, "concurrency": c}
        cells |= {"runtime_s": prefill + decode, "prefill_s": prefill, "decode_s": decode}
        rows.append(TableRow(row.label, cells | _energies(sheet, row, c)))
    if not rows:
        raise UserError(f"{sheet.path} holds no latency of prefill and decode: run the benchmark with latency: true")
    notes = [f"{rows_words(left_out)}: no latency of prefill and decode"] if left_out else []
    return Converted(rows, notes, left_out)


def _latency_s(sheet: Sheet, row: TableRow, phase: str) -> float | None:
    unit = sheet.value(row, f"report.{phase}.latency.unit")
    if not is_missing(unit) and str(unit).strip() != "s":
        raise UserError(f"{sheet.path}, {row.label}: latencies are in another unit than seconds")
    return _number(sheet, row, f"report.{phase}.latency.mean")


def _energies(sheet: Sheet, row: TableRow, batch: float) -> dict[str, float]:
    """J per request, of prefill and decode and of both, by component; those that both phases have."""
    found: dict[str, float] = {}
    for part, column in _PARTS.items():
        kwh = [_number(sheet, row, f"report.{phase}.energy.{part}") for phase in ("prefill", "decode")]
        if None not in kwh:
            prefill, decode = (float(each or 0.0) * _KWH_J / batch for each in kwh)
            prefix = "" if part == "total" else column.removesuffix("energy")
            found |= {f"{prefix}energy_j": prefill + decode}
            found |= {f"{prefix}prefill_energy_j": prefill, f"{prefix}decode_energy_j": decode}
    return found


def _size(sheet: Sheet, row: TableRow, what: str) -> float:
    for name in _SIZES[what]:
        if (value := _number(sheet, row, name)) is not None:
            return value
    raise UserError(f"{sheet.path}, {row.label} lacks {_SIZES[what][0]}")


def _number(sheet: Sheet, row: TableRow, name: str) -> float | None:
    cell = sheet.value(row, name)
    if is_missing(cell):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{sheet.path}, {row.label}: {name} is no number") from None


FORM = TableForm(
    name="optimum-benchmark",
    what="optimum-benchmark's benchmark.json or benchmark.csv, and the LLM-Perf leaderboard's tables",
    marks=(
        "report.prefill.latency.mean",
        "report.decode.latency.mean",
        "config.scenario.input_shapes.sequence_length|config.benchmark.input_shapes.sequence_length",
    ),
    convert=_requests,
    only=True,
    machine=("config.environment.gpu", "config.environment.cpu"),
    model=("config.backend.model",),
    system=(
        *("config.name", "config.backend.name", "config.backend.version", "config.backend.model"),
        *("config.backend.device", "config.backend.torch_dtype", "config.backend.quantization_scheme"),
        *("config.backend.attn_implementation", "config.backend.torch_compile", "config.backend.cache_implementation"),
        *("config.backend.intra_op_num_threads", "config.environment.gpu", "config.environment.cpu"),
        *("config.environment.gpu_count", "config.scenario.generate_kwargs.num_beams"),
        "config.scenario.generate_kwargs.use_cache",
    ),
    same_system=("config.scenario.input_shapes.batch_size", "config.benchmark.input_shapes.batch_size"),
    own=("report_", "config_"),
    notes=("the energies are CodeCarbon's: the GPU's is read, those of CPU and RAM may be models of theirs",),
)
