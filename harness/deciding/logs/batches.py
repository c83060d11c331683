"""Rows that stand for a batch of requests of one size."""

from harness.deciding.logs.columns import PAIRS
from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "batches",
    "rows of batches, each of batch_size requests with the row's sizes",
    pairs=PAIRS,
    batches=True,
)
"""Only by name: whether a batch's tokens are those of one request can't be seen."""
