"""What ``joulebench export`` writes: no trials."""

from harness.modelling.table_forms.form import TableForm

FORM = TableForm(
    name="joulebench-export",
    what="the table of a profile, by joulebench export (refused: it holds no trials)",
    marks=("table", "quantity", "standard_error", "decode_context"),
    refused="it is a profile as joulebench export writes it, and holds no trials: name the profile's own file",
)
