"""What the person at the terminal sees of predictions: what requests will cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats
from harness.core.quantities import Method
from harness.core.wording import estimated, number, percent, plus_minus
from harness.modelling.cost_function import TOO_FAR, Prediction
from harness.modelling.load_schema import Latency
from harness.modelling.profile import Profile
from harness.modelling.profile_fit import Loaded
from harness.showing.comparisons import OUTSIDE_MEASURED
from harness.showing.terminal import print_all, print_json, records_of, table_of

EXTRAPOLATED = "extrapolated"
INTERVALS = (
    "95 % intervals: ± beside a mean is that of the mean cost of requests of this size, on another day; one request: "
    "that of a single new one"
)
UNITS = {"runtime": "s", "energy": "J"}
_LATENCIES: dict[Latency, tuple[str, float]] = {"ttft": ("mean TTFT, s", 1.0), "tpot": ("mean TPOT, ms", 1e-3)}
"""Headings, and what values are divided by."""
_OF_LATENCIES = "TTFT: time to first token; TPOT: time per output token after it; ±: by their errors at points left out"


@dataclass(frozen=True)
class _Costs:
    """What requests cost at one concurrency, by quantity; arrays have an entry per size."""

    concurrency: int | None
    """Where it was asked for."""
    predicted: dict[str, Prediction]
    latencies: dict[Latency, tuple[Floats, float]]
    """Means in s, with the relative half-width of their 95 % interval; empty where not asked for or not measured."""

    @property
    def outside(self) -> NDArray[np.bool_]:
        return np.logical_or.reduce([p.out_of_range for p in self.predicted.values()])

    @property
    def too_far(self) -> NDArray[np.bool_]:
        return np.logical_or.reduce([p.too_far for p in self.predicted.values()])


def print_predictions(
    loaded: Loaded,
    sizes: Sequence[Sequence[int]],
    concurrencies: Sequence[int] | None,
    boundary: str | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Runtime and energy at every combination of input and output tokens, with the 95 % intervals of the mean cost and
    of one new request; the energy's method.

    ``concurrencies`` are the requests in flight (None: as many as the profile is of); ``strict`` refuses sizes outside
    the measured range. Raises UserError.
    """
    profile = loaded.profile
    m, n = (axis.ravel() for axis in np.meshgrid(*sizes, indexing="ij"))
    found = [_costs(profile, m, n, c, boundary, strict) for c in (concurrencies or (None,))]
    method, gain_ci95 = profile.energy_method(boundary), profile.gain_ci95(boundary)
    if as_json:
        facts = {"profile": profile.name, "fitted": list(loaded.fitted), "energy_method": method}
        rows = [row for costs in found for row in _rows(costs, m, n)]
        print_json(facts | {"energy_gain_ci95": gain_ci95, "predictions": rows})
        return
    asked = concurrencies is not None
    titles = [title for q in found[0].predicted for title in (f"mean {q}, {UNITS[q]}", "one request")]
    titles += [_LATENCIES[name][0] for name in found[0].latencies]
    table = table_of(*(["in flight"] if asked else []), "input", "output", *titles, "")
    table.columns[0].justify, table.columns[-1].justify = "right", "left"
    for costs in found:
        columns = [_value_cells(p, method == "estimated" and q == "energy") for q, p in costs.predicted.items()]
        outside, too_far = costs.outside, costs.too_far
        for i in range(m.size):
            cells = [cell for column in columns for cell in column[i]]
            cells += [_latency_cell(costs, name, i) for name in costs.latencies]
            where = OUTSIDE_MEASURED if too_far[i] else EXTRAPOLATED if outside[i] else ""
            table.add_row(*([str(costs.concurrency)] if asked else []), str(m[i]), str(n[i]), *cells, where)
    beyond = any((costs.outside & ~costs.too_far).any() for costs in found)
    far = any(costs.too_far.any() for costs in found)
    legend = [
        *([f"{EXTRAPOLATED}: outside the measured range"] if beyond else []),
        *([f"{OUTSIDE_MEASURED}: by more than {TOO_FAR:g} octaves, where no interval is known"] if far else []),
    ]
    if found[0].latencies:
        legend.append(_OF_LATENCIES)
    print_all([table, INTERVALS, *legend, _energy_words(found[0], method, gain_ci95)])


def _costs(
    profile: Profile,
    m: NDArray[np.int64],
    n: NDArray[np.int64],
    concurrency: int | None,
    boundary: str | None,
    strict: bool,
) -> _Costs:
    there = profile if concurrency is None else profile.at(concurrency)
    predicted = {"runtime": there.predict_runtime(m, n, strict=strict)}
    if there.energy is not None or boundary is not None:
        predicted["energy"] = there.predict_energy(m, n, boundary, strict=strict)
    latencies: dict[Latency, tuple[Floats, float]] = {}
    if concurrency is not None and profile.under_load is not None and (model := profile.under_load.latency):
        times = model.times(m, n, concurrency)
        latencies = {name: (value, model.relative_95(name, concurrency)) for name, value in times.items()}
    return _Costs(concurrency, predicted, latencies)


def _rows(costs: _Costs, m: NDArray[np.int64], n: NDArray[np.int64]) -> list[dict[str, Any]]:
    columns: dict[str, NDArray[Any]] = {"input_tokens": m, "output_tokens": n}
    if costs.concurrency is not None:
        columns = {"concurrency": np.full(m.shape, costs.concurrency), **columns}
    for quantity, p in costs.predicted.items():
        said = {"": p.value, "_mean_ci95": p.mean_95, "_request_ci95": p.request_95}
        columns |= {f"{quantity}{what}_{UNITS[quantity].lower()}": values for what, values in said.items()}
    for name, (value, relative) in costs.latencies.items():
        width = np.where(costs.too_far, np.nan, relative * value)
        columns |= {f"{name}_s": value, f"{name}_mean_ci95_s": width}
    return records_of({**columns, "out_of_range": costs.outside, "too_far": costs.too_far})


def _value_cells(predicted: Prediction, estimate: bool) -> list[tuple[str, str]]:
    """For each size the mean with its interval and the half-width of that of one request.

    Estimates and what lies too far outside have no interval.
    """
    rows = zip(predicted.value.tolist(), predicted.mean_95.tolist(), predicted.request_95.tolist(), strict=True)
    return [_cells(*row, estimate=estimate) for row in rows]


def _cells(value: float, mean_95: float, request_95: float, *, estimate: bool) -> tuple[str, str]:
    if estimate:
        return estimated(value), ""
    if math.isnan(mean_95):
        return number(value), ""
    return plus_minus(value, mean_95), f"± {plus_minus(value, request_95).partition(' ± ')[2]}"


def _latency_cell(costs: _Costs, name: Latency, at: int) -> str:
    values, relative = costs.latencies[name]
    value = float(values[at]) / _LATENCIES[name][1]
    return number(value) if costs.too_far[at] or math.isnan(relative) else plus_minus(value, relative * value)


def _energy_words(costs: _Costs, method: Method | None, gain_ci95: float | None) -> str:
    if "energy" not in costs.predicted:
        return "energy was not measured"
    if method == "estimated":
        return "energy: ≈ estimated, not measured"
    gain = f", its meters' gain of ± {percent(gain_ci95)} in both intervals" if gain_ci95 else ""
    return f"energy: {method or 'method unknown'}{gain}"
