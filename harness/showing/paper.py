"""Regenerate every figure and headline number of Wilkins, Keshav and Mortier (2024), in both accountings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from harness.core.files import make_directory, write_atomically
from harness.core.wording import percent, plus_minus_percent
from harness.deciding.answers import decide_threshold
from harness.deciding.decision import ThresholdDecision
from harness.deciding.paper_accounting import LEAVES_OUT, THRESHOLDS, PaperCurve, paper_curve
from harness.deciding.scales import JOULES_PER_KWH
from harness.deciding.threshold import Curve
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import Workload, with_output_tokens
from harness.modelling.profile import Profile
from harness.showing.decision_facts import interval_json
from harness.showing.decision_figures import write_workload
from harness.showing.figure_set import write_figures
from harness.showing.terminal import print_all, print_json, table_of
from harness.showing.threshold_figures import ThresholdPanel, paper_panel, threshold_panel, write_panels

SMALL, LARGE = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
FROZEN_OUTPUT_TOKENS = 32
"""Output length of the published input sweep."""
PUBLISHED = {"threshold": 32, "saving": 0.075}
"""What the paper's text states, for input and for output."""
FIGURES = {"input": "figure4", "output": "figure5"}


@dataclass(frozen=True)
class Regenerated:
    """One of Figures 4 and 5: the published accounting and whole requests."""

    key: str
    workload: Workload
    paper: PaperCurve
    query: list[ThresholdDecision]
    panels: list[ThresholdPanel]
    """The published accounting first, then one for each decision of ``query``."""


def reproduce(directory: Path) -> tuple[list[Regenerated], list[Path]]:
    """Write figure1 … figure5 (PDF, SVG, PNG, CSV) and summary.json. Returns Figures 4 and 5, and the paths.

    Raises UserError when the directory can't be written, MissingDependency without matplotlib.
    """
    make_directory(directory)
    workload = load_workload("alpaca")
    paths, _ = write_figures([], directory, published=True)
    paths += write_workload(workload, directory / "figure3")
    results = [regenerate(workload, key) for key in FIGURES]
    for result in results:
        listed = [_at_published(result.key, panel) for panel in result.panels]
        figure = directory / FIGURES[result.key]
        paths += write_panels(result.panels, result.key, figure, listed)
    path = directory / "summary.json"
    write_atomically(path, json.dumps(_summary(results), indent=1, allow_nan=False) + "\n")
    return results, [*paths, path]


def print_paper(directory: Path, results: Sequence[Regenerated], paths: Sequence[Path], as_json: bool) -> None:
    """What was published, the same regenerated, and what whole requests say."""
    summary = _summary(results)
    if as_json:
        print_json({**summary, "files": [str(path) for path in paths]})
        return
    print_all([_summary_table(summary), f"note: {LEAVES_OUT}", f"wrote {len(paths)} files to {directory}"])


def regenerate(workload: Workload, key: str) -> Regenerated:
    """The curves of Figure 4 (``input``) or 5 (``output``)."""
    small, large = Profile.load(SMALL), Profile.load(LARGE)
    published = paper_curve(workload, small.identity.system, large.identity.system, key)
    settings = {"query": (workload, "whole requests")}
    if key == "input":
        frozen = with_output_tokens(workload, FROZEN_OUTPUT_TOKENS)
        settings["query_output_32"] = (frozen, f"whole requests, every output {FROZEN_OUTPUT_TOKENS} tokens")
    decisions, panels = [], [paper_panel(published)]
    for accounting, (requests, title) in settings.items():
        answer = decide_threshold(small, large, requests, key=key)
        decisions.append(answer.decision)
        panels.append(threshold_panel(answer, accounting, title))
    return Regenerated(key, workload, published, decisions, panels)


def _at_published(key: str, panel: ThresholdPanel) -> ThresholdPanel:
    """The curve at the thresholds of the published figure only."""
    thresholds = np.array(THRESHOLDS[key])
    at = np.searchsorted(panel.curve.threshold, thresholds, side="right") - 1
    totals = (panel.curve.energy_j[at], panel.curve.runtime_s[at], panel.curve.small_share[at])
    return replace(panel, curve=Curve(thresholds, *totals), best=0)


def _summary(results: Sequence[Regenerated]) -> dict[str, Any]:
    """The content of summary.json."""
    return {
        "source": "Wilkins, Keshav, Mortier, 2024 (arXiv 2407.00010)",
        "small": SMALL,
        "large": LARGE,
        "workload": results[0].workload.source,
        "note": LEAVES_OUT,
        **{result.key: _summary_of(result) for result in results},
    }


def _summary_of(result: Regenerated) -> dict[str, Any]:
    curve, best = result.paper.curve, result.paper.best
    return {
        "published": PUBLISHED,
        "regenerated": {
            "accounting": "paper",
            "threshold": int(curve.threshold[best]),
            "saving": result.paper.saving,
            "energy_kwh": float(curve.energy_j[best]) / JOULES_PER_KWH,
            "small_only_kwh": result.paper.small_only[0] / JOULES_PER_KWH,
            "large_only_kwh": result.paper.large_only[0] / JOULES_PER_KWH,
            "runtime_ratio": float(curve.runtime_s[best]) / result.paper.large_only[1],
        },
        "right_accounting": {
            panel.accounting: _decision_summary(decision, panel)
            for decision, panel in zip(result.query, result.panels[1:], strict=True)
        },
    }


def _decision_summary(decision: ThresholdDecision, panel: ThresholdPanel) -> dict[str, Any]:
    uncertain = decision.uncertainty
    oracle = decision.baselines["oracle"].energy_j / JOULES_PER_KWH
    return {
        "threshold": decision.threshold,
        "threshold_low": uncertain.threshold_low,
        "threshold_high": uncertain.threshold_high,
        "saving": interval_json(uncertain.saving),
        "energy_kwh": decision.plan.energy_j / JOULES_PER_KWH,
        "small_only_kwh": panel.alone[0][1],
        "large_only_kwh": panel.alone[1][1],
        "runtime_ratio": uncertain.runtime_ratio.value,
        "best_possible_saving": 1 - oracle / panel.alone[1][1],
    }


def _summary_table(summary: dict[str, Any]) -> Table:
    """Published, regenerated, right accounting."""
    whole = ("whole requests", f"whole, n = {FROZEN_OUTPUT_TOKENS}")
    table = table_of("", "published", "regenerated", *whole, no_wrap=True)
    for key in FIGURES:
        part = summary[key]
        columns = [part["published"], part["regenerated"], *part["right_accounting"].values()]
        for name, words in (
            ("threshold", f"{key} threshold"),
            ("saving", "energy saved"),
            ("energy_kwh", "energy, kWh"),
            ("large_only_kwh", "A100 alone, kWh"),
            ("runtime_ratio", "runtime ratio"),
        ):
            cells = [_cell(name, column.get(name)) for column in columns]
            table.add_row(words, *cells, *[""] * (4 - len(cells)))
        table.add_section()
    return table


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, dict):
        if not value["significant"]:
            return f"none ({percent(value['value'])})"
        return plus_minus_percent(value["value"], value["high"] - value["value"])
    if name == "saving":
        return percent(value)
    return {"threshold": f"{value:.0f}", "runtime_ratio": f"{value:.2f}×"}.get(name, f"{value:.3f}")
