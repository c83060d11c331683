"""Results of ``sglang.bench_serving --output-details``: a run in each line, arrays with an entry for each request."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "sglang-bench",
    "sglang.bench_serving results with --output-details",
    pairs=(("input_lens", "output_lens"),),
    marks=("sharegpt_output_len|random_input_len|random_range_ratio|total_output_tokens_retokenized",),
    no_output="failed",
    time=("start_times", "start_time"),
)
