"""What each request of a mixed load used: for the terminal, as JSON and as a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from harness.core.arrays import Floats
from harness.core.files import write_atomically
from harness.core.statistics import Estimate
from harness.core.wording import number, percent, plus_minus
from harness.deciding.attributing.answer import Attributed
from harness.deciding.attributing.metered_energy import MeteredEnergy
from harness.showing.terminal import print_all, print_json, table_of

_MOST_LABELS = 30
"""Lines of the terminal's table; JSON and CSV have all."""
_LEVELS = (0.5, 0.9, 0.99)

Labelled = Sequence[tuple[str, Attributed]]
"""Each with what it is of: a log, or a trial of a run."""


def print_attributed(found: Labelled, by: str | None, files: Sequence[Path], as_json: bool) -> None:
    """Print the sums beside the meter's, how requests are spread about their mean, and sums of a column's values."""
    if as_json:
        print_json({"logs": [_as_json(name, one, by) for name, one in found], "files": [str(path) for path in files]})
        return
    for name, one in found:
        print_all(
            [
                f"{name}: {len(one.log.rows):,} requests, by profile {one.profile}",
                _sums(one),
                _spread(one),
                *([_labels(one, by)] if by else []),
                *(f"note: {note}" for note in one.notes),
            ]
        )
    print_all([f"wrote {path}" for path in files])


def _sums(one: Attributed) -> Table:
    table = table_of("energy", "J")
    if one.metered is not None:
        said = f" ({one.metered.method})" if one.metered.method else ""
        table.add_row(f"by {one.metered.source}{said}", plus_minus(one.metered.energy_j, one.metered.ci95_j))
        if one.idle_s > 0:
            idle = "not known" if one.idle_j is None else number(one.idle_j)
            table.add_row(f"while nothing ran, {number(one.idle_s, 3)} s", idle)
        table.add_row("shared out", plus_minus(one.total.mean, one.total.half_width))
    if one.modelled is not None:
        off = "" if one.metered is None else f", {percent(one.modelled.mean / one.total.mean - 1, signed=True)}"
        table.add_row(f"by the model{off}", plus_minus(one.modelled.mean, one.modelled.half_width))
    gain = "unknown" if one.gain_ci95 is None else f"± {percent(one.gain_ci95)}"
    table.add_row("gain of the meter, of all joules alike", gain)
    return table


def _spread(one: Attributed) -> Table:
    table = table_of("J per request", "")
    count = np.ones(len(one.log.rows))
    table.add_row("mean", number(float(one.energy_j.mean())))
    for level in _LEVELS:
        table.add_row(f"{100 * level:g} %", number(float(np.quantile(one.energy_j, level))))
    table.add_row("largest", number(float(one.energy_j.max())))
    if one.ci95_j is not None:
        relative = one.ci95_j / np.maximum(one.energy_j, np.finfo(float).tiny)
        half_width = percent(float(np.nanmedian(relative))) if np.isfinite(relative).any() else "unknown"
        table.add_row("half-width of a request's 95 % interval, median", half_width)
    table.add_row("output tokens per J", number(float(one.log.times.output_tokens @ count / one.energy_j.sum())))
    return table


def _labels(one: Attributed, by: str) -> Table:
    labels, requests, used = one.by_label()
    table = table_of(by, "requests", "J", "share", "J/request")
    for place, label in enumerate(labels[:_MOST_LABELS]):
        joules = float(used.energy_j[place])
        half_width = None if used.ci95_j is None else float(used.ci95_j[place])
        share = percent(joules / one.total.mean)
        row = f"{requests[place]:,}", plus_minus(joules, half_width), share, number(joules / int(requests[place]))
        table.add_row(_printable(label) or "(nothing)", *row)
    if len(labels) > _MOST_LABELS:
        rest = slice(_MOST_LABELS, None)
        joules = float(used.energy_j[rest].sum())
        table.add_row(f"{len(labels) - _MOST_LABELS:,} others", f"{requests[rest].sum():,}", number(joules), "", "")
    return table


def _printable(label: str) -> str:
    """A label with what would steer a terminal written out."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in label)


def _estimate(value: Estimate | None) -> dict[str, float | None]:
    known = (None, None) if value is None else (value.mean, value.half_width)
    return dict(zip(("energy_j", "ci95_j"), known, strict=True))


def _meter(metered: MeteredEnergy) -> dict[str, Any]:
    names = ("energy_j", "ci95_j", "method", "duration_s", "source")
    return {name: getattr(metered, name) for name in names}


def _as_json(name: str, one: Attributed, by: str | None) -> dict[str, Any]:
    metered = one.metered
    found: dict[str, Any] = {
        "log": name,
        "profile": one.profile,
        "total_from": "model" if metered is None else "meter",
        "total": _estimate(one.total),
        "meter": None if metered is None else _meter(metered),
        "gain_ci95": one.gain_ci95,
        "idle": {"duration_s": one.idle_s, "energy_j": one.idle_j},
        "model": _estimate(one.modelled),
        "busy_s": one.busy_s,
        "most_at_once": one.most_at_once,
        "left_out": one.log.left_out,
        "notes": one.notes,
    }
    if by:
        labels, requests, used = one.by_label()
        half_widths = _half_widths(used.ci95_j, len(labels))
        columns = zip(labels, requests.tolist(), used.energy_j.tolist(), half_widths, strict=True)
        names = (by, "requests", "energy_j", "energy_ci95_j")
        found["by"] = [dict(zip(names, row, strict=True)) for row in columns]
    found["requests"] = [dict(zip(_HEADINGS, row, strict=True)) for row in _rows(one)]
    return found


_HEADINGS = ("row", "request_id", "input_tokens", "output_tokens", "energy_j", "energy_ci95_j", "total_from")


def _rows(one: Attributed) -> zip[tuple[Any, ...]]:
    count = len(one.log.rows)
    times = one.log.times
    return zip(
        one.log.rows.tolist(),
        [None] * count if one.log.ids is None else one.log.ids,
        times.input_tokens.astype(int).tolist(),
        times.output_tokens.astype(int).tolist(),
        one.energy_j.tolist(),
        _half_widths(one.ci95_j, count),
        ["model" if one.metered is None else "meter"] * count,
        strict=True,
    )


def _half_widths(values: Floats | None, count: int) -> list[float | None]:
    """None for what isn't known."""
    if values is None:
        return [None] * count
    return [value if math.isfinite(value) else None for value in values.tolist()]


def write_attributed(path: Path, found: Labelled, by: str | None) -> None:
    """A CSV of a row a request; ``by`` is the name of the column of labels. Raises UserError."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    several = len(found) > 1
    table.writerow([*["log"] * several, *_HEADINGS, *([by] if by else [])])
    for name, one in found:
        rows = _rows(one)
        if by and one.log.labels is not None:
            table.writerows((*[name] * several, *row, label) for row, label in zip(rows, one.log.labels, strict=True))
        else:
            table.writerows((*[name] * several, *row) for row in rows)
    write_atomically(path, text.getvalue())
