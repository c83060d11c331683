"""Tables with columns of our names, or of names that say the same."""

from harness.modelling.table_forms.form import TableForm

FORM = TableForm(
    name="columns",
    what="any table with columns of input tokens, output tokens and runtime, units in their names",
)
