"""Tables of measurements of other programs: the same machine in every form, and what is refused with its remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.core.errors import UserError
from harness.modelling.measured_table import MeasuredTable, TableChoice, holds_measurements, read_table
from harness.modelling.measurements import aggregate
from harness.modelling.profile_schema import Measurement
from tests.helpers import ROOT
from tests.modelling import table_examples as examples
from tests.modelling.table_examples import SIZES, energy_j, runtime_s

INPUTS = ROOT.parent / "shared" / "inputs"
WILKINS = ROOT.parent / "shared" / "data" / "wilkins2024"


def read(tmp_path: Path, name: str, text: str, **choice: Any) -> MeasuredTable:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_table(tmp_path / name, TableChoice(**choice))


def points(table: MeasuredTable) -> list[Measurement]:
    return aggregate(table.trials.table)


def refusal(tmp_path: Path, name: str, text: str, **choice: Any) -> str:
    with pytest.raises(UserError) as refused:
        read(tmp_path, name, text, **choice)
    assert "\n" not in str(refused.value)
    assert "SECRET" not in str(refused.value)
    return str(refused.value)


def test_llama_bench_counts_decode_steps_after_the_token_of_the_prefill(tmp_path: Path) -> None:
    rows = examples.llama_bench()
    means = [{name: cell for name, cell in row.items() if not name.startswith("samples")} for row in rows]
    files = {
        "b.csv": (examples.as_csv(means), 1),
        "b.json": (json.dumps(rows), 2),
        "b.jsonl": (examples.as_lines(rows), 2),
    }
    for name, (text, repetitions) in files.items():
        table = read(tmp_path, name, text)
        assert (table.form.name, table.system, table.model) == ("llama-bench", "Some GPU", "llama 7B Q4_0")
        found = points(table)
        sizes = {(1, 128), (64, 32), (256, 1), (512, 1), (512, 65), (512, 129)}
        assert {(point.input_tokens, point.output_tokens) for point in found} == sizes
        for point in found:
            assert point.runtime_s.mean == pytest.approx(runtime_s(point.input_tokens, point.output_tokens))
            assert point.runtime_s.trials == repetitions
        # Generation at a depth is a request of that prompt where its prefill was measured, else it is left out.
        assert any("left out: at a depth" in note for note in table.trials.notes)
    others = [*rows, *examples.llama_bench(flash_attn=1)]
    assert "flash_attn is 0 or 1" in refusal(tmp_path, "c.jsonl", examples.as_lines(others))


def test_llama_bench_is_read_from_its_table_for_people(tmp_path: Path) -> None:
    text = (
        "ggml_cuda_init: found 1 CUDA devices:\n"
        "| model         |     size | backend | ngl |         test |             t/s |\n"
        "| ------------- | -------: | ------- | --: | -----------: | --------------: |\n"
        "| llama 7B Q4_0 | 3.56 GiB | CUDA    |  99 |        pp512 | 2000.00 ± 20.55 |\n"
        "| llama 7B Q4_0 | 3.56 GiB | CUDA    |  99 | tg128 @ d512 |   100.00 ± 0.03 |\n"
        "\nbuild: abc (1)\n"
    )
    first, second = points(read(tmp_path, "b.txt", text))
    assert (first.input_tokens, first.output_tokens, first.runtime_s.mean) == (512, 1, pytest.approx(0.256))
    assert (second.input_tokens, second.output_tokens, second.runtime_s.mean) == (512, 129, pytest.approx(1.536))


def test_llama_batched_bench_has_the_runtime_of_batches(tmp_path: Path) -> None:
    rows = examples.llama_batched_bench()
    for name, text in (("b.jsonl", examples.as_lines(rows)), ("b.csv", examples.as_csv(rows))):
        found = {(p.input_tokens, p.output_tokens, p.concurrency): p for p in points(read(tmp_path, name, text))}
        assert len(found) == 2 * len(SIZES)
        assert found[64, 17, 1].runtime_s.mean == pytest.approx(runtime_s(64, 17))
        assert found[64, 17, 4].runtime_s.mean == pytest.approx(4 * 0.064 + 16 * 0.05 * 1.3)
    shared = [row | {"is_pp_shared": 1} for row in rows]
    assert "run it without -pps" in refusal(tmp_path, "s.jsonl", examples.as_lines(shared[len(SIZES) :]))


@pytest.mark.parametrize("batch", [1, 2])
def test_optimum_benchmark_has_energies_of_the_batch_in_kwh(batch: int, tmp_path: Path) -> None:
    rows = examples.optimum_rows(batch)
    nested = [examples.nested(row) for row in rows]
    files = {
        "b.csv": examples.as_csv(rows),
        "b.jsonl": examples.as_lines(nested),
        "benchmark.json": json.dumps(nested[0]),
    }
    for name, text in files.items():
        table = read(tmp_path, name, text)
        assert (table.form.name, table.model) == ("optimum-benchmark", "meta-llama/Llama-3.1-8B")
        for point in points(table):
            size = point.input_tokens, point.output_tokens
            assert point.concurrency == batch
            assert point.runtime_s.mean == pytest.approx(runtime_s(*size))
            assert point.energy_j is not None
            assert point.energy_j.mean == pytest.approx(energy_j(*size) / batch)
            shares = {name: part.mean / point.energy_j.mean for name, part in point.component_energy_j.items()}
            assert shares == pytest.approx({"gpu": 0.6, "cpu": 0.3, "dram": 0.1})
    assert "give benchmark.json" in refusal(tmp_path, "benchmark_report.json", json.dumps(nested[0]["report"]))


def test_ml_energy_has_runtimes_of_requests_and_estimates_of_their_energy(tmp_path: Path) -> None:
    table = read(tmp_path, "results.json", json.dumps(examples.ml_energy()))
    assert (table.system, table.model, table.form.meter) == ("H100", "Qwen/Qwen3-8B", "estimate")
    found = points(table)
    assert [point.concurrency for point in found] == [8] * len(SIZES)
    for point in found:
        assert point.runtime_s.mean == pytest.approx(runtime_s(point.input_tokens, point.output_tokens))
        assert point.component_energy_j["gpu"].mean == pytest.approx(5 * point.output_tokens)
    said = " ".join(table.trials.notes)
    assert "1 row is left out: failed" in said
    assert "estimates" in said
    assert "SECRET" not in said
    board = [{"model": "a", "energy": 100.0, "response_length": 90.0, "throughput": 20.0}]
    assert "no input tokens" in refusal(tmp_path, "board.json", json.dumps(board))


def test_codecarbon_with_tokens(tmp_path: Path) -> None:
    rows = [row | {"gpu_power": 50.0 + k} for k, row in enumerate(examples.codecarbon())]
    table = read(tmp_path, "emissions.csv", examples.as_csv(rows))
    for point in points(table):
        size = point.input_tokens, point.output_tokens
        assert point.runtime_s.mean == pytest.approx(runtime_s(*size))
        assert {name: part.mean for name, part in point.component_energy_j.items()} == pytest.approx(
            {"gpu": 0.6 * energy_j(*size), "cpu": 0.3 * energy_j(*size), "dram": 0.1 * energy_j(*size)}
        )
    assert "not used, though named energy or power: cpu_power, gpu_power, ram_power" in table.trials.notes
    sums = examples.codecarbon(num_requests=10)
    assert "each row sums up several requests" in refusal(tmp_path, "sums.csv", examples.as_csv(sums))


def test_the_papers_raw_files_have_no_header_and_millijoules(tmp_path: Path) -> None:
    table = read(tmp_path, "raw.csv", examples.wilkins_raw())
    assert (table.system, table.model, table.kv_cache) == ("Swing", "Llama-2-7b", False)
    found = points(table)
    assert {(p.input_tokens, p.output_tokens) for p in found} == set(SIZES)
    for point in found:
        assert point.component_energy_j["gpu"].mean == pytest.approx(energy_j(point.input_tokens, point.output_tokens))
    assert table.trials.excluded == 2 + len(SIZES)
    assert "SECRET" not in " ".join(table.trials.notes)


@pytest.mark.skipif(not WILKINS.is_dir(), reason="the published trials are not here")
def test_the_papers_sweeps_hold_several_systems() -> None:
    path = WILKINS / "output-sweep.csv"
    with pytest.raises(UserError, match=r"Model is .* System is .* --where 'Model="):
        read_table(path)
    table = read_table(path, TableChoice((("System", "m1-pro"), ("Model", "Mistral (7B)"))))
    assert [point.output_tokens_requested for point in points(table)] == [8, 16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.json", lambda rows, path: path.write_text(json.dumps(rows))),
        ("t.jsonl", lambda rows, path: path.write_text(examples.as_lines(rows))),
        ("t.parquet", lambda rows, path: pd.DataFrame(rows).to_parquet(path)),
        ("t.csv", lambda rows, path: path.write_text("Trials of today\n" + examples.as_csv(rows) + ",,,\n")),
        (
            "columns.json",
            lambda rows, path: path.write_text(json.dumps({name: [row[name] for row in rows] for name in rows[0]})),
        ),
        ("frame.json", lambda rows, path: pd.DataFrame(rows).to_json(path)),
        ("nested.json", lambda rows, path: path.write_text(json.dumps({"host": "a", "results": rows}))),
    ],
)
def test_our_columns_in_every_format(
    name: str, write: Callable[[list[dict[str, Any]], Path], object], tmp_path: Path
) -> None:
    write(examples.plain_rows(gpu_energy_wh=lambda m, n: energy_j(m, n) / 3600), tmp_path / name)
    assert holds_measurements(str(tmp_path / name))
    for point in points(read_table(tmp_path / name)):
        size = point.input_tokens, point.output_tokens
        assert point.runtime_s.mean == pytest.approx(runtime_s(*size))
        assert point.component_energy_j["gpu"].mean == pytest.approx(energy_j(*size))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({"energy_mj": 1e5}, {"energy": 100}),
        ({"energy (kJ)": 0.1}, {"energy": 100}),
        ({"Total Energy [Wh]": 1 / 36}, {"energy": 100}),
        ({"energy_kwh": 1 / 36000}, {"energy": 100}),
        ({"energyJ": 100}, {"energy": 100}),
        ({"gpuEnergyMJ": 1e-4}, {"energy": 100, "gpu": 100}),
        ({"cpu_energy_j": 60, "ram_energy_j": 40}, {"energy": 100, "cpu": 60, "dram": 40}),
        ({"package_joules": 60, "GPU Energy (mJ)": 4e4}, {"energy": 100, "cpu": 60, "gpu": 40}),
        ({"gpu0_energy_j": 30, "gpu1_energy_j": 70}, {"energy": 100, "gpu": 100}),
        ({"package-0_energy_uj": 3e7, "package-1_energy_uj": 7e7}, {"energy": 100, "cpu": 100}),
        ({"energy_j": 100, "cpu_energy_j": 100, "gpu_energy_j": 0}, {"energy": 100, "cpu": 100}),
        ({"avg_gpu_power_w": 100}, {"energy": 100, "gpu": 100}),
        ({"gpu_energy_per_request_j": 100, "max_power_w": 9, "idle_energy_j": 5}, {"energy": 100, "gpu": 100}),
    ],
)
def test_units_and_components_are_told_by_names(
    names: dict[str, float], found: dict[str, float], tmp_path: Path
) -> None:
    rows = [{"Prompt Tokens": 64, "completion_tokens": 16, "Latency (ms)": 1000.0, **names}]
    (point,) = points(read(tmp_path, "t.csv", examples.as_csv(rows)))
    assert point.runtime_s.mean == pytest.approx(1.0)
    assert point.energy_j is not None
    said = {"energy": point.energy_j.mean} | {name: part.mean for name, part in point.component_energy_j.items()}
    assert said == pytest.approx(found)


def test_what_speaks_of_energy_and_is_not_used_is_named(tmp_path: Path) -> None:
    rows = examples.plain_rows(energy_j=50, pdu_energy_j=9, max_power_w=99, total_kwh_saved=1, energy=7)
    notes = read(tmp_path, "t.csv", examples.as_csv(rows)).trials.notes
    assert "not used, though named energy or power: pdu_energy_j, max_power_w, total_kwh_saved, energy" in notes
    bare = examples.as_csv([{"input_tokens": 1, "output_tokens": 1, "latency": 1}])
    assert "call it latency_s, latency_ms" in refusal(tmp_path, "b.csv", bare)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("model", ("small", "large")),
        ("Model Name", ("small", "large")),
        ("batch_size", (1, 8)),
        ("precision", ("fp16", "int8")),
        ("torch_dtype", ("float16", "float32")),
        ("hostname", ("a", "b")),
        ("Number of GPUs", (1, 2)),
        ("GPU Model", ("A100", "H100")),
        ("power_limit_w", (200, 300)),
        ("kv_cache", ("on", "off")),
        ("backend_version", ("1.0", "1.1")),
        ("runtime", ("vllm", "llama.cpp")),
    ],
)
def test_several_systems_are_refused_and_one_can_be_chosen(
    column: str, values: tuple[object, object], tmp_path: Path
) -> None:
    rows = [row | {column: values[k % 2]} for k, row in enumerate(examples.plain_rows())]
    said = refusal(tmp_path, "t.csv", examples.as_csv(rows))
    assert f"{column} is {values[0]} or {values[1]}" in said
    assert f"--where {column}={values[0]}" in said.replace("'", "")
    assert len(read_table(tmp_path / "t.csv", TableChoice(((column.upper(), str(values[0])),))).trials.table) == 3


def test_columns_that_vary_within_a_system_are_no_systems(tmp_path: Path) -> None:
    rows = examples.plain_rows(
        gpu_power_w=lambda m, n: 90 + n, gpu_util=lambda m, n: m, seed=lambda m, n: n, text=lambda m, n: f"SECRET {m}",
        gpu_memory_mb=lambda m, n: m * n, model="one", started_at=lambda m, n: f"{m}:{n}", tokens_per_s=lambda m, n: n,
    )  # fmt: skip
    assert len(read(tmp_path, "t.csv", examples.as_csv(rows)).trials.table) == len(SIZES)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ((("size", "1"),), "no such column; it has input_tokens, output_tokens, runtime_s, model, prompt"),
        ((("model", "c"),), "no row of"),
        ((("model", "c"),), "model is a or b"),
        ((("prompt", "c"),), "no row of"),
    ],
)
def test_choices_that_choose_nothing_are_refused(where: tuple[tuple[str, str], ...], said: str, tmp_path: Path) -> None:
    rows = [row | {"model": "ab"[k % 2], "prompt": "SECRET"} for k, row in enumerate(examples.plain_rows())]
    assert said in refusal(tmp_path, "t.csv", examples.as_csv(rows), where=where)
    both = (("model", "a"), ("model", "b"), ("prompt", "SECRET"))
    assert "holds several systems" in refusal(tmp_path, "t.csv", examples.as_csv(rows), where=both)


@pytest.mark.parametrize(
    ("energy", "runtime", "model", "said"),
    [
        (250_000, 1.0, "x", "250 kW"),
        (100 / 3600, 1.0, "x", "0.028 W"),
        (100, 1000.0, "x", "0.10 W"),
        (3.0, 1.0, "llama-2-7b", None),
        (3.0 / 3600, 1e-3, "llama-2-70b", "less than any machine needs for llama-2-70b"),
        (18_000 * 64, 64.0, "smollm2-135m", "more than any machine needs for smollm2-135m"),
        (0.3, 0.01, "qwen3-30b-a3b", None),
    ],
)
def test_units_that_no_machine_has_are_doubted(
    energy: float, runtime: float, model: str, said: str | None, tmp_path: Path
) -> None:
    row = {"input_tokens": 64, "output_tokens": 1, "runtime_s": runtime, "energy_j": energy, "model": model}
    text = examples.as_csv([row])
    if said is None:
        assert len(read(tmp_path, "t.csv", text).trials.table) == 1
        return
    refused = refusal(tmp_path, "t.csv", text)
    assert said in refused
    assert "--trust-units" in refused
    trusted = read(tmp_path, "t.csv", text, trust_units=True).trials
    assert len(trusted.table) == 1
    assert "its units are trusted" in trusted.notes[0]


def test_parts_larger_than_the_whole_are_doubted(tmp_path: Path) -> None:
    text = examples.as_csv(examples.plain_rows(energy_j=energy_j, gpu_energy_j=lambda m, n: 9 * energy_j(m, n)))
    assert "gpu_energy_j is 9.0 times energy_j, the whole: is the unit right?" in refusal(tmp_path, "t.csv", text)


def test_rows_that_are_no_measurement_are_left_out_and_counted(tmp_path: Path) -> None:
    columns = {
        "status": (["ok", "Success", "failed", "OOM", "odd"], 2),
        "success": ([True, True, False, True, False], 3),
        "error": (["", "SECRET went wrong", "", "None", ""], 4),
        "is_warmup": (["true", "false", "false", "0", "1"], 3),
        "exit_code": ([0, 0, 137, 0, 1], 3),
    }
    for name, (values, kept) in columns.items():
        rows = [row | {name: value} for row, value in zip(examples.plain_rows(), values, strict=True)]
        trials = read(tmp_path, "t.csv", examples.as_csv(rows)).trials
        assert (len(trials.table), trials.excluded) == (kept, 5 - kept), name
        assert "left out" in " ".join(trials.notes)
        assert "SECRET" not in " ".join(trials.notes)
    odd = examples.as_csv(examples.plain_rows(status="odd"))
    assert "--where COLUMN=VALUE" in refusal(tmp_path, "t.csv", odd)
    assert len(read(tmp_path, "t.csv", odd, where=(("status", "odd"),)).trials.table) == len(SIZES)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (["64;16;1,5", "1.024;16;2,25"], [(64, 1.5), (1024, 2.25)]),
        (["64;16;0.5", "1024;16;2.25"], [(64, 0.5), (1024, 2.25)]),
        (["64;16;1.234,5", "64000;16;1,5"], [(64, 1234.5), (64000, 1.5)]),
        (["64;16;1 234,5", "65;16;1,5"], [(64, 1234.5), (65, 1.5)]),
        (["64;16;1e-1", "65;16;2E1"], [(64, 0.1), (65, 20)]),
    ],
)
def test_decimals_and_thousands_are_told_apart(
    rows: list[str], sizes: list[tuple[float, float]], tmp_path: Path
) -> None:
    text = "\n".join(["input_tokens;output_tokens;runtime_s", *rows])
    table = read(tmp_path, "t.csv", text).trials.table
    assert list(zip(table["input_tokens"], table["runtime_s"], strict=True)) == sizes


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["64;16;1,500", "65;16;2,250"], "can be read with thousands or with decimals"),
        (["1.000;2.000;3"], "can be read with thousands or with decimals"),
        (["64;16;1,5", "64;16;1.5"], "line 2: runtime_s is text"),
        (["64;16;1.2.3,5"], "line 2: runtime_s is text"),
        (["64;16;SECRET", "64;16;-1", "64;16;", "64;16;0"], "line 2: runtime_s is text; it must be a number; line 3"),
        (["64;16;SECRET", "64;16;SECRET 2"], "(likewise line 3)"),
    ],
)
def test_unclear_and_broken_numbers_are_refused(rows: list[str], said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, "t.csv", "\n".join(["input_tokens;output_tokens;runtime_s", *rows]))


def test_no_text_of_a_file_reaches_what_is_said(tmp_path: Path) -> None:
    texts = {
        "nohead.csv": "64,16,1,SECRET prompt\n65,16,2,SECRET answer\n",
        "shift.csv": "input_tokens,output_tokens,runtime_s,prompt\n64,16,SECRET answer,1\n",
        "short.csv": "input_tokens,output_tokens,runtime_s,prompt\n64,16,1,a\n64,16,SECRET\n",
        "quote.csv": 'input_tokens,output_tokens,runtime_s,prompt\n64,16,1,"SECRET\n',
        "b.json": '{"prompt": "SECRET"',
        "b.jsonl": '{"prompt": "SECRET"}\n{"SECRET',
        "system.csv": "input_tokens,output_tokens,runtime_s,system\n64,16,1,You are a SECRET and so helpful assistant\n"
        "64,16,1,You are another SECRET and so helpful\n",
    }
    for name, text in texts.items():
        refusal(tmp_path, name, text)


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the examples of inputs are not here")
def test_the_inputs_that_people_hold_have_their_right_answer() -> None:
    for name in ("fit_gpu_zero", "fit_ram_ignored"):
        first = points(read_table(INPUTS / f"{name}.csv"))[0]
        assert first.energy_j is not None
        assert first.energy_j.mean == 100
    with pytest.raises(UserError, match=r"250 kW.*--trust-units"):
        read_table(INPUTS / "fit_millijoules.csv")
    with pytest.raises(UserError, match=r"model is small or large, batch_size is 1 or 8.*--where model=small$"):
        read_table(INPUTS / "fit_two_models.csv")
    chosen = read_table(INPUTS / "fit_two_models.csv", TableChoice((("model", "small"),)))
    assert points(chosen)[0].runtime_s.mean == 1.0


def test_forms_are_chosen_by_name_and_unknown_ones_refused(tmp_path: Path) -> None:
    text = examples.as_csv(examples.plain_rows())
    assert read(tmp_path, "t.csv", text, form="columns").form.name == "columns"
    assert "choose from codecarbon, columns, joulebench" in refusal(tmp_path, "t.csv", text, form="mine")
