"""Turn the published trials of Wilkins, Keshav and Mortier (2024) into the profiles shipped in ``profiles/``.

    python scripts/published/build_profiles.py [FOLDER with input-sweep.csv and output-sweep.csv]

The raw files come from the repository grantwilkins/energy-inference (Figures 1 and 2 of arXiv 2407.00010).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from harness.core.quantities import Component, Method  # noqa: E402
from harness.modelling.fitting import Power, build_profile, fit_quantities  # noqa: E402
from harness.modelling.measurements import aggregate, without_negative_energy  # noqa: E402
from harness.modelling.meters import energy_shares, presumed  # noqa: E402
from harness.modelling.profile import Profile  # noqa: E402
from harness.modelling.profile_schema import Identity  # noqa: E402
from harness.modelling.sources import provenance, weakest  # noqa: E402

RAW = ROOT.parent / "shared" / "data" / "wilkins2024"
SWEEPS = ("input-sweep.csv", "output-sweep.csv")
SOURCE = (
    "G. Wilkins, S. Keshav, R. Mortier, Hybrid Heterogeneous Clusters Can Lower the Energy Consumption of LLM "
    "Inference Workloads, E2DC 2024, arXiv 2407.00010; trials from github.com/grantwilkins/energy-inference"
)
SYSTEMS = {
    "M1-Pro": "m1-pro",
    "Swing AMD+A100": "swing-a100",
    "Palmetto Intel+A100": "palmetto-a100",
    "Palmetto Intel+V100": "palmetto-v100",
}
MODELS = {"Llama-2 (7B)": "llama-2-7b", "Mistral (7B)": "mistral-7b", "Falcon (7B)": "falcon-7b"}
DEVICES = {
    "m1-pro": ["Apple M1 Pro"],
    "swing-a100": ["AMD EPYC", "NVIDIA A100 40 GB"],
    "palmetto-a100": ["Intel Xeon", "NVIDIA A100 40 GB"],
    "palmetto-v100": ["Intel Xeon", "NVIDIA V100 16 GB"],
}
METHODS: dict[str, dict[Component, Method]] = {
    "m1-pro": {"cpu": "modelled", "gpu": "modelled"},
    "swing-a100": {"cpu": "integrated", "gpu": "counter"},
    "palmetto-a100": {"cpu": "counter", "gpu": "counter"},
    "palmetto-v100": {"cpu": "counter", "gpu": "counter"},
}
"""By the paper: powermetrics on Apple silicon, NVML's energy counter on NVIDIA, RAPL on Intel, uProf's power
samples on AMD."""
NOTES = [
    "the first trial of each point is a warm-up and left out",
    "output tokens are those really produced: sampling stopped some trials early",
    "the file of the input sweep gives nominal input sizes; the real ones follow from the totals of the same "
    "prompt and tokenizer where all 32 output tokens were produced",
    "the column Batch Size of the source is not the number of sequences: each trial ran one prompt",
    "precision and backend version are not recorded in the source",
]
OUTPUT_LIMIT = 32
"""Output tokens asked for in the input sweep."""


def read_trials(folder: Path) -> pd.DataFrame:
    """Trials of both sweeps with the columns of a measurement, warm-ups left out."""
    sweeps = [pd.read_csv(folder / name) for name in SWEEPS]
    sweeps[0]["nominal"] = True
    sweeps[0] = sweeps[0].rename(columns={"Output Token Limit": "output_tokens"})
    sweeps[1]["nominal"] = False
    sweeps[1] = sweeps[1].rename(columns={"Number of Output Tokens": "output_tokens"})
    table = pd.concat(sweeps, ignore_index=True)
    table = table[table["Phase"].str.contains("inference") & (table["Iteration"] > 0)].copy()
    table["input_tokens"] = np.where(table["nominal"], _prompt_tokens(table), table["Number of Input Tokens"])
    # On the M1 the total counts the nominal input, elsewhere the prompt's real length.
    counted = np.where(table["System"] == "M1-Pro", table["Number of Input Tokens"], table["input_tokens"])
    table["output_tokens_produced"] = table["Total Number of Tokens"] - counted
    renamed = {
        "Runtime (s)": "runtime_s",
        "CPU Energy (J)": "cpu_energy_j",
        "GPU Energy (J)": "gpu_energy_j",
        "System": "system",
        "Model": "model",
    }
    columns = ["input_tokens", "output_tokens", "output_tokens_produced", *renamed.values()]
    return table.rename(columns=renamed)[columns]


def _prompt_tokens(table: pd.DataFrame) -> pd.Series:
    """Real length of each trial's prompt, from trials of the same prompt and model that produced every token."""
    key = ["Model", "Number of Input Tokens", "Prompt"]
    elsewhere = table[(table["System"] != "M1-Pro") & table["nominal"]]
    longest = elsewhere.groupby(key)["Total Number of Tokens"].max() - OUTPUT_LIMIT
    return table[key].join(longest.rename("length"), on=key)["length"]


def make_profile(table: pd.DataFrame, system: str, model: str, folder: Path) -> Profile:
    """The profile of one system and model."""
    chosen = table[(table["system"] == system) & (table["model"] == model)]
    trials = without_negative_energy(chosen.drop(columns=["system", "model"]))
    measurements = aggregate(trials.table)
    name = SYSTEMS[system]
    identity = Identity(
        system=name,
        model=MODELS[model],
        kv_cache=False,
        concurrency=1,
        backend="transformers",
        device="mps" if name == "m1-pro" else "cuda",
        device_names=DEVICES[name],
        dtype=None,
        random_weights=False,
    )
    methods: dict[str, Method | None] = {**METHODS[name], "total": weakest(METHODS[name].values())}
    origin = provenance(
        SOURCE,
        [folder / sweep for sweep in SWEEPS],
        replace(trials, notes=(*NOTES, *trials.notes)),
    )
    quantities = fit_quantities(measurements, kv_cache=False)
    power = Power(methods, {}, presumed(METHODS[name], identity.device, energy_shares(measurements)))
    return build_profile(f"{name}-{MODELS[model]}", identity, measurements, quantities, power, origin)


def pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Systems and models that ran."""
    ran = set(zip(table["system"], table["model"], strict=True))
    return [(system, model) for system in SYSTEMS for model in MODELS if (system, model) in ran]


def main() -> None:
    """Write every profile and print the held-out errors."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RAW
    absent = [name for name in SWEEPS if not (folder / name).is_file()]
    if absent:
        print(f"{folder} holds no {' and no '.join(absent)}: name the folder that does as argument", file=sys.stderr)
        raise SystemExit(2)
    table = read_trials(folder)
    errors = []
    for system, model in pairs(table):
        profile = make_profile(table, system, model, folder)
        profile.save(ROOT / "profiles" / f"{profile.name}.json")
        assert profile.energy
        errors.append((profile.energy.model.held_out.mape, profile.runtime.held_out.mape))
        print(f"{profile.name}: held-out error of energy {errors[-1][0]:.2%}, of runtime {errors[-1][1]:.2%}")
    energy, runtime = np.mean(errors, axis=0)
    print(f"mean of {len(errors)}: energy {energy:.2%}, runtime {runtime:.2%}")


if __name__ == "__main__":
    main()
