"""The figures of ``joulebench figures``: what is drawn together, and the files they are written to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import make_directory
from harness.showing.drawn_systems import compare_drawn, differences, distinct, load_drawn, published_sources
from harness.showing.figures import write_figure
from harness.showing.fit_figures import FIT_HEADER, fit_figure, fit_rows
from harness.showing.panels import AXES, DrawnSystem, Options, boundary_words
from harness.showing.phase_figures import PHASE_HEADER, phase_figure, phase_rows
from harness.showing.sweep_figures import HEADER, sweep_figure, sweep_rows


def write_figures(
    names: Sequence[str | Path],
    directory: Path,
    options: Options = Options(),
    *,
    published: bool = False,
    allow_mixed: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write figure1 and figure2, the fits of what is named and, where phases are known, phases.

    Beside the published systems (``published``) anything is drawn, faint and labelled with what differs; else what
    isn't comparable is refused, or marked with ``allow_mixed``. Returns the paths and notes for the reader. Raises
    UserError for what can't be read, compared or written, and MissingDependency without matplotlib.
    """
    named = [load_drawn(str(name)) for name in names]
    if not (named or published):
        raise UserError("nothing to draw: name runs or profiles, or add --published")
    sources = distinct([*named, *(published_sources() if published else [])])
    comparison = compare_drawn(sources, options.boundary, allow_mixed or published)
    options = replace(options, boundary=comparison.boundary)
    named, others = sources[: len(named)], sources[len(named) :]
    notes: list[str] = []
    mark = ""
    if published:
        named = [differences(source, others) for source in named]
        notes += [note for source in named if (note := _differing(source))]
    elif comparison.mixed:
        mark = comparison.mark
        notes.append(mark)
    if not published:
        notes += comparison.warnings
    notes += [source.note for source in sources if source.note]
    make_directory(directory)
    paths: list[Path] = []
    for axis, name in AXES.items():
        if rows := sweep_rows([*named, *others], axis, options):
            paths += write_figure(sweep_figure([*named, *others], axis, options, mark), directory / name, HEADER, rows)
        else:
            at = options.fixed(axis)
            notes.append(f"no {name}: nothing was measured at {at} tokens (--fixed-input, --fixed-output)")
    more, why_not = _write_phases(named, directory, options, mark)
    return [*paths, *more, *_write_fits(named, directory)], [*notes, *why_not]


def _differing(source: DrawnSystem) -> str | None:
    """Why a source is drawn faint beside the published systems; None where it may be compared with them."""
    said = [*source.differs]
    if source.differing_boundary:
        said.append(f"energy of {boundary_words(source.differing_boundary)} only")
    if not said:
        return None
    return f"{source.name} can't be compared with the published systems and is labelled with why: {', '.join(said)}"


def _write_phases(
    named: Sequence[DrawnSystem], directory: Path, options: Options, mark: str
) -> tuple[list[Path], list[str]]:
    """The figure of the phases of those whose phases are known, and what it leaves out."""
    shown = [source for source in named if phase_rows([source])]
    if not shown:
        return [], ["no figure of the phases: none of these has time or energy per phase"] if named else []
    # Energy per phase is known as the sum of all components alone.
    partial = [s for s in shown if options.boundary is not None and not s.components <= set(options.boundary)]
    notes = [
        f"the figure of the phases leaves out the energy of {source.name}: per phase it is that of all its components"
        for source in partial
    ]
    rows = phase_rows(shown, without_energy=partial)
    # One system alone is not mixed with anything.
    figure = phase_figure(shown, options, mark if len(shown) > 1 else "", without_energy=partial)
    return write_figure(figure, directory / "phases", PHASE_HEADER, rows), notes


def _write_fits(named: Sequence[DrawnSystem], directory: Path) -> list[Path]:
    """A figure for the model of each source; numbered where there are several."""
    paths = []
    fitted = [source for source in named if source.profile is not None]
    for at, source in enumerate(fitted, 1):
        profile = source.profile
        if profile is not None:
            name = "fit" if len(fitted) == 1 else f"fit-{at}"
            paths += write_figure(fit_figure(profile), directory / name, FIT_HEADER, fit_rows(profile))
    return paths
