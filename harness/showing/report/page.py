"""The report: one HTML page that holds everything it shows and asks no network for anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import refuse_other_format, write_atomically
from harness.showing.panels import Options
from harness.showing.report.data import page_data


def write_report(
    runs: Sequence[Path],
    output: Path,
    profiles: Sequence[str] = (),
    workloads: Sequence[str] = (),
    options: Options = Options(),
    allow_mixed: bool = False,
) -> Path:
    """Write the page of one or several runs to ``output``, its path; its explorer offers profiles and workloads too.

    Raises UserError, also for runs that can't share axes unless ``allow_mixed``.
    """
    if output.is_dir():
        raise UserError(f"{output} is a directory: name a file in it, such as {output / 'report.html'}")
    refuse_other_format(output, ".html")
    write_atomically(output, render(page_data(runs, profiles, workloads, options, allow_mixed)))
    return output


def render(content: Mapping[str, Any]) -> str:
    """The page of ``page_data``: what comes from records reaches it as JSON alone, and its script shows it as text."""
    data = json.dumps(content, allow_nan=False, separators=(",", ":"))
    # Inside a script element only "<" could end it or begin a comment.
    data = data.replace("<", "\\u003c")
    folder = resources.files(__package__)
    names = ("page.html", "page.css", "draw.js", "page.js")
    page, css, draw, script = ((folder / name).read_text("utf-8") for name in names)
    # One pass over the template alone: no inserted text is looked at again.
    parts = {"/*CSS*/": css, "/*DATA*/": data, "/*DRAW*/": draw, "/*SCRIPT*/": script}
    pieces = []
    for mark, text in parts.items():
        before, _, page = page.partition(mark)
        pieces += [before, text]
    return "".join([*pieces, page])
