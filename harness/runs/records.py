"""The run directory as it is read back.

``run.json`` says what was measured on what; ``trials.jsonl`` has one trial a line, appended and fsynced as each trial
ends; ``traces/ID.npz`` has the raw marks and readings of each trial.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from harness.core.errors import UserError
from harness.energy import trace_file
from harness.energy.readings import Trace, Window
from harness.runs.load_stamps import LoopStamps, stamps_from_arrays
from harness.runs.run_schema import RUN_VERSION, Run
from harness.runs.schema import COLUMNS, Row, Trial, component_columns
from harness.runs.summary import idle_power_w

if TYPE_CHECKING:
    import pandas as pd

RUN_FILE = "run.json"
TRIALS_FILE = "trials.jsonl"


def _with_concurrency(run: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one batch size for all points of a run."""
    batch_size = run["backend"]["config"]["batch_size"]
    sessions = [
        session if session.get("plan") is None else session | {"plan": _plan_in_flight(session["plan"], batch_size)}
        for session in run["sessions"]
    ]
    return run | {"plan": _plan_in_flight(run["plan"], batch_size), "sessions": sessions}


def _plan_in_flight(plan: dict[str, Any], concurrency: int) -> dict[str, Any]:
    return plan | {"points": [[*point, concurrency] for point in plan["points"]]}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_concurrency}
"""By the version it starts from, the step that turns the content of ``run.json`` into the next version."""

_TRIAL = TypeAdapter(Trial)


@dataclass(frozen=True)
class RecordedRun:
    """A run directory that has been read."""

    directory: Path
    facts: Run
    """What was measured on what."""
    trials: tuple[Trial, ...]

    def table(self) -> pd.DataFrame:
        """All trials with the columns of ``COLUMNS``, one row a trial. Raises UserError.

        What was not measured is missing (NaN or None), never 0.
        """
        import pandas as pd

        idle = dict(enumerate(map(idle_power_w, self.facts.sessions)))
        rows = []
        for trial in self.trials:
            if trial.session not in idle:
                raise UserError(
                    f"{self.directory}: trial {trial.id} is of session {trial.session}, which {RUN_FILE} doesn't have: "
                    "the files don't belong together"
                )
            row = Row(trial, idle[trial.session])
            cells = {column.name: value for column in COLUMNS if (value := column.value(row)) is not None}
            for component, figure in (trial.energy.components if trial.energy else {}).items():
                cells |= component_columns(component, figure)
            rows.append(cells)
        names = [column.name for column in COLUMNS]
        components = dict.fromkeys(name for row in rows for name in row if name not in names)
        return pd.DataFrame(rows, columns=[*names, *components])


def load_run(directory: str | os.PathLike[str]) -> RecordedRun:
    """A run directory: what was measured, and all whole trials. Raises UserError."""
    facts = read_run(directory)
    return RecordedRun(Path(directory), facts, tuple(read_trials(directory, facts)))


def load_trials(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """All trials of a run directory as a table, see ``RecordedRun.table``. Raises UserError."""
    return load_run(directory).table()


def read_run(directory: str | os.PathLike[str]) -> Run:
    """The content of ``run.json``, migrated to the current schema. Raises UserError."""
    path = Path(directory) / RUN_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} holds no run: there is no {RUN_FILE} in it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    version = run.get("schema_version") if isinstance(run, dict) else None
    if type(version) is not int or version < 1:
        raise UserError(f"{path} is not a run of joulebench: it names no schema_version")
    if version > RUN_VERSION:
        raise UserError(
            f"{path} has schema version {version}, this joulebench reads up to {RUN_VERSION}: upgrade joulebench"
        )
    try:
        for older in range(version, RUN_VERSION):
            run = MIGRATIONS[older](run) | {"schema_version": older + 1}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    try:
        # As text once more: only there a list may stand for a tuple where types are strict.
        return Run.model_validate_json(json.dumps(run))
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """Where the first fault is, if not in the whole, and what is wrong there."""
    first = error.errors(include_url=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), said)))


def read_trials(directory: str | os.PathLike[str], facts: Run | None = None) -> list[Trial]:
    """All whole trials, in order. A torn last line, left by a kill, is passed over. Raises UserError.

    ``facts`` is the content of the directory's ``run.json`` where it has been read already.
    """
    path = Path(directory) / TRIALS_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} can't be read: {error}") from None
    whole = content[: whole_length(content)]
    if facts is None and not all(map(_says_concurrency, whole.splitlines())):
        facts = read_run(directory)
    return parse_trials(whole, path, facts.backend.config.batch_size if facts else 1)


def whole_length(content: bytes) -> int:
    """Bytes of ``content`` up to the end of its last whole line."""
    return content.rfind(b"\n") + 1


def parse_trials(content: bytes, path: Path, batch_size: int = 1) -> list[Trial]:
    """Trials from whole lines. Raises UserError naming the first line that is none.

    A line without a concurrency is of version 1: its requests were batches of ``batch_size``, and its energies those
    of whole batches. What comes back is per request.
    """
    trials = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            trial = _TRIAL.validate_json(line)
        except ValidationError as error:
            raise UserError(f"{path}, line {number} is not a trial record ({first_fault(error)})") from None
        trials.append(trial if _says_concurrency(line) else _per_request(trial, batch_size))
    return trials


def _says_concurrency(line: bytes) -> bool:
    """Whether a trial's line is of version 2: in a text its quotes would have backslashes."""
    return b'"concurrency"' in line


def _per_request(trial: Trial, batch_size: int) -> Trial:
    """A trial of version 1 as one is recorded now."""
    energy = trial.energy.over(batch_size) if trial.energy and batch_size > 1 else trial.energy
    requests = None if trial.repeats is None else float(trial.repeats * batch_size)
    return replace(trial, concurrency=batch_size, requests=requests, energy=energy)


def dump_trial(trial: Trial) -> bytes:
    """One line of ``trials.jsonl``."""
    return json.dumps(asdict(trial), allow_nan=False).encode() + b"\n"


def read_stamps(directory: Path | str, trial: Trial) -> LoopStamps:
    """When each request of a loop and each piece of its output came. Raises UserError when there are none."""
    if trial.trace is None or trial.load is None:
        raise UserError(f"trial {trial.id} of {directory} has no stamps of requests: it was no loop, or it failed")
    path = Path(directory) / trial.trace
    try:
        return stamps_from_arrays(trace_file.load_further(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def read_trace(directory: Path | str, trial: Trial) -> tuple[Window, list[Trace]]:
    """Marks and raw readings of one trial. Raises UserError when it has none or they can't be read."""
    if trial.trace is None:
        raise UserError(f"trial {trial.id} of {directory} has no trace: its status is {trial.status}")
    return trace_file.load_trace(Path(directory) / trial.trace)
