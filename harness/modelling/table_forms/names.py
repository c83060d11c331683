"""What the name of a column says: which quantity, of which component and phase, in which unit. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from harness.core.quantities import Component
from harness.modelling.table_forms.form import plain_column

Kind = Literal["energy", "power", "time"]

_ENERGY = {
    **dict.fromkeys(("j", "joule", "joules", "ws"), 1.0),
    **dict.fromkeys(("mj", "millijoule", "millijoules"), 1e-3),
    **dict.fromkeys(("uj", "microjoule", "microjoules"), 1e-6),
    **dict.fromkeys(("nj", "nanojoule", "nanojoules"), 1e-9),
    **dict.fromkeys(("kj", "kilojoule", "kilojoules"), 1e3),
    **dict.fromkeys(("wh", "watthours"), 3600.0),
    **dict.fromkeys(("kwh", "kilowatthours"), 3.6e6),
    "mwh": 3.6,
}
_POWER = {
    **dict.fromkeys(("w", "watt", "watts"), 1.0),
    **dict.fromkeys(("mw", "milliwatt", "milliwatts"), 1e-3),
    **dict.fromkeys(("kw", "kilowatt", "kilowatts"), 1e3),
}
_TIME = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nsec", "nanosecond", "nanoseconds"), 1e-9),
    **dict.fromkeys(("min", "mins", "minutes"), 60.0),
    **dict.fromkeys(("h", "hours"), 3600.0),
}
UNITS: dict[str, tuple[Kind, float]] = {
    **{unit: ("energy", factor) for unit, factor in _ENERGY.items()},
    **{unit: ("power", factor) for unit, factor in _POWER.items()},
    **{unit: ("time", factor) for unit, factor in _TIME.items()},
}
_MEGA = {"MJ": 1e6, "MWh": 3.6e9}
"""In capitals a million, not a thousandth, where the rest of the name isn't in capitals too."""

COMPONENT_WORDS: dict[str, Component] = {
    **dict.fromkeys(("gpu", "gpus", "nvml", "accelerator"), "gpu"),
    **dict.fromkeys(("cpu", "cpus", "package", "packages", "pkg", "processor", "socket"), "cpu"),
    **dict.fromkeys(("dram", "ram", "memory", "mem"), "dram"),
    "ane": "ane",
    **dict.fromkeys(("system", "machine", "wall", "plug", "node", "host", "server", "psu", "outlet"), "system"),
}
_FILLERS = {
    *("energy", "energies", "power", "draw", "consumption", "consumed", "used", "usage", "total", "sum", "mean"),
    *("avg", "average", "measured"),
}
INPUT_TOKENS = (
    *("input_tokens", "prompt_tokens", "context_tokens", "prefill_tokens", "input_token_count", "prompt_token_count"),
    *("input_len", "input_length", "prompt_len", "prompt_length", "isl", "tokens_in", "in_tokens", "tokens_input"),
)
OUTPUT_TOKENS = (
    *("output_tokens", "completion_tokens", "generated_tokens", "decode_tokens", "output_token_count"),
    *("completion_token_count", "output_len", "output_length", "osl", "tokens_out", "out_tokens", "tokens_output"),
    *("tokens_generated", "new_tokens"),
)
RUNTIME = (
    *("runtime", "run_time", "e2e_latency", "e2e", "e2el", "end_to_end_latency", "request_latency", "latency"),
    *("total_time", "total_latency", "total_duration", "total_runtime", "duration", "elapsed", "elapsed_time"),
    *("wall_time", "walltime", "inference_time", "inference_latency", "response_time", "request_time"),
    *("execution_time", "time"),
)
PREFILL = ("prefill", "ttft", "time_to_first_token", "prefill_time", "prefill_latency", "prefill_duration")
DECODE = ("decode", "decode_time", "decode_latency", "decode_duration")
IN_FLIGHT = (
    *("concurrency", "requests_in_flight", "in_flight", "concurrent_requests", "max_concurrency"),
    *("num_concurrent_requests", "parallel_requests"),
)
_TOKEN_FILLERS = {"num", "number", "of", "n", "avg", "mean", "average", "count"}


@dataclass(frozen=True)
class ColumnMeaning:
    """What a column holds."""

    column: str
    """The column of a trial, in seconds, joules, watts or tokens, such as ``gpu_prefill_energy_j``; without a unit
    where ``factor`` is None."""
    rank: int
    """Of two columns that mean the same the one of smaller rank is taken."""
    factor: float | None = 1.0
    """To be multiplied by; None where the name says no unit."""
    numbered: bool = False
    """Whether it is one of several alike, such as ``gpu0_energy_j``, which are added up."""


@cache
def meaning(name: str) -> ColumnMeaning | None:
    """What a column's name says; None where it is none of a trial's quantities."""
    said = plain_column(name)
    if (tokens := _tokens(said)) is not None:
        return tokens
    if said in IN_FLIGHT:
        return ColumnMeaning("concurrency", IN_FLIGHT.index(said))
    words, unit, factor = split_unit(name)
    if unit == "time":
        return _time(words, factor)
    if unit in ("energy", "power"):
        return _energy(words, unit, factor)
    return _time(words, None) or (_energy(words, "energy", None) if {"energy", "energies"} & set(words) else None)


def speaks_of_energy(name: str) -> bool:
    """Whether a column's name says energy or power, in words or by its unit."""
    words, unit, _ = split_unit(name)
    said = {"energy", "energies", "power", "joule", "joules", "watt", "watts", "kwh", "wh"}
    return unit in ("energy", "power") or bool(said & set(words))


@cache
def split_unit(name: str) -> tuple[tuple[str, ...], Kind | None, float | None]:
    """The words of a name without its unit, what the unit is of, and its factor to J, W or s."""
    stripped = name.strip().rstrip(")]").rstrip()
    # The unit is the last word, or the capital at the end of a name like energyJ.
    found = re.search(r"(?<=[a-z]{3})(J|mJ|MJ|kJ|KJ|Wh|kWh|KWh|Ms|Ns|S|W)$", stripped)
    found = found or re.search(r"(?:^|[^A-Za-zµμ])([A-Za-zµμ]+)$", stripped)
    if found is None or plain_column(found[1]) not in UNITS:
        return _words(name), None, None
    kind, factor = UNITS[plain_column(found[1])]
    rest = stripped[: found.start(1)]
    if found[1] in _MEGA and not rest.isupper():
        factor = _MEGA[found[1]]
    return _words(rest), kind, factor


def _words(name: str) -> tuple[str, ...]:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name)
    return tuple(filter(None, plain_column(apart).split("_")))


def _tokens(said: str) -> ColumnMeaning | None:
    if said in ("output_tokens_requested", "output_tokens_produced"):
        return ColumnMeaning(said, 0)
    bare = "_".join(word for word in said.split("_") if word not in _TOKEN_FILLERS)
    for column, names in (("input_tokens", INPUT_TOKENS), ("output_tokens", OUTPUT_TOKENS)):
        for spelled, rank in ((said, 0), (bare, len(names))):
            if spelled in names:
                return ColumnMeaning(column, names.index(spelled) + rank)
    return None


def _time(words: tuple[str, ...], factor: float | None) -> ColumnMeaning | None:
    bare = "_".join(word for word in words if word not in ("mean", "avg", "average"))
    for column, names in (("runtime", RUNTIME), ("prefill", PREFILL), ("decode", DECODE)):
        if bare in names:
            column = column if factor is None else f"{column}_s"
            return ColumnMeaning(column, names.index(bare), factor)
    return None


def _energy(words: tuple[str, ...], kind: Kind, factor: float | None) -> ColumnMeaning | None:
    if words and words[-1] == "ci95" and kind == "energy":
        inner = _energy((*words[:-1], "energy"), kind, factor)
        return None if inner is None else ColumnMeaning(inner.column.removesuffix("_j") + "_ci95_j", inner.rank, factor)
    rest = [word for word in _without_per_request(words) if word not in _FILLERS]
    components, part, numbered = [], "", False
    for word in rest:
        bare = word.rstrip("0123456789")
        if bare in COMPONENT_WORDS:
            components.append(COMPONENT_WORDS[bare])
            numbered = numbered or bare != word
        elif word in ("prefill", "decode") and not part:
            part = f"{word}_"
        elif word.isdigit() and components:
            numbered = True
        else:
            return None
    if len(set(components)) > 1:
        return None
    component = f"{components[0]}_" if components else ""
    quantity = kind if factor is None else f"{kind}_{'j' if kind == 'energy' else 'w'}"
    # Of package and cpu, of total and energy, the plain word comes first.
    return ColumnMeaning(
        f"{component}{part}{quantity}", len(words) + (bool(components) and rest[0] != components[0]), factor, numbered
    )


def _without_per_request(words: tuple[str, ...]) -> list[str]:
    said = " ".join(words)
    return re.sub(r"\bper (?:request|query|prompt|inference|generation|response)\b", "", said).split()
