"""Which points of several concurrencies a model is fitted to: those of one, since a form is of one. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.modelling.fit import MIN_POINTS
from harness.modelling.measurements import Trials, aggregate
from harness.modelling.profile_schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd


def chosen(trials: pd.DataFrame, asked: int | None) -> int:
    """The number of requests in flight to fit: the one asked for, or the fewest of which there are enough points.

    Where there are enough of none, the fewest. Raises UserError where nothing was measured at the one asked for.
    """
    points = trials[["input_tokens", "output_tokens", "concurrency"]].drop_duplicates()
    measured = Counter(points["concurrency"].astype(int).tolist())
    if asked is not None:
        if asked not in measured:
            raise UserError(f"nothing was measured at {asked} in flight, only at {_listed(measured)}")
        return asked
    return min((c for c, sizes in measured.items() if sizes >= MIN_POINTS), default=min(measured))


def at_concurrency(trials: Trials, concurrency: int) -> Trials:
    """The trials with so many requests in flight; a note says which these are and what is left out."""
    here = trials.table["concurrency"] == concurrency
    kept, left_out = trials.table[here], trials.table[~here]
    note = _of(concurrency)
    if not left_out.empty:
        note = left_out_words(concurrency, left_out["concurrency"].unique(), _points(left_out))
    elif concurrency == 1:
        return trials
    return replace(trials, table=kept, excluded=trials.excluded + len(left_out), notes=(note, *trials.notes))


def others(trials: Trials, concurrency: int) -> list[Measurement]:
    """The points with another number of requests in flight."""
    elsewhere = trials.table[trials.table["concurrency"] != concurrency]
    return [] if elsewhere.empty else aggregate(elsewhere)


def left_out_words(concurrency: int, others: Iterable[int], points: int) -> str:
    """What a profile of one concurrency says of the points at others that it leaves out."""
    are = "1 point is" if points == 1 else f"{points} points are"
    return f"{_of(concurrency)}; {are} left out, at {_listed(others)} in flight (fit -c chooses)"


def taken_in_words(concurrency: int, others: Iterable[int], points: int) -> str:
    """The same where the points at others are in its models under load."""
    are = "1 point is" if points == 1 else f"{points} points are"
    return f"{_of(concurrency)}; {are} in the model under load alone, at {_listed(others)} in flight"


def _of(concurrency: int) -> str:
    return f"the model is of {'1 request' if concurrency == 1 else f'{concurrency} requests'} in flight"


def _points(trials: pd.DataFrame) -> int:
    return len(trials.drop_duplicates(["input_tokens", "output_tokens", "concurrency"]))


def _listed(counts: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(counts)))
