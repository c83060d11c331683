"""The threshold explorer of the report page: every answer it can give, worked out here, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

from harness.core.errors import UserError
from harness.deciding.costs import Costs, cost_table
from harness.deciding.decision import BestThreshold, best_thresholds, make_scales, threshold_plans
from harness.deciding.scales import JOULES_PER_KWH, SECONDS_PER_HOUR
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import Workload, with_output_tokens
from harness.modelling.comparable import check
from harness.modelling.profile import Profile
from harness.showing.decision_facts import context, thinned
from harness.showing.decisions import KEY_WORDS, best_words, fleet_words
from harness.showing.paper import FROZEN_OUTPUT_TOKENS
from harness.showing.report.charts import six_digits

WEIGHTS = tuple(step / 10 for step in range(11))
"""Weights λ of energy that it offers."""
KEY = "input"
"""What its thresholds are compared with."""
KEPT_THRESHOLDS = 300
"""Thresholds of a curve that the page keeps, the best ones always among them."""
INTERVALS = ("cost saved, %", "energy saved, %", "runtime, × that of large", "best threshold", "about as good")
"""What is known of the best threshold against the large system alone, each with its 95 % interval."""
MOST_SIZES = 200_000
"""Distinct request sizes of a workload that all pairs of systems are worked out for in reasonable time."""

Offered = Sequence[tuple[str, Profile]]
"""Profiles by the distinct names that the page has for them."""


def explorer(
    runs: Offered, given: Offered, shipped: Offered, workloads: Sequence[str], allow_mixed: bool
) -> dict[str, Any] | None:
    """What the explorer offers and what it answers for each pair; None where no two systems can be compared.

    Pairs are those of the ``runs`` and the ``given`` profiles, and those of a run and a ``shipped`` profile. With
    ``allow_mixed`` the former are worked out, marked, even where they can't be compared. ``workloads`` are offered
    before alpaca. Raises UserError for one of them that can't be read or has too many sizes.
    """
    asked = _workloads(workloads)
    pairs = [(pair, allow_mixed) for pair in permutations([*runs, *given], 2)]
    pairs += [(pair, False) for run in runs for other in shipped for pair in ((run, other), (other, run))]
    answered = [found for (small, large), mixed in pairs if (found := _pair(small, large, asked, mixed))]
    if not answered:
        return None
    return {
        "workloads": [workload.name for workload in asked],
        "key": KEY_WORDS[KEY],
        "weights": WEIGHTS,
        "intervals": INTERVALS,
        "pairs": sorted(answered, key=lambda pair: -_most_saved(pair)),
    }


def _most_saved(pair: dict[str, Any]) -> float:
    """Energy that its best split saves on the first workload, in %; the page opens with the pair that saves most.

    0 where all requests go to one system: there is no threshold to explore.
    """
    answer = pair["answers"][0]
    if "refusal" in answer:
        return 0.0
    best = answer["best"][-1]
    return float(best["intervals"][1][0]) if 0 < best["at"] < len(answer["threshold"]) - 1 else 0.0


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
    return [*given, *_built_in()]


def _pair(
    small: tuple[str, Profile], large: tuple[str, Profile], workloads: Sequence[Workload], allow_mixed: bool
) -> dict[str, Any] | None:
    """The answers for two systems; None where they can't be compared."""
    labels, profiles = (small[0], large[0]), (small[1], large[1])
    try:
        comparison = check(profiles, allow_mixed=allow_mixed)
    except UserError:
        return None
    answers = []
    for workload in workloads:
        try:
            costs = cost_table(profiles, workload, allow_mixed=allow_mixed)
            # The page's names are distinct also where systems and profiles share theirs.
            answers.append(_answer(replace(costs, labels=labels), workload, KEPT_THRESHOLDS))
        except UserError as refusal:
            answers.append({"refusal": f"no answer: {refusal}", "warnings": comparison.warnings})
    estimated = any(profile.energy is not None and profile.energy.method == "estimated" for profile in profiles)
    return {
        "small": labels[0],
        "large": labels[1],
        "estimated": estimated,
        "mark": comparison.mark,
        "answers": answers,
    }


def _answer(costs: Costs, workload: Workload, most: int) -> dict[str, Any]:
    """The totals at every threshold kept and, for each weight, the best one with its 95 % intervals."""
    scales = [make_scales("reference", weight, costs, workload, reference=1) for weight in WEIGHTS]
    found = best_thresholds(costs, workload, KEY, scales)
    curve = found[0].curve
    distinct = {each.best: each for each in found}
    fleet = {best: _fleet_words(each, costs, workload) for best, each in distinct.items()}
    kept = thinned(curve.threshold.size, most, distinct)
    too_far = max((each.too_far for each in found), key=lambda share: share.energy)
    return {
        "warnings": context(costs, workload, scales[0], too_far)["warnings"],
        "threshold": curve.threshold[kept].tolist(),
        "energy_kwh": [six_digits(total) for total in curve.energy_j[kept] / JOULES_PER_KWH],
        "runtime_h": [six_digits(total) for total in curve.runtime_s[kept] / SECONDS_PER_HOUR],
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
        *([six_digits(scale * x) for x in (each.value, each.low, each.high)] for scale, each in scaled),
        [found.threshold, u.threshold_low, u.threshold_high],
        [None, u.plateau_low, u.plateau_high],
    ]
