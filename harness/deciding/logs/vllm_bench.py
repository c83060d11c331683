"""Results of ``vllm bench serve --save-detailed``: arrays with an entry for each request."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "vllm-bench",
    "vllm bench serve results with --save-detailed",
    pairs=(("input_lens", "output_lens"),),
    no_output="failed",
    time=("start_times", "start_time"),
)
