"""What mac/acceptance.sh measured: how its two power sources agree, and which backend and number of threads is fastest.

    python scripts/acceptance/mac_table.py OUT

Prints a table and writes OUT/acceptance.txt and OUT/acceptance.json. What was not measured says why.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from table import (
    NotMeasured,
    Row,
    decode_rate,
    decoding,
    disturbed,
    drifts,
    each_run,
    main,
    measured_run,
    or_why,
    read_json,
    runs_in,
    sensor_periods,
    sensors_under_load,
    warm_ups,
)

from harness.core.wording import percent
from harness.runs.records import load_run

FIRST, SECOND = "powermetrics", "ioreport"
RAILS = ("cpu", "gpu", "ane", "dram")


@dataclass(frozen=True)
class _Window:
    """One window in which both sources read a rail."""

    run: str
    trial: int
    ratio: float
    """Energy by the first source over that by the second."""
    overlap: bool
    """Whether their 95 % intervals overlap."""


def sources_agree(out: Path, rail: str) -> list[Row]:
    """Energy of a rail by powermetrics over that by ioreport, in the same windows of all runs. Raises NotMeasured."""
    windows, reasons = _windows(out, rail)
    if not windows:
        raise NotMeasured(reasons[0] if reasons else _missing_source(out))
    ratios = [window.ratio for window in windows]
    median, worst = statistics.median(ratios), max(windows, key=lambda window: abs(window.ratio - 1))
    text = f"median {median:.4f}, worst {worst.ratio:.4f} in {len(windows)} windows ({worst.run}, trial {worst.trial})"
    overlapping = sum(window.overlap for window in windows)
    share = overlapping / len(windows)
    return [
        Row(f"{FIRST} to {SECOND}, {rail}", median, text, "within 2 %", abs(median - 1) <= 0.02),
        Row(
            f"intervals that overlap, {rail}",
            share,
            f"the 95 % intervals overlap in {overlapping} of {len(windows)} windows",
            "≥ 95 %",
            share >= 0.95,
        ),
    ]


def _windows(out: Path, rail: str) -> tuple[list[_Window], list[str]]:
    """The windows in which both sources read the rail, and the reasons of those in which one did not."""
    windows, reasons = [], []
    for name in runs_in(out):
        run = load_run(out / name)
        domains = run.facts.sessions[0].energy.domains.values()
        both = [
            next((domain.name for domain in domains if (domain.probe, domain.component) == (probe, rail)), None)
            for probe in (FIRST, SECOND)
        ]
        for trial in run.trials:
            if None in both or trial.purpose == "warmup" or trial.energy is None:
                continue
            first, second = (trial.energy.domains[domain] for domain in both if domain)
            if not first.request_j or not second.request_j:
                reasons.append(first.reason or second.reason or "it drew nothing")
                continue
            apart_j = abs(first.request_j - second.request_j)
            overlap = apart_j <= (first.request_ci95_j or 0.0) + (second.request_ci95_j or 0.0)
            windows.append(_Window(name, trial.id, first.request_j / second.request_j, overlap))
    return windows, reasons


def _missing_source(out: Path) -> str:
    """Why no window has both sources."""
    probes = {probe["name"]: probe for probe in read_json(out / "sensors.json")["probes"]}
    missing = [f"{name}: {probes[name]['reason']}" for name in (FIRST, SECOND) if not probes[name]["works"]]
    return "; ".join(missing) or "no run has this rail from both sources"


def speed(out: Path, name: str) -> Row:
    """Decode tokens/s of a run, with its model and threads."""
    run, _ = measured_run(out / name)
    row = decoding(out, name, f"decode, {name}")
    threads = run.facts.backend.settings.get("threads")
    on_cpu = f", threads: {threads}" if run.facts.backend.device == "cpu" else ""
    return replace(row, text=f"{row.text}: {run.facts.model.name}, {run.facts.model.dtype}{on_cpu}")


def default_threads(out: Path) -> Row:
    """The decode rate with the backend's own number of threads over that with the best. Raises NotMeasured."""
    rates = {int(name.rpartition("-")[2]): decode_rate(out, name)[0] for name in runs_in(out) if "threads-" in name}
    own = measured_run(out / "llama-cpp-cpu")[0].facts.backend.settings.get("threads")
    if not isinstance(own, int) or own not in rates:
        raise NotMeasured("no run has the number of threads that llama-cpp chooses")
    best = max(rates, key=lambda count: rates[count])
    share = rates[own] / rates[best]
    text = f"{own} of them reach {percent(share)} of the rate that {best} reach, the best number"
    return Row("threads that llama-cpp chooses", share, text, "≥ 95 %", share >= 0.95)


def rows(out: Path) -> list[Row]:
    """The table."""
    return [
        *or_why("sensors", lambda: sensor_periods(out)),
        *or_why("sensors under load", lambda: sensors_under_load(out)),
        *(
            row
            for rail in RAILS
            for row in or_why(f"{FIRST} to {SECOND}, {rail}", partial(sources_agree, out, rail), "within 2 %")
        ),
        *each_run(out, "decode", speed),
        *or_why("threads that llama-cpp chooses", lambda: default_threads(out), "≥ 95 %"),
        *each_run(out, "warm-up", warm_ups),
        *each_run(out, "drift", drifts),
        *each_run(out, "disturbed", disturbed),
    ]


if __name__ == "__main__":
    main(rows)
