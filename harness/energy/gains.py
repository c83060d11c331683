"""How far a meter may be off by a constant factor, by kind of sensor, and what that makes of sums. Pure.

A gain is the same in all windows that a sensor measures: repeating doesn't lessen it, and it cancels in the ratio of
two energies of one sensor. Half-widths are of 95 % intervals centred on the reading. They are constants of a kind of
sensor and not of a board: leaving out the log of the board at hand leaves NVIDIA's unchanged, since the A5000, which
sets it, is in none of the logs that come with the paper's data. Where a source gives no figure, ``source`` says that
ours is judged from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from harness.energy.readings import Domain


@dataclass(frozen=True)
class Gain:
    """Relative half-width of the 95 % interval of true over read energy, and where it comes from."""

    ci95: float
    source: str


_CALIBRATED = Gain(0.01, "calibrated against a meter: a straight line leaves about 1 %")
_CALIBRATED_ESTIMATE = Gain(0.10, "calibrated, but power for a second of CPU time depends on what is computed: judged")
_ESTIMATED = Gain(
    0.40,
    "estimated, not measured: CPU time or utilization × watts; errors of up to 40 % against a meter "
    "(Fischer, Ground-Truthing AI Energy Consumption, arXiv 2509.22092)",
)
_APPLE = Gain(
    0.25, "modelled by the chip's own counters; man powermetrics: estimates, not for comparing devices; judged"
)
_NVIDIA = Gain(
    0.075,
    "boards read 0.934 (A5000), 0.948 (A100), 0.951 (RTX 3090) and 0.992 (RTX 4090) of an external meter "
    "(Part-time Power Measurements, SC24, arXiv 2312.02741, and its data)",
)
_KINDS = {
    "nvml": _NVIDIA,
    "rapl": Gain(
        0.10,
        "measured from Haswell on (Hackenberg et al., IPDPSW 2015, doi 10.1109/IPDPSW.2015.70),"
        " modelled on AMD's Zen (Schöne et al., CLUSTER 2021); judged",
    ),
    "powermetrics": _APPLE,
    "ioreport": _APPLE,
    "amd": Gain(
        0.10, "on-chip figures lie below the board's by conversion losses (arXiv 2604.06056); no board checked; judged"
    ),
    "hwmon": Gain(
        0.05,
        "INA3221: 0.25 % each for current and voltage (TI SBOS576), and the shunt's 1 %; other chips unknown; judged",
    ),
    "battery": Gain(0.05, "a fuel gauge's current × voltage; makers state 1 % and more of full scale; judged"),
    "command": Gain(0.05, "a meter of the user's: plug meters state 1 to 5 %; judged"),
    "fake": Gain(0.0, "synthetic: exact"),
}
_DRAM = Gain(
    0.20,
    "DRAM through RAPL follows measured power but for an offset that differs between systems "
    "(Desrochers et al., MEMSYS 2016, doi 10.1145/2989081.2989088); judged",
)
_UNKNOWN = Gain(0.10, "a power source without a published check; judged")


def gain_of(domain: Domain, calibrated: bool = False) -> Gain:
    """How far a domain's readings may be off by a constant factor; ``calibrated``: after correction by a meter."""
    if domain.method == "estimated":
        return _CALIBRATED_ESTIMATE if calibrated or domain.calibrated else _ESTIMATED
    if calibrated or domain.calibrated:
        return _CALIBRATED
    if domain.probe == "rapl" and domain.component == "dram":
        return _DRAM
    return _KINDS.get(domain.probe, _APPLE if domain.method == "modelled" else _UNKNOWN)


def joined_gain(parts: Iterable[tuple[str, float, float]]) -> float:
    """Relative half-width of the gain of a sum, from each part's probe, energy or power, and own half-width.

    Parts that one probe reads are taken to share its gain, so that their errors add up; those of different probes are
    independent and add up by their squares. 0 where there is no energy.
    """
    errors: dict[str, float] = {}
    total = 0.0
    for probe, amount, ci95 in parts:
        errors[probe] = errors.get(probe, 0.0) + abs(amount) * ci95
        total += amount
    return math.hypot(*errors.values()) / abs(total) if total else 0.0
