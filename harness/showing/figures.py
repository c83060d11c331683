"""What all figures share: an empty grid of axes, and writing PDF, SVG, PNG and the numbers as CSV beside each other."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import MissingDependency, UserError, pip_install
from harness.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CsvRow = Sequence[object]

SUFFIXES = (".pdf", ".svg", ".png", ".csv")

STYLE = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "joulebench"}
"""Fonts embedded as outlines that any reader shows alike; without a salt every SVG would differ."""


def new_figure(rows: int, columns: int, width_in: float, height_in: float) -> tuple[Figure, NDArray[np.object_]]:
    """An empty figure with a grid of axes, without a window system. Raises MissingDependency."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency(f"drawing needs matplotlib: install it with {pip_install('matplotlib>=3.9')}") from None
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = np.array([[None] * columns] * rows, dtype=object)
    for i, ax in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        axes[i // columns, i % columns] = ax
    return figure, axes


def write_figure(figure: Figure, path: Path, header: Sequence[str], rows: Iterable[CsvRow]) -> list[Path]:
    """Write a figure as PDF, SVG and PNG, and its numbers as CSV, beside each other. Returns the paths.

    ``path`` may have any of these suffixes or none. Raises UserError for another suffix, a directory, and
    when a file can't be written.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory: name a figure in it, such as {path / 'figure'}")
    if path.suffix not in ("", *SUFFIXES):
        raise UserError(f"{path}: figures are written as {', '.join(SUFFIXES)}; name one of them or no suffix")
    stem = path.with_suffix("")
    paths = [stem.with_suffix(suffix) for suffix in SUFFIXES]
    # Drawn in memory: a disk that fills up, or a kill, leaves no torn picture.
    contents: list[str | bytes] = [*_pictures(figure), _table(header, rows)]
    for path, content in zip(paths, contents, strict=True):
        write_atomically(path, content)
    return paths


def _pictures(figure: Figure) -> list[bytes]:
    """The figure as PDF, SVG and PNG."""
    import matplotlib

    # Without a date the same numbers give the same file.
    options: dict[str, dict[str, Any]] = {
        "pdf": {"metadata": {"CreationDate": None}},
        "svg": {"metadata": {"Date": None}},
        "png": {"dpi": 200},
    }
    contents = []
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        for kind, how in options.items():
            file = io.BytesIO()
            figure.savefig(file, format=kind, **how)
            contents.append(file.getvalue())
    return contents


def _table(header: Sequence[str], rows: Iterable[CsvRow]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
