"""Rows of requests under the names that most logs use."""

from harness.deciding.logs.form import LogForm

PAIRS = (
    ("ContextTokens", "GeneratedTokens"),
    ("input_tokens", "output_tokens"),
    ("prompt_tokens", "completion_tokens"),
    ("Request tokens", "Response tokens"),
    ("num_prefill_tokens", "num_decode_tokens"),
    ("prompt_tokens", "output_tokens"),
    ("prompt_tokens", "response_tokens"),
    ("prompt_tokens", "generated_tokens"),
    ("prompt_tokens", "generation_tokens"),
    ("input_tokens", "completion_tokens"),
    ("input_tokens", "generated_tokens"),
    ("tokens_in", "tokens_out"),
    ("tokens_input", "tokens_output"),
    ("in_tokens", "out_tokens"),
    ("input_token_count", "output_token_count"),
    ("prompt_token_count", "completion_token_count"),
    ("num_input_tokens", "num_output_tokens"),
    ("num_prompt_tokens", "num_output_tokens"),
    ("num_prompt_tokens", "num_generated_tokens"),
    ("n_prompt_tokens", "n_completion_tokens"),
    ("n_input_tokens", "n_output_tokens"),
    ("input_length", "output_length"),
    ("input_len", "output_len"),
    ("prompt_length", "output_length"),
    ("prompt_length", "response_length"),
    ("prompt_len", "output_len"),
    ("input_sequence_length", "output_sequence_length"),
    ("isl", "osl"),
    ("prefill_tokens", "decode_tokens"),
    ("tokens.prompt", "tokens.completion"),
    ("tokens.input", "tokens.output"),
    ("usage.input", "usage.output"),
    ("usage.prompt", "usage.completion"),
)
"""Names of input and output, those first that say it best."""

FORM = LogForm("columns", "any table with columns of input and output tokens", pairs=PAIRS)
