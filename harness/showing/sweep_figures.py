"""Figures 1 and 2 of the paper for any systems, and energy per token by phase: drawn, and as numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError
from harness.core.files import make_directory
from harness.core.statistics import Estimate
from harness.showing.drawn_systems import compare_drawn, distinct, load_drawn, published_sources
from harness.showing.figures import CsvRow, new_figure, write_figure
from harness.showing.panels import (
    AXES,
    PANELS,
    Axis,
    DrawnSystem,
    Options,
    failures_on,
    mean_95,
    per,
    sweep,
    tokens_along,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers tell apart; markers tell systems apart in grey."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BARS = {"elinewidth": 0.8, "capsize": 1.5}
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (2, 2)))
HEADER = (
    *("system", "model", "input_tokens", "output_tokens", "trials"),
    *(part for column in PANELS for part in (column, f"{column}_ci95")),
    "energy_method",
)
PHASE_HEADER = ("system", "model", "phase", "input_tokens", "output_tokens", "energy_per_token_j", "ci95_j", "method")


def write_figures(
    names: Sequence[str | Path],
    directory: Path,
    options: Options = Options(),
    *,
    published: bool = False,
    allow_mixed: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write figure1, figure2 and, where phases were metered, phases. Returns the paths and notes for the reader.

    Raises UserError for what can't be read, compared or written, and MissingDependency without matplotlib.
    """
    sources = [*map(load_drawn, map(str, names)), *(published_sources() if published else [])]
    if not sources:
        raise UserError("nothing to draw: name runs or profiles, or add --published")
    sources = distinct(sources)
    comparison = compare_drawn(sources, options.boundary, allow_mixed)
    options = replace(options, boundary=comparison.boundary, mixed="; ".join(comparison.warnings))
    make_directory(directory)
    notes = [*comparison.warnings, *(source.note for source in sources if source.note)]
    paths: list[Path] = []
    for axis, name in AXES.items():
        if rows := sweep_rows(sources, axis, options):
            paths += write_figure(sweep_figure(sources, axis, options), directory / name, HEADER, rows)
        else:
            at = options.fixed(axis)
            notes.append(f"no {name}: nothing was measured at {at} tokens (--fixed-input, --fixed-output)")
    # Phases are known as the sum of all components alone.
    metered = [source for source in sources if phase_rows([source])]
    shown = [source for source in metered if options.boundary is None or source.components <= set(options.boundary)]
    if left_out := ", ".join(source.name for source in metered if source not in shown):
        notes.append(f"the figure of the phases leaves out {left_out}: energy per phase is that of all its components")
    if shown:
        phases = phase_rows(shown)
        # One system alone is not mixed with anything.
        figure = phase_figure(phases, options.mixed if len(shown) > 1 else "")
        paths += write_figure(figure, directory / "phases", PHASE_HEADER, phases)
    elif not left_out:
        notes.append("no figure of the phases: none of these has energy per phase")
    return paths, notes


def sweep_rows(sources: Sequence[DrawnSystem], axis: Axis, options: Options) -> list[CsvRow]:
    """Every point drawn, in the columns of ``HEADER``; what was not measured is None."""
    rows: list[CsvRow] = []
    for source in sources:
        for point in sweep(source, axis, options):
            values = [part for column in PANELS for part in _mean_and_width(getattr(point, column))]
            size = (point.input_tokens, point.output_tokens, point.trials)
            rows.append((*source.pair, *size, *values, source.method if point.energy_j else None))
    return rows


def sweep_figure(sources: Sequence[DrawnSystem], axis: Axis, options: Options) -> Figure:
    """Runtime, throughput, energy per token and total energy against input (Figure 1) or output tokens (Figure 2)."""
    figure, axes = new_figure(2, 2, 11, 7.2)
    looks = _looks([source.pair for source in sources])
    drawn = [source for source in sources if sweep(source, axis, options)]
    x = _whole_numbers([tokens_along(axis, point) for source in drawn for point in sweep(source, axis, options)])
    for ax, (column, label) in zip(np.ravel(axes), PANELS.items(), strict=True):
        for source in drawn:
            _draw_points(ax, source, axis, column, options, looks[source.pair])
        if not ax.has_data():
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", fontsize=9)
        elif options.models:
            for source in drawn:
                _draw_model(ax, source, axis, column, x, options, looks[source.pair]["color"])
        _log_axes(ax, f"{axis} tokens", label)
        if "energy" not in column:
            for source in sources:
                _draw_failures(ax, source, axis, options, looks[source.pair]["color"])
    title = f"{axis} sweep at {options.fixed(axis).removeprefix('about ')} tokens; bars: 95 % intervals"
    figure.suptitle("\n".join(filter(None, (title, _wrapped(options.mixed)))), fontsize=9, x=0.01, ha="left")
    _legend(figure, drawn, looks, options.models)
    return figure


def phase_rows(sources: Sequence[DrawnSystem]) -> list[CsvRow]:
    """Energy per token of each phase at every point where it was told apart, in the columns of ``PHASE_HEADER``."""
    rows: list[CsvRow] = []
    for source in sources:
        for m in source.measurements:
            counts = (
                ("prefill", m.prefill_energy_j, source.sequences * m.input_tokens),
                ("decode", m.decode_energy_j, source.sequences * (m.output_tokens - 1)),
            )
            for phase, energy, tokens in counts:
                cost = None if energy is None else per(mean_95(energy), tokens)
                if cost is not None:
                    size = (m.input_tokens, m.output_tokens)
                    rows.append((*source.pair, phase, *size, cost.mean, cost.half_width, source.method))
    return rows


def phase_figure(rows: Sequence[CsvRow], mixed: str = "") -> Figure:
    """Prefill energy per input token against m, and decode energy per further output token against n and m.

    ``mixed`` marks the figure, as in ``Options``.
    """
    figure, axes = new_figure(1, 3, 14, 3.9)
    looks = _looks([(str(row[0]), str(row[1])) for row in rows])
    for ax, (phase, at) in zip(axes[0], (("prefill", 3), ("decode", 4), ("decode", 3)), strict=True):
        for pair, look in looks.items():
            line: list[Any] = sorted(
                (row for row in rows if row[:3] == (*pair, phase)), key=lambda row: (row[at], row[7 - at])
            )
            if line:
                x, y = [row[at] for row in line], [row[5] for row in line]
                method: str | None = line[0][7]
                widths = [np.nan if row[6] is None else row[6] for row in line]
                style = _marked(look, method) | BARS | {"linestyle": "none"}
                ax.errorbar(x, y, yerr=widths, label=_label(pair, method), **style)
        if not ax.has_data():
            ax.text(0.5, 0.5, "not told apart by these sensors", transform=ax.transAxes, ha="center", fontsize=9)
        _log_axes(ax, "input tokens" if at == 3 else "output tokens", f"{phase} energy per token (J)")
    if mixed:
        figure.suptitle(_wrapped(mixed), fontsize=9, x=0.01, ha="left")
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _looks(pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Colour and marker by system, line style by model."""
    systems, models = (list(dict.fromkeys(pair[at] for pair in pairs)) for at in (0, 1))
    return {
        (system, model): {
            "color": COLOURS[systems.index(system) % len(COLOURS)],
            "marker": MARKERS[systems.index(system) % len(MARKERS)],
            "markersize": 4,
            "linewidth": 1.1,
            "linestyle": LINES[models.index(model) % len(LINES)],
        }
        for system, model in pairs
    }


def _marked(look: dict[str, Any], method: str | None) -> dict[str, Any]:
    """The look of a line that shows energy: hollow points where that is estimated."""
    return look | ({"markerfacecolor": "white"} if method == "estimated" else {})


def _mean_and_width(value: Estimate | None) -> tuple[float | None, float | None]:
    return (None, None) if value is None else (value.mean, value.half_width)


def _draw_points(
    ax: Axes, source: DrawnSystem, axis: Axis, column: str, options: Options, look: dict[str, Any]
) -> None:
    points = [point for point in sweep(source, axis, options) if getattr(point, column) is not None]
    if points:
        found: list[Estimate] = [getattr(point, column) for point in points]
        # An unknown interval has no bar.
        widths = np.array([np.nan if one.half_width is None else one.half_width for one in found])
        means = np.array([one.mean for one in found])
        # A bar of more than the value has no lower end on a logarithmic axis.
        bars = [np.minimum(widths, 0.999 * means), widths]
        style = _marked(look, source.method if "energy" in column else None) | BARS
        ax.errorbar([tokens_along(axis, point) for point in points], means, yerr=bars, **style)


def _draw_model(
    ax: Axes, source: DrawnSystem, axis: Axis, column: str, x: NDArray[np.int64], options: Options, colour: str
) -> None:
    """The fitted model at sizes x of the sweep: a thin line, dashed outside the range it was fitted on."""
    profile, energy = source.profile, "energy" in column
    if profile is None or (energy and profile.energy is None):
        return
    m, n = (x, np.full_like(x, options.fixed_output)) if axis == "input" else (np.full_like(x, options.fixed_input), x)
    predicted = profile.predict_energy(m, n, options.boundary) if energy else profile.predict_runtime(m, n)
    y, tokens = predicted.value, source.sequences * (m + n)
    if column == "throughput_tokens_per_s":
        y = tokens / y
    elif column == "energy_per_token_j":
        y = y / tokens
    for hidden, kind in ((predicted.out_of_range, "-"), (~predicted.out_of_range, "--")):
        ax.plot(x, np.where(hidden, np.nan, y), kind, color=colour, linewidth=0.6, alpha=0.8, zorder=1)


def _draw_failures(ax: Axes, source: DrawnSystem, axis: Axis, options: Options, colour: str) -> None:
    below = ax.get_xaxis_transform()
    for failure in failures_on(source, axis, options):
        x = tokens_along(axis, failure)
        ax.plot(x, 0.04, "x", color=colour, markersize=7, transform=below)
        ax.annotate(failure.words, (x, 0.08), xycoords=below, rotation=90, fontsize=7, ha="center")


def _whole_numbers(sizes: Sequence[float]) -> NDArray[np.int64]:
    """Evenly spread on a logarithmic axis from the smallest to the largest size; empty without any."""
    if not sizes:
        return np.array([], dtype=np.int64)
    return np.unique(np.geomspace(min(sizes), max(sizes), 60).round().astype(np.int64))


def _log_axes(ax: Axes, x_label: str, y_label: str) -> None:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    low, high = ax.get_ylim()
    for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        which(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:.3g}")
    if high / low > 8:
        ax.yaxis.set_minor_formatter(lambda value, _: "")
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)


def _legend(figure: Figure, drawn: Sequence[DrawnSystem], looks: dict[Any, dict[str, Any]], models: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=_label(source.pair, source.method), **_marked(looks[source.pair], source.method))
        for source in drawn
    ]
    if models:
        handles.append(Line2D([], [], color="grey", linewidth=0.6, label="fitted model"))
        handles.append(Line2D([], [], color="grey", linewidth=0.6, linestyle="--", label="beyond its range"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False, handlelength=3.2)


def _label(pair: tuple[str, str], method: str | None) -> str:
    return f"{', '.join(pair)}{' (energy estimated)' if method == 'estimated' else ''}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(textwrap.shorten(text, 300, placeholder=" …"), 95))
