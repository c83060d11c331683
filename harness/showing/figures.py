"""What all figures share: axes, title, notes, and writing PDF, SVG, PNG and the numbers as CSV under one name."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import MissingDependency, UserError, pip_install
from harness.core.files import write_atomically
from harness.core.wording import number
from harness.showing.labels import push_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

CsvRow = Sequence[object]
Share = Literal["all", "row", "col", "none"]

SUFFIXES = (".pdf", ".svg", ".png", ".csv")

LINE_HEIGHT = 1.25
"""Of a label, in sizes of its text."""
TITLE_PT, TEXT_PT, SMALL_PT = 9.5, 8.0, 7.0
"""Sizes of text, to be read at the width of a page of a paper."""

BOLD_EM, REGULAR_EM = 0.63, 0.55
"""Mean widths of a character, in sizes of text, that wrapped lines don't exceed."""

PNG_DPI = 220
STYLE = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "joulebench"}
"""Fonts embedded as outlines that any reader shows alike; without a salt every SVG would differ."""


def new_figure(
    rows: int, columns: int, width_in: float, height_in: float, *, share_x: Share = "none", share_y: Share = "none"
) -> tuple[Figure, NDArray[np.object_]]:
    """An empty figure with a grid of axes, without a window system; ``share_x`` and ``share_y`` are ``all``, ``row``,
    ``col`` or ``none``. Raises MissingDependency."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency(f"drawing needs matplotlib: install it with {pip_install('matplotlib>=3.9')}") from None
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = np.array([[None] * columns] * rows, dtype=object)
    for i, ax in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y))):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(which="both", labelsize=SMALL_PT, length=3, width=0.6)
        for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
            text.set_size(TEXT_PT)
        axes[i // columns, i % columns] = ax
    return figure, axes


def head(figure: Figure, finding: str, mark: str = "") -> None:
    """The finding as the title, wrapped to the figure's width, under the mark of what isn't comparable."""
    lines = [*([_wrapped(figure, mark, TITLE_PT, BOLD_EM)] if mark else [])]
    lines.append(_wrapped(figure, finding, TITLE_PT, BOLD_EM))
    figure.suptitle("\n".join(filter(None, lines)), fontsize=TITLE_PT, fontweight="bold", x=0.01, ha="left")


def foot(figure: Figure, notes: Iterable[str]) -> None:
    """Notes below the axes, a sentence each, wrapped to the figure's width."""
    text = " ".join(note.rstrip(".") + "." for note in notes if note)
    if text:
        wrapped = _wrapped(figure, text, SMALL_PT, REGULAR_EM)
        figure.supxlabel(wrapped, fontsize=SMALL_PT, x=0.01, ha="left", color="#444444")


def _wrapped(figure: Figure, text: str, size_pt: float, em: float) -> str:
    """In as few lines as fit, which are then made about equally long."""
    # A number stays with its unit.
    text = re.sub(r"(?<=\d) (?=(s|J|ms|kWh|h)\b|%)", "\u00a0", text)
    width = max(int(0.98 * 72 * figure.get_figwidth() / (size_pt * em)), 20)
    lines = textwrap.wrap(text, width)
    while len(lines) > 1 and len(narrower := textwrap.wrap(text, width - 1)) == len(lines):
        width, lines = width - 1, narrower
    return "\n".join(lines)


def token_axis(axis: Axis, label: str, most_ticks: int = 9) -> None:
    """A logarithmic axis of token counts, with a tick at every, or every second, third, … power of two."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.axes.set_xscale("log", base=2)
    low, high = axis.get_view_interval()
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    ticks = [2.0**power for power in range(first, last + 1, max(1, math.ceil((last - first + 1) / most_ticks)))]
    # Within one octave no power of two may lie.
    axis.set_major_locator(FixedLocator(ticks if len(ticks) > 1 else [round(low * high) ** 0.5]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_label_text(label)


def cost_axis(axis: Axis, label: str) -> None:
    """A logarithmic axis of a cost: ticks at 1, 2 and 5 where few decades are shown, at 1 where many are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 0.5:
        # Too few of 1, 2 and 5 would lie in it.
        axis.set_major_locator(MaxNLocator(5))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if decades < 2.2 else (1,)))
        axis.set_minor_locator(LogLocator(10, subs=range(1, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_label_text(label)


@dataclass(frozen=True)
class EndLabel:
    """A name at the right of an axes, joined to the end of its line."""

    text: str
    end: tuple[float, float] | None
    """In data; None for a note at the bottom that no line has."""
    colour: str
    bold: bool = False


def label_ends(ax: Axes, labels: Sequence[EndLabel]) -> None:
    """Write names at the right of the axes, none on another. The figure's layout and the axes' limits must stand."""
    height_pt = ax.get_window_extent().height * 72 / ax.figure.dpi
    to_axes = ax.transData + ax.transAxes.inverted()
    wanted = [float(to_axes.transform(label.end)[1]) if label.end else 0.0 for label in labels]
    heights = [(label.text.count("\n") + 1) * LINE_HEIGHT * SMALL_PT / height_pt for label in labels]
    for label, y in zip(labels, push_apart(wanted, heights, -0.02, 1.02), strict=True):
        leader = {"arrowstyle": "-", "color": label.colour, "alpha": 0.5, "linewidth": 0.5, "shrinkB": 2}
        ax.annotate(
            label.text,
            label.end or (1, y),
            (1.05, y),
            xycoords="data" if label.end else "axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL_PT,
            color=darker(label.colour),
            fontweight="bold" if label.bold else "normal",
            annotation_clip=False,
            arrowprops=leader if label.end else None,
        )


def darker(colour: str) -> str:
    """A line's colour for text, which is thinner and needs more contrast on white."""
    return "#" + "".join(f"{round(0.75 * int(colour[at : at + 2], 16)):02x}" for at in (1, 3, 5))


def lay_out(figure: Figure) -> None:
    """Give the axes their places, so that sizes in them can be asked for."""
    from matplotlib.text import Text

    # Names may hold dollar signs, and no text of ours is mathematics.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def plain(value: float) -> str:
    """A number at a tick: no exponent, thousands set apart, no trailing zeros."""
    text = number(value, 3 if value < 1000 else 6)
    return text.rstrip("0").rstrip(".") if "." in text else text


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Worked out once, not for each kind; ``Figure.savefig`` would also draw everything once more for each.
    lay_out(figure)
    figure.set_layout_engine("none")
    pdf, svg, png = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        # Without a date the same numbers give the same file.
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
        figure.set_dpi(PNG_DPI)
        FigureCanvasAgg(figure).print_png(png)
    return [pdf.getvalue(), svg.getvalue(), png.getvalue()]


def _table(header: Sequence[str], rows: Iterable[CsvRow]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
