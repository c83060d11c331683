"""Results of vLLM's and SGLang's load generators without details: totals of the run."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "bench-totals",
    "vllm bench serve and sglang.bench_serving results without details (sums of a run)",
    pairs=(("total_input_tokens", "total_output_tokens"), ("total_input", "total_output")),
    marks=("completed", "request_throughput"),
    rows="sums",
    count=("completed",),
)
