"""Figures 1 and 2 of the paper for any systems: a column a model, a row a cost, the finding as the title."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.statistics import Estimate
from harness.showing.colours import OWN, styles
from harness.showing.figures import (
    SMALL_PT,
    TITLE_PT,
    CsvRow,
    EndLabel,
    cost_axis,
    foot,
    head,
    label_ends,
    lay_out,
    new_figure,
    token_axis,
)
from harness.showing.findings import Line, finding
from harness.showing.names import model_words, several_words, system_words
from harness.showing.panels import (
    BY_THESE_METERS,
    PANELS,
    Axis,
    DrawnSystem,
    Options,
    SweepPoint,
    boundary_words,
    failures_on,
    mean_and_width,
    sizes_along,
    sweep,
    tokens_along,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADER = (
    *("system", "model", "input_tokens", "output_tokens", "trials"),
    *(part for column in PANELS for part in (column, f"{column}_ci95")),
    "energy_method",
)
FAINT = 0.55
"""Strength of the colour of a system that can't be compared with those beside it."""
REACH = 2.0
"""A model is drawn up to this many times the largest size measured."""


@dataclass(frozen=True)
class Drawing:
    """What one figure shows."""

    sources: Sequence[DrawnSystem]
    """Those that have something on the sweep."""
    axis: Axis
    options: Options
    mark: str = ""
    """Stands above the finding where what is drawn isn't comparable."""

    @property
    def own(self) -> DrawnSystem | None:
        """The one run among the sources; None where there are several, which have colours then, or none."""
        runs = [source for source in self.sources if source.own]
        return runs[0] if len(runs) == 1 else None

    @property
    def models(self) -> list[str]:
        """A column each, that of most systems first; a run that differs has none to itself beside others."""
        hosts = [source for source in self.sources if not source.differs] or self.sources
        counted = Counter(source.identity.model for source in hosts)
        return sorted(counted, key=lambda model: -counted[model])

    @property
    def panels(self) -> dict[str, str]:
        """The rows: what was measured, of what is asked for."""
        asked = self.options.panels
        measured = {column: asked[column] for column in asked if any(_points(s, self, column) for s in self.sources)}
        # Without any the runtime's shows where trials failed.
        return measured or {"runtime_s": asked["runtime_s"]}

    def members(self, model: str) -> list[DrawnSystem]:
        """The systems of a column: those that ran its model, and runs of a model that has no column; the own last."""
        models = self.models
        found = [s for s in self.sources if s.identity.model == model or s.identity.model not in models]
        return sorted(found, key=lambda source: source is self.own)

    def look(self, source: DrawnSystem) -> dict[str, Any]:
        """Colour, marker and weight of a system's line, the same wherever it is drawn."""
        if source is self.own:
            width = 1.6 if source.differs else 2.0
            return {"color": self._shade(source, OWN), "marker": "o", "markersize": 4, "linewidth": width, "zorder": 5}
        colour, marker = styles([s.identity.system for s in self.sources if s is not self.own])[source.identity.system]
        return {
            "color": self._shade(source, colour),
            "marker": marker,
            "markersize": 3.2,
            "linewidth": 1.1,
            "zorder": 3,
        }

    def _shade(self, source: DrawnSystem, colour: str) -> str:
        """The colour, mixed with white where the system differs from those beside it."""
        if not source.differs:
            return colour
        parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        return "#" + "".join(f"{round(255 - FAINT * (255 - part)):02x}" for part in parts)


def sweep_rows(sources: Sequence[DrawnSystem], axis: Axis, options: Options) -> list[CsvRow]:
    """Every point drawn, in the columns of ``HEADER``; what was not measured is None."""
    rows: list[CsvRow] = []
    for source in sources:
        for point in sweep(source, axis, options):
            values = [part for column in PANELS for part in mean_and_width(getattr(point, column))]
            size = (point.input_tokens, point.output_tokens, point.trials)
            rows.append((*source.pair, *size, *values, source.method if point.energy_j else None))
    return rows


def sweep_figure(sources: Sequence[DrawnSystem], axis: Axis, options: Options, mark: str = "") -> Figure:
    """Costs against input (Figure 1) or output tokens (Figure 2); ``mark`` stands above the title."""
    shown = [source for source in sources if sweep(source, axis, options) or failures_on(source, axis, options)]
    drawing = Drawing(shown, axis, options, mark)
    models, panels = drawing.models, drawing.panels
    width = {1: 4.6, 2: 6.2}.get(len(models), 7.2 + 2 * max(len(models) - 3, 0))
    figure, axes = new_figure(len(panels), len(models), width, 1.2 + 1.75 * len(panels), share_x="all", share_y="row")
    for row, column in zip(axes, panels, strict=True):
        for ax, model in zip(row, models, strict=True):
            for source in drawing.members(model):
                _draw(ax, drawing, source, column)
            if not any(_points(source, drawing, column) for source in drawing.members(model)):
                ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", fontsize=SMALL_PT)
    _scale(axes, drawing)
    for ax, model in zip(axes[0], models, strict=True):
        system = shown[0].identity.system
        above = f"{model_words(model)} on {system}" if len(shown) == 1 else model_words(model)
        ax.set_title(_folded(above, {1: 48, 2: 32}.get(len(models), 24)), fontsize=TITLE_PT)
    head(figure, title(drawing), mark)
    foot(figure, cautions(drawing))
    lay_out(figure)
    for row, column in zip(axes, panels, strict=True):
        _label_lines(row, drawing, column)
    return figure


def title(drawing: Drawing) -> str:
    """The finding among what may be compared; where nothing may be, how the runtime of one system grows."""
    comparable = [source for source in drawing.sources if not source.differs]
    if drawing.mark or not comparable:
        comparable = [drawing.own or drawing.sources[0]]
    lines = [_line(drawing, source) for source in comparable]
    return finding(lines, drawing.axis) or f"Runtime and energy against {drawing.axis} tokens"


def _line(drawing: Drawing, source: DrawnSystem) -> Line:
    points = sweep(source, drawing.axis, drawing.options)
    own = source is drawing.own and len(drawing.sources) > 1
    return Line(
        system_words(source.identity.system),
        model_words(source.identity.model),
        [tokens_along(drawing.axis, point) for point in points],
        [point.runtime_s for point in points],
        # An estimate is drawn, but nothing is claimed of it.
        [None if source.method == "estimated" or source.differing_boundary else p.energy_per_token_j for p in points],
        own,
    )


def cautions(drawing: Drawing) -> list[str]:
    """What the reader must know: how it is drawn, what is estimated, what differs, what failed."""
    axis, options, sources = drawing.axis, drawing.options, drawing.sources
    notes = [f"At {options.fixed(axis)} tokens"]
    fitted = options.models and any(source.profile for source in sources)
    notes.append(
        f"Points: means with {BY_THESE_METERS}"
        + ("; lines: fitted models with the mean's 95 % bands" if fitted else "")
    )
    if fitted:
        notes[-1] += ", dashed beyond the sizes measured"
    if any(source.method == "estimated" for source in sources):
        notes.append("Hollow points: energy estimated, not measured, so without intervals")
    notes += _in_flight(drawing)
    for source in sources:
        said = [*source.differs]
        if source.differing_boundary:
            said.append(f"energy of {boundary_words(source.differing_boundary)} only")
        if said:
            notes.append(f"Not to be compared with the others: {_names(drawing, [source])}: {', '.join(said)}")
    failed: dict[str, list[float]] = {}
    for source in sources:
        for failure in failures_on(source, axis, options):
            who = f" ({_names(drawing, [source])})" if len(sources) > 1 else ""
            failed.setdefault(failure.words + who, []).append(tokens_along(axis, failure))
    for words, sizes in failed.items():
        notes.append(f"×\u00a0{words} at {', '.join(f'{size:,.0f}' for size in sorted(sizes))} {axis} tokens")
    silent = [source for source in sources if not _points(source, drawing, "energy_j")]
    if silent:
        notes.append(f"Energy was not measured{f': {_names(drawing, silent)}' if len(silent) < len(sources) else ''}")
    return notes


def _in_flight(drawing: Drawing) -> list[str]:
    """Of systems that are drawn with several requests in flight, how many there were."""
    found: dict[str, list[DrawnSystem]] = {}
    for source in drawing.sources:
        if words := several_words(source.concurrency, source.kind):
            found.setdefault(words, []).append(source)
    return [words + (f": {_names(drawing, of)}" if len(drawing.sources) > 1 else "") for words, of in found.items()]


def _names(drawing: Drawing, sources: Sequence[DrawnSystem]) -> str:
    own = drawing.own
    names = [system_words(s.identity.system) if s is not own else f"this machine, {s.identity.system}" for s in sources]
    return ", ".join(dict.fromkeys(names))


def _points(source: DrawnSystem, drawing: Drawing, column: str) -> list[SweepPoint]:
    points = sweep(source, drawing.axis, drawing.options)
    return [point for point in points if getattr(point, column) is not None]


def _draw(ax: Axes, drawing: Drawing, source: DrawnSystem, column: str) -> None:
    """One system's points with their intervals, its model or a line through them, and where it failed."""
    look = drawing.look(source)
    points = _points(source, drawing, column)
    if points:
        modelled = drawing.options.models and _draw_model(ax, drawing, source, column, look)
        found: list[Estimate] = [getattr(point, column) for point in points]
        hollow = _hollow(source, column)
        # An unknown interval has no bar, and an estimate none that looks like a measurement's.
        widths = np.array([np.nan if hollow or one.half_width is None else one.half_width for one in found])
        means = np.array([one.mean for one in found])
        # A bar of more than the value has no lower end on a logarithmic axis.
        bars = [np.minimum(widths, 0.999 * means), widths]
        style = look | {"markerfacecolor": "white" if hollow else look["color"]}
        style |= {"linestyle": "none" if modelled else "-", "elinewidth": 0.8, "capsize": 1.5}
        ax.errorbar([tokens_along(drawing.axis, point) for point in points], means, yerr=bars, **style)
    if "energy" not in column:
        for failure in failures_on(source, drawing.axis, drawing.options):
            x = tokens_along(drawing.axis, failure)
            ax.plot(x, 0.04, "x", color=look["color"], markersize=6, transform=ax.get_xaxis_transform(), clip_on=False)


def _draw_model(ax: Axes, drawing: Drawing, source: DrawnSystem, column: str, look: dict[str, Any]) -> bool:
    """The fitted model and the 95 % band of mean costs, faint beyond what was measured. Whether there is one."""
    profile, options = source.profile, drawing.options
    if profile is None or ("energy" in column and profile.energy is None):
        return False
    sizes = [tokens_along(drawing.axis, point) for point in _points(source, drawing, column)]
    grid = np.append(np.geomspace(min(sizes), REACH * max(sizes), 80), sizes)
    x = np.unique(grid.round().astype(np.int64))
    m, n = sizes_along(drawing.axis, x, options)
    energy = "energy" in column
    predicted = profile.predict_energy(m, n, options.boundary) if energy else profile.predict_runtime(m, n)
    tokens = m + n
    value, half = predicted.value, predicted.mean_95
    # A band of more than the value has no lower end on a logarithmic axis.
    ends = np.array([value, np.maximum(value - half, 0.05 * value), value + half])
    y, low, high = (
        source.concurrency * tokens / ends[[0, 2, 1]]
        if column == "total_tokens_per_s"
        else ends / _share(column, tokens)
    )
    inside = x <= round(max(sizes))
    # Both halves meet at the last size measured.
    beyond = x >= x[inside].max()
    line = {"color": look["color"], "zorder": look["zorder"] - 0.5}
    ax.plot(x[inside], y[inside], linewidth=look["linewidth"], **line)
    ax.plot(x[beyond], y[beyond], linewidth=0.8, alpha=0.45, linestyle=(0, (3, 2)), **line)
    if not _hollow(source, column):
        ax.fill_between(x[inside], low[inside], high[inside], color=look["color"], alpha=0.13, linewidth=0)
    return True


def _hollow(source: DrawnSystem, column: str) -> bool:
    """Whether what is drawn is an estimate, not measured."""
    return source.method == "estimated" and "energy" in column


def _share(column: str, tokens: NDArray[np.int64]) -> NDArray[np.int64] | float:
    return tokens if column == "energy_per_token_j" else 1.0


def _scale(axes: Any, drawing: Drawing) -> None:
    """Logarithmic axes that end shortly beyond the points, whatever the bands and extrapolations reach."""
    axis, options, sources = drawing.axis, drawing.options, drawing.sources
    sizes = [tokens_along(axis, point) for source in sources for point in sweep(source, axis, options)]
    failed = [tokens_along(axis, failure) for source in sources for failure in failures_on(source, axis, options)]
    # One alone shows how its model goes on; among several that would cost the width of all.
    reach = [1.3 * size for size in (*sizes, *failed)] + [REACH * size for size in sizes if len(sources) == 1]
    panels = drawing.panels
    for at, (row, (column, label)) in enumerate(zip(axes, panels.items(), strict=True)):
        found = [getattr(p, column).mean for s in drawing.sources for p in _points(s, drawing, column)]
        row[0].set_yscale("log")
        if found:
            row[0].set_ylim(min(found) / 1.3, max(found) * 1.3)
        alone = "energy" in column and len(drawing.sources) == 1 and drawing.sources[0].method == "estimated"
        cost_axis(row[0].yaxis, f"{label}\n(estimated)" if alone else label)
        for ax in row:
            ax.set_xscale("log", base=2)
            ax.set_xlim(min((*sizes, *failed)) / 1.2, max(reach))
            token_axis(ax.xaxis, f"{drawing.axis} tokens" if at == len(panels) - 1 else "", 5 if len(row) > 1 else 9)


def _label_lines(row: Sequence[Axes], drawing: Drawing, column: str) -> None:
    """Each system's name beside the first panel that shows it."""
    named: set[int] = set()
    for ax, model in zip(row, drawing.models, strict=True):
        labels = []
        for source in drawing.members(model):
            points, text = _points(source, drawing, column), _label(drawing, source, column)
            if points and text and id(source) not in named:
                named.add(id(source))
                end = max(points, key=lambda point: tokens_along(drawing.axis, point))
                place = tokens_along(drawing.axis, end), getattr(end, column).mean
                labels.append(EndLabel(text, place, drawing.look(source)["color"], source is drawing.own))
        label_ends(ax, labels)


def _label(drawing: Drawing, source: DrawnSystem, column: str) -> str:
    """The system's name, and what its line must not be taken for; empty for one alone that is as measured."""
    energy = "energy" in column
    said = [*source.differs]
    if energy and source.differing_boundary:
        said.append(f"{boundary_words(source.differing_boundary)} only")
    if _hollow(source, column):
        said.append("estimated")
    if len(drawing.sources) == 1:
        return ""
    name = "this machine" if source is drawing.own else system_words(source.identity.system)
    return "\n".join(map(_folded, [name, *said]))


def _folded(name: str, width: int = 22) -> str:
    """A long name in lines, cut after the second."""
    return "\n".join(textwrap.wrap(name, width, max_lines=2, placeholder=" …"))
