"""Mooncake's traces, and others that have ids of a prompt's blocks: ServeGen's offline traces, Qwen's of Bailian."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "mooncake",
    "Mooncake traces with hash_ids (also ServeGen offline, Qwen-Bailian)",
    pairs=(("input_length", "output_length"),),
    marks=("hash_ids",),
    blocks=("hash_ids",),
    block_tokens=512,
    time=("timestamp",),
    time_per_s=1e3,
)
