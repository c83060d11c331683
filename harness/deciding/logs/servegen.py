"""ServeGen's generated requests, and its offline traces of lengths."""

from harness.deciding.logs.form import LogForm

FORM = LogForm(
    "servegen",
    "ServeGen requests and offline traces",
    pairs=(("data.input_tokens", "data.output_tokens"), ("input_length", "output_length")),
    marks=("request_id",),
    reasoning=(),
    total=(),
    time=("timestamp",),
)
