"""What the trials of one point come to: mean, spread, each session's own, and that of single requests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.profile_schema import SessionStatistic, Statistic
from harness.modelling.session_effect import PRIOR_SD

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 1e100
"""Far beyond every measurement; squares of much larger numbers are infinite."""


def statistic(group: pd.DataFrame, column: str) -> Statistic | None:
    """A column over the trials of one point; None where none has a positive value, for an empty phase says nothing.

    Raises UserError. With a column ``session_number`` each session's own are told too.
    """
    if column not in group:
        return None
    known = group[group[column].notna()]
    values = known[column].to_numpy(dtype=float)
    if not values.size or values.mean() <= 0:
        return None
    if values.max() > LARGEST:
        m = group["input_tokens"].iloc[0]
        raise UserError(f"{column} of {values.max():g} at {m:g} input tokens is no measurement")
    ci95 = None
    ci95_column = column.removesuffix("_j") + "_ci95_j"
    if column.endswith("_j") and ci95_column in known and known[ci95_column].notna().any():
        ci95 = float(known[ci95_column].mean())
    sessions = _by_session(known, column)
    mean, sd = _over_sessions(sessions)
    requests, request_sd = (1.0, None) if "prefill" in column or "decode" in column else _requests(known, values)
    return Statistic(
        mean=mean,
        sd=sd,
        trials=int(values.size),
        ci95=ci95,
        requests=requests,
        request_sd=request_sd,
        sessions=sessions if "session_number" in known else [],
    )


def _by_session(known: pd.DataFrame, column: str) -> list[SessionStatistic]:
    """What each session measured. Without a column ``session_number`` all trials are of one."""
    values = known[column].to_numpy(dtype=float)
    numbered = "session_number" in known
    numbers = known["session_number"].to_numpy(dtype=int) if numbered else np.zeros(values.size, dtype=int)
    found = []
    for number in np.unique(numbers):
        of = values[numbers == number]
        sd = float(of.std(ddof=1)) if of.size > 1 else None
        found.append(SessionStatistic(session=int(number), mean=float(of.mean()), sd=sd, trials=int(of.size)))
    return found


def _over_sessions(sessions: Sequence[SessionStatistic]) -> tuple[float, float | None]:
    """Mean over sessions, and the standard deviation of trials within them.

    A session counts by its own deviation (the prior's) and its trials' together: ten more trials of one session don't
    pull the mean to it.
    """
    freedom = sum(s.trials - 1 for s in sessions)
    variance = sum((s.trials - 1) * s.sd**2 for s in sessions if s.sd is not None)
    sd = float(np.sqrt(variance / freedom)) if freedom else None
    if len(sessions) == 1:
        return sessions[0].mean, sd
    means = np.array([s.mean for s in sessions])
    trials = np.array([s.trials for s in sessions])
    weights = 1 / ((PRIOR_SD * means.mean()) ** 2 + (sd or 0.0) ** 2 / trials)
    return float(np.average(means, weights=weights)), sd


def _requests(known: pd.DataFrame, values: Floats) -> tuple[float, float | None]:
    """How many requests a trial's value is the mean of, and the standard deviation of single ones inside a trial.

    Runtimes alone are told for each request. Where power is steady a request's energy varies with its runtime, so the
    relative deviation stands for that of energy.
    """
    column = next((name for name in ("requests", "repeats") if name in known and known[name].notna().any()), None)
    if column is None:
        return 1.0, None
    counts = known[column].dropna().to_numpy(dtype=float)
    if not (counts >= 1).all():
        return 1.0, None
    requests = float(1 / np.mean(1 / counts))
    if "runtime_sd_s" not in known or known["runtime_sd_s"].isna().all():
        return requests, None
    relative = (known["runtime_sd_s"] / known["runtime_s"]).dropna().to_numpy(dtype=float)
    return requests, float(np.sqrt(np.mean(relative**2)) * values.mean())
