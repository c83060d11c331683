"""optimum-benchmark's ``benchmark_report.json``: figures without the sizes that they are of."""

from harness.modelling.table_forms.form import TableForm

FORM = TableForm(
    name="optimum-report",
    what="optimum-benchmark's benchmark_report.json (refused: it says no sizes)",
    marks=("prefill.latency.mean", "decode.latency.mean"),
    refused="a report doesn't say the sizes of its requests: give benchmark.json beside it, with config and report",
)
