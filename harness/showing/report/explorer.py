"""The threshold explorer of the report page: every answer it can give, worked out here, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from harness.core.errors import UserError
from harness.deciding.costs import Costs, cost_table
from harness.deciding.decision import BestThreshold, best_thresholds, make_scales, threshold_plans
from harness.deciding.scales import JOULES_PER_KWH, SECONDS_PER_HOUR
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import Workload, with_output_tokens
from harness.modelling.comparable import NotComparable, check
from harness.modelling.profile import Profile
from harness.showing.decisions import KEY_WORDS, MARK, best_words, context, fleet_words, thinned
from harness.showing.paper import FROZEN_OUTPUT_TOKENS, LARGE, SMALL

WEIGHTS = tuple(step / 10 for step in range(11))
"""Weights λ of energy that it offers."""
KEY = "input"
"""What its thresholds are compared with."""
KEPT_THRESHOLDS = 300
"""Thresholds of a curve that the page keeps, the best ones always among them."""
INTERVALS = ("cost saved, %", "energy saved, %", "runtime, × that of large", "best T", "T not told from it")
"""What is known of the best threshold against the large system alone, each with its 95 % interval."""
MOST_SIZES = 200_000
"""Distinct request sizes of a workload that all pairs of systems are worked out for in reasonable time."""

Offered = Sequence[tuple[str, Profile]]
"""Profiles by the distinct names that the page has for them."""


def explorer(offered: Offered, own: int, workloads: Sequence[str], allow_mixed: bool) -> dict[str, Any]:
    """What the explorer offers and what it answers: ``pairs[small][large]``.

    The first ``own`` of the profiles are the user's, the others are shipped. With ``allow_mixed`` the user's pairs that
    can't be compared are worked out all the same, marked. ``workloads`` are offered beside alpaca. Raises UserError for
    one of them that can't be read or has too many sizes.
    """
    asked = _workloads(workloads)
    pairs = [
        [_pair(small, large, asked, allow_mixed, shipped=min(i, j) >= own) for j, large in enumerate(offered)]
        for i, small in enumerate(offered)
    ]
    names = [name for name, _ in offered]
    return {
        "systems": [
            {"name": name, "estimated": profile.energy is not None and profile.energy.method == "estimated"}
            for name, profile in offered
        ],
        "chosen": [names.index(SMALL), names.index(LARGE)],
        "workloads": [workload.name for workload in asked],
        "key": KEY_WORDS[KEY],
        "weights": WEIGHTS,
        "intervals": INTERVALS,
        "pairs": pairs,
    }


@cache
def _built_in() -> list[Workload]:
    alpaca = load_workload("alpaca")
    return [alpaca, with_output_tokens(alpaca, FROZEN_OUTPUT_TOKENS)]


def _workloads(names: Sequence[str]) -> list[Workload]:
    given = [load_workload(name) for name in names]
    for workload in given:
        if workload.count.size > MOST_SIZES:
            raise UserError(
                f"{workload.name} has {workload.count.size:,} distinct sizes, a page is made of at most "
                f"{MOST_SIZES:,}: use joulebench threshold for it"
            )
    return [*_built_in(), *given]


def _pair(
    small: tuple[str, Profile],
    large: tuple[str, Profile],
    workloads: Sequence[Workload],
    allow_mixed: bool,
    *,
    shipped: bool,
) -> dict[str, Any]:
    """The answers for two systems, or why there are none."""
    labels, profiles = (small[0], large[0]), (small[1], large[1])
    allow_mixed = allow_mixed and not shipped
    try:
        comparison = check(profiles, allow_mixed=allow_mixed)
    except UserError as refusal:
        remedy = "joulebench threshold --allow-mixed goes on all the same and marks the output"
        reasons = [*refusal.reasons[:-1], remedy] if isinstance(refusal, NotComparable) else [str(refusal)]
        return {"refusal": f"not comparable: {'; '.join(reasons)}", "warnings": ()}
    if profiles[0] is profiles[1]:
        return {"refusal": "small and large are the same system: choose two", "warnings": comparison.warnings}
    names = (profiles[0].name, profiles[1].name)
    answers = []
    for number, workload in enumerate(workloads):
        try:
            if shipped and number < len(_built_in()):
                answers.append(_shipped_answer(names, labels, number, KEPT_THRESHOLDS))
            else:
                costs = cost_table(profiles, workload, allow_mixed=allow_mixed)
                # The page's names are distinct also where systems and profiles share theirs.
                answers.append(_answer(replace(costs, labels=labels), workload, KEPT_THRESHOLDS))
        except UserError as refusal:
            answers.append({"refusal": f"no answer: {refusal}", "warnings": comparison.warnings})
    return {"mark": MARK if comparison.mixed else "", "answers": answers}


@cache
def _shipped_answer(names: tuple[str, str], labels: tuple[str, str], number: int, kept: int) -> dict[str, Any]:
    """The answer for two shipped profiles and a built-in workload, the same on every page that a program makes."""
    workload = _built_in()[number]
    costs = cost_table([Profile.load(name) for name in names], workload)
    return _answer(replace(costs, labels=labels), workload, kept)


def _answer(costs: Costs, workload: Workload, most: int) -> dict[str, Any]:
    """The totals at every threshold kept and, for each weight, the best one with its 95 % intervals."""
    scales = [make_scales("reference", weight, costs, workload, reference=1) for weight in WEIGHTS]
    found = best_thresholds(costs, workload, KEY, scales)
    curve = found[0].curve
    distinct = {each.best: each for each in found}
    fleet = {best: _fleet_words(each, costs, workload) for best, each in distinct.items()}
    kept = thinned(curve.threshold.size, most, distinct)
    return {
        "warnings": context(costs, workload, scales[0])["warnings"],
        "threshold": curve.threshold[kept].tolist(),
        "energy_kwh": [_rounded(total) for total in curve.energy_j[kept] / JOULES_PER_KWH],
        "runtime_h": [_rounded(total) for total in curve.runtime_s[kept] / SECONDS_PER_HOUR],
        "best": [
            {
                "at": kept.index(each.best),
                "words": best_words(each, costs, fleet[each.best]),
                "intervals": _intervals(each),
            }
            for each in found
        ],
    }


def _fleet_words(found: BestThreshold, costs: Costs, workload: Workload) -> str:
    """What becomes of the saving when machines stay on, as far as their idle power is known."""
    if found.best == 0 or None in costs.idle_power_w:
        return ""
    plan, baselines = threshold_plans(costs, workload, found)
    return fleet_words(plan, baselines[costs.labels[1]])


def _intervals(found: BestThreshold) -> list[Sequence[float | None]]:
    """Value, low and high of each line of ``INTERVALS``."""
    u = found.uncertainty
    scaled = ((100.0, u.cost_saving), (100.0, u.saving), (1.0, u.runtime_ratio))
    return [
        *([_rounded(scale * x) for x in (each.value, each.low, each.high)] for scale, each in scaled),
        [found.threshold, u.threshold_low, u.threshold_high],
        [None, u.plateau_low, u.plateau_high],
    ]


def _rounded(value: float) -> float:
    """Six digits, more than the page shows."""
    return float(f"{value:.6g}")
