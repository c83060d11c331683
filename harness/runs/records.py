"""The run directory: what a measurement leaves on disk, and how it is read back.

``run.json`` says what was measured on what; ``trials.jsonl`` has one TrialRecord a line, appended and fsynced as
each trial ends; ``traces/ID.npz`` has the raw marks and readings of each trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from harness.core.errors import UserError
from harness.core.statistics import Estimate
from harness.energy import trace_file
from harness.energy.readings import Trace, Window
from harness.runs.schema import Count, Energy, Run, TrialRecord
from harness.runs.summary import idle_power_w

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
TRIALS_FILE = "trials.jsonl"

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By the version it starts from, the step that turns ``run.json`` into the next version."""

_RECORD = TypeAdapter(TrialRecord)
_ENERGY = TypeAdapter(Energy)
_RUN = TypeAdapter(Run)
_COUNT: TypeAdapter[int] = TypeAdapter(Count)


COLUMNS = {
    "trial_id": "number of the trial in the run, from 0",
    "session": "which start of the program measured it",
    "worker": "which child process of the session measured it",
    "purpose": "warmup, measure or drift; statistics use measure alone",
    "status": "ok, oom, timeout, error, discarded or skipped",
    "reason": "why the status is not ok",
    "started_at": "UTC, ISO 8601",
    "input_tokens": "m, tokens per sequence",
    "output_tokens": "n, tokens per sequence",
    "output_tokens_produced": "tokens the backend counted",
    "repeats": "requests in the window",
    "window_s": "first start to last end, s",
    "runtime_s": "window divided by repeats, s per request",
    "runtime_sd_s": "standard deviation of single requests in the window, s",
    "prefill_s": "start to first output token, mean per request, s",
    "decode_s": "first to last output token, mean per request, s",
    "compile_s": "compiling for this size, before the window and in no other column, s",
    "capture_s": "capturing the decode step, before the window and in no other column, s",
    "tokens_per_s": "output tokens of all sequences divided by runtime",
    "energy_j": "sum over the components measured, J per request",
    "energy_ci95_j": "half-width of its 95 % interval, J",
    "energy_method": "counter, integrated, modelled or estimated: the weakest of the parts",
    "energy_reason": "why energy_j is absent",
    "prefill_energy_j": "energy of the prefill, J per request",
    "prefill_energy_ci95_j": "half-width of its 95 % interval, J",
    "decode_energy_j": "energy of the decode steps, J per request",
    "decode_energy_ci95_j": "half-width of its 95 % interval, J",
    "energy_per_output_token_j": "energy_j over the output tokens of all sequences",
    "energy_per_output_token_ci95_j": "half-width of its 95 % interval, J",
    "energy_per_token_j": "energy_j over the input and output tokens of all sequences",
    "energy_per_token_ci95_j": "half-width of its 95 % interval, J",
    "net_energy_j": "energy_j less the session's idle power over the runtime, J per request",
    "net_energy_ci95_j": "half-width of its 95 % interval, J",
}
"""Columns of ``load``. Each component c with a meter adds {c}_energy_j, {c}_energy_ci95_j, {c}_energy_method,
{c}_prefill_energy_j, {c}_prefill_energy_ci95_j, {c}_decode_energy_j and {c}_decode_energy_ci95_j. What was not
measured is missing (NaN or None), never 0."""


def read_run(directory: Path | str) -> dict[str, Any]:
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
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, this joulebench reads up to {SCHEMA_VERSION}: upgrade joulebench"
        )
    while version < SCHEMA_VERSION:
        run = MIGRATIONS[version](run)
        version += 1
    return _checked(run, path)


def _checked(run: dict[str, Any], path: Path) -> dict[str, Any]:
    """The run if every part that is read later is there and makes sense. Raises UserError naming the first fault."""
    try:
        _RUN.validate_python(run)
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {_first_fault(error)}") from None
    return run


def _first_fault(error: ValidationError) -> str:
    """Where the first fault is, if not in the whole, and what is wrong there."""
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def read_trials(directory: Path | str) -> list[TrialRecord]:
    """All whole records, in order. A torn last line, left by a kill, is passed over. Raises UserError."""
    path = Path(directory) / TRIALS_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} can't be read: {error}") from None
    return parse_trials(content[: whole_length(content)], path)


def whole_length(content: bytes) -> int:
    """Bytes of ``content`` up to the end of its last whole line."""
    return content.rfind(b"\n") + 1


def parse_trials(content: bytes, path: Path) -> list[TrialRecord]:
    """Records from whole lines. Raises UserError naming the first line that is none."""
    records = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            records.append(_consistent(_RECORD.validate_json(line)))
        except ValidationError as error:
            raise UserError(f"{path}, line {number} is not a trial record ({_first_fault(error)})") from None
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not a trial record ({error})") from None
    return records


def _consistent(record: TrialRecord) -> TrialRecord:
    """The record, unless what later steps count on is missing in it. Raises ValueError."""
    if record.status == "ok" and not (record.runtime_s and record.runtime_s > 0):
        raise ValueError("a trial that is ok needs a runtime above 0")
    for tokens in (record.input_tokens, record.output_tokens):
        _COUNT.validate_python(tokens)
    if record.energy is not None:
        _ENERGY.validate_python(record.energy)
    return record


def dump_trial(record: TrialRecord) -> bytes:
    """One line of ``trials.jsonl``."""
    return json.dumps(asdict(record), allow_nan=False).encode() + b"\n"


def read_trace(directory: Path | str, record: TrialRecord) -> tuple[Window, list[Trace]]:
    """Marks and raw readings of one trial. Raises UserError when it has none or they can't be read."""
    if record.trace is None:
        raise UserError(f"trial {record.id} of {directory} has no trace: its status is {record.status}")
    return trace_file.read(Path(directory) / record.trace)


def load(directory: Path | str) -> pd.DataFrame:
    """All trials of a run as a table with the columns of ``COLUMNS``, one row a trial. Raises UserError."""
    import pandas as pd

    run = read_run(directory)
    batch_size = run["backend"]["config"]["batch_size"]
    idle = dict(enumerate(idle_power_w(session) for session in run["sessions"]))
    rows = []
    for record in read_trials(directory):
        if record.session not in idle:
            raise UserError(
                f"{directory}: trial {record.id} is of session {record.session}, which {RUN_FILE} doesn't have: the "
                "files don't belong together"
            )
        rows.append(_row(record, batch_size, idle[record.session]))
    extra = dict.fromkeys(column for row in rows for column in row if column not in COLUMNS)
    return pd.DataFrame(rows, columns=[*COLUMNS, *extra])


def _row(record: TrialRecord, batch_size: int, idle_w: Estimate | None) -> dict[str, Any]:
    row = {name: value for name, value in asdict(record).items() if name in COLUMNS}
    row["trial_id"] = record.id
    if record.runtime_s is not None:
        row["tokens_per_s"] = batch_size * record.output_tokens / record.runtime_s
    if record.energy is not None:
        row.update(_energy_columns("", record.energy["total"]))
        row["energy_reason"] = record.energy["total"]["reason"]
        for component, figure in record.energy["components"].items():
            row.update(_energy_columns(f"{component}_", figure))
    if row.get("energy_j") is not None:
        row.update(_derived_energies(record, batch_size, row["energy_j"], row["energy_ci95_j"], idle_w))
    return row


def _derived_energies(
    record: TrialRecord, batch_size: int, energy_j: float, ci95_j: float, idle_w: Estimate | None
) -> dict[str, float]:
    columns = {}
    outputs = batch_size * record.output_tokens
    tokens = batch_size * (record.input_tokens + record.output_tokens)
    for name, count in (("energy_per_output_token", outputs), ("energy_per_token", tokens)):
        columns[f"{name}_j"], columns[f"{name}_ci95_j"] = energy_j / count, ci95_j / count
    if idle_w is not None and record.runtime_s is not None:
        net = net_energy_j(energy_j, ci95_j, idle_w.mean, idle_w.half_width or 0.0, record.runtime_s)
        columns["net_energy_j"], columns["net_energy_ci95_j"] = net
    return columns


def _energy_columns(prefix: str, figure: dict[str, Any]) -> dict[str, Any]:
    columns = {f"{prefix}energy_method": figure["method"]}
    for key, column in (("request", "energy"), ("prefill", "prefill_energy"), ("decode", "decode_energy")):
        columns[f"{prefix}{column}_j"] = figure[f"{key}_j"]
        columns[f"{prefix}{column}_ci95_j"] = figure[f"{key}_ci95_j"]
    return columns


def net_energy_j(
    energy_j: float, energy_ci95_j: float, idle_w: float, idle_ci95_w: float, runtime_s: float
) -> tuple[float, float]:
    """Energy above idle, energy − idle power × runtime, with its 95 % half-width. May be negative for tiny loads."""
    return energy_j - idle_w * runtime_s, math.hypot(energy_ci95_j, idle_ci95_w * runtime_s)
