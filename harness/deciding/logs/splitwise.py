"""Traces of the Splitwise simulator. A batch has so many requests of its row's sizes."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "splitwise",
    "splitwise-sim traces",
    pairs=(("prompt_size", "token_size"),),
    batches=True,
    time=("arrival_timestamp",),
)
