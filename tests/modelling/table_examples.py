"""Small tables of measurements in the forms of the programs that write them; the numbers are made up."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

SIZES = ((64, 16), (128, 32), (256, 64), (64, 64), (512, 16))
PREFILL_S, STEP_S, POWER_W = 1e-3, 0.05, 100.0


def runtime_s(m: float, n: float) -> float:
    """Seconds of a request of the made-up machine: m ms of prefill, 50 ms for each further token."""
    return PREFILL_S * m + STEP_S * (n - 1)


def energy_j(m: float, n: float) -> float:
    """Joules of a request, at 100 W."""
    return POWER_W * runtime_s(m, n)


def as_csv(rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> str:
    """Rows as CSV with the columns of the first."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def as_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def plain_rows(**further: Any) -> list[dict[str, Any]]:
    """Rows of our own columns; a further one is a value, or a function of (m, n)."""
    return [
        {
            "input_tokens": m,
            "output_tokens": n,
            "runtime_s": runtime_s(m, n),
            **{name: value(m, n) if callable(value) else value for name, value in further.items()},
        }
        for m, n in SIZES
    ]


def llama_bench(**further: Any) -> list[dict[str, Any]]:
    """pp, tg and pg rows of llama-bench, and generation at a depth, two repetitions each."""
    tests = [(512, 0, 0), (256, 0, 0), (0, 128, 0), (512, 128, 0), (64, 31, 0), (0, 64, 512), (0, 64, 4096)]
    rows = []
    for prompt, steps, depth in tests:
        # A first token out of an empty cache is the prefill of one.
        start = PREFILL_S * prompt if prompt or depth else PREFILL_S
        seconds = start + STEP_S * (steps if prompt or depth else steps - 1)
        rows.append(
            {
                "build_commit": "abc1234", "cpu_info": "Some CPU", "gpu_info": "Some GPU", "backends": "CUDA",
                "model_filename": "models/7b-q4.gguf", "model_type": "llama 7B Q4_0", "model_n_params": 6738415616,
                "n_batch": 2048, "n_ubatch": 512, "n_threads": 8, "type_k": "f16", "n_gpu_layers": 99, "flash_attn": 0,
                "n_prompt": prompt, "n_gen": steps, "n_depth": depth, "test_time": "2026-01-01T00:00:00Z",
                "avg_ns": round(seconds * 1e9), "stddev_ns": 1000, "avg_ts": 1.0, "stddev_ts": 0.0,
                "samples_ns": [round(seconds * 1e9) - 1000, round(seconds * 1e9) + 1000], "samples_ts": [1.0, 1.0],
                **further,
            }
        )  # fmt: skip
    return rows


def llama_batched_bench() -> list[dict[str, Any]]:
    """Batches of 1 and 4 sequences of llama-batched-bench."""
    rows = []
    for c in (1, 4):
        for pp, tg in SIZES:
            t_pp, t_tg = c * PREFILL_S * pp, STEP_S * tg * (1 + 0.1 * (c - 1))
            rows.append(
                {
                    "n_kv_max": 8192, "n_batch": 2048, "n_ubatch": 512, "flash_attn": 0, "is_pp_shared": 0,
                    "n_gpu_layers": 99, "n_threads": 8, "n_threads_batch": 8, "pp": pp, "tg": tg, "pl": c,
                    "n_kv": c * (pp + tg), "t_pp": t_pp, "speed_pp": 1.0, "t_tg": t_tg, "speed_tg": 1.0,
                    "t": t_pp + t_tg, "speed": 1.0,
                }
            )  # fmt: skip
    return rows


def optimum_rows(batch: int = 2) -> list[dict[str, Any]]:
    """Rows of optimum-benchmark's CSV; energies in kWh of the whole batch."""
    rows = []
    for m, n in SIZES:
        parts = {"prefill": PREFILL_S * m, "decode": STEP_S * (n - 1)}
        row: dict[str, Any] = {
            "config.name": "pytorch",
            "config.backend.name": "pytorch",
            "config.backend.model": "meta-llama/Llama-3.1-8B",
            "config.scenario.input_shapes.batch_size": batch,
            "config.scenario.input_shapes.sequence_length": m,
            "config.scenario.generate_kwargs.max_new_tokens": n,
            "config.environment.gpu": "['Some GPU']",
            "report.load_model.latency.mean": 20.0,
        }
        for phase, seconds in parts.items():
            kwh = 100.0 * seconds / 3.6e6
            row |= {f"report.{phase}.latency.unit": "s", f"report.{phase}.latency.mean": seconds}
            row |= {f"report.{phase}.energy.unit": "kWh", f"report.{phase}.energy.cpu": 0.3 * kwh}
            row |= {f"report.{phase}.energy.ram": 0.1 * kwh, f"report.{phase}.energy.gpu": 0.6 * kwh}
            row[f"report.{phase}.energy.total"] = kwh
        rows.append(row)
    return rows


def nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of dotted names as nested objects."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        *folders, last = name.split(".")
        inner = found
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return found


def ml_energy() -> dict[str, Any]:
    """The ML.ENERGY benchmark's results.json: requests with a failed one, energies by output tokens."""
    results = [
        {"input_len": m, "output_len": n, "latency": runtime_s(m, n), "ttft": 0.1, "itl": [0.1], "success": True,
         "energy": 5.0 * n, "output_text": "SECRET ANSWER"}
        for m, n in SIZES
    ]  # fmt: skip
    results.append({"input_len": 9, "output_len": 0, "latency": 0.0, "success": False, "error": "SECRET TRACE"})
    return {
        "model_id": "Qwen/Qwen3-8B", "gpu_model": "H100", "num_gpus": 1, "max_num_seqs": 8, "num_prompts": 6,
        "steady_state_duration": 60.0, "steady_state_energy": 1000.0, "steady_state_energy_per_token": 5.0,
        "results": results,
    }  # fmt: skip


def codecarbon(**further: Any) -> list[dict[str, Any]]:
    """Rows of emissions.csv with tokens; kWh and s."""
    return [
        {
            "timestamp": "2026-01-01T00:00:00", "project_name": "codecarbon", "run_id": "abc", "duration":
            runtime_s(m, n), "emissions": 1e-6, "emissions_rate": 1e-7, "cpu_power": 42.5, "gpu_power": 60.0,
            "ram_power": 3.0, "cpu_energy": 0.3 * energy_j(m, n) / 3.6e6, "gpu_energy": 0.6 * energy_j(m, n) / 3.6e6,
            "ram_energy": 0.1 * energy_j(m, n) / 3.6e6, "energy_consumed": energy_j(m, n) / 3.6e6, "country_name":
            "Germany", "cpu_count": 8, "cpu_model": "Some CPU", "gpu_count": 1, "gpu_model": "1 x Some GPU",
            "tracking_mode": "machine", "input_tokens": m, "output_tokens": n, **further,
        }
        for m, n in SIZES
    ]  # fmt: skip


def wilkins_raw() -> str:
    """The authors' file without a header, GPU energy in mJ; a prompt spans two lines."""
    rows = [
        ["17116394.8", phase, 0.3, 22384, 256, 0, 0, "Llama-2-7b", 1, "startup", 0, 32, "Swing", 48, 40960.0, 9.5]
        for phase in ("tokenizer", "model load")
    ]
    for k, (m, n) in enumerate(SIZES):
        for iteration in range(2):
            slow = 3.0 if iteration == 0 else 1.0
            rows.append(
                [f"171163945{k}.9", f"start-inference-A-{iteration}", slow * runtime_s(m, n), 1000 * energy_j(m, n),
                 n, m, iteration, "Llama-2-7b", 1, "SECRET\nPROMPT, twice", m + n, 32, "Swing", k, 40960.0, 14487.7]
            )  # fmt: skip
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
