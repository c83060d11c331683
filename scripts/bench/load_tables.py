"""Tables of measurements under load, others' and generic, as groups of one system and model each.

A table has columns system, model, m, n and c, and of runtime_s, energy_j, ttft_s and tpot_s those that are known; of a
static batch t_pp_s and t_tg_s too, its prefill and its decoding. Columns such as tp tell configurations of a system
apart. A runtime is that of the cycle, which in a closed loop each request takes; energy may be of a request or of the
cycle: what falls with c is of a request.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.fit import Observations

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("runtime_s", "energy_j", "ttft_s", "tpot_s", "t_pp_s", "t_tg_s")
CONFIGURATION = (
    *("system", "model", "hardware", "gpu", "tp", "pp", "dp", "ep", "gpus", "num_gpus", "nodes"),
    *("dtype", "precision", "quantization", "engine", "framework", "backend", "task"),
)
"""Columns that tell groups apart, those of them that a table has."""
SPLITWISE = {"prompt_ms", "token_ms", "e2e_ms", "avg_power_frac"}
REQUEST_LOG = {"queued_s", "first_token_s", "last_token_s"}
AGREEING = 0.05
"""How far the end-to-end time of a static batch may be from the sum of its parts."""


@dataclass(frozen=True)
class LoadGroup:
    """What one table says of one system and model, one entry per size and number in flight; NaN where not measured."""

    file: str
    name: str
    m: Floats
    n: Floats
    c: Floats
    measured: Mapping[str, Floats]
    """By column, those of ``MEASURES`` that the table has."""

    def observations(self, column: str) -> Observations | None:
        """The points at which a column was measured, their cost as it stands; None where there are none.

        Those of ``runtime_s`` hold the phases where they are known.
        """
        if column not in self.measured:
            return None
        cost = self.measured[column]
        known = cost > 0
        none = np.zeros(int(known.sum()))
        phases: dict[str, Floats] = {}
        if column == "runtime_s" and {"t_pp_s", "t_tg_s"} <= self.measured.keys():
            for name, phase in (("prefill", "t_pp_s"), ("decode", "t_tg_s")):
                phases |= {name: self.measured[phase][known], f"{name}_noise": none}
        if not known.any():
            return None
        return Observations(self.m[known], self.n[known], cost[known], none, concurrency=self.c[known], **phases)


@dataclass(frozen=True)
class Judged:
    """Relative errors at the points that one kind of leaving out judges in one group: ours and each rival's."""

    kind: str
    error: Floats
    rivals: Mapping[str, Floats] = field(default_factory=dict)


def read_groups(path: Path) -> list[LoadGroup]:
    """The groups of one table; says on stderr what it leaves out. Raises UserError for a file that is no such table."""
    import pandas as pd

    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as a table: {error}") from None
    columns = set(table.columns)
    if columns >= REQUEST_LOG:
        _say(path, "is a log of requests, which has no numbers in flight to leave out: no rows")
        return []
    if columns >= SPLITWISE:
        table = _of_splitwise(table, path)
    if {"t_pp_s", "t_tg_s"} <= set(table.columns) and "runtime_s" not in table:
        table["runtime_s"] = table["t_pp_s"] + table["t_tg_s"]
    missing = [name for name in ("m", "n", "c") if name not in table]
    if missing or not set(MEASURES) & set(table.columns):
        raise UserError(
            f"{path} is no table of measurements under load: it needs the columns m, n, c and one of runtime_s, "
            f"energy_j, ttft_s and tpot_s; it lacks {', '.join(missing) or 'all of these'}"
        )
    return _grouped(table, path)


def _grouped(table: pd.DataFrame, path: Path) -> list[LoadGroup]:
    import pandas as pd

    axes, measures = ["m", "n", "c"], [name for name in MEASURES if name in table]
    for name in (*axes, *measures):
        table[name] = pd.to_numeric(table[name], errors="coerce").replace([np.inf, -np.inf], np.nan)
    usable = table[(table[axes] > 0).all(axis=1)]
    if lost := len(table) - len(usable):
        _say(path, f"{lost} rows without m, n and c above 0 are left out")
    keys = [name for name in CONFIGURATION if name in usable]
    parts = usable.groupby(keys, sort=False, dropna=False) if keys else [((), usable)]
    groups = []
    for key, rows in parts:
        means = rows.groupby(axes)[measures].mean().reset_index()
        columns = {name: means[name].to_numpy(dtype=float) for name in measures if means[name].notna().any()}
        name = " ".join(map(str, key if isinstance(key, tuple) else (key,)))
        groups.append(LoadGroup(path.name, name, *means[axes].to_numpy(dtype=float).T, columns))
    return groups


def _of_splitwise(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Static batches of Splitwise (P. Patel et al., 2024): milliseconds, and power as a part of the TDP.

    Energy is in TDP-seconds, of the batch; a power of 0 is missing. Runs that stopped early, and those whose end to end
    holds more than their parts, as where memory is full, are told by the sum of prefill and decode steps.
    """
    copies = table["hardware"].astype(str).str.endswith("-pcap")
    decode_s = table["token_ms"] / 1e3 * (table["n"] - 1)
    prefill_s, whole_s = table["prompt_ms"] / 1e3, table["e2e_ms"] / 1e3
    agree = (whole_s / (prefill_s + decode_s) - 1).abs() <= AGREEING
    _say(path, f"{copies.sum()} rows of power-capped systems are left out: their times are copies")
    _say(path, f"{(~agree & ~copies).sum()} rows are left out: end to end is not the sum of prefill and decode steps")
    power = table["avg_power_frac"].where(table["avg_power_frac"] > 0)
    made = table.assign(runtime_s=whole_s, t_pp_s=prefill_s, t_tg_s=decode_s, energy_j=power * whole_s)
    return made[agree & ~copies].copy()


def _say(path: Path, words: str) -> None:
    print(f"{path.name}: {words}", file=sys.stderr)
