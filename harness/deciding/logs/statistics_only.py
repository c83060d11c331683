"""Summaries of load generators that have means and percentiles, and no request."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "statistics",
    "summaries of AIPerf, inference-perf and others (refused)",
    marks=(
        "input_sequence_length.avg|successes.count|metrics.prompt_token_count.successful.mean",
        "output_sequence_length.avg|failures.count|metrics.output_token_count.successful.mean",
    ),
    refused="holds statistics of a run and no requests: give the file with its requests (AIPerf: profile_export.jsonl; "
    "inference-perf: per_request_lifecycle_metrics.json; guidellm: benchmarks.json with its requests)",
)
