"""Derive what the published accounting needs from the raw data of Wilkins, Keshav and Mortier (2024).

Writes two files into the profiles folder:

- ``paper-accounting.json``: for M1-Pro and Swing AMD+A100, over all models together, the mean energy per total
  token (CPU + GPU over input + output) and the mean runtime at each power of two of both sweeps. The published
  figures drop every trial whose name contains a "0", which loses trials 10 and 20 and the sizes 1024, 2048 and
  4096 of the output sweep besides the warm-up trial 0; the same rows are dropped here.
- ``alpaca.json``: the two published token histograms, edges and counts only. The count of the last input bin
  reads 0 in the figure although numpy's histogram ends at the longest prompt, and the counts sum to one prompt
  less than the data set holds: that prompt is put back where it must be.

Usage: python scripts/published/build_accounting.py [DATA_FOLDER] [OUTPUT_FOLDER]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (
    "G. Wilkins, S. Keshav, R. Mortier, Hybrid Heterogeneous Clusters Can Lower the Energy Consumption of LLM "
    "Inference Workloads, 2024 (arXiv 2407.00010); trials from repository grantwilkins/energy-inference"
)
SYSTEMS = {"M1-Pro": "m1-pro", "Swing AMD+A100": "swing-a100"}
SWEEPS = {
    "input": ("input-sweep.csv", "Number of Input Tokens"),
    "output": ("output-sweep.csv", "Number of Output Tokens"),
}
ALPACA_PROMPTS = 52_002


def sweep_means(path: Path, length_column: str) -> dict[str, dict[str, dict[str, float]]]:
    """Means by system and length, over the rows that the published analysis keeps."""
    trials = pd.read_csv(path)
    kept = trials[trials["Phase"].str.contains("inference") & ~trials["Phase"].str.contains("0")]
    kept = kept.assign(
        energy_per_token_j=(kept["CPU Energy (J)"] + kept["GPU Energy (J)"]) / kept["Total Number of Tokens"],
        runtime_s=kept["Runtime (s)"],
    )
    means: dict[str, dict[str, dict[str, float]]] = {}
    for label, name in SYSTEMS.items():
        by_length = kept[kept["System"] == label].groupby(length_column)
        table = by_length[["energy_per_token_j", "runtime_s"]].mean().assign(trials=by_length.size())
        means[name] = {
            str(length): {
                "energy_per_token_j": float(row.energy_per_token_j),
                "runtime_s": float(row.runtime_s),
                "trials": int(row.trials),
            }
            for length, row in table.iterrows()
        }
    return means


def paper_accounting(data: Path) -> dict[str, Any]:
    """Content of ``paper-accounting.json``."""
    return {
        "kind": "joulebench-paper-accounting",
        "schema_version": 1,
        "source": SOURCE,
        "models": ["Falcon (7B), swing-a100 only", "Llama-2 (7B)", "Mistral (7B)"],
        "sweeps": {sweep: sweep_means(data / "wilkins2024" / file, column) for sweep, (file, column) in SWEEPS.items()},
    }


def alpaca(data: Path) -> dict[str, Any]:
    """Content of ``alpaca.json``."""
    histograms = {
        axis: json.loads((data / "alpaca" / f"{file}.json").read_text("utf-8"))
        for axis, file in (("input_tokens", "input-tokens"), ("output_tokens", "output-tokens"))
    }
    missing = ALPACA_PROMPTS - sum(histograms["input_tokens"]["counts"])
    if histograms["input_tokens"]["counts"][-1] == 0:
        histograms["input_tokens"]["counts"][-1] = missing
    for axis, histogram in histograms.items():
        if sum(histogram["counts"]) != ALPACA_PROMPTS:
            raise SystemExit(f"{axis}: the counts do not sum to {ALPACA_PROMPTS}")
    return {
        "kind": "joulebench-workload",
        "schema_version": 1,
        "name": "alpaca",
        "source": (
            "Token counts of the 52,002 Alpaca prompts (R. Taori et al., 2023) with the Llama-2 tokenizer, read "
            "from the published histograms of G. Wilkins, S. Keshav, R. Mortier, 2024 (arXiv 2407.00010)"
        ),
        "histograms": histograms,
    }


def main() -> None:
    """Write both files."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "data"
    output = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "profiles"
    needed = [data / "wilkins2024" / file for file, _ in SWEEPS.values()]
    needed += [data / "alpaca" / f"{name}.json" for name in ("input-tokens", "output-tokens")]
    absent = [str(path) for path in needed if not path.is_file()]
    if absent:
        print(f"no {', '.join(absent)}: give the folder of the raw data as DATA_FOLDER", file=sys.stderr)
        raise SystemExit(2)
    for name, content in (("paper-accounting", paper_accounting(data)), ("alpaca", alpaca(data))):
        (output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
