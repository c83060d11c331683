"""Rows that sum up many requests, and say of how many."""

from harness.deciding.logs.columns import PAIRS
from harness.deciding.logs.form import SIZE_COUNT, SUM_COUNT, LogForm

FORM = LogForm(
    "sums",
    "rows that sum up many requests (by day, key or model), with a count",
    pairs=PAIRS,
    marks=("|".join(SUM_COUNT),),
    rows="sums",
    count=(*SUM_COUNT, *SIZE_COUNT),
)
