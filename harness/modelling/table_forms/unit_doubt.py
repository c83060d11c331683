"""Whether energies and runtimes can be in the units that their names say: a machine's power, a model's size. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.core.quantities import COMPONENTS
from harness.core.wording import number

if TYPE_CHECKING:
    import pandas as pd

LEAST_W, MOST_W = 0.5, 20_000.0
"""Mean power of machines that run language models, from a board of a few watts to eight GPUs of a kilowatt."""
LEAST_J = 2e-13
"""Joules per parameter and token: two operations at 10 TFLOP/J, beyond what any chip does today."""
LEAST_READ_J = 2e-12
"""Joules per parameter and decode step: half a byte read at 30 pJ, by as few steps as speculative decoding needs."""
MOST_J, MOST_J_SMALL = 1e-6, 100.0
"""A kilowatt for a second per token of a 1B model; of small models the machine's own power counts."""


def refuse_doubtful_units(table: pd.DataFrame, model: str | None, where: str, *, trusted: bool) -> list[str]:
    """What is to be said of doubtful units that are ``trusted``. Raises UserError for those that aren't.

    They are doubtful where mean power, or the energy per token of a model whose size its name tells, is out of all
    bounds. ``table`` has trials' columns, energies per request.
    """
    doubt = _power(table) or _per_token(table, model)
    if doubt and not trusted:
        raise UserError(
            f"{where}: {doubt}: is the unit right? Name it in the column, such as gpu_energy_mj, energy_wh or "
            "runtime_ms; or joulebench fit --measurements accepts these with --trust-units"
        )

    return [f"{doubt}: its units are trusted (--trust-units)"] if doubt else []


def _power(table: pd.DataFrame) -> str | None:
    columns = [name for name in ("energy_j", *(f"{c}_energy_j" for c in COMPONENTS)) if name in table]
    for column in columns:
        known = table[table[column].notna()]
        if known.empty:
            continue
        power = float((known[column] * known["concurrency"]).sum() / known["runtime_s"].sum())
        # Parts of a machine may take less than all of it does.
        if power > MOST_W or (power < LEAST_W and column == "energy_j"):
            return f"mean power by {column} and runtime_s is {_watts(power)}, and no machine's"
    whole = table["energy_j"].sum() if "energy_j" in table else 0.0
    for column in columns[1:]:
        both = table[table[column].notna() & table["energy_j"].notna()] if whole else table.head(0)
        if column != "system_energy_j" and both[column].sum() > 2 * both["energy_j"].sum() > 0:
            return f"{column} is {number(both[column].sum() / both['energy_j'].sum(), 2)} times energy_j, the whole"
    return None


def _watts(power: float) -> str:
    return f"{number(power / 1000, 3)} kW" if power >= 1000 else f"{number(power, 2)} W"


def _per_token(table: pd.DataFrame, model: str | None) -> str | None:
    sizes = parameters(model or "")
    if sizes is None or "energy_j" not in table or table["energy_j"].isna().all():
        return None
    known = table[table["energy_j"].notna()]
    joules, produced = float(known["energy_j"].sum()), float(known["output_tokens"].sum())
    every = produced + float(known["input_tokens"].sum())
    least, most = sizes[0] * LEAST_J, max(sizes[1] * MOST_J, MOST_J_SMALL)
    steps_j = float((known["energy_j"] * known["concurrency"]).sum()) / produced
    if joules / every < least or steps_j < sizes[0] * LEAST_READ_J:
        return f"{joules / every:.2g} J per token is less than any machine needs for {model}"
    if joules / produced > most:
        return f"{number(joules / produced, 3)} J per output token is more than any machine needs for {model}"
    return None


def parameters(model: str) -> tuple[float, float] | None:
    """Least and most parameters that each token goes through, by the model's name; None where it doesn't say.

    ``mixtral-8x7b`` 7e9 to 56e9, ``qwen3-30b-a3b`` 3e9 to 30e9.
    """
    found = re.findall(r"(?<![a-z0-9.])(?:(\d+)x)?a?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", model.lower())
    if not found:
        return None
    sizes = [(float(size) * (1e9 if unit == "b" else 1e6), float(times or 1)) for times, size, unit in found]
    return min(size for size, _ in sizes), max(size * times for size, times in sizes)
