"""A measured run as JSON for programs: its headline, its points and its open loops."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from harness.runs.records import RecordedRun
from harness.runs.schema import Trial
from harness.runs.summary import drift, headline, summarise
from harness.showing.open_loops import open_loops
from harness.showing.run_results import model_errors


def run_summary(run: RecordedRun) -> str:
    """JSON: what was measured on what, the headline, every point, every open loop, drift. Estimates are ``mean`` and
    ``half_width``.

    ``half_width`` is that of the 95 % interval. What was not measured is null.
    """
    facts = run.facts
    config, found = facts.backend.config, headline(facts, run.trials)
    shift = drift(run.trials)
    content = {
        "directory": str(run.directory),
        "backend": facts.backend.name,
        "device": facts.backend.device,
        "model": facts.model.name,
        "dtype": facts.model.dtype,
        "kv_cache": config.kv_cache,
        "trials": Counter(trial.status for trial in run.trials),
        "model_errors": {name: reached.model_dump() for name, reached in model_errors(run).items()},
        "headline": None if found is None else _flat(found),
        "points": [_flat(point) for point in sorted(summarise(run.trials, run.facts), key=lambda each: each.point)],
        "open_loops": [_open_loop(trial) for trial in open_loops(run)],
        "drift": None if shift is None else _flat(shift),
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _open_loop(trial: Trial) -> dict[str, Any]:
    """What a rate gave: the figures of its window, and joules per request."""
    assert trial.load
    total = trial.energy.total if trial.energy else None
    return {
        "trial_id": trial.id,
        "rate_per_s": trial.rate_per_s,
        "disturbed": trial.status == "disturbed",
        "runtime_s": trial.runtime_s,
        "energy_j": total and total.request_j,
        "energy_ci95_j": total and total.request_ci95_j,
        "energy_method": total and total.method,
        "energy_reason": total and total.reason,
        **asdict(trial.load),
        "warnings": trial.warnings,
    }


def _flat(summary: Any) -> dict[str, Any]:
    """The fields of a summary of one point, whose size stands beside them."""
    fields = asdict(summary)
    return {**fields.pop("point"), **fields}
