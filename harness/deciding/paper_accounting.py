"""The published accounting of Wilkins, Keshav and Mortier (2024), only to regenerate their Figures 4 and 5.

    energy(T)  = Σ_L f(L) · L · e_s(2^round(log2 L))      runtime(T) = Σ_L f(L) · L · r_s(2^round(log2 L))

f(L) is the number of prompts of L input tokens, s is the small system for L ≤ T and the large one otherwise, e_s
the mean energy per *total* token and r_s the mean runtime of a whole request at that power of two, over all
models run on s. The output figure uses the output sweep's means with the frequencies of the *input* lengths.
"""

import json
from dataclasses import dataclass
from importlib import resources

import numpy as np

from harness.core.errors import UserError
from harness.deciding.threshold import Curve
from harness.deciding.workload import Workload, marginal

THRESHOLDS = {"input": (8, 16, 32, 64, 128, 256, 512, 1024, 2048), "output": (8, 16, 32, 64, 128, 256, 512)}
"""Thresholds at which the published figures have points."""

LEAVES_OUT = (
    "the published accounting multiplies a mean per total token by the input length alone, so it counts only a "
    "part of each query; its runtime is in token-seconds, not seconds; its output threshold is applied to input "
    "lengths; its means are pooled over all models run on a system, whatever the profiles' model; it has no "
    "uncertainty"
)


@dataclass(frozen=True)
class PaperCurve:
    """What the published figures plot. Totals in ``curve`` follow ``THRESHOLDS``."""

    small: str
    large: str
    curve: Curve
    """``energy_j``, and ``runtime_s`` in token-seconds."""
    small_only: tuple[float, float]
    """Energy in J and runtime in token-seconds with everything on the small system."""
    large_only: tuple[float, float]

    @property
    def best(self) -> int:
        """Index of the smallest energy."""
        return int(np.argmin(self.curve.energy_j))

    @property
    def saving(self) -> float:
        """Energy saved at the best threshold against the large system alone, as a fraction."""
        return 1 - float(self.curve.energy_j[self.best]) / self.large_only[0]


def paper_curve(workload: Workload, small: str, large: str, key: str) -> PaperCurve:
    """The published arithmetic for two systems and one of the keys ``input`` and ``output``.

    Raises UserError for other keys or systems and for lengths that the published sweeps don't reach.
    """
    if key not in THRESHOLDS:
        raise UserError("the published accounting knows the keys input and output only")
    lengths, frequency = marginal(workload.input_tokens, workload.count)
    powers = (2 ** np.round(np.log2(lengths)).astype(np.int64)).tolist()
    means = published_means(key)
    by_length = []
    for system in (small, large):
        if system not in means:
            raise UserError(f"the published accounting knows the systems {' and '.join(means)} only, not {system}")
        absent = sorted(set(powers) - set(means[system]))
        if absent:
            raise UserError(
                f"the published sweep on {system} has no point at {absent[0]} tokens, so the published accounting "
                "can't count this workload; joulebench threshold counts its whole requests"
            )
        by_length.append(np.array([means[system][power] for power in powers]).T * frequency * lengths)
    thresholds = np.array(THRESHOLDS[key])
    to_small = lengths <= thresholds[:, None]
    energy, runtime = (np.where(to_small, *systems).sum(axis=1) for systems in zip(*by_length, strict=True))
    curve = Curve(thresholds, energy, runtime, (to_small * frequency).sum(axis=1) / frequency.sum())
    small_only, large_only = ((float(energy.sum()), float(runtime.sum())) for energy, runtime in by_length)
    return PaperCurve(small, large, curve, small_only, large_only)


def published_means(key: str) -> dict[str, dict[int, tuple[float, float]]]:
    """(J per total token, s) by system and power of two, of the sweep that belongs to ``key``."""
    text = (resources.files("profiles") / "paper-accounting.json").read_text("utf-8")
    return {
        system: {int(length): (m["energy_per_token_j"], m["runtime_s"]) for length, m in points.items()}
        for system, points in json.loads(text)["sweeps"][key].items()
    }
