"""The end of a run in sentences: its numbers with their intervals, what was measured, what to type next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.sizes import Point
from harness.core.statistics import Estimate
from harness.core.wording import estimated, percent, plus_minus, plus_minus_percent
from harness.runs.records import RecordedRun
from harness.runs.run_schema import AdaptiveRecord, ReachedRecord, Run
from harness.runs.schema import Trial, status_words
from harness.runs.summary import (
    Disturbance,
    Drift,
    Headline,
    PointSummary,
    disturbance,
    drift,
    headline,
    idle_drift,
    idle_power_w,
)
from harness.showing.findings import load_finding
from harness.showing.terminal import program
from harness.showing.under_load import by_size

_MOST_REASONS = 3
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
_COARSE_DRIFT = 0.2
"""Half-width from which a drift that isn't seen may be there."""
_LEAST_TO_FIT = 4
"""Points: fewer don't tell what the models ask."""


def result_lines(run: RecordedRun, summaries: Sequence[PointSummary]) -> Iterator[str]:
    """What a person wants to know of a run before they look at its table, at most ten lines."""
    found = headline(run.facts, run.trials)
    opened = any(trial.usable_load for trial in run.trials)
    if found or not opened:
        yield from headline_lines(found) if found else ("Nothing was measured.",)
    if found and (said := load_words(found, summaries)):
        yield said
    if errors := model_errors(run):
        yield error_words(errors, run.facts.plan.adaptive)
    elif found and run.facts.plan.adaptive:
        yield _no_error(run.facts, run.facts.plan.adaptive)
    moved = drift(run.trials)
    if moved:
        yield drift_text(moved)
    yield from _coverage(run, summaries)
    yield from _marked(run)
    yield from _idle(run)


def model_errors(run: RecordedRun) -> dict[str, ReachedRecord]:
    """How right the fitted costs were when a session last chose no further size; empty where none told it."""
    return next((session.reached for session in reversed(run.facts.sessions) if session.reached), {})


def error_words(errors: Mapping[str, ReachedRecord], wanted: AdaptiveRecord | None) -> str:
    """What a run that chose its sizes has reached."""
    said = [
        f"{name.partition('_')[0]} {percent(found.error)} (below {percent(found.error + found.doubt)})"
        for name, found in errors.items()
    ]
    drawn = next(iter(errors.values())).drawn
    told = f"told by {drawn} sizes drawn at random, with 90 % confidence"
    if wanted is None:
        return f"The model's mean error, {told}: {', '.join(said)}."
    # Of a sum that was taken apart, the last digit may differ.
    reached = all(found.error + found.doubt <= wanted.error * (1 + 1e-9) for found in errors.values())
    words = "reached" if reached else "not reached"
    return f"The model's mean error, {told}: {', '.join(said)}; {_wanted(wanted)}, {words}."


def _no_error(facts: Run, wanted: AdaptiveRecord) -> str:
    """Why a run that chose its sizes can't say how right its model is."""
    whole = facts.sessions[-1].ended == "complete"
    why = "too few of the sizes drawn at random were measured" if whole else "its last session was cut short"
    return f"The model's mean error is not known, {why}; {_wanted(wanted)}."


def _wanted(wanted: AdaptiveRecord) -> str:
    return f"wanted: below {percent(wanted.error)}"


def headline_lines(found: Headline) -> Iterator[str]:
    """The numbers that matter, one sentence each."""
    size = f" for {found.point.words()}"
    if found.speed is not None:
        kind, speed = found.speed
        yield f"{_with_interval(speed, f'{kind} tokens/s')}{size}."
        size = ""
    first = f"; the first token comes after {_with_interval(found.first_token_s, 's')}" if found.first_token_s else ""
    yield f"{_with_interval(found.runtime_s, 's')} per request{size}{first}."
    yield f"{energy_text(found)}."
    if found.trials == 1:
        yield "± ?: only one trial, so no interval."


def load_words(found: Headline, summaries: Sequence[PointSummary]) -> str:
    """What more requests in flight do to the typical request; empty where it was measured at one concurrency."""
    size = replace(found.point, concurrency=1)
    said = load_finding(by_size(summaries).get(size, ()))
    return f"{said} ({size.words()})." if said else ""


def energy_text(found: Headline) -> str:
    """Joules of the typical request and of each output token, or why there are none; without the full stop."""
    whole, each = found.energy_j, found.energy_per_output_token_j
    if whole is None or each is None:
        return f"Energy not measured: {found.energy_reason}"
    if found.estimated_from is not None:
        origin = f"estimated at {found.estimated_from}: no power meter"
        return f"{estimated(whole.mean, 'J')} per request, {estimated(each.mean, 'J')} per output token, {origin}"
    return f"{_with_interval(whole, 'J')} per request, {_with_interval(each, 'J')} per output token{_gain_words(found)}"


def _gain_words(found: Headline) -> str:
    """What no interval of a run holds: by what factor its meter may be off, in all of its joules alike."""
    if found.energy_gain_ci95 is None:
        return "; by what factor the meter is off isn't known"
    return f"; the meter may be {percent(found.energy_gain_ci95)} off in all alike" if found.energy_gain_ci95 else ""


def drift_text(moved: Drift) -> str:
    """How the first point differed at the end of the run, or that it didn't beyond its interval."""
    way = "slower" if moved.change > 0 else "faster"
    share = plus_minus_percent(abs(moved.change), moved.half_width)
    seen = moved.half_width is not None and abs(moved.change) > moved.half_width
    known = moved.half_width is not None and moved.half_width < _COARSE_DRIFT
    unseen = "No significant drift" if known else "Drift can't be told"
    return (
        f"{'Drift' if seen else unseen}: the first point ({moved.point.words()}) was {share} {way} "
        "at the end of the run."
    )


def disturbance_text(found: Disturbance) -> str:
    """How many trials others disturbed, who they were, and what to do."""
    shares = ""
    if found.cpu_shares:
        low, high = (f"{100 * share:.0f}" for share in found.cpu_shares)
        shares = f" (others used {low if low == high else f'{low}–{high}'} % of the CPU)"
    if not found.points:
        return (
            f"Left out: {found.trials} of {found.of_trials} trials, which others disturbed{shares}; every point has "
            "undisturbed ones."
        )
    who = f", most by {', '.join(found.programs)}" if found.programs else ""
    return (
        f"DISTURBED: {found.trials} of {found.of_trials} trials{shares}{who}; {found.points} of {found.of_points} "
        "points have no undisturbed trial. Their times are probably too long. Run the same command again when the "
        "machine is idle."
    )


def without_numbers(words: str) -> str:
    """A sentence with a # for each number, so that those that differ in them alone are one."""
    return _NUMBERS.sub("#", words)


def warning_counts(trials: Sequence[Trial]) -> list[tuple[str, int]]:
    """The warnings of trials, the most frequent first, each with how many trials have it.

    Those that differ in their numbers alone count as one, shown as the first of them was.
    """
    kinds = ({without_numbers(words): words for words in trial.warnings} for trial in trials)
    return _alike(words for of_trial in kinds for words in of_trial.values())


def _alike(said: Iterable[str]) -> list[tuple[str, int]]:
    """Sentences that differ in their numbers alone as the first of them, with their count, the most frequent first."""
    kinds: dict[str, list[str]] = {}
    for words in said:
        kinds.setdefault(without_numbers(words), []).append(words)
    found = [(same[0] if len(set(same)) == 1 else f"{same[0]}, or similar", len(same)) for same in kinds.values()]
    return sorted(found, key=lambda each: -each[1])


def failure_text(trial: Trial) -> str:
    """What became of a trial that is not ok, and why."""
    return f"{status_words(trial.status)}: {trial.reason or 'no reason is known'}"


def next_commands(directory: Path, points: int, fitted: bool = False) -> Iterator[str]:
    """What to type to go on with a run of so many measured points, as this program is called here; ``fitted`` where its
    fit is written already."""
    profile = str(directory / "profile.json")
    commands = [
        ("fit a model of it", ["fit", str(directory), "-o", profile]),
        ("Figures 1–2", ["figures", str(directory), "-o", str(directory / "pictures")]),
        ("a page of it all", ["report", str(directory)]),
    ]
    if points < _LEAST_TO_FIT:
        commands = commands[1:]
    if fitted:
        commands = [("what a request costs", ["predict", profile, "-p", "256", "-n", "64"])]
    yield "Next:"
    texts = [(shlex.join([*program(), *arguments]), what) for what, arguments in commands]
    width = max(len(command) for command, _ in texts)
    yield from (f"  {command:{width}}  {what}" for command, what in texts)


def nothing_measured(run: RecordedRun) -> str:
    """Why no trial of a run counts, and where to read more."""
    failed = [trial for trial in run.trials if trial.status != "ok"]
    why = failure_text(failed[-1]) if failed else "no trial came to its end"
    listing = shlex.join([*program(), "trials", str(run.directory)])
    return f"Nothing was measured: {why}. Every trial: {listing}"


def _with_interval(value: Estimate, unit: str) -> str:
    return plus_minus(value.mean, value.half_width, unit)


def _coverage(run: RecordedRun, summaries: Sequence[PointSummary]) -> Iterator[str]:
    """How many points and trials were measured; what was not, by its reason."""
    measured = [summary for summary in summaries if summary.trials]
    if not run.facts.plan.points:
        yield from _open_coverage(run)
        return
    trials = sum(summary.trials for summary in measured)
    planned = len(run.facts.plan.points)
    counts = f"{len(measured)} of {planned} {'point' if planned == 1 else 'points'}, "
    counts += f"{trials} {'trial' if trials == 1 else 'trials'}"
    yield f"Measured: {counts}; ± is the 95 % interval." if measured else f"Measured: {counts}."
    if others := disturbance(run.trials):
        yield disturbance_text(others)
    lost: dict[str, list[Point]] = {}
    for summary in summaries:
        if not summary.trials and summary.trouble:
            status, _, reason = summary.trouble.partition(":")
            lost.setdefault(f"{status_words(status)}:{reason}", []).append(summary.point)
    for reason, points in list(lost.items())[:_MOST_REASONS]:
        more = f" and {len(points) - 1} more" if len(points) > 1 else ""
        yield f"Not measured: {points[0].words()}{more}: {reason}."
    if len(lost) > _MOST_REASONS:
        yield f"Not measured: {sum(map(len, list(lost.values())[_MOST_REASONS:]))} more points, for other reasons."


def _open_coverage(run: RecordedRun) -> Iterator[str]:
    """How many open loops came to their end, and which of them others disturbed."""
    opened = [trial for trial in run.trials if trial.purpose == "open loop"]
    ended = [trial for trial in opened if trial.usable_load]
    yield f"Measured: {len(ended)} of {len(opened)} open {'loop' if len(opened) == 1 else 'loops'}."
    yield from open_trouble(run)


def open_trouble(run: RecordedRun) -> Iterator[str]:
    """Of open loops that others disturbed or that failed, a sentence for each reason."""
    opened = [trial for trial in run.trials if trial.purpose == "open loop" and trial.status != "ok"]
    for words, count in _alike(map(failure_text, opened))[:_MOST_REASONS]:
        yield f"{count} open {'loop' if count == 1 else 'loops'}: {words}."


def _marked(run: RecordedRun) -> Iterator[str]:
    """What trials were marked with, the most frequent first."""
    for words, count in warning_counts(run.trials)[:_MOST_REASONS]:
        yield f"Marked: {count} of {len(run.trials)} trials: {words}."


def _idle(run: RecordedRun) -> Iterator[str]:
    """Idle power of the last session, before and after where both are known."""
    for session in run.facts.sessions[-1:]:
        moved = idle_drift(session)
        for idle in moved:
            before, after, change = (_with_interval(w, "W") for w in (idle.before_w, idle.after_w, idle.change_w))
            yield f"Idle power of {idle.domain}: {before} before, {after} after, change {change}."
        if not moved and session.energy.domains:
            known = idle_power_w(session)
            estimate = all(domain.method == "estimated" for domain in session.energy.domains.values())
            reason = "an estimate has no sensor" if estimate else "its reading is missing or incomplete"
            yield f"Idle power: {_with_interval(known, 'W')}." if known else f"Idle power not measured: {reason}."
