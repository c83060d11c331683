"""``export``: a table that a model can be evaluated from, in the format that the file's name says."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from harness.modelling.profile import Profile
from harness.modelling.tables import write_table
from tests.helpers import joulebench, refused
from tests.profile_variants import SHIPPED, VARIANTS, variant


def cost(rows: list[dict[str, str]], quantity: str, m: int, n: int) -> float:
    """A request's cost by the table alone: nothing of joulebench's is used."""
    model = [row for row in rows if row["table"] == "model" and row["quantity"] == quantity]
    number = {
        row["name"].rsplit("_per_")[0].removesuffix("_s").removesuffix("_j"): float(row["value"]) for row in model
    }
    if model[0]["form"] == "bilinear":
        return number["input"] * m + number["output"] * n + number["interaction"] * m * n
    p, c0 = number["roofline_exponent"], number["prefill_floor"]

    def prefill(x: int) -> float:
        work = number["prefill_linear"] * x + number["prefill_quadratic"] * x**2
        return (c0**p + work**p) ** (1 / p)

    if model[0]["kv_cache"] == "True":
        static = model[0]["decode_context"] == "m + n"
        contexts = [m + n if static else m + k for k in range(1, n)]
        decode = sum(number["decode_floor"] + number["decode_linear"] * x for x in contexts)
        return prefill(m) + decode
    return sum(prefill(m + k) for k in range(n))


@pytest.fixture
def exported(tmp_path: Path):
    def export(profile: Profile) -> list[dict[str, str]]:
        profile.save(tmp_path / "profile.json")
        done = joulebench("export", tmp_path / "profile.json", "-o", tmp_path / "table.csv")
        assert done.returncode == 0, done.stderr
        with (tmp_path / "table.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return export


@pytest.mark.parametrize("name", [*SHIPPED, *VARIANTS])
def test_a_csv_alone_gives_the_models_values(name: str, exported) -> None:
    """The exponent of the roofline was left out of it."""
    profile = variant(name)
    rows = exported(profile)
    for m, n in np.random.default_rng(3).integers(1, 600, (12, 2)).tolist():
        assert cost(rows, "runtime", m, n) == pytest.approx(float(profile.runtime_s(m, n)), rel=1e-9)
        assert cost(rows, "energy", m, n) == pytest.approx(float(profile.energy_j(m, n)), rel=1e-9)
        assert cost(rows, "gpu_energy", m, n) == pytest.approx(float(profile.energy_j(m, n, "gpu")), rel=1e-9)


def test_a_csv_alone_gives_the_interval_and_the_range(exported) -> None:
    profile = variant("bilinear")
    rows = [row for row in exported(profile) if row["quantity"] == "runtime"]
    names = [c.name for c in profile.runtime.coefficients]
    covariance = np.zeros((3, 3))
    for row in rows:
        if row["table"] == "covariance":
            covariance[names.index(row["name"]), names.index(row["name_2"])] = float(row["value"])
    number = {row["name"]: float(row["value"]) for row in rows if row["table"] == "model"}
    derivatives = np.array([64.0, 32.0, 64.0 * 32.0])
    variance = derivatives @ covariance @ derivatives + (number["misfit"] * cost(rows, "runtime", 64, 32)) ** 2
    assert number["interval_factor_95"] * variance**0.5 == pytest.approx(
        float(profile.predict_runtime(64, 32).interval_95)
    )
    sizes = [
        (row["name"], float(row["input_tokens"]), float(row["output_tokens"]))
        for row in rows
        if row["table"] == "range"
    ]
    measured = profile.runtime.range
    least = ("minimum", measured.min_input_tokens, measured.min_output_tokens)
    assert sizes == [least, *(("corner", *corner) for corner in measured.corners)]


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "CSV"])
def test_the_files_name_decides_the_format(ending: str, tmp_path: Path) -> None:
    """``export -o x.csv`` wrote JSON."""
    path = tmp_path / f"table.{ending}"
    assert joulebench("export", "swing-a100-mistral-7b", "-o", path).returncode == 0
    content = path.read_bytes()
    kind = "parquet" if content[:4] == b"PAR1" else "json" if content[:1] == b"[" else "csv"
    assert kind == ending.lower()
    if kind == "json":
        assert json.loads(content)[0]["form"] == "phase"


def test_a_format_against_the_files_name_is_refused(tmp_path: Path) -> None:
    done = joulebench("export", "swing-a100-mistral-7b", "-o", tmp_path / "x.csv", "--format", "json")
    assert "ends in .csv but --format is json" in refused(done)
    assert not (tmp_path / "x.csv").exists()
    assert "end it in .json, .csv or .parquet" in refused(
        joulebench("export", "swing-a100-mistral-7b", "-o", tmp_path / "table")
    )
    write_table(Profile.load("swing-a100-mistral-7b"), tmp_path / "table.txt", "csv")
    assert (tmp_path / "table.txt").read_text().startswith("table,quantity")
