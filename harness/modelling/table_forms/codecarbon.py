"""CodeCarbon's ``emissions.csv`` with columns of tokens added to it.

Field names: mlco2/codecarbon, ``EmissionsData``; energies in kWh, duration in s, powers in W.
"""

from harness.modelling.table_forms.form import TableForm

FORM = TableForm(
    name="codecarbon",
    what="CodeCarbon's emissions.csv with columns input_tokens and output_tokens; one row is one request",
    marks=("energy_consumed", "emissions", "duration"),
    columns={
        "duration": "runtime_s",
        "cpu_energy": "cpu_energy_kwh",
        "gpu_energy": "gpu_energy_kwh",
        "ram_energy": "ram_energy_kwh",
        "energy_consumed": "energy_kwh",
    },
    machine=("gpu_model", "cpu_model"),
    system=("cpu_model", "gpu_model", "tracking_mode"),
    notes=("CodeCarbon counts all that ran between its start and its stop, the time between requests too",),
)
