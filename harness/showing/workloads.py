"""What a workload looks like: quantiles and histograms for the terminal, and the same as JSON."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.deciding.workload import QUANTILES, Workload, marginal, quantiles
from harness.showing.decision_facts import INDEPENDENT, workload_summary
from harness.showing.terminal import print_all, print_json, table_of

BARS = 20
BAR_WIDTH = 40
_BESIDE_BAR = 29
"""Characters of a histogram's line beside its bar."""


def _as_json(workload: Workload) -> dict[str, Any]:
    """Name, size, how a log was read, means in tokens, and per axis mean and quantiles."""
    axes = {
        name: {
            "mean": float(np.average(tokens, weights=workload.count)),
            "quantiles": dict(zip(map(str, QUANTILES), quantiles(tokens, workload.count), strict=True)),
        }
        for name, tokens in _axes(workload).items()
    }
    cached = workload.cached_tokens
    return {
        **workload_summary(workload),
        "form": workload.form or None,
        "columns": dict(workload.columns),
        "input_tokens": axes["input"]["mean"],
        "output_tokens": axes["output"]["mean"],
        "cached_tokens": None if cached is None else float(np.average(cached, weights=workload.count)),
        "left_out": dict(workload.left_out),
        "means_only": workload.means_only,
        "notes": list(workload.notes),
        "distinct_pairs": int(workload.count.size),
        "tokens": axes,
    }


def print_workload(workload: Workload, files: Sequence[Path], as_json: bool = False) -> None:
    """Print the workload: one line, the quantiles, two histograms; ``files`` are those written beside it."""
    if as_json:
        print_json(_as_json(workload))
        return
    axes = _axes(workload)
    # A column an axis: narrow enough for every terminal.
    table = table_of("tokens", *axes)
    table.add_row("mean", *(f"{np.average(tokens, weights=workload.count):,.1f}" for tokens in axes.values()))
    levels = ("min", *(f"{100 * level:g} %" for level in QUANTILES[1:-1]), "max")
    found = [quantiles(tokens, workload.count) for tokens in axes.values()]
    for level, *values in zip(levels, *found, strict=True):
        table.add_row(level, *(f"{value:,}" for value in values))
    print_all([f"{workload.name}: {workload.requests:,.0f} requests", table])
    width = max(8, min(BAR_WIDTH, shutil.get_terminal_size().columns - _BESIDE_BAR))
    for name in ("input", "output"):
        print_all([f"{name} tokens", *histogram_lines(axes[name], workload.count, width), ""])
    lines = [f"source: {workload.source}"]
    if not workload.pairs_known:
        lines.append(f"note: {INDEPENDENT}")
    print_all([*lines, *_reading(workload), *(f"wrote {path}" for path in files)])


def _reading(workload: Workload) -> list[str]:
    """How a log was read."""
    lines = []
    if workload.form:
        used = ", ".join(f"{what} from {columns}" for what, columns in workload.columns.items())
        lines.append(f"form: {workload.form}; {used}")
    if workload.cached_tokens is not None:
        mean = float(np.average(workload.cached_tokens, weights=workload.count))
        lines.append(f"cached: {mean:,.1f} of the input tokens of a request, on average, came from a prefix cache")
    if workload.left_out:
        said = ", ".join(f"{rows:,} {reason}" for reason, rows in workload.left_out.items())
        lines.append(f"left out: {said}")
    elif workload.dropped_rows:
        lines.append(f"note: {workload.dropped_rows:,} broken rows were left out")
    return [*lines, *(f"note: {note}" for note in workload.notes)]


def histogram_lines(tokens: np.ndarray, count: np.ndarray, width: int = BAR_WIDTH) -> list[str]:
    """Bars of equal width in tokens up to the 99 % quantile; the last line holds the longer requests.

    The longest bar has ``width`` characters.
    """
    lengths, requests = marginal(tokens, count)
    longest = quantiles(tokens, count, [0.99])[0]
    step = max(1, -(-(longest - int(lengths[0]) + 1) // BARS))
    bins = np.minimum((lengths - lengths[0]) // step, BARS)
    totals = np.bincount(bins, requests, minlength=1)
    lines = []
    for i, total in enumerate(totals):
        low = int(lengths[0]) + i * step
        high = int(lengths[-1]) if i == BARS else min(low + step - 1, int(lengths[-1]))
        bar = "█" * round(width * total / totals.max())
        label = f"{low:,}" if high <= low else f"{low:,}–{high:,}"
        lines.append(f"{label:>15} {bar:<{width}} {total:>12,.0f}")
    return lines


def _axes(workload: Workload) -> dict[str, np.ndarray]:
    return {
        "input": workload.input_tokens,
        "output": workload.output_tokens,
        "total": workload.input_tokens + workload.output_tokens,
    }
