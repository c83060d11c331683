"""A row for each size, with the number of requests that have it."""

from harness.deciding.logs.columns import PAIRS
from harness.deciding.logs.form import SIZE_COUNT, SUM_COUNT, LogForm

FORM = LogForm(
    "counted",
    "a row for each size, with a count of requests",
    pairs=PAIRS,
    marks=("|".join(SIZE_COUNT),),
    rows="sizes",
    count=(*SIZE_COUNT, *SUM_COUNT),
)
