"""llama-bench of llama.cpp, as CSV, JSON or JSON lines.

Field names: ggml-org/llama.cpp, ``tools/llama-bench``. ``n_prompt`` tokens of prefill, then ``n_gen`` decode steps,
after ``n_depth`` tokens that are in the KV cache already. A request's first output token comes out of its prefill, so
that n_gen steps after a prefill make n_gen + 1 tokens; without a prefill the first step is that of a prompt of one
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.errors import UserError
from harness.modelling.table_forms.form import Converted, Sheet, TableForm, TableRow, rows_words

_STEPS = "n_gen decode steps after a prefill make n_gen + 1 output tokens, the first of which comes out of the prefill"


def bench_requests(sheet: Sheet) -> Converted:
    """Requests of n_gen + 1 output tokens from rows of prefills, of generation, and of both. Raises UserError."""
    rows: list[TableRow] = []
    prefills: dict[float, list[float]] = {}
    deep: list[tuple[TableRow, float, float, list[float]]] = []
    left_out = 0
    for row in sheet.rows:
        prompt, steps, depth = (_number(sheet, row, name) for name in ("n_prompt", "n_gen", "n_depth"))
        times = _times(sheet, row)
        if depth == 0 and prompt + steps > 0:
            # A single token out of an empty cache is the prefill of one.
            size = (prompt, steps + 1) if prompt else (1.0, steps)
            rows += [_request(row, size, {"runtime_ns": time}) for time in times]
            if prompt and not steps:
                prefills[prompt] = times
        elif steps and not prompt:
            deep.append((row, depth, steps, times))
        else:
            left_out += 1
    joined = 0
    for row, depth, steps, times in deep:
        # The cache at some depth is a prompt of that length, if its prefill was measured too.
        if depth not in prefills:
            left_out += 1
            continue
        joined += 1
        prefill = sum(prefills[depth]) / len(prefills[depth])
        rows += [
            _request(row, (depth, steps + 1), {"runtime_ns": prefill + time, "prefill_ns": prefill, "decode_ns": time})
            for time in times
        ]
    notes = [_STEPS]
    if joined:
        notes.append(f"{rows_words(joined, verb='joined')} to the prefill of as many tokens: generation at a depth")
    if left_out:
        notes.append(f"{rows_words(left_out)}: at a depth (n_depth) whose own prefill was not measured")
    if not rows:
        raise UserError(f"{sheet.path} holds no row at n_depth 0: run llama-bench with -d 0 too")
    return Converted(rows, notes, left_out)


def _request(row: TableRow, size: tuple[float, float], times: Mapping[str, float]) -> TableRow:
    return TableRow(row.label, {"input_tokens": size[0], "output_tokens": size[1], **times})


def _number(sheet: Sheet, row: TableRow, name: str) -> float:
    cell = sheet.value(row, name)
    try:
        return 0.0 if cell is None else float(cell)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{sheet.path}, {row.label}: {name} is no number") from None


def _times(sheet: Sheet, row: TableRow) -> list[float]:
    """Of each repetition where they are there, else their mean; in ns."""
    samples: Any = sheet.value(row, "samples_ns")
    if isinstance(samples, list) and samples and all(isinstance(each, int | float) and each < 1e18 for each in samples):
        return [float(each) for each in samples]
    return [_number(sheet, row, "avg_ns")]


FORM = TableForm(
    name="llama-bench",
    what="llama-bench -o csv, json or jsonl (llama.cpp)",
    marks=("n_prompt", "n_gen", "avg_ns"),
    convert=bench_requests,
    only=True,
    machine=("gpu_info", "cpu_info"),
    model=("model_type", "model_filename"),
    system=(
        *("build_commit", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "n_batch", "n_ubatch"),
        *("n_threads", "type_k", "type_v", "n_gpu_layers", "n_cpu_moe", "split_mode", "main_gpu", "no_kv_offload"),
        *("flash_attn", "devices", "tensor_split", "tensor_buft_overrides", "use_mmap", "no_op_offload", "poll"),
        *("cpu_mask", "cpu_strict", "embeddings", "no_host", "use_direct_io", "load_mode"),
    ),
)
