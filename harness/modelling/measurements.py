"""Trials of a run or of a CSV file, aggregated into one measurement per point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.quantities import COMPONENTS
from harness.core.statistics import Z95
from harness.modelling.doubt import NO_SCATTER, Scatter
from harness.modelling.fit import Observations
from harness.modelling.point_statistics import statistic
from harness.modelling.profile_schema import Measurement, Statistic
from harness.modelling.scatter import (
    PUBLISHED_ENERGY,
    PUBLISHED_RUNTIME,
    WITH_MEAN,
    Spreads,
    fit_scatter,
    moderated,
    of_requests,
)
from harness.modelling.session_effect import Cells
from harness.runs.records import RecordedRun

if TYPE_CHECKING:
    import pandas as pd

CSV_COLUMNS = (
    "input_tokens, output_tokens, runtime_s and, where energy was measured, energy_j or one column per component "
    "such as cpu_energy_j and gpu_energy_j; and concurrency where more than one request was in flight"
)
ENCLOSING_METER = "the meter of the whole system contains the components added up and is left out"
LEAST_FREEDOM = 4.0
"""Degrees of freedom that the spread of the other points counts for at least, however unlike each other they are."""
DISTURBED_ERROR = 0.5
"""Relative standard deviation that is joined to the costs of a point of which there are disturbed trials only.

Others who take half of what a request needs double its runtime: the true cost is half of what was measured then, one
such deviation away. What others took isn't taken off, because how far they slow a request down depends on what both of
them wait for. A point that was measured to 5 % weighs a hundred times as much as a disturbed one."""
SUSPECT_TRIAL = 5.0
_PARTS = ("", "prefill_", "decode_")
_POINT = ["input_tokens", "output_tokens", "concurrency"]
_COMPONENT_ENERGIES = tuple(f"{component}_energy_j" for component in COMPONENTS)


@dataclass(frozen=True)
class Trials:
    """Usable trials as a table with the columns of ``RecordedRun.table``, and what was left out."""

    table: pd.DataFrame
    excluded: int
    """Trials used for nothing."""
    runtime_only: int
    """Trials used for runtime but not for energy, since theirs can't be right."""
    notes: tuple[str, ...]
    says_concurrency: bool = True
    """Whether the requests in flight are told; where they aren't, one at a time is assumed."""


def without_negative_energy(table: pd.DataFrame) -> Trials:
    """Blank the energies of trials in which a component's energy is 0 or less, and sum the components."""
    table = table.copy()
    columns = [name for name in ("energy_j", *_COMPONENT_ENERGIES) if name in table]
    wrong = (table[columns] <= 0).any(axis=1)
    table.loc[wrong, columns] = np.nan
    if "energy_j" not in table and columns:
        # A sum over fewer components than usual would be another boundary: NaN then.
        parts = [name for name in columns if name != "system_energy_j"] or columns
        table["energy_j"] = table[parts].sum(axis=1, skipna=False)
    count = "1 trial" if wrong.sum() == 1 else f"{wrong.sum()} trials"
    counts = "counts" if wrong.sum() == 1 else "count"
    notes = [f"{count} with an energy of 0 or less {counts} for runtime alone"] if wrong.any() else []
    return _without_enclosing_meter(Trials(table, 0, int(wrong.sum()), tuple(notes)))


def pool_runs(runs: Iterable[RecordedRun]) -> Trials:
    """The measured trials of runs: of each point the undisturbed ones, or where there is none the disturbed ones.

    Those are told by the column ``disturbed``. Raises UserError.
    """
    import pandas as pd

    tables = {run.directory: run.table() for run in runs}
    boundaries = {directory: _boundary(table) for directory, table in tables.items()}
    # Energies of different components, or by different methods, must not be averaged.
    if len(set(boundaries.values())) > 1:
        said = ", ".join(f"{directory} counts {boundary}" for directory, boundary in boundaries.items())
        raise UserError(f"{said}: fit them apart")
    # Each start of the program is a session of its own, whatever its number in its run.
    numbered = [
        table.assign(session=f"{i:04}." + table["session"].astype(str)) for i, table in enumerate(tables.values())
    ]
    table = pd.concat(numbered, ignore_index=True)
    measured = table[table["purpose"] == "measure"]
    usable = measured[measured["status"].isin(["ok", "disturbed"])].copy()
    if usable.empty and ((table["purpose"] == "open loop") & table["runtime_s"].notna()).any():
        raise UserError("the run has open loops only, and a model is fitted to requests in flight: measure with -c too")
    if usable.empty:
        raise UserError("the run holds no usable trial; see joulebench trials for what happened")
    usable["disturbed"] = usable["status"] == "disturbed"
    of_point = usable.groupby(_POINT)["disturbed"]
    usable = usable[~usable["disturbed"] | of_point.transform("all")]
    usable["output_tokens_produced"] = usable["output_tokens_produced"].fillna(usable["output_tokens"])
    counts = measured.drop(index=usable.index)["status"].value_counts()
    notes = [_unused(str(status), count) for status, count in counts.items()]
    return _without_enclosing_meter(Trials(usable, len(measured) - len(usable), 0, tuple(notes)))


def _unused(status: str, count: int) -> str:
    if status == "disturbed":
        return f"{count} disturbed trials are not used: there are undisturbed ones of their points"
    return f"{count} trials ended as {status} and are not used"


def _boundary(table: pd.DataFrame) -> str:
    """The components whose energy was measured, each with its methods, in words."""
    parts = []
    for component in sorted(COMPONENTS):
        if f"{component}_energy_j" in table:
            methods = table.loc[table[f"{component}_energy_j"].notna(), f"{component}_energy_method"]
            parts += [f"{component} ({', '.join(sorted(set(methods)))})"] if len(methods) else []
    return " + ".join(parts) or "no energy"


def _without_enclosing_meter(trials: Trials) -> Trials:
    """Leaves ``system`` out where the total is the sum of the other components that were measured beside it."""
    table = trials.table
    others = [name for name in _metered(table) if name != "system_energy_j"]
    if not others or "system_energy_j" not in table:
        return trials
    if not (table[others].sum(axis=1) / table["energy_j"] - 1).abs().median() < 1e-6:
        return trials
    kept = table[[name for name in table if not str(name).startswith("system_")]].copy()
    return replace(trials, table=kept, notes=(*trials.notes, ENCLOSING_METER))


def aggregate(trials: pd.DataFrame) -> list[Measurement]:
    """Mean, standard deviation and number of trials per point, sorted by size and then by requests in flight.

    A trial in which fewer components were measured than in others has no total: it would be another boundary. Without
    a column ``concurrency`` one request was in flight.
    """
    trials = trials.copy()
    if "concurrency" not in trials:
        trials["concurrency"] = 1
    totals = [f"{part}energy_j" for part in _PARTS if f"{part}energy_j" in trials]
    trials.loc[trials[_metered(trials)].isna().any(axis=1), totals] = np.nan
    trials = with_session_numbers(trials)
    return [_measurement(group) for _, group in trials.groupby(_POINT, sort=True)]


def with_session_numbers(trials: pd.DataFrame) -> pd.DataFrame:
    """With a column ``session_number``, from 0, where there are several sessions; parts of the table keep it."""
    if "session_number" in trials or "session" not in trials or trials["session"].nunique() < 2:
        return trials
    return trials.assign(session_number=trials["session"].astype("category").cat.codes)


def _metered(table: pd.DataFrame) -> list[str]:
    """Columns of the components of which some trial has an energy."""
    return [name for name in _COMPONENT_ENERGIES if name in table and table[name].notna().any()]


@dataclass(frozen=True)
class SuspectTrial:
    """A trial far from the others of its point."""

    quantity: str
    input_tokens: float
    output_tokens: float
    value: float
    median: float
    """Of the point's trials."""


def suspect_trials(trials: pd.DataFrame) -> list[SuspectTrial]:
    """Trials more than ``SUSPECT_TRIAL`` standard deviations from the median of their point, such as warm-ups.

    The standard deviation is told from the median absolute deviation, the point's own or the typical relative one of
    all points where that is more: few trials agree by chance. Points of under 4 trials can't tell.
    """
    found = []
    for quantity in ("runtime", "energy", *COMPONENTS):
        column = {"runtime": "runtime_s", "energy": "energy_j"}.get(quantity, f"{quantity}_energy_j")
        if column not in trials:
            continue
        judged = trials[trials[column].notna()]
        judged = judged[judged.groupby(_POINT)[column].transform("size") >= 4].copy()
        judged["median"] = judged.groupby(_POINT)[column].transform("median")
        judged["off"] = (judged[column] - judged["median"]).abs() / judged["median"]
        spread = judged.groupby(_POINT)["off"].transform("median")
        limit = SUSPECT_TRIAL * 1.4826 * spread.clip(lower=max(spread.median(), 1e-6) if len(judged) else None)
        for row in judged[judged["off"] > limit].to_dict("records"):
            sizes = float(row["input_tokens"]), float(row["output_tokens"])
            found.append(SuspectTrial(quantity, *sizes, float(row[column]), float(row["median"])))
    return found


def disturbance_words(measurements: Sequence[Measurement]) -> str | None:
    """How much of what is measured was measured while others used the machine; None where nothing was."""
    points = sum(point.disturbed_trials > 0 for point in measurements)
    if not points:
        return None
    trials, of_trials = sum(p.disturbed_trials for p in measurements), sum(p.trials for p in measurements)
    return (
        f"{trials} of {of_trials} trials ({points} of {len(measurements)} points) are disturbed: others used the "
        "machine, so their costs are probably too high and they weigh little; run the same measure command again"
    )


def _measurement(group: pd.DataFrame) -> Measurement:
    m, requested = float(group["input_tokens"].iloc[0]), round(group["output_tokens"].iloc[0])
    runtime = statistic(group, "runtime_s")
    if runtime is None:
        raise UserError(f"no runtime was measured at {m:g} input and {requested} output tokens")
    parts: dict[str, Any] = {name: statistic(group, name) for name in ("prefill_s", "decode_s")}
    for part in _PARTS:
        parts[f"{part}energy_j"] = statistic(group, f"{part}energy_j")
        components = {component: statistic(group, f"{component}_{part}energy_j") for component in COMPONENTS}
        parts[f"component_{part}energy_j"] = {component: found for component, found in components.items() if found}
    return Measurement(
        input_tokens=m,
        output_tokens=float(group["output_tokens_produced"].mean()),
        output_tokens_requested=requested,
        trials=len(group),
        disturbed_trials=int(group["disturbed"].sum()) if "disturbed" in group else 0,
        concurrency=int(group["concurrency"].iloc[0]),
        runtime_s=runtime,
        **parts,
    )


def observations(measurements: Iterable[Measurement], quantity: str) -> Observations | None:
    """The points where ``quantity`` (``runtime``, ``energy`` or a component) was measured; None where nowhere."""
    points = [point for point in measurements if _parts(point, quantity)[0] is not None]
    if not points:
        return None
    m, n = np.array([(point.input_tokens, point.output_tokens) for point in points]).T
    limit = np.array([float(point.output_tokens_requested) for point in points])
    parts = list(zip(*(_parts(point, quantity) for point in points), strict=True))
    disturbed = np.array([point.disturbed_trials > 0 for point in points])
    cost, prefill, decode = (_mean_and_noise(part, disturbed) for part in parts)
    whole = [statistic for statistic in parts[0] if statistic is not None]
    return Observations(
        m,
        n,
        *cost,
        *prefill,
        *decode,
        limit,
        noise_freedom=_noise_scatter(whole, disturbed).freedom,
        scatter=_scatter(whole, disturbed, PUBLISHED_RUNTIME if quantity == "runtime" else PUBLISHED_ENERGY),
        cells=_cells(whole, disturbed),
        # An error that most points have alike doesn't get smaller with their number.
        shared_error=DISTURBED_ERROR if 2 * disturbed.sum() > disturbed.size else 0.0,
        concurrency=np.array([float(point.concurrency) for point in points]),
    )


def _parts(measurement: Measurement, quantity: str) -> tuple[Statistic | None, ...]:
    """Of a whole request, of prefill and of decode."""
    if quantity == "runtime":
        return measurement.runtime_s, measurement.prefill_s, measurement.decode_s
    if quantity == "energy":
        return measurement.energy_j, measurement.prefill_energy_j, measurement.decode_energy_j
    return tuple(getattr(measurement, f"component_{part}energy_j").get(quantity) for part in _PARTS)


def _mean_and_noise(given: Sequence[Statistic | None], disturbed: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Means, NaN where not measured, and the relative standard error of each.

    The spread of a few trials is a poor guess of their noise, so each is moderated by what the others say of trials of
    its cost: three trials that agree by chance must not outweigh everything else. What the sensors leave is joined to
    it whole: repeating trials doesn't lessen it; so is what others may have done to disturbed points.
    """
    means = np.array([s.mean if s else np.nan for s in given])
    sensors = np.array([_sensor_error(s) if s else 0.0 for s in given])
    trials = np.array([s.trials if s else 1 for s in given])
    noise = _trial_noise(given, disturbed) / np.sqrt(trials)
    return means, np.sqrt(noise**2 + sensors**2 + np.where(disturbed, DISTURBED_ERROR, 0.0) ** 2)


def _trial_noise(given: Sequence[Statistic | None], disturbed: NDArray[np.bool_]) -> Floats:
    """Relative standard deviation of the trials of each point within a session; 0 where no point has two trials."""
    spreads, scatter = _spreads(given), _noise_scatter(given, disturbed)
    scatter = replace(scatter, freedom=max(scatter.freedom, LEAST_FREEDOM))
    return np.asarray(np.nan_to_num(moderated(spreads, scatter) / spreads.cost))


def _noise_scatter(given: Sequence[Statistic | None], disturbed: NDArray[np.bool_]) -> Scatter:
    """Of trials within a session; none where no point has two."""
    return fit_scatter(_at_rest(_spreads(given), disturbed)) or NO_SCATTER


def _spreads(given: Sequence[Statistic | None]) -> Spreads:
    """Of trials within a session, by point."""
    cost = np.array([s.mean if s else np.nan for s in given])
    sd = np.array([s.sd if s and s.sd is not None else np.nan for s in given])
    freedom = np.array([float(s.trials - max(len(s.sessions), 1)) if s else 0.0 for s in given])
    return Spreads(cost, sd, freedom)


def _at_rest(spreads: Spreads, disturbed: NDArray[np.bool_]) -> Spreads:
    """Without the disturbed points, unless there are no others: what others do comes and goes, and says nothing of the
    spread of a machine at rest."""
    told = np.isfinite(spreads.sd) & ~disturbed
    return replace(spreads, sd=np.where(told, spreads.sd, np.nan)) if told.any() else spreads


def _scatter(whole: Sequence[Statistic], disturbed: NDArray[np.bool_], prior: Scatter) -> Scatter:
    """Of single requests; ``prior`` where no spread is known."""
    counts, requests = (np.array([float(getattr(s, name)) for s in whole]) for name in ("trials", "requests"))
    within = np.array([np.nan if s.request_sd is None else s.request_sd for s in whole])
    single = of_requests(_spreads(whole), counts, requests, within)
    return fit_scatter(_at_rest(single, disturbed), WITH_MEAN) or prior


def _cells(whole: Sequence[Statistic], disturbed: NDArray[np.bool_]) -> Cells | None:
    """What each session measured; None where there is one only."""
    noise = _trial_noise(whole, disturbed)
    held = [(point, session) for point, measured in enumerate(whole) for session in measured.sessions]
    numbers, session = np.unique([session.session for _, session in held], return_inverse=True)
    if numbers.size < 2:
        return None
    point = np.array([point for point, _ in held])
    cost, trials = np.array([(session.mean, session.trials) for _, session in held]).T
    return Cells(point, session, cost, noise[point] / np.sqrt(trials))


def _sensor_error(statistic: Statistic) -> float:
    """Relative standard deviation that the sensors leave; 0 where unknown."""
    return statistic.ci95 / Z95 / statistic.mean if statistic.ci95 is not None else 0.0
