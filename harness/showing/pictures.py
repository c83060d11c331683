"""What a measured run looks like: its fit, Figures 1–2 beside the published ones, thresholds and the report page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.core.errors import DiskFull, MissingDependency, UserError
from harness.deciding.answers import decide_threshold
from harness.deciding.trace_files import load_workload
from harness.modelling.comparable import NotComparable
from harness.modelling.measurements import disturbance_words
from harness.modelling.profile_fit import fit
from harness.showing import decision_figures
from harness.showing.decisions import threshold_words
from harness.showing.panels import Options
from harness.showing.paper import LARGE, regenerate
from harness.showing.report.page import write_report
from harness.showing.sweep_figures import write_figures

FOLDER = "pictures"


def draw_all(run: Path, fixed_input: int = 32, fixed_output: int = 32) -> Iterator[str]:
    """Write ``profile.json`` and ``report.html`` into a run directory and figures into its folder ``pictures``.

    ``fixed_input`` is the input length of the output sweep, ``fixed_output`` the output length of the input sweep.
    Yields a text for each step: what it found and where that lies, or why it was not possible here; where that are
    several things, in indented lines of their own. A step that is not possible ends no other.
    """
    folder = run / FOLDER
    profile = run / "profile.json"
    options = Options(fixed_input, fixed_output, models=True)
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("fit", lambda: _fit(run, profile)),
        ("Figures 1–2", lambda: _sweeps(run, folder, options)),
        ("threshold of the published pair", lambda: _published_threshold(folder)),
        ("this machine's threshold against the published A100", lambda: _own_threshold(profile, folder)),
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
    errors = [f"runtime {100 * profile.runtime.held_out.mape:.1f} %"]
    if profile.energy is not None:
        method = profile.energy.method or "unknown method"
        errors.append(f"energy ({method}) {100 * profile.energy.model.held_out.mape:.1f} %")
    text = f"mean error at held-out points: {', '.join(errors)}; {path}"
    return "\n  ".join(filter(None, [text, disturbance_words(profile.measurements)]))


def _sweeps(run: Path, folder: Path, options: Options) -> str:
    paths, notes = write_figures([run], folder, options, published=True, allow_mixed=True)
    return "\n  ".join([f"this machine beside the published ones: {len(paths)} files in {folder}", *notes])


def _published_threshold(folder: Path) -> str:
    result = regenerate(load_workload("alpaca"), "input")
    path, *_ = decision_figures.write_panels(result.panels, result.key, folder / "threshold-published", result.panels)
    return f"in both accountings: {path}"


def _own_threshold(path: Path, folder: Path) -> str:
    if not path.exists():
        raise UserError("there is no fit of this run")
    try:
        answer = decide_threshold(path, LARGE, "alpaca")
    except NotComparable as refusal:
        by_hand = ["joulebench", "threshold", "--small", str(path), "--large", LARGE, "--workload", "alpaca"]
        lines = ["not comparable", *refusal.reasons, f"by hand: {shlex.join([*by_hand, '--allow-mixed'])}"]
        raise UserError("\n  ".join(lines)) from None
    written, *_ = decision_figures.write_threshold(answer, folder / "threshold")
    return f"{threshold_words(answer)}; {written}"
