"""``export``: a table that a model can be evaluated from, in the format that the file's name says."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

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

    def of_terms(x: int, phase: str) -> float:
        parts = ((name.split("_"), value) for name, value in number.items() if name.startswith(phase))
        shapes = {"tile": lambda t: math.ceil(x / t) * t, "hinge": lambda h: max(x - h, 0), "cap": lambda h: min(x, h)}
        return sum(value * shapes[part[1]](int(part[2])) for part, value in parts if part[1] in shapes)

    def prefill(x: int) -> float:
        work = number["prefill_linear"] * x + number["prefill_quadratic"] * x**2 + of_terms(x, "prefill")
        return (c0**p + work**p) ** (1 / p)

    if model[0]["kv_cache"] == "True":
        static = model[0]["decode_context"] == "m + n"
        contexts = [m + n if static else m + k for k in range(1, n)]
        steps = (number["decode_floor"] + number["decode_linear"] * x + of_terms(x, "decode") for x in contexts)
        decode = sum(steps)
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


def half_widths(rows: list[dict[str, str]], quantity: str, m: int, n: int, derivatives: list[float]) -> list[float]:
    """Of the 95 % intervals of the mean and of one request, by the table alone."""
    of = [row for row in rows if row["quantity"] == quantity]
    number = {row["name"]: float(row["value"] or "inf") for row in of if row["table"] == "model"}
    value = cost(rows, quantity, m, n)
    names = [row["name"] for row in of if row["table"] == "model" and row["standard_error"]]
    trials = sum(
        derivatives[names.index(row["name"])] * derivatives[names.index(row["name_2"])] * float(row["value"])
        for row in of
        if row["table"] == "covariance"
    )
    sizes = [(float(row["input_tokens"]), float(row["output_tokens"])) for row in of if row["name"] == "point"]
    near = min(math.log2(m / at_m) ** 2 + math.log2(n / at_n) ** 2 for at_m, at_n in sizes)
    misfit = number["misfit_sd"] * (1 + number["misfit_growth"] * near) ** 0.5
    misfit *= (value / number["misfit_reference_cost"]) ** -number["misfit_falloff"]
    scatter = number["scatter_factor"] * value ** number["scatter_exponent"]
    parts = [
        (trials, number.get("freedom", math.inf)),
        ((misfit * value) ** 2, number.get("misfit_freedom", math.inf)),
        ((number["sessions_sd"] * value) ** 2, number.get("sessions_freedom", math.inf)),
        ((number.get("gain_ci95", 0.0) / 1.959964 * value) ** 2, math.inf),
    ]
    found = []
    for held in (parts, [*parts, (scatter**2, number.get("scatter_freedom", math.inf))]):
        total = sum(variance for variance, _ in held)
        freedom = 1 / sum((variance / total) ** 2 / freedom for variance, freedom in held)
        found.append(float(student.ppf(0.975, freedom)) * total**0.5)
    return [found[0], max(found)]


@pytest.mark.parametrize("quantity", ["runtime", "energy", "gpu_energy"])
def test_a_csv_alone_gives_both_intervals_and_the_range(quantity: str, exported) -> None:
    profile = variant("bilinear")
    rows = exported(profile)
    m, n = 64, 40
    model = profile.runtime if quantity == "runtime" else profile.energy and profile.energy.model
    predicted = profile.predict_runtime(m, n) if quantity == "runtime" else profile.predict_energy(m, n)
    if quantity == "gpu_energy":
        model, predicted = profile.components["gpu"].model, profile.predict_energy(m, n, "gpu")
    widths = half_widths(rows, quantity, m, n, [m, n, m * n])
    assert widths == pytest.approx([float(predicted.mean_95), float(predicted.request_95)])
    assert widths[0] <= widths[1]
    held = [row for row in rows if row["quantity"] == quantity and row["table"] == "range"]
    sizes = [(row["name"], float(row["input_tokens"]), float(row["output_tokens"])) for row in held]
    assert model
    least = ("minimum", model.range.min_input_tokens, model.range.min_output_tokens)
    corners = [("corner", *corner) for corner in model.range.corners]
    assert sizes == [least, *corners, *(("point", *point) for point in model.range.points)]


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
