"""What became of simulated requests: tables with intervals for people, and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from harness.core.wording import estimated, number, percent
from harness.deciding.simulated_answer import SimulationAnswer
from harness.serving.simulated_doubt import LEVELS
from harness.serving.simulated_figures import SimulatedFigure
from harness.serving.simulated_fleet import FleetPart
from harness.serving.simulated_hours import hours_of
from harness.showing.decision_facts import INDEPENDENT
from harness.showing.terminal import print_all, print_json, table_of

NOTHING = "–"
MOST_HOURS = 24
"""Hours that are printed; JSON has all."""
TIMES = {"queue": "wait", "ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
INTERVALS = (
    "in brackets 95 % intervals: what the profile leaves open in speed and energy; of times, and of sums over random "
    "arrivals, also the chance of another draw of such requests"
)


def print_simulation(answer: SimulationAnswer, as_json: bool) -> None:
    """Who served what, how busy it was, what it took and how long requests took, by system and by hour."""
    if as_json:
        print_json(simulation_json(answer))
        return
    tables = [_systems_table(answer), _times_table(answer), *_hours_table(answer), *_check_table(answer)]
    print_all(
        [_headline(answer), *tables, INTERVALS, *(f"note: {note}" for note in _notes(answer)), *_cut_hours(answer)]
    )


def simulation_json(answer: SimulationAnswer) -> dict[str, Any]:
    """All that is known of a simulation."""
    stream, fleet = answer.stream, answer.fleet
    return {
        "workload": {
            "name": stream.name,
            "requests": int(stream.requests.arrival_s.size),
            "rate_per_s": stream.rate_per_s,
            "seed": stream.seed,
        },
        "duration_s": fleet.duration_s,
        "unserved": fleet.unserved,
        "energy_j": _figure(fleet.energy_j()),
        "boundary": answer.boundary,
        "systems": [_system_json(answer, place) for place in range(len(fleet.systems))],
        "intervals": INTERVALS,
        "warnings": _notes(answer),
    }


def _notes(answer: SimulationAnswer) -> list[str]:
    return [*answer.notes, *([] if answer.stream.pairs_known else [INDEPENDENT])]


def _system_json(answer: SimulationAnswer, place: int) -> dict[str, Any]:
    system, part = answer.fleet.systems[place], answer.fleet.parts[place]
    engine = system.engine
    facts: dict[str, Any] = {
        "system": system.label,
        "profile": answer.profiles[place].name,
        "energy_method": answer.energy_methods[place],
        "replicas": system.replicas,
        "off_when_idle": system.off_when_idle,
        "slots": engine.slots,
        "chunk_tokens": getattr(engine, "chunk_tokens", None),
        "kv_tokens": getattr(engine, "kv_tokens", None),
        "requests": 0,
    }
    if part is None:
        return facts
    found, check = part.simulated, answer.checks[place]
    return facts | {
        "requests": int(found.requests.arrival_s.size),
        "output_tokens": int(found.requests.output_tokens.sum()),
        "steps": found.steps,
        "saturated": part.piled_up or bool(check and check.saturated),
        "figures": {name: _figure(figure) for name, figure in part.figures.items()},
        "closed_form": None if check is None else asdict(check),
        "hours": [asdict(hour) for hour in hours_of(part)],
    }


def _figure(figure: SimulatedFigure | None) -> dict[str, float | None] | None:
    return None if figure is None else asdict(figure)


def figure_words(figure: SimulatedFigure | None, unit: str = "", *, guess: bool = False) -> str:
    """``1.65 s (1.55–1.79)``; ``?`` for an end that nobody knows, ``≈ 1.7 s`` for a ``guess``."""
    if figure is None:
        return NOTHING
    end = f" {unit}" if unit else ""
    if guess:
        return estimated(figure.value, unit)
    low, high = ("?" if each is None else number(each, 3) for each in (figure.low, figure.high))
    return f"{number(figure.value, 3)}{end} ({low}–{high})"


def share_figure_words(figure: SimulatedFigure) -> str:
    """``64.9 % (59.5–70.5)``."""
    low, high = ("?" if each is None else percent(each).removesuffix(" %") for each in (figure.low, figure.high))
    return f"{percent(figure.value)} ({low}–{high})"


def _headline(answer: SimulationAnswer) -> str:
    stream, fleet = answer.stream, answer.fleet
    count = stream.requests.arrival_s.size
    at = f"at {number(stream.rate_per_s)}/s, seed {stream.seed}" if stream.rate_per_s else "at their own times"
    unserved = f"; {fleet.unserved:,} that no system serves" if fleet.unserved else ""
    guess = "estimated" in answer.energy_methods
    energy = fleet.energy_j()
    kilojoules = energy and energy.times(1e-3)
    energies = f", {figure_words(kilojoules, 'kJ', guess=guess)} in all" if kilojoules else ""
    return f"{stream.name} {at}: {count:,} requests in {duration_words(fleet.duration_s)}{energies}{unserved}"


def duration_words(duration_s: float) -> str:
    """``2.5 h`` of 9,000 s; ``75 s`` of less than ten minutes."""
    return f"{number(duration_s / 3600, 3)} h" if duration_s >= 600 else f"{number(duration_s, 3)} s"


def _served(answer: SimulationAnswer) -> Iterator[tuple[FleetPart, bool]]:
    """Systems with requests, and whether their energy is estimated."""
    for part, method in zip(answer.fleet.parts, answer.energy_methods, strict=True):
        if part is not None:
            yield part, method == "estimated"


def _systems_table(answer: SimulationAnswer) -> Table:
    headings = ("system", "requests", "replicas", "busy", "running", "power", "per request", "per output token")
    table = table_of(*headings, no_wrap=True)
    for part, guess in _served(answer):
        figures = part.figures
        energies = [("power_w", "W"), ("energy_request_j", "J"), ("energy_output_token_j", "J")]
        table.add_row(
            part.system.label,
            f"{part.simulated.requests.arrival_s.size:,}",
            str(part.system.replicas),
            share_figure_words(figures["busy_share"]),
            figure_words(figures["running_mean"]),
            *(figure_words(figures.get(name), unit, guess=guess) for name, unit in energies),
        )
    for system, part_or_none in zip(answer.fleet.systems, answer.fleet.parts, strict=True):
        if part_or_none is None:
            table.add_row(system.label, "0", str(system.replicas), *[NOTHING] * 5)
    return table


def _times_table(answer: SimulationAnswer) -> Table:
    names = ["mean", *(f"p{100 * level:g}" for level in LEVELS)]
    table = table_of("seconds", *names, no_wrap=True)
    several = len(answer.fleet.systems) > 1
    for part, _ in _served(answer):
        for quantity, words in TIMES.items():
            cells = [part.figures.get(f"{quantity}_{name}_s") for name in names]
            table.add_row(f"{part.system.label}: {words}" if several else words, *map(figure_words, cells))
    return table


def _hours_table(answer: SimulationAnswer) -> list[Table]:
    if answer.fleet.duration_s <= 3600:
        return []
    table = table_of("hour", "system", "requests", "busy", "running", "power", "TTFT p90", "E2E p90", no_wrap=True)
    for part, guess in _served(answer):
        for place, hour in enumerate(hours_of(part)[:MOST_HOURS]):
            table.add_row(
                str(place),
                part.system.label,
                f"{hour.requests:,}",
                share_figure_words(hour.busy_share),
                figure_words(hour.running_mean),
                figure_words(hour.power_w, "W", guess=guess),
                *(figure_words(hour.times.get(f"{quantity}_p90_s"), "s") for quantity in ("ttft", "e2e")),
            )
    return [table]


CHECKED = (("e2e_mean_s", "mean E2E", "s"), ("busy_share", "busy", ""), ("power_w", "power", "W"))
"""What closed forms say too."""


def _check_table(answer: SimulationAnswer) -> list[Table]:
    table = table_of("check", "system", "simulated", "closed form", "off by", no_wrap=True)
    for part, check in zip(answer.fleet.parts, answer.checks, strict=True):
        for name, words, unit in CHECKED:
            value, figure = getattr(check, name, None), part.figures.get(name) if part else None
            if part is None or value is None or figure is None or (check and check.saturated):
                continue
            if name == "busy_share":
                said = share_figure_words(figure), percent(value)
            else:
                said = figure_words(figure, unit), f"{number(value)} {unit}"
            table.add_row(words, part.system.label, *said, percent(value / figure.value - 1, signed=True))
    return [table] if table.row_count else []


def _cut_hours(answer: SimulationAnswer) -> list[str]:
    more = answer.fleet.duration_s / 3600 - MOST_HOURS
    return [f"note: {more:,.0f} more hours: --json has all"] if more > 0 else []
