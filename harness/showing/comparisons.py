"""Two systems set against each other on the terminal: a sentence first, then the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from harness.core.sizes import request_words
from harness.core.wording import number, percent
from harness.modelling.contrast import Contrast, Contrasts
from harness.showing.terminal import print_all, print_json, records_of, table_of

_VERBS = {"energy": "needs less energy", "runtime": "is faster"}
OUTSIDE_MEASURED = "outside what was measured"
"""What stands beside a cost that lies so far outside that no interval is known."""
NO_BOUNDS = "no bounds"
"""What stands for an interval that says nothing: a ratio between 0 and infinity."""


def print_comparison(found: Sequence[Contrasts], as_json: bool) -> None:
    """Which of two systems needs less at each size, and at each number of requests in flight that was asked for.

    What isn't comparable says so first; other warnings come last.
    """
    if as_json:
        print_json(_comparison_json(found))
        return
    first = found[0]
    comparison = first.comparison
    within = f"; energy of {'+'.join(comparison.boundary)}" if comparison.boundary else ""
    ratios = [_ratio(c, i) for contrasts in found for c in _compared(contrasts).values() for i in range(c.ratio.size)]
    unbounded = any(NO_BOUNDS in ratio for ratio in ratios)
    legend = (
        f"A is {first.names[0]}, B is {first.names[1]}{within}",
        "A / B of mean costs is given with its 95 % interval; –: not significant; extrapolated: not measured on both",
        *(
            ["outside what was measured: so far that no interval is known"]
            if any(contrasts.too_far.any() for contrasts in found)
            else []
        ),
        *_gain_words(first),
        *(["no bounds: too few points, or too much scatter, for an interval"] if unbounded else []),
    )
    warnings = dict.fromkeys(f"warning: {warning}" for one in found for warning in one.comparison.warnings)
    said = [comparison_words(contrasts) for contrasts in found]
    print_all([*filter(None, [comparison.mark]), *said, _ratios_table(found), *legend, *warnings])


def _compared(contrasts: Contrasts) -> dict[str, Contrast]:
    """The quantities compared."""
    return {"runtime": contrasts.runtime} | ({"energy": contrasts.energy} if contrasts.energy else {})


def _ratios_table(found: Sequence[Contrasts]) -> Table:
    """A / B of each quantity at each size; with a column of the requests in flight where these were asked for."""
    asked = found[0].concurrency is not None
    titles = [title for q in _compared(found[0]) for title in (f"{q} A / B", "less")]
    table = table_of(*(["in flight"] if asked else []), "input", "output", *titles, "")
    table.columns[0].justify = "right"
    for contrasts in found:
        letters = {contrasts.names[0]: "A", contrasts.names[1]: "B", "": "–"}
        for i, outside in enumerate(contrasts.out_of_range):
            said = OUTSIDE_MEASURED if contrasts.too_far[i] else "extrapolated" if outside else ""
            compared = _compared(contrasts).values()
            cells = [cell for c in compared for cell in (_ratio(c, i), letters[str(c.cheaper[i])])]
            sizes = str(contrasts.input_tokens[i]), str(contrasts.output_tokens[i])
            table.add_row(*([str(contrasts.concurrency)] if asked else []), *sizes, *cells, said)
    return table


def comparison_words(contrasts: Contrasts) -> str:
    """``m1-pro (A) against swing-a100 (B) at 20 request sizes: A needs less energy at 7, B at 9, …; …``."""
    compared = {"energy": contrasts.energy, "runtime": contrasts.runtime}
    said = [_who(contrast, q, contrasts.names) for q, contrast in compared.items() if contrast is not None]
    a, b = contrasts.labels
    size = contrasts.runtime.ratio.size
    if size == 1:
        at = f"at {request_words(contrasts.input_tokens[0], contrasts.output_tokens[0])}"
    else:
        at = f"at {size} request sizes"
    if contrasts.concurrency is not None:
        at += f", {contrasts.concurrency} in flight"
    return f"{a} (A) against {b} (B) {at}: {'; '.join(said)}"


def _gain_words(contrasts: Contrasts) -> list[str]:
    """What the meters' gains do to the ratios of energies."""
    if contrasts.energy is None:
        return []
    boundary = contrasts.comparison.boundary
    if contrasts.energy.shared_meters:
        several = ", as far as each component has the same share of both" if len(boundary or ()) > 1 else ""
        return [f"the same sensors measured both energies: their gain cancels in A / B{several}"]
    gains = zip("AB", (profile.gain_ci95(boundary) for profile in (contrasts.first, contrasts.second)), strict=True)
    said = ", ".join(f"{letter} ± {percent(gain or 0.0)}" for letter, gain in gains)
    return [f"different meters, or unknown ones: the energies' intervals hold their gains ({said})"]


def times_words(contrast: Contrast, at: int, quantity: str) -> str:
    """``10.3× the runtime (9.1–11.7×)``, with what the 95 % interval says of it."""
    ratio, *ends = _rounded(contrast, at)
    if math.isnan(contrast.ratio_low[at]):
        return f"{ratio}× the {quantity} ({OUTSIDE_MEASURED})"
    interval = _between(*ends) + ("" if ends[1] is None else "×")
    significant = "" if str(contrast.cheaper[at]) else ", not significant"
    return f"{ratio}× the {quantity} ({interval}{significant})"


def _who(contrast: Contrast, quantity: str, names: tuple[str, str]) -> str:
    """At how many sizes which system needs less."""
    verb, size = _VERBS[quantity], contrast.cheaper.size
    wins = {letter: int(np.sum(contrast.cheaper == name)) for letter, name in zip("AB", names, strict=True)}
    neither = size - sum(wins.values())
    if neither == size:
        return f"no significant difference in {quantity}"
    for letter, count in wins.items():
        if count == size:
            return f"{letter} {verb}" + (" at all of them" if size > 1 else "")
    first, *rest = [(letter, count) for letter, count in wins.items() if count]
    parts = [f"{first[0]} {verb} at {first[1]}", *(f"{letter} at {count}" for letter, count in rest)]
    return ", ".join([*parts, *([f"no significant difference at {neither}"] if neither else [])])


def _ratio(contrast: Contrast, at: int) -> str:
    ratio, *ends = _rounded(contrast, at)
    return f"{ratio} ({'?' if math.isnan(contrast.ratio_low[at]) else _between(*ends)})"


def _rounded(contrast: Contrast, at: int) -> list[str | None]:
    """A ratio and the ends of its interval, to three digits; None for an end without limit or unknown."""
    ends = (contrast.ratio[at], contrast.ratio_low[at], contrast.ratio_high[at])
    return [number(float(end), 3) if math.isfinite(end) else None for end in ends]


def _between(low: str | None, high: str | None) -> str:
    """An interval of a ratio, which has no upper end where the second system may need next to nothing."""
    if high is None and low == "0":
        return NO_BOUNDS
    return f"at least {low}" if high is None else f"{low}–{high}"


def _comparison_json(found: Sequence[Contrasts]) -> dict[str, Any]:
    """Ends of intervals without limit are null; so are all that are not known."""
    contrasts = found[0]
    boundary = contrasts.comparison.boundary
    return {
        "a": contrasts.names[0],
        "b": contrasts.names[1],
        "systems": list(contrasts.labels),
        "fitted": list(contrasts.fitted),
        "boundary": boundary and list(boundary),
        "energy_methods": [profile.energy_method(boundary) for profile in (contrasts.first, contrasts.second)],
        "energy_gain_ci95": [profile.gain_ci95(boundary) for profile in (contrasts.first, contrasts.second)],
        "shared_meters": contrasts.energy and contrasts.energy.shared_meters,
        "mixed": contrasts.comparison.mixed,
        "warnings": list(dict.fromkeys(warning for one in found for warning in one.comparison.warnings)),
        "points": [point for one in found for point in _points_json(one)],
    }


def _points_json(contrasts: Contrasts) -> list[dict[str, Any]]:
    columns = {name: getattr(contrasts, name) for name in ("input_tokens", "output_tokens", "out_of_range", "too_far")}
    if contrasts.concurrency is not None:
        columns = {"concurrency": np.full(contrasts.input_tokens.shape, contrasts.concurrency), **columns}
    for quantity, contrast in _compared(contrasts).items():
        unit = "s" if quantity == "runtime" else "j"
        columns[f"{quantity}_ratio"] = contrast.ratio
        columns[f"{quantity}_ratio_low"] = contrast.ratio_low
        columns[f"{quantity}_ratio_high"] = contrast.ratio_high
        columns[f"{quantity}_difference_{unit}"] = contrast.difference
        columns[f"{quantity}_difference_mean_ci95_{unit}"] = contrast.difference_ci95
        columns[f"cheaper_{quantity}"] = contrast.cheaper
    return records_of(columns)
