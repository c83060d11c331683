"""The ML.ENERGY leaderboard's own tables: means over a data set, without input tokens."""

from harness.modelling.table_forms.form import TableForm

FORM = TableForm(
    name="ml-energy-board",
    what="the ML.ENERGY leaderboard's tables (refused: they don't say input tokens)",
    marks=(
        "energy_per_token_joules|energy|energy_per_request_joules",
        "model|model_id|nickname",
        "response_length|output_throughput_tokens_per_sec|avg_output_len",
    ),
    refused="the leaderboard gives means over a data set and no input tokens: give the benchmark's results.json",
)
