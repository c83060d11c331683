"""What every benchmark shares: two sides measured in turns, and what comes of it."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, TypeVar

from backends.base import Backend, Completion, Request

T = TypeVar("T")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


class Unavailable(Exception):
    """The benchmark can't run here; the message says why."""


@dataclass(frozen=True)
class Options:
    """What every benchmark is told."""

    rounds: int
    threads: int
    model: str
    short: bool
    """Whether a rough answer is enough, and nothing may be built or downloaded for it."""


@dataclass(frozen=True)
class Comparison:
    """One number measured on both sides, once a round. More is better."""

    name: str
    unit: str
    ours: list[float]
    reference: list[float]
    reference_name: str
    aim: float
    """What the median of ours / reference should reach."""

    @property
    def ratios(self) -> list[float]:
        """Ours over the reference, one a round."""
        return [a / b for a, b in zip(self.ours, self.reference, strict=True)]

    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the ratios."""
        low, middle, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, middle, high

    def describe(self) -> dict[str, Any]:
        """For JSON, every round's values included."""
        low, middle, high = self.quartiles()
        return asdict(self) | {"median_ratio": middle, "quartiles": [low, high]}


Benchmark = Callable[[Options], list[Comparison]]
"""May raise Unavailable, or a BackendError of ``backends.base``."""


def in_turns(first: Callable[[], T], second: Callable[[], T], rounds: int) -> Iterator[tuple[T, T]]:
    """Results of both, measured in turns; who begins alternates, so that a drift of the machine cancels."""
    for number in range(rounds):
        if number % 2 == 0:
            a = first()
            b = second()
        else:
            b = second()
            a = first()
        yield a, b


def rates(first: Callable[[], float], second: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """What both sides return in each round."""
    ours, reference = zip(*in_turns(first, second, rounds), strict=True)
    return list(ours), list(reference)


def per_second(action: Callable[[], object]) -> Callable[[], float]:
    """A function that runs the action once and returns how often it would run in a second."""

    def timed() -> float:
        start_ns = time.monotonic_ns()
        action()
        return 1e9 / (time.monotonic_ns() - start_ns)

    return timed


def complete(backend: Backend, request: Request) -> Completion:
    """A request after an uncounted one that warms up, as llama-bench does."""
    backend.prepare(request)
    backend.run(request)
    return backend.run(request)


def prefill_rate(completion: Completion) -> float:
    """Tokens/s of the prefill phase."""
    return completion.input_tokens / (completion.prefill_end_ns - completion.start_ns) * 1e9


def decode_rate(completion: Completion) -> float:
    """Tokens/s of the decode phase."""
    return (completion.output_tokens - 1) / (completion.end_ns - completion.prefill_end_ns) * 1e9
