"""A measured run as JSON for programs: its headline and its points."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from harness.runs.records import RecordedRun
from harness.runs.summary import drift, headline, summarise


def run_summary(run: RecordedRun) -> str:
    """JSON: what was measured on what, the headline, every point, drift. Estimates are ``mean`` and ``half_width``.

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
        "headline": None if found is None else _flat(found),
        "points": [_flat(point) for point in sorted(summarise(run.trials), key=lambda each: each.point)],
        "drift": None if shift is None else _flat(shift),
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _flat(summary: Any) -> dict[str, Any]:
    """The fields of a summary of one point, whose size stands beside them."""
    fields = asdict(summary)
    return {**fields.pop("point"), **fields}
