"""Figures 1 and 2 of the paper for any systems, and energy per token by phase: drawn, and as numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UserError
from harness.core.files import make_directory
from harness.core.quantities import Component
from harness.core.statistics import Estimate
from harness.showing.figures import CsvRow, new_figure, write_figure
from harness.showing.panels import AXES, FAILED, PANELS, Options
from harness.showing.points import Axis, SweepPoint, failures_on, mean_95, per, sweep
from harness.showing.sources import DrawnSystem, compare_drawn, components, distinct, load_drawn, published_sources

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers tell apart; markers tell systems apart in grey."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (2, 2)))
HEADER = (
    *("system", "model", "input_tokens", "output_tokens", "trials"),
    *(part for _, column, _ in PANELS for part in (column, f"{column}_ci95")),
    "energy_method",
)
PHASE_HEADER = ("system", "model", "phase", "input_tokens", "output_tokens", "energy_per_token_j", "ci95_j", "method")


def write_figures(
    names: Sequence[str | Path],
    directory: Path,
    *,
    published: bool = False,
    models: bool = False,
    fixed_input: int = 32,
    fixed_output: int = 32,
    boundary: str | None = None,
    allow_mixed: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write figure1, figure2 and, where phases were metered, phases. Returns the paths and notes for the reader.

    Raises UserError for what can't be read, compared or written, and MissingDependency without matplotlib.
    """
    sources = [*map(load_drawn, map(str, names)), *(published_sources() if published else [])]
    if not sources:
        raise UserError("nothing to draw: name runs or profiles, or add --published")
    sources = distinct(sources)
    comparison = compare_drawn(sources, boundary, allow_mixed)
    mixed = "; ".join(comparison.warnings)
    options = Options(fixed_input, fixed_output, comparison.boundary, models, mixed)
    make_directory(directory)
    notes = [*comparison.warnings, *(source.note for source in sources if source.note)]
    paths: list[Path] = []
    for axis, name in AXES.items():
        rows = sweep_rows(sources, axis, options)
        if rows:
            paths += write_figure(sweep_figure(sources, axis, options), directory / name, HEADER, rows)
        else:
            fixed = f"{fixed_output} output" if axis == "input" else f"about {fixed_input} input"
            notes.append(f"no {name}: nothing was measured at {fixed} tokens (--fixed-input, --fixed-output)")
    # Phases are known as the sum of all components alone.
    metered = [source for source in sources if phase_rows([source])]
    shown = [source for source in metered if _counts_all(source, comparison.boundary)]
    if left_out := ", ".join(source.name for source in metered if not _counts_all(source, comparison.boundary)):
        notes.append(f"the figure of the phases leaves out {left_out}: energy per phase is that of all its components")
    if shown:
        phases = phase_rows(shown)
        # One system alone is not mixed with anything.
        figure = phase_figure(phases, mixed if len(shown) > 1 else "")
        paths += write_figure(figure, directory / "phases", PHASE_HEADER, phases)
    elif not left_out:
        notes.append("no figure of the phases: none of these has energy per phase")
    return paths, notes


def sweep_rows(sources: Sequence[DrawnSystem], axis: Axis, options: Options) -> list[CsvRow]:
    """Every point drawn, in the columns of ``HEADER``; what was not measured is None."""
    return [_row(point) for source in sources for point in _points(source, axis, options)]


def sweep_figure(sources: Sequence[DrawnSystem], axis: Axis, options: Options) -> Figure:
    """Runtime, throughput, energy per token and total energy against input (Figure 1) or output tokens (Figure 2)."""
    figure, axes = new_figure(2, 2, 11, 7.2)
    looks = _looks([(s.system.identity.system, s.system.identity.model) for s in sources])
    x = _whole_numbers([_x(point, axis) for source in sources for point in _points(source, axis, options)])
    for ax, (label, _, value) in zip(np.ravel(axes), PANELS, strict=True):
        for source in sources:
            _draw_points(ax, _points(source, axis, options), axis, value, looks)
        if not ax.has_data():
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", fontsize=9)
        elif options.models:
            for source in sources:
                _draw_model(ax, source, axis, label, x, options, looks)
        _log_axes(ax, f"{axis} tokens", label)
        if "energy" not in label:
            _draw_failures(ax, sources, axis, options, looks)
    fixed = f"{options.fixed_output} output" if axis == "input" else f"{options.fixed_input} input"
    title = f"{axis} sweep at {fixed} tokens; bars: 95 % intervals"
    figure.suptitle("\n".join(filter(None, (title, _wrapped(options.mixed)))), fontsize=9, x=0.01, ha="left")
    _legend(figure, sources, axis, options, looks)
    return figure


def phase_rows(sources: Sequence[DrawnSystem]) -> list[CsvRow]:
    """Energy per token of each phase at every point where it was told apart, in the columns of ``PHASE_HEADER``."""
    rows: list[CsvRow] = []
    for source in sources:
        identity, method = source.system.identity, source.system.method
        for m in source.system.measurements:
            counts = (
                ("prefill", m.prefill_energy_j, source.system.sequences * m.input_tokens),
                ("decode", m.decode_energy_j, source.system.sequences * (m.output_tokens - 1)),
            )
            for phase, energy, tokens in counts:
                cost = None if energy is None else per(mean_95(energy), tokens)
                if cost is not None:
                    size = (m.input_tokens, m.output_tokens)
                    rows.append((identity.system, identity.model, phase, *size, cost.mean, cost.half_width, method))
    return rows


def phase_figure(rows: Sequence[CsvRow], mixed: str = "") -> Figure:
    """Prefill energy per input token against m, and decode energy per further output token against n and m.

    ``mixed`` marks the figure, as in ``Options``.
    """
    figure, axes = new_figure(1, 3, 14, 3.9)
    looks = _looks([(str(row[0]), str(row[1])) for row in rows])
    for ax, (phase, at) in zip(axes[0], (("prefill", 3), ("decode", 4), ("decode", 3)), strict=True):
        for system, model in looks.pairs:
            line: list[Any] = sorted(
                (row for row in rows if row[:3] == (system, model, phase)), key=lambda row: (row[at], row[7 - at])
            )
            if line:
                x, y = [row[at] for row in line], [row[5] for row in line]
                method: str | None = line[0][7]
                style = looks.style(system, model, hollow=method == "estimated") | {"linestyle": "none"}
                widths = [np.nan if row[6] is None else row[6] for row in line]
                ax.errorbar(x, y, yerr=widths, label=_label(system, model, method), **style)
        if not ax.has_data():
            ax.text(0.5, 0.5, "not told apart by these sensors", transform=ax.transAxes, ha="center", fontsize=9)
        _log_axes(ax, "input tokens" if at == 3 else "output tokens", f"{phase} energy per token (J)")
    if mixed:
        figure.suptitle(_wrapped(mixed), fontsize=9, x=0.01, ha="left")
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8, frameon=False)
    return figure


@dataclass(frozen=True)
class _Looks:
    """Colour and marker by system, line style by model."""

    pairs: tuple[tuple[str, str], ...]

    def _place(self, at: int, name: str) -> int:
        return list(dict.fromkeys(pair[at] for pair in self.pairs)).index(name)

    def style(self, system: str, model: str, *, hollow: bool = False) -> dict[str, Any]:
        place = self._place(0, system)
        colour = COLOURS[place % len(COLOURS)]
        return {
            "color": colour,
            "marker": MARKERS[place % len(MARKERS)],
            "markerfacecolor": "white" if hollow else colour,
            "markersize": 4,
            "linewidth": 1.1,
            "elinewidth": 0.8,
            "capsize": 1.5,
            "linestyle": LINES[self._place(1, model) % len(LINES)],
        }


def _looks(pairs: Sequence[tuple[str, str]]) -> _Looks:
    return _Looks(tuple(dict.fromkeys(pairs)))


def _counts_all(source: DrawnSystem, boundary: tuple[Component, ...] | None) -> bool:
    """Whether a boundary, if one is given, holds every component whose energy the source has."""
    return boundary is None or components(source) <= set(boundary)


def _points(source: DrawnSystem, axis: Axis, options: Options) -> list[SweepPoint]:
    return sweep(source.system, axis, options.fixed_input, options.fixed_output, options.boundary)


def _x(point: SweepPoint, axis: Axis) -> float:
    return point.input_tokens if axis == "input" else point.output_tokens


def _row(point: SweepPoint) -> CsvRow:
    values = [part for _, _, value in PANELS for part in _pair(value(point))]
    size = (point.input_tokens, point.output_tokens, point.trials)
    return (point.system, point.model, *size, *values, point.method if point.energy_j else None)


def _pair(value: Estimate | None) -> tuple[float | None, float | None]:
    return (None, None) if value is None else (value.mean, value.half_width)


def _draw_points(
    ax: Axes, points: Sequence[SweepPoint], axis: Axis, value: Callable[[SweepPoint], Estimate | None], looks: _Looks
) -> None:
    shown = [(point, found) for point in points if (found := value(point)) is not None]
    if shown:
        is_energy = value(points[0]) in (points[0].energy_j, points[0].energy_per_token_j)
        hollow = is_energy and points[0].method == "estimated"
        # An unknown interval has no bar.
        widths = np.array([np.nan if found.half_width is None else found.half_width for _, found in shown])
        means = np.array([found.mean for _, found in shown])
        ax.errorbar(
            [_x(point, axis) for point, _ in shown],
            means,
            # A bar of more than the value has no lower end on a logarithmic axis.
            yerr=[np.minimum(widths, 0.999 * means), widths],
            **looks.style(points[0].system, points[0].model, hollow=hollow),
        )


def _draw_model(
    ax: Axes, source: DrawnSystem, axis: Axis, label: str, x: NDArray[np.int64], options: Options, looks: _Looks
) -> None:
    """The fitted model at sizes x of the sweep: a thin line, dashed outside the range it was fitted on."""
    points = _points(source, axis, options)
    profile = source.profile
    if profile is None or not points or ("energy" in label and profile.energy is None):
        return
    m, n = (x, np.full_like(x, options.fixed_output)) if axis == "input" else (np.full_like(x, options.fixed_input), x)
    energy = "energy" in label
    predicted = profile.predict_energy(m, n, options.boundary) if energy else profile.predict_runtime(m, n)
    y, tokens = predicted.value, source.system.sequences * (m + n)
    if label.startswith("throughput"):
        y = tokens / y
    elif label.startswith("energy per"):
        y = y / tokens
    style = looks.style(source.system.identity.system, source.system.identity.model)
    inside = np.where(predicted.out_of_range, np.nan, y)
    outside = np.where(predicted.out_of_range, y, np.nan)
    for line, kind in ((inside, "-"), (outside, "--")):
        ax.plot(x, line, kind, color=style["color"], linewidth=0.6, alpha=0.8, zorder=1)


def _draw_failures(ax: Axes, sources: Sequence[DrawnSystem], axis: Axis, options: Options, looks: _Looks) -> None:
    for source in sources:
        identity = source.system.identity
        for failure in failures_on(source.system, axis, options.fixed_input, options.fixed_output):
            x = failure.input_tokens if axis == "input" else failure.output_tokens
            colour = looks.style(identity.system, identity.model)["color"]
            ax.plot(x, 0.04, "x", color=colour, markersize=7, transform=ax.get_xaxis_transform())
            words = FAILED.get(failure.status, failure.status)
            ax.annotate(words, (x, 0.08), xycoords=ax.get_xaxis_transform(), rotation=90, fontsize=7, ha="center")


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


def _legend(figure: Figure, sources: Sequence[DrawnSystem], axis: Axis, options: Options, looks: _Looks) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    for source in sources:
        identity, points = source.system.identity, _points(source, axis, options)
        if points:
            style = looks.style(identity.system, identity.model, hollow=source.system.method == "estimated")
            plain = {key: value for key, value in style.items() if key not in ("elinewidth", "capsize")}
            handles.append(Line2D([], [], label=_label(identity.system, identity.model, source.system.method), **plain))
    if options.models:
        handles.append(Line2D([], [], color="grey", linewidth=0.6, label="fitted model"))
        handles.append(Line2D([], [], color="grey", linewidth=0.6, linestyle="--", label="beyond its range"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False, handlelength=3.2)


def _label(system: str, model: str, method: str | None) -> str:
    return f"{system}, {model}{' (energy estimated)' if method == 'estimated' else ''}"


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(textwrap.shorten(text, 300, placeholder=" …"), 95))
