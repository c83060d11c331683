"""Logs in the forms that people hold: their form, their sizes, and what is left out and why."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import Workload
from tests.deciding.log_examples import EXAMPLES


def counted(w: Workload) -> dict[tuple[int, int], float]:
    return {(int(m), int(n)): float(c) for m, n, c in zip(w.input_tokens, w.output_tokens, w.count, strict=True)}


def mean_cached(w: Workload) -> float | None:
    return None if w.cached_tokens is None else float(np.average(w.cached_tokens, weights=w.count))


@pytest.mark.parametrize(
    ("name", "content", "form", "sizes", "left_out", "cached"), EXAMPLES, ids=[e[0] for e in EXAMPLES]
)
def test_logs_are_read_in_the_form_that_they_have(name, content, form, sizes, left_out, cached, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    w = load_workload(path, sums=True)
    assert w.form == form
    assert counted(w) == sizes
    assert w.left_out == left_out
    assert mean_cached(w) == (None if cached is None else pytest.approx(cached))
