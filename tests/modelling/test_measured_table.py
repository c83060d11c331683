"""Trials measured elsewhere: what is read, and what is refused by line."""

from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.modelling.measured_table import read_table


def write(tmp_path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "trials.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_common_dialects_are_read(separator: str, encoding: str, tmp_path: Path) -> None:
    lines = ("Input_Tokens, output_tokens,runtime_s,cpu_energy_j,gpu_energy_j", "8,16,0.5,1.0,2.0", "", "8,16,0.6,,2.0")
    table = read_table(
        write(tmp_path, *(line.replace(",", separator) for line in lines), encoding=encoding)
    ).trials.table
    assert table["runtime_s"].tolist() == [0.5, 0.6]
    np.testing.assert_array_equal(table["energy_j"], [3.0, np.nan])


def test_trials_that_stopped_early_stay_with_their_point(tmp_path: Path) -> None:
    path = write(tmp_path, "input_tokens,output_tokens,output_tokens_requested,runtime_s", "8,30,32,1", "8,32,,1")
    table = read_table(path).trials.table
    assert table["output_tokens"].tolist() == [32, 32]
    assert table["output_tokens_produced"].tolist() == [30, 32]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["input_tokens,output_tokens,runtime_s"], "no trials"),
        (["input_tokens,runtime_s", "8,1"], "output_tokens"),
        (["input_tokens,output_tokens,runtime_s,runtime_s", "8,8,1,1"], "runtime_s twice"),
        (["input_tokens,output_tokens,runtime_s", "8,8,1", "run0,8,8,1"], "line 3 has 4 fields, the header 3"),
        (["input_tokens,output_tokens,runtime_s", "8,8,1,"], "line 2 has 4 fields"),
        (["input_tokens,output_tokens,runtime_s", "8,8"], "line 2 has 2 fields"),
        (
            ["input_tokens,output_tokens,runtime_s", "8,8,1", "8,8,fast"],
            "line 3: runtime_s is text; it must be a number",
        ),
        (["input_tokens,output_tokens,runtime_s", "8,8,inf"], "line 2: runtime_s is text"),
        (["input_tokens,output_tokens,runtime_s", "8,8,"], "line 2: runtime_s is missing"),
        (["input_tokens,output_tokens,runtime_s", "8,8,-1"], "must be positive"),
        (["input_tokens,output_tokens,runtime_s", "8,8,1e200"], "between 1e-09 and 1e"),
        (["input_tokens,output_tokens,runtime_s,energy_j", "8,8,1,1e-200"], "energy_j is 1e-200"),
        (["input_tokens,output_tokens,runtime_s,energy_j", "8,8,1,inf"], "energy_j is text"),
        (["input_tokens,output_tokens,runtime_s,prefill_s", "8,8,1,soon"], "prefill_s is text"),
        (["input_tokens,output_tokens,runtime_s,gpu_prefill_energy_j", "8,8,1,few"], "gpu_prefill_energy_j is text"),
        (["input_tokens,output_tokens,runtime_s,energy_ci95_j", "8,8,1,-1"], "must not be negative"),
        (["input_tokens,output_tokens,runtime_s", "0.4,8,1"], "1 to 20000000"),
        (["input_tokens,output_tokens,runtime_s", "99999999999999999999,8,1"], "1 to 20000000"),
        (["input_tokens,output_tokens,output_tokens_requested,runtime_s", "8,8,0,1"], "output_tokens_requested is 0"),
        (["input_tokens,output_tokens,runtime_s", "True,True,True"], "input_tokens is text"),
        (
            ["input_tokens,output_tokens,runtime_s,concurrency", "8,8,1,0"],
            "concurrency is 0.0; it must be a whole number",
        ),
        (["input_tokens,output_tokens,runtime_s,concurrency", "8,8,1,1.5"], "concurrency is 1.5"),
        (["input_tokens,output_tokens,runtime_s,concurrency", "8,8,1,99999"], "1 to 65536"),
        (["input_tokens,output_tokens,runtime_s,concurrency", "8,8,1,few"], "concurrency is text"),
        (["input_tokens,output_tokens,runtime_s,batch_size", "8,8,1,8", "8,8,1,8"], "line 2: batch_size is 8.0; call"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(lines: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        read_table(write(tmp_path, *lines))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00i\x00n")
    for path in (tmp_path / "binary.csv", tmp_path / "absent.csv", tmp_path):
        with pytest.raises(UserError, match="can't be read"):
            read_table(path)
