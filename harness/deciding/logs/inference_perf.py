"""inference-perf's per_request_lifecycle_metrics.json."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "inference-perf",
    "inference-perf per_request_lifecycle_metrics.json",
    pairs=(("info.input_tokens", "info.output_tokens"),),
    marks=("start_time", "end_time"),
    time=("start_time",),
)
