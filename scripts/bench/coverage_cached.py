#!/usr/bin/env python3
"""How often the model's doubt holds the true cost of prompts with a cached part, on made-up machines.

    python scripts/bench/coverage_cached.py [--machines N] [--seed N]

A machine's forward pass over x tokens after k cached ones takes the longer of computing (padded to tiles, less
efficient when short) and reading weights and cache, joined smoothly, and a launch; attention costs pairs of positions.
Each is measured on a grid of whole prompts and fitted; sizes from 32 to 4096 in, 1 to 256 out, with up to 98 % of the
prompt cached, are then predicted. Only trials and model are in the intervals: there is one session and no meter. Sizes
too far outside what was measured have no interval and don't count.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.cost_function import CostFunction
from harness.modelling.fit import fit_form
from harness.modelling.forms.phase import Phase
from harness.modelling.measurements import aggregate, observations

GRID = [(m, n) for m in (16, 64, 256, 1024, 4096) for n in (1, 8, 64, 256)]
TRIALS, NOISE = 3, 0.01
DRAWN = 400
"""Sizes judged on each machine."""
MOST_HALVINGS = 6.0
Cost = Callable[[Floats, Floats, Floats], Floats]


def machine(rng: np.random.Generator) -> Cost:
    """Seconds of requests of m in, n out, k of m cached."""
    weights_s = 10 ** rng.uniform(-2.5, -1.2)
    token_s = weights_s / 10 ** rng.uniform(1.3, 2.7)
    pair_s, read_s = token_s / 10 ** rng.uniform(3.5, 4.8), weights_s / 10 ** rng.uniform(4, 5.3)
    launch_s, tile = weights_s * rng.uniform(0, 1), rng.choice([1, 16, 64, 128])
    sharpness, waste = rng.uniform(1.2, 8), rng.uniform(0, 0.3)

    def cost(m: Floats, n: Floats, k: Floats) -> Floats:
        padded = np.ceil((m - k) / tile) * tile
        computing = token_s * padded * (1 + waste * np.sqrt(64 / (padded + 64))) + pair_s * (m**2 - k**2)
        prefill = launch_s + (computing**sharpness + (weights_s + read_s * k) ** sharpness) ** (1 / sharpness)
        return np.asarray(prefill + (n - 1) * (launch_s + weights_s) + read_s * ((n - 1) * m + (n - 1) * n / 2))

    return cost


def fitted(cost: Cost, rng: np.random.Generator) -> CostFunction:
    """What is fitted to whole prompts."""
    import pandas as pd

    m, n = np.repeat(np.array(GRID, dtype=float), TRIALS, axis=0).T
    measured_s = cost(m, n, np.zeros_like(m)) * (1 + NOISE * rng.standard_normal(m.size))
    sizes = {"input_tokens": m.astype(int), "output_tokens": n.astype(int), "output_tokens_produced": n}
    table = pd.DataFrame({**sizes, "runtime_s": measured_s, "disturbed": False})
    points = observations(aggregate(table), "runtime")
    assert points is not None
    fit = fit_form(Phase, points, kv_cache=True)
    return fit.function(points.range)


def judged(cost: Cost, function: CostFunction, rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    """By kind of request: share in the interval, median error and median half-width, relative."""
    m = np.exp(rng.uniform(np.log(32), np.log(4096), DRAWN)).astype(int)
    n = np.exp(rng.uniform(0, np.log(256), DRAWN)).astype(int)
    k = np.minimum((m * (1 - 2.0 ** -rng.uniform(0, MOST_HALVINGS, DRAWN))).astype(int), m - 1)
    found = {}
    for name, cached in (("whole", np.zeros_like(k)), ("cached", k)):
        predicted = function.predict(m, n, cached)
        error = np.abs(cost(*(axis.astype(float) for axis in (m, n, cached))) - predicted.value) / predicted.value
        half = predicted.half_width_95(("trials", "model")) / predicted.value
        prefill = function.cost(m, n, cached, part="prefill") > predicted.value / 2
        known = ~predicted.too_far
        for what, chosen in (("all", known), ("most of it prefill", known & prefill)):
            held = error[chosen] <= half[chosen]
            if chosen.any():
                medians = (float(np.median(each[chosen])) for each in (error, half))
                found[f"{name}, {what}"] = (float(held.mean()), *medians)
    return found


def main() -> None:
    """Print a row for each kind of request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for seed in np.random.SeedSequence(options.seed).spawn(options.machines):
        rng = np.random.default_rng(seed)
        cost = machine(rng)
        for name, row in judged(cost, fitted(cost, rng), rng).items():
            rows[name].append(row)
    print(f"{'requests':<28}{'in interval':>12}{'median error':>14}{'half-width':>12}")
    for name, each in rows.items():
        covered, error, half = np.mean(each, axis=0)
        print(f"{name:<28}{covered:>12.1%}{error:>14.1%}{half:>12.1%}")


if __name__ == "__main__":
    main()
