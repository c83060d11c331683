"""BurstGPT's traces. Requests that failed have no response tokens."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "burstgpt",
    "BurstGPT traces",
    pairs=(("Request tokens", "Response tokens"),),
    no_output="failed",
    time=("Timestamp",),
)
