"""What a loop of requests against a server did, as stamps, and what follows from them alone. Pure.

Times are CLOCK_MONOTONIC nanoseconds of the machine that the clients ran on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.arrays import Floats

Int64s = NDArray[np.int64]

LoadKind = Literal["closed loop", "open loop"]
"""How requests follow each other: when an earlier one has ended, or at times of their own."""

UNKNOWN = -1
"""In ``cached_tokens``: the server doesn't say."""


@dataclass(frozen=True, eq=False)
class LoopStamps:
    """What became of each request, in the order of their starts; arrays have one entry a request unless said."""

    client: Int64s
    """Which of the clients sent it; in an open loop which connection took it."""
    number: Int64s
    """From which its input tokens were drawn, together with the trial's seed."""
    due_ns: Int64s
    """When it should have been sent: at its client's previous end, or at its arrival in an open loop."""
    start_ns: Int64s
    end_ns: Int64s
    input_tokens: Int64s
    output_tokens: Int64s
    cached_tokens: Int64s
    """Input tokens out of the server's prefix cache, or ``UNKNOWN``."""
    counted: NDArray[np.bool_]
    """Whether it is one of those that are measured. Requests of a ramp are not, nor any before a renewed one."""
    told: NDArray[np.bool_]
    """Whether the server told the tokens of each piece; where not, they are spread evenly over the pieces."""
    pieces: Int64s
    """How many pieces its output came in; at least 1."""
    piece_ns: Int64s
    """When each piece came, one request after the other: as many entries as ``pieces`` has in all."""
    piece_tokens: Int64s
    """Output tokens in each of these pieces."""
    said: Mapping[str, Floats] = field(default_factory=dict)
    """Times of the request in s by the server's own names; NaN where it said nothing."""

    def __post_init__(self) -> None:
        """Raises ValueError for arrays that don't belong together."""
        columns = [getattr(self, name) for name in PER_REQUEST] + list(self.said.values())
        if any(column.shape != self.start_ns.shape for column in columns):
            raise ValueError("stamps of requests must be arrays of one length")
        pieces = int(self.pieces.sum())
        if self.piece_ns.shape != (pieces,) or self.piece_tokens.shape != (pieces,):
            raise ValueError(f"{pieces} pieces of output need as many stamps and token counts")
        if len(self.pieces) and self.pieces.min() < 1:
            raise ValueError("a request without output has no stamps")

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def first_token_ns(self) -> Int64s:
        """When each request's first piece of output came."""
        return self.piece_ns[self._first_piece]

    def tokens_until(self, time_ns: int) -> Floats:
        """How many of each request's input and output tokens were done at a time; array of one entry a request.

        The input tokens and the output tokens of the first piece are spread evenly over the time from the request's
        start to its first piece, those of each later piece over the time since the piece before it. So the tokens of
        consecutive windows add up to those of the request, wherever the windows meet.
        """
        totals = (self.input_tokens + self.output_tokens).astype(np.float64)
        done = np.where(self.end_ns <= time_ns, totals, 0.0)
        for row in np.flatnonzero((self.start_ns < time_ns) & (time_ns < self.end_ns)):
            first = self._first_piece[row]
            pieces = slice(first, first + self.pieces[row])
            times = np.concatenate(([self.start_ns[row]], self.piece_ns[pieces])) - self.start_ns[row]
            tokens = np.cumsum(np.concatenate(([0], self.piece_tokens[pieces])))
            tokens[1:] += self.input_tokens[row]
            done[row] = np.interp(time_ns - self.start_ns[row], times, tokens)
        return done

    def shares(self, start_ns: int, end_ns: int) -> Floats:
        """Which share of each request lies between two times, by its tokens; see ``tokens_until``."""
        tokens = self.tokens_until(end_ns) - self.tokens_until(start_ns)
        return tokens / (self.input_tokens + self.output_tokens)

    def among(self, chosen: NDArray[np.bool_]) -> LoopStamps:
        """The stamps of some requests alone."""
        columns = {name: getattr(self, name)[chosen] for name in PER_REQUEST}
        kept = np.repeat(chosen, self.pieces)
        said = {name: values[chosen] for name, values in self.said.items()}
        return LoopStamps(**columns, piece_ns=self.piece_ns[kept], piece_tokens=self.piece_tokens[kept], said=said)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, for a file; those of ``said`` as ``said_NAME``."""
        said = {f"{_SAID}{name}": values for name, values in self.said.items()}
        return {name: getattr(self, name) for name in _ARRAYS} | said

    @property
    def _first_piece(self) -> Int64s:
        return np.cumsum(self.pieces) - self.pieces


PER_REQUEST = (
    *("client", "number", "due_ns", "start_ns", "end_ns", "input_tokens", "output_tokens", "cached_tokens", "counted"),
    *("told", "pieces"),
)
"""The arrays of ``LoopStamps`` with one entry a request."""
_ARRAYS = (*PER_REQUEST, "piece_ns", "piece_tokens")
_SAID = "said_"


def stamps_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> LoopStamps:
    """The stamps of ``LoopStamps.arrays``. Raises ValueError."""
    absent = [name for name in _ARRAYS if name not in arrays]
    if absent:
        raise ValueError(f"stamps of a loop need {', '.join(absent)}")
    said = {name.removeprefix(_SAID): values for name, values in arrays.items() if name.startswith(_SAID)}
    return LoopStamps(**{name: arrays[name] for name in _ARRAYS}, said=said)


def busy_window(stamps: LoopStamps) -> tuple[int, int]:
    """The time in which every client had a counted request in flight: from when the last of them began its first to
    when the first of them ended its last. In ns.

    Raises ValueError where there is no such time.
    """
    counted = stamps.among(stamps.counted)
    clients = np.unique(stamps.client)
    if not len(counted) or len(np.unique(counted.client)) != len(clients):
        raise ValueError("not every client of the loop got to a request of full length")
    begun = [counted.start_ns[counted.client == client].min() for client in clients]
    ended = [counted.end_ns[counted.client == client].max() for client in clients]
    start_ns, end_ns = int(max(begun)), int(min(ended))
    if end_ns <= start_ns:
        raise ValueError("the clients of the loop were never all busy at the same time")
    return start_ns, end_ns


@dataclass(frozen=True)
class ServerReadings:
    """What the server said of itself, by the names of ``docs/servers.md``, as it was read around and in a loop."""

    before: Mapping[str, float] = field(default_factory=dict)
    """Before the first request of the loop."""
    during: tuple[Mapping[str, float], ...] = ()
    """While the window lasted, one after the other."""
    after: Mapping[str, float] = field(default_factory=dict)
    """After the last request had ended."""


@dataclass(frozen=True)
class LoopRun:
    """One loop, from its first request to the end of its last."""

    kind: LoadKind
    concurrency: int
    """Clients of a closed loop; in an open loop the most requests that were in flight."""
    stamps: LoopStamps
    window_ns: tuple[int, int]
    """The part that is measured: the requests before it are the ramp, those after it the drain."""
    client_cpu_s: float
    """CPU time that the clients' processes took from the first request to the end of the last."""
    client_processes: int
    spreads: int = 0
    """How often clients that had fallen into step were spread again."""
    client_stalled_s: float = 0.0
    """For how long the clients were kept from the processor; of several processes the one where it was longest."""
    server: ServerReadings = ServerReadings()

    @property
    def begun_ns(self) -> int:
        """When the first request or the window began."""
        return min(int(self.stamps.start_ns.min()), self.window_ns[0])

    @property
    def ended_ns(self) -> int:
        """When the last request and the window had ended."""
        return max(int(self.stamps.end_ns.max()), self.window_ns[1])
