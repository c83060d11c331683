"""llama-server with one slot beside the llama-cpp backend in this process: what serving costs, and where it goes.

Same file, same libraries, same threads; one core is left to the client. ``llama_clock.c`` tells when the server was
inside libllama, on the clock of the client's stamps, so that its time per token falls into parts without a gap.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from comparison import Comparison, Options, Unavailable, complete, in_turns
from numpy.typing import NDArray

import backends
from backends.base import Backend, Completion, Config, Request
from backends.llama_cpp import gguf_file
from backends.openai.servers.managed import default_threads

PREFILL_TOKENS, DECODE_STEPS = 512, 64
AIM = 1 / 1.05
"""Within 5 % of the time in this process."""
SOURCE = Path(__file__).with_name("llama_clock.c")
_ENTRIES = 1 << 16
COMPUTE, LOGITS, SAMPLE, TEXT = 1, 2, 3, 4


@dataclass(frozen=True)
class Parts:
    """Where a served phase's time went, in ms: ``computing``, ``sampling``, ``text`` and ``rest``."""

    total: float
    computing: float
    sampling: float
    """Copying the logits and choosing a token."""
    text: float
    """Turning the token into text."""

    @property
    def rest(self) -> float:
        """HTTP, JSON and queues, as far as they delay tokens."""
        return self.total - self.computing - self.sampling - self.text


@dataclass(frozen=True)
class Round:
    """Prefill and decode in one round, in ms per token."""

    in_process: tuple[float, float]
    served: tuple[float, float]
    parts: tuple[Parts, Parts] | None
    """Of what was served; None where the clock can't be built."""


class Clock:
    """The file into which ``llama_clock.c`` writes."""

    def __init__(self, path: Path) -> None:
        self._mapped = np.memmap(path, dtype=np.int64, mode="r+", shape=(1 + 3 * _ENTRIES,))

    def entries(self) -> NDArray[np.int64]:
        """The last calls, in the order of their ends: kind, begin and end in ns."""
        count = int(self._mapped[0])
        order = np.arange(max(0, count - _ENTRIES), count) % _ENTRIES
        found: NDArray[np.int64] = np.array(self._mapped[1:]).reshape(-1, 3)[order]
        return found

    def parts(self, start_ns: int, end_ns: int) -> Parts:
        """Where the time between two tokens, or between a request and its first token, went.

        Calls that ended in between count whole: a token comes a little after it was made, while the next is computed.
        """
        entries = self.entries()
        entries = entries[(entries[:, 2] > start_ns) & (entries[:, 2] <= end_ns)]
        kind, begin_ns, stop_ns = entries.T
        logits_ns = stop_ns[kind == LOGITS]
        sampled_ns = stop_ns[kind == SAMPLE]
        # A token's last sampler ends before the logits of the next one are asked for.
        last = np.searchsorted(sampled_ns, [*logits_ns[1:], end_ns]) - 1
        sampling_ns = int((sampled_ns[last] - logits_ns).sum()) if len(logits_ns) and len(sampled_ns) else 0
        spent_ns = {each: int((stop_ns - begin_ns)[kind == each].sum()) for each in (COMPUTE, TEXT)}
        return Parts((end_ns - start_ns) / 1e6, spent_ns[COMPUTE] / 1e6, sampling_ns / 1e6, spent_ns[TEXT] / 1e6)


def per_token(parts: Parts, tokens: int) -> Parts:
    """The parts of one token."""
    return Parts(*(value / tokens for value in (parts.total, parts.computing, parts.sampling, parts.text)))


@contextlib.contextmanager
def clock() -> Iterator[Clock | None]:
    """Servers that are started inside are clocked; None where the clock can't be built here."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or sys.platform != "linux":
        yield None
        return
    with tempfile.TemporaryDirectory() as scratch:
        library, file = Path(scratch) / "llama_clock.so", Path(scratch) / "times"
        command = [compiler, "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(library), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"{SOURCE.name} can't be built:\n{done.stderr[-2000:]}")
        file.write_bytes(bytes(8 * (1 + 3 * _ENTRIES)))
        added = {"LD_PRELOAD": str(library), "LLAMA_CLOCK": str(file)}
        before = {name: os.environ.get(name) for name in added}
        os.environ.update(added)
        try:
            yield Clock(file)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def ms_per_token(completion: Completion, prefill: bool) -> float:
    """Of the input tokens, or of the decode steps."""
    if prefill:
        return (completion.prefill_end_ns - completion.start_ns) / 1e6 / completion.input_tokens
    return (completion.end_ns - completion.prefill_end_ns) / 1e6 / (completion.output_tokens - 1)


def both_phases(backend: Backend) -> tuple[Completion, Completion]:
    return complete(backend, Request(PREFILL_TOKENS, 1)), complete(backend, Request(1, DECODE_STEPS + 1))


@functools.cache
def measured(model: str, threads: int, rounds: int) -> list[Round]:
    """The rounds, in turns. Raises Unavailable, or a BackendError."""
    with contextlib.ExitStack() as stack:
        file = str(gguf_file.preset_file(model, "Q8_0", 0))
        found_clock = stack.enter_context(clock())
        own, served = backends.create("llama-cpp"), backends.create("openai")
        for backend in (own, served):
            stack.callback(backend.close)
        flags = ("-np", "1", "-c", "1024")
        served.load(Config(file, device="cpu", threads=threads, serve="llama-server", server_flags=flags))
        own.load(Config(file, device="cpu", threads=threads))
        pairs = in_turns(lambda: both_phases(own), lambda: both_phases(served), rounds)
        return [one_round(ours, theirs, found_clock) for ours, theirs in pairs]


def one_round(ours: tuple[Completion, Completion], theirs: tuple[Completion, Completion], found: Clock | None) -> Round:
    prefill, decode = theirs
    return Round(
        (ms_per_token(ours[0], True), ms_per_token(ours[1], False)),
        (ms_per_token(prefill, True), ms_per_token(decode, False)),
        None
        if found is None
        else (
            per_token(found.parts(prefill.start_ns, prefill.prefill_end_ns), PREFILL_TOKENS),
            per_token(found.parts(decode.prefill_end_ns, decode.end_ns), DECODE_STEPS),
        ),
    )


PHASES = f"prefill {PREFILL_TOKENS}", f"decode {DECODE_STEPS}"


def against_in_process(options: Options) -> list[Comparison]:
    """Tokens/s of llama-server, as a client sees it, against those of the llama-cpp backend in this process."""
    if options.short:
        raise Unavailable(
            "what serving costs is told of a model of 135 million weights or more, which --short leaves out"
        )
    rounds = measured(options.model, min(options.threads, default_threads()), options.rounds)
    return [
        Comparison(
            f"llama-server, {name}",
            f"{name.split()[0]} tokens/s",
            [1e3 / each.served[phase] for each in rounds],
            [1e3 / each.in_process[phase] for each in rounds],
            "llama-cpp in process",
            AIM,
        )
        for phase, name in enumerate(PHASES)
    ]


def causes(model: str, rounds: int) -> list[str]:
    """By phase, in ms per token, the medians of both sides over the rounds and what their difference consists of.

    Raises Unavailable, or a BackendError.
    """
    found = measured(model, default_threads(), rounds)
    lines = []
    for phase, name in enumerate(PHASES):
        ours, theirs = (statistics.median(side) for side in zip(*(times(each, phase) for each in found), strict=True))
        line = (
            f"{name}, ms/token: {theirs:.3f} served, {ours:.3f} in process ({theirs / ours:.3f}): {theirs - ours:+.3f}"
        )
        parts = [each.parts[phase] for each in found if each.parts]
        if parts:
            computing, sampling, text = (
                statistics.median(getattr(each, part) for each in parts) for part in ("computing", "sampling", "text")
            )
            line += (
                f" = computing {computing - ours:+.3f}, sampling {sampling:.3f}, text {text:.3f}, "
                f"JSON, queues and HTTP {theirs - computing - sampling - text:.3f}"
            )
        lines.append(line)
    return lines if any(each.parts for each in found) else [*lines, "its causes are clocked on Linux with a C compiler"]


def times(measured_round: Round, phase: int) -> tuple[float, float]:
    """In ms per token, in process and served."""
    return measured_round.in_process[phase], measured_round.served[phase]
