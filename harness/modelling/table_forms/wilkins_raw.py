"""The files that the scripts of Wilkins, Keshav and Mortier (2024) wrote on NVIDIA GPUs: no header, GPU energy in mJ.

Layout: grantwilkins/energy-inference, ``cuda/*.csv``: time, phase, runtime in s, GPU energy in mJ, output limit, input
tokens, iteration, model, GPUs, prompt, total tokens, batch size, system, CPU core, GPU memory and memory used in MB.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.modelling.table_forms.form import TableForm
from harness.modelling.table_forms.wilkins import sweep_trials

_HEADER = (
    *("Time", "Phase", "Runtime (s)", "GPU Energy (mJ)", "Output Token Limit", "Number of Input Tokens", "Iteration"),
    *("Model", "Number of GPUs", "Prompt", "Total Number of Tokens", "Batch Size", "System", "CPU Core"),
    *("GPU Total Memory (MB)", "GPU Used Memory (MB)"),
)


def _is_raw(cells: Sequence[str]) -> bool:
    if not 13 <= len(cells) <= len(_HEADER):
        return False
    phases = ("tokenizer", "model load", "start-inference")
    return cells[1].strip().startswith(phases) and all(map(_is_number, (cells[0], *cells[2:7], cells[10])))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


FORM = TableForm(
    name="wilkins-raw",
    what="the files that the scripts of Wilkins, Keshav and Mortier (2024) wrote on NVIDIA GPUs, without a header",
    convert=sweep_trials,
    header=_HEADER,
    headerless=_is_raw,
    machine=("System",),
    model=("Model",),
    system=("Number of GPUs", "Batch Size"),
    same_system=("CPU Core",),
    no_batch=True,
    kv_cache=False,
    meter="nvml",
    own=("gpu_energy_",),
)
