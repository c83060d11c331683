"""A profile as one long table for other programs: models, measurements and a grid of predictions.

The rows of ``model``, ``covariance`` and ``range`` are all that a prediction with its interval needs; see
docs/integrating.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.errors import MissingDependency, UserError, pip_install
from harness.core.files import write_atomically
from harness.modelling.cost_function import CostFunction
from harness.modelling.model_schema import CostModel
from harness.modelling.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "table", "quantity", "name", "unit", "input_tokens", "output_tokens", "value", "standard_error", "mean_ci95",
    "request_ci95", "trials", "out_of_range", "too_far", "method", "form", "kv_cache", "name_2", "decode_context",
    "terms", "concurrency",
)  # fmt: skip
FORMATS = ("json", "csv", "parquet")


def long_table(profile: Profile) -> pd.DataFrame:
    """Models, measurements and predictions of a profile, one number a row; absent values are missing.

    ``table`` is ``model`` (coefficients, ``roofline_exponent`` and all that intervals need but the covariance, each
    with the ``form``, ``kv_cache``, ``decode_context`` and ``terms`` of its model), ``covariance`` (of the coefficients
    ``name`` and ``name_2``), ``range`` (``minimum``, each ``corner`` and each ``point``, as input and output tokens),
    ``measurement`` or ``prediction``. Degrees of freedom are missing where there are infinitely many, and the scatter
    where it is unknown. ``quantity`` is ``runtime``, ``energy`` or a component's, such as ``gpu_energy``. ``method``
    is how the energy behind the number was measured, ``concurrency`` at how many requests in flight all of them hold.
    """
    import pandas as pd

    parts = {"energy": profile.energy, **{f"{c}_energy": part for c, part in profile.components.items()}}
    energies = {quantity: part for quantity, part in parts.items() if part is not None}
    models = {"runtime": profile.runtime, **{quantity: part.model for quantity, part in energies.items()}}
    gains = {quantity: part.gain_ci95 for quantity, part in energies.items()}
    described = (row for quantity, model in models.items() for row in _model_rows(quantity, model, gains.get(quantity)))
    functions = {"runtime": profile.runtime.function} | {quantity: part.function for quantity, part in energies.items()}
    rows = [*described, *_measurement_rows(profile), *_prediction_rows(functions)]
    for row in rows:
        row["method"] = energies[row["quantity"]].method if row["quantity"] in energies else None
        row["concurrency"] = profile.identity.concurrency
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _model_rows(quantity: str, model: CostModel, gain_ci95: float | None) -> Iterator[dict[str, Any]]:
    """The model as numbers: coefficients, fixed choices, their covariance, all other doubt and the range of sizes."""
    of = {
        "quantity": quantity,
        **model.model_dump(include={"form", "kv_cache"}),
        "decode_context": model.decode_context,
        "terms": "; ".join(model.terms) or None,
    }
    doubts = {"misfit": model.misfit, "scatter": model.scatter, "sessions": model.sessions}
    choices = {
        "roofline_exponent": model.roofline_exponent,
        "freedom": model.freedom,
        **{
            f"{doubt}_{name}": value
            for doubt, record in doubts.items()
            if record
            for name, value in record.model_dump(exclude={"prior"}).items()
        },
        "gain_ci95": gain_ci95,
    }
    for coefficient in model.coefficients:
        yield {"table": "model", **of, **coefficient.model_dump()}
    for name, value in choices.items():
        if value is not None:
            yield {"table": "model", **of, "name": name, "value": value}
    for first, row in zip(model.coefficients, model.covariance, strict=True):
        for second, value in zip(model.coefficients, row, strict=True):
            pair = {"name": first.name, "name_2": second.name, "unit": f"{first.unit}·{second.unit}"}
            yield {"table": "covariance", "quantity": quantity, **pair, "value": value}
    least = (model.range.min_input_tokens, model.range.min_output_tokens)
    corners, points = ([(name, size) for size in getattr(model.range, f"{name}s")] for name in ("corner", "point"))
    for name, (m, n) in (("minimum", least), *corners, *points):
        yield {"table": "range", "quantity": quantity, "name": name, "input_tokens": m, "output_tokens": n}


def _measurement_rows(profile: Profile) -> Iterator[dict[str, Any]]:
    for measured in profile.measurements:
        at = {"input_tokens": measured.input_tokens, "output_tokens": measured.output_tokens}
        components = {f"{component}_energy": value for component, value in measured.component_energy_j.items()}
        statistics = {"runtime": measured.runtime_s, "energy": measured.energy_j, **components}
        for quantity, statistic in statistics.items():
            if statistic is not None:
                error = None if statistic.sd is None else statistic.sd / np.sqrt(statistic.trials)
                unit = "s" if quantity == "runtime" else "J"
                row = {"name": "mean", "unit": unit, "value": statistic.mean, "standard_error": error}
                yield {"table": "measurement", "quantity": quantity, **at, **row, "trials": statistic.trials}


def _prediction_rows(functions: Mapping[str, CostFunction]) -> Iterator[dict[str, Any]]:
    """Predictions at powers of two that lie in the measured range along each axis."""
    measured = functions["runtime"].range
    inputs = _powers_of_two(measured.min_input_tokens, measured.max_input_tokens)
    outputs = _powers_of_two(measured.min_output_tokens, measured.max_output_tokens)
    m, n = (axis.ravel() for axis in np.meshgrid(inputs, outputs, indexing="ij"))
    for quantity, function in functions.items():
        p = function.predict(m, n)
        mean_95, request_95 = p.mean_95, p.request_95
        for i in range(m.size):
            yield {
                "table": "prediction", "quantity": quantity, "name": "mean",
                "unit": "s" if quantity == "runtime" else "J",
                "input_tokens": m[i], "output_tokens": n[i], "value": p.value[i],
                "standard_error": p.sd["trials"][i], "mean_ci95": mean_95[i], "request_ci95": request_95[i],
                "out_of_range": bool(p.out_of_range[i]), "too_far": bool(p.too_far[i]),
            }  # fmt: skip


def _powers_of_two(least: float, most: float) -> list[int]:
    return [1 << k for k in range(25) if least <= 1 << k <= most] or [max(1, round(least))]


def write_table(profile: Profile, path: Path, format: str | None = None) -> None:
    """Write the long table as json, csv or parquet, which the end of the file's name decides unless it has none.

    Raises UserError where ``format`` and the name contradict each other or neither says, or MissingDependency.
    """
    format = _format(path, format)
    table = long_table(profile)
    if format == "csv":
        write_atomically(path, table.to_csv(index=False))
    elif format == "json":
        write_atomically(path, table.to_json(orient="records", indent=1, double_precision=15) + "\n")
    else:
        try:
            write_atomically(path, table.to_parquet(index=False, engine="pyarrow"))
        except ImportError:
            raise MissingDependency(f"Parquet needs pyarrow: install it with {pip_install('pyarrow>=15')}") from None


def _format(path: Path, asked: str | None) -> str:
    named = path.suffix.lower().removeprefix(".")
    if asked and named in FORMATS and asked != named:
        raise UserError(f"{path} ends in .{named} but --format is {asked}: leave out --format or rename the file")
    if asked or named in FORMATS:
        return asked or named
    raise UserError(f"{path} names no format: end it in .json, .csv or .parquet, or give --format")
