"""The figures of ``joulebench figures``: what is drawn together, and the files they are written to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.errors import UserError
from harness.core.files import make_directory
from harness.showing.caps_figures import CAPS_HEADER, capped, caps_figure, caps_rows
from harness.showing.concurrency_figures import LOAD_HEADER, load_figure, load_rows
from harness.showing.drawn_systems import compare_drawn, differences, distinct, load_drawn, published_sources
from harness.showing.figures import write_figure
from harness.showing.fit_figures import FIT_HEADER, fit_figure, fit_rows
from harness.showing.panels import AXES, DrawnSystem, Options, boundary_words
from harness.showing.phase_figures import PHASE_HEADER, phase_figure, phase_rows
from harness.showing.served_figures import SERVED_HEADER, served_figure, served_rows
from harness.showing.served_maps import MAP_HEADER, map_figure, map_rows
from harness.showing.sweep_figures import HEADER, sweep_figure, sweep_rows
from harness.showing.under_load import has_several

_NO_PHASES = "none of these has time or energy per phase"


def write_figures(
    names: Sequence[str | Path],
    directory: Path,
    options: Options = Options(),
    *,
    published: bool = False,
    allow_mixed: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write figure1 and figure2, the fits of what is named and, where phases or loads are known, phases and load, with
    what the models under load say.

    Beside the published systems (``published``) anything is drawn, faint and labelled with what differs; else what
    isn't comparable is refused, or marked with ``allow_mixed``. Returns the paths and notes for the reader. Raises
    UserError for what can't be read, compared or written, and MissingDependency without matplotlib.
    """
    named = [load_drawn(str(name)) for name in names]
    if not (named or published):
        raise UserError("nothing to draw: name runs or profiles, or add --published")
    as_measured = named
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
    paths += _write_caps(as_measured, directory, options)
    paths += _write_loads(as_measured, directory, options)
    paths += _write_served(as_measured, directory, options)
    more, why_not = _write_phases(named, directory, options, mark)
    return [*paths, *more, *_write_fits(named, directory)], [*notes, *why_not]


def _write_caps(named: Sequence[DrawnSystem], directory: Path, options: Options) -> list[Path]:
    """A figure of each system that was measured at several power caps; numbered where there are several."""
    paths = []
    found = capped(named, options)
    for at, caps in enumerate(found, 1):
        name = "caps" if len(found) == 1 else f"caps-{at}"
        paths += write_figure(caps_figure(caps), directory / name, CAPS_HEADER, caps_rows(caps))
    return paths


def _write_loads(named: Sequence[DrawnSystem], directory: Path, options: Options) -> list[Path]:
    """A figure of each run that had several requests in flight; numbered where there are several."""
    paths = []
    loaded = [source for source in named if has_several(source.loaded)]
    for at, source in enumerate(loaded, 1):
        name = "load" if len(loaded) == 1 else f"load-{at}"
        # Energy under load is known as the sum of all components alone.
        partial = source.reaches_beyond(options.boundary)
        figure = load_figure(source, options, without_energy=partial)
        paths += write_figure(figure, directory / name, LOAD_HEADER, load_rows(source, without_energy=partial))
    return paths


def _write_served(named: Sequence[DrawnSystem], directory: Path, options: Options) -> list[Path]:
    """What the models under load say, and where energies are equal; numbered where there are several such systems."""
    paths = []
    known = [source.profile for source in named if source.profile is not None and source.profile.under_load is not None]
    for at, profile in enumerate(known, 1):
        end = "" if len(known) == 1 else f"-{at}"
        boundary = options.boundary
        figure = served_figure(profile, boundary)
        paths += write_figure(figure, directory / f"load-model{end}", SERVED_HEADER, served_rows(profile, boundary))
        if (drawn := map_figure(profile, boundary)) is not None:
            paths += write_figure(drawn, directory / f"load-map{end}", MAP_HEADER, map_rows(profile, boundary))
    return paths


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
        mixed = any(source.mixes_phases for source in named)
        why = "with several requests at a server they run beside each other" if mixed else _NO_PHASES
        return [], [f"no figure of the phases: {why}"] if named else []
    # Energy per phase is known as the sum of all components alone.
    partial = [source for source in shown if source.reaches_beyond(options.boundary)]
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
