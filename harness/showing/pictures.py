"""What a measured run looks like: its fit, Figures 1–2 with the published ones, a comparison and the report page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from harness.core.errors import DiskFull, MissingDependency, UserError
from harness.core.wording import percent
from harness.deciding.trace_files import load_workload
from harness.modelling.measurements import disturbance_words
from harness.modelling.profile_fit import fit
from harness.showing.figure_set import write_figures
from harness.showing.matches import comparison_lines
from harness.showing.panels import Options
from harness.showing.paper import regenerate
from harness.showing.report.page import write_report
from harness.showing.terminal import program
from harness.showing.threshold_figures import savings_words, write_panels

FOLDER = "pictures"


def draw_all(run: Path, fixed_input: int = 32, fixed_output: int = 32) -> Iterator[str]:
    """Write ``profile.json`` and ``report.html`` into a run directory and figures into its folder ``pictures``.

    ``fixed_input`` is the input length of the output sweep, ``fixed_output`` the output length of the input sweep.
    Yields a text for each step: what it found and where that lies, or why it was not possible here; where that are
    several things, in indented lines of their own. A step that is not possible ends no other.
    """
    folder = run / FOLDER
    profile = run / "profile.json"
    options = Options(fixed_input, fixed_output)
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("fit", lambda: _fit(run, profile)),
        ("Figures 1–2", lambda: _sweeps(run, folder, options)),
        ("threshold of the published pair", lambda: _published_threshold(folder)),
        ("comparison", lambda: "\n  ".join(comparison_lines(run, program()))),
        ("report", lambda: f"to open in a browser: {write_report([run], run / 'report.html', options=options)}"),
    )
    for name, step in steps:
        try:
            folder.mkdir(exist_ok=True)
            yield f"{name}: {step()}"
        except DiskFull:
            raise
        except (UserError, MissingDependency) as reason:
            yield f"{name}: left out: {reason}"
        except OSError as error:
            yield f"{name}: left out: can't write {error.filename or folder}: {error.strerror}"


def _fit(run: Path, path: Path) -> str:
    # A model of an earlier state of the run must not stand for this one.
    path.unlink(missing_ok=True)
    profile = fit(run)
    profile.save(path)
    errors = [f"runtime {percent(profile.runtime.held_out.mape)}"]
    if profile.energy is not None:
        method = profile.energy.method or "unknown method"
        errors.append(f"energy ({method}) {percent(profile.energy.model.held_out.mape)}")
    text = f"held-out error: {', '.join(errors)}; {path}"
    return "\n  ".join(filter(None, [text, disturbance_words(profile.measurements)]))


def _sweeps(run: Path, folder: Path, options: Options) -> str:
    paths, notes = write_figures([run], folder, options, published=True)
    drawn = ", ".join(sorted({path.stem for path in paths}))
    return "\n  ".join([f"this machine and the published systems ({drawn}), {len(paths)} files in {folder}", *notes])


def _published_threshold(folder: Path) -> str:
    result = regenerate(load_workload("alpaca"), "input")
    path, *_ = write_panels(result.panels, result.key, folder / "threshold-published", result.panels)
    return f"{savings_words(result.panels)}; {path}"
