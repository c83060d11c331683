"""From the stamps of a loop to its trial's figures: requests inside the window, latencies, step, lateness. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import ClassVar

import numpy as np

from harness.core.arrays import Floats
from harness.core.wording import percent
from harness.energy.readings import AS_IT_STANDS
from harness.runs.load_stamps import UNKNOWN, Int64s, LoadKind, LoopRun, LoopStamps, ServerReadings

_NS = 1e9
_COHERENCE_SAMPLES = 400
_LEAST_BUSY = 0.95
"""Share of a closed loop's clients that must have a request in flight, on average."""
MOST_STALLED = 0.01
"""Share of a loop's time in which its clients may be kept from the processor."""
_GROWTH_TAIL = 3.0
"""How many standard deviations of a Poisson count the requests in flight must grow by to count as growing."""


@dataclass(frozen=True)
class Percentiles:
    """How durations of a window's requests are distributed, in s."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    count: int
    mean_s: float
    sd_s: float | None
    """Standard deviation; None for one value."""
    p50_s: float
    p90_s: float
    p99_s: float


def percentiles(durations_ns: Int64s | Floats) -> Percentiles | None:
    """Mean, standard deviation and percentiles of durations in ns, interpolated linearly; None of none."""
    if not len(durations_ns):
        return None
    seconds = np.asarray(durations_ns, dtype=np.float64) / _NS
    p50, p90, p99 = (float(value) for value in np.percentile(seconds, (50, 90, 99)))
    sd = float(seconds.std(ddof=1)) if len(seconds) > 1 else None
    return Percentiles(len(seconds), float(seconds.mean()), sd, p50, p90, p99)


@dataclass(frozen=True)
class LatencyLimits:
    """What a request must keep to count for goodput, in s, from when it was due; None for no limit."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True)
class ArrivalFigures:
    """What only an open loop has: its requests come at times of their own. Of the requests due inside the window."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    offered_per_s: float
    """Requests due per second."""
    achieved_per_s: float
    """Requests that ended inside the window, per second."""
    ttft_from_due_s: Percentiles | None
    """Time from when a request was due to its first output token; ``LoadFigures.ttft_s`` counts from its start."""
    e2e_from_due_s: Percentiles | None
    open_growth: float
    """Mean requests due and not ended in the last third of the window, less that in the first third."""
    saturated: bool
    """Whether these grew by more than chance explains: the rate may be more than the server can take."""
    limits: LatencyLimits = LatencyLimits()
    goodput: float | None = None
    """Share of the requests that kept all limits; None without limits."""
    goodput_per_s: float | None = None


@dataclass(frozen=True)
class ServerFigures:
    """What the server said of itself, by the names of ``docs/servers.md``."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    before: dict[str, float] = field(default_factory=dict)
    """Before the loop's first request."""
    during_mean: dict[str, float] = field(default_factory=dict)
    during_max: dict[str, float] = field(default_factory=dict)
    readings: int = 0
    """How often it was asked during the window."""
    after: dict[str, float] = field(default_factory=dict)
    """After the loop's last request: less ``before``, what counters counted over ramp, window and drain."""

    def grown(self, name: str) -> float | None:
        """By how much a counter grew from before the loop to after it; None where the server doesn't tell it.

        Servers show some counters from their first event on: one that is new afterwards started at 0.
        """
        return self.after[name] - self.before.get(name, 0.0) if name in self.after else None


@dataclass(frozen=True)
class LoadFigures:
    """What the requests of a loop's window did. Latencies are of requests whose whole life lies inside the window."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    kind: LoadKind
    concurrency: int
    """Clients of a closed loop; in an open loop the most requests that were in flight, ramp and drain included."""
    window_s: float
    ramp_s: float
    """From the first request to the window."""
    drain_s: float
    """From the window to the end of the last request."""
    requests: float
    """Requests inside the window. One that crosses an edge counts by the share of its tokens inside."""
    input_tokens: float
    """Input tokens of these requests, by the same shares."""
    output_tokens: float
    whole_requests: int
    """Requests whose whole life lies inside the window; in an open loop those due inside it."""
    all_requests: int
    """Requests of ramp, window and drain."""
    in_flight_mean: float
    in_flight_max: int
    prefill_mean: float
    """Requests that wait for their first token at the same time: mean over the window."""
    prefill_max: int
    lateness_s: Percentiles | None
    """From when a request was due to its first byte at the socket: what the clients take."""
    client_cpu: float
    """CPU time of the clients over that of the loop; 1 is one processor."""
    client_processes: int
    client_stalled: float | None = None
    """Share of the loop's time in which the clients were kept from the processor, so that what came meanwhile has later
    times than it should; None where nobody looked."""
    all_at_once: bool = False
    """Whether most answers of several tokens came in one piece, so that no times within them are known."""
    ttft_s: Percentiles | None = None
    """Start to first output token."""
    tpot_s: Percentiles | None = None
    """First to last output token over n − 1, a value a request; None for n = 1."""
    inter_token_s: Percentiles | None = None
    """From one piece of output to the next, as they came."""
    e2e_s: Percentiles | None = None
    """Start to last output token."""
    tokens_per_piece: float | None = None
    """Output tokens over pieces of output. Above 1, inter-token times are those of pieces."""
    tokens_told: bool = True
    """Whether the server told the tokens of every piece; where not, they are spread evenly over a request's pieces."""
    coherence: float | None = None
    """|mean of exp(2πi·phase)| of the clients, over the window: 0 spread evenly, 1 in step. None for one client."""
    spreads: int = 0
    """How often clients that had fallen into step were spread again, before this window."""
    cached_tokens_max: int | None = None
    """Most input tokens of one request that came out of the server's prefix cache; None where it doesn't say."""
    said_s: dict[str, float] = field(default_factory=dict)
    """Means of what the server says of its requests' own times, by its names."""
    arrivals: ArrivalFigures | None = None
    """None in a closed loop."""
    server: ServerFigures = ServerFigures()

    @property
    def runtime_s(self) -> float:
        """Mean time of a request in s, by Little's law: c × window ÷ requests; in an open loop c is the mean in flight.

        In a closed loop it contains what passes between a client's requests; at c = 1 it is the plain mean.
        """
        in_flight = self.concurrency if self.kind == "closed loop" else self.in_flight_mean
        return in_flight * self.window_s / self.requests


def load_figures(run: LoopRun, limits: LatencyLimits = LatencyLimits()) -> LoadFigures:
    """The figures of a loop. ``limits`` are those of an open loop's goodput.

    Raises ValueError where no request lies inside its window.
    """
    stamps, (start_ns, end_ns) = run.stamps, run.window_ns
    shares = stamps.shares(start_ns, end_ns)
    if end_ns <= start_ns or shares.sum() <= 0.0:
        raise ValueError("no request lies inside the window of the loop")
    whole = _whole(run)
    waits = (stamps.start_ns, stamps.first_token_ns)
    tokens, pieces = int(whole.output_tokens.sum()), int(whole.pieces.sum())
    cached, all_at_once = stamps.cached_tokens, _all_at_once(whole)
    return LoadFigures(
        kind=run.kind,
        concurrency=run.concurrency,
        window_s=(end_ns - start_ns) / _NS,
        ramp_s=(start_ns - run.begun_ns) / _NS,
        drain_s=(run.ended_ns - end_ns) / _NS,
        requests=float(shares.sum()),
        input_tokens=float(shares @ stamps.input_tokens),
        output_tokens=float(shares @ stamps.output_tokens),
        whole_requests=len(whole),
        all_requests=len(stamps),
        in_flight_mean=mean_open(stamps.start_ns, stamps.end_ns, start_ns, end_ns),
        in_flight_max=most_open(stamps.start_ns, stamps.end_ns, start_ns, end_ns),
        prefill_mean=mean_open(*waits, start_ns, end_ns),
        prefill_max=most_open(*waits, start_ns, end_ns),
        lateness_s=percentiles(whole.start_ns - whole.due_ns),
        client_cpu=run.client_cpu_s / ((run.ended_ns - run.begun_ns) / _NS),
        client_processes=run.client_processes,
        client_stalled=run.client_stalled_s / ((run.ended_ns - run.begun_ns) / _NS),
        all_at_once=all_at_once,
        ttft_s=None if all_at_once else percentiles(whole.first_token_ns - whole.start_ns),
        tpot_s=None if all_at_once else percentiles(_time_per_output_token(whole)),
        inter_token_s=percentiles(_between_pieces(whole)),
        e2e_s=percentiles(whole.end_ns - whole.start_ns),
        tokens_per_piece=tokens / pieces if pieces else None,
        tokens_told=bool(stamps.told.all()),
        coherence=coherence(stamps, start_ns, end_ns) if run.kind == "closed loop" and run.concurrency > 1 else None,
        spreads=run.spreads,
        cached_tokens_max=int(cached.max()) if (cached != UNKNOWN).any() else None,
        said_s=_said(whole),
        arrivals=_arrival_figures(run, whole, limits) if run.kind == "open loop" else None,
        server=_server_figures(run.server),
    )


def doubts(figures: LoadFigures) -> list[str]:
    """Why a loop's figures must be marked, in words; nothing where the clients did what they should."""
    found = []
    if figures.kind == "closed loop" and figures.in_flight_mean < _LEAST_BUSY * figures.concurrency:
        found.append(
            f"only {figures.in_flight_mean:.3g} of {figures.concurrency} requests were in flight on average: "
            "the clients, or connections that had to be opened anew, are too slow for requests so short"
        )
    if figures.all_at_once:
        found.append(
            "most answers came all at once, so that no time to first token is known; see whether the server, or a "
            "proxy before it, holds streams back"
        )
    if figures.client_stalled is not None and figures.client_stalled > MOST_STALLED:
        found.append(
            f"the clients were kept from the processor for {percent(figures.client_stalled, digits=0)} of the time, "
            "and took what came meanwhile for later than it was: leave a core to them"
        )
    if figures.coherence is not None and figures.coherence > step_threshold(figures.concurrency):
        found.append(f"the clients were in step (coherence {figures.coherence:.2f}): the server brings them there")
    if figures.arrivals is not None and figures.arrivals.saturated:
        found.append(
            f"requests in flight grew by {figures.arrivals.open_growth:.3g}: the rate may be more than the server takes"
        )
    return found


def step_threshold(concurrency: int) -> float:
    """Coherence above which clients count as in step; random phases reach it once in 100, or never at c ≤ 5."""
    return min(0.9, max(0.5, math.sqrt(math.log(100.0) / concurrency)))


def mean_open(from_ns: Int64s, to_ns: Int64s, start_ns: int, end_ns: int) -> float:
    """How many of the stretches [from, to) are open at the same time, as the mean over start to end."""
    inside = np.minimum(to_ns, end_ns) - np.maximum(from_ns, start_ns)
    return float(np.maximum(inside, 0).sum() / (end_ns - start_ns))


def most_open(from_ns: Int64s, to_ns: Int64s, start_ns: int, end_ns: int) -> int:
    """The most stretches [from, to) that are open at the same time between start and end."""
    inside = (from_ns < end_ns) & (to_ns > start_ns) & (to_ns > from_ns)
    begins = np.sort(np.maximum(from_ns[inside], start_ns))
    # At a time when one ends and another begins, the first is over.
    ended = np.searchsorted(np.sort(to_ns[inside]), begins, side="right")
    return int((np.arange(1, len(begins) + 1) - ended).max(initial=0))


def coherence(stamps: LoopStamps, start_ns: int, end_ns: int) -> float:
    """|mean over clients of exp(2πi·phase)|, as the mean over the time from start to end.

    A client's phase is the share of its request's time that has passed. Kuramoto's order parameter: 0 for phases spread
    evenly, 1 for clients in step; phases drawn at random have about 0.89/√c.
    """
    times = np.linspace(start_ns, end_ns, _COHERENCE_SAMPLES + 2)[1:-1].astype(np.int64)
    sums, present = np.zeros(len(times), dtype=np.complex128), np.zeros(len(times))
    for client in np.unique(stamps.client):
        chosen = stamps.client == client
        begun, ended = stamps.start_ns[chosen], stamps.end_ns[chosen]
        row = np.searchsorted(begun, times, side="right") - 1
        phase = (times - begun[row]) / (ended[row] - begun[row])
        flying = (row >= 0) & (phase < 1.0)
        sums[flying] += np.exp(2j * np.pi * phase[flying])
        present += flying
    return float(np.mean(np.abs(sums[present > 0]) / present[present > 0]))


def coherence_of_starts(starts_ns: Sequence[int], length_s: float) -> float:
    """|mean over clients of exp(2πi·start ÷ length)|: as ``coherence``, of requests that all take ``length_s``."""
    angles = 2 * np.pi * (np.asarray(starts_ns, dtype=np.int64) - starts_ns[0]) / (length_s * _NS)
    return float(abs(np.exp(1j * angles).mean()))


def _whole(run: LoopRun) -> LoopStamps:
    """Requests whose latencies count."""
    stamps, (start_ns, end_ns) = run.stamps, run.window_ns
    if run.kind == "open loop":
        return stamps.among(stamps.counted & (stamps.due_ns >= start_ns) & (stamps.due_ns < end_ns))
    return stamps.among(stamps.counted & (stamps.start_ns >= start_ns) & (stamps.end_ns <= end_ns))


def _all_at_once(stamps: LoopStamps) -> bool:
    several = stamps.output_tokens > 1
    return bool(several.any() and np.median(stamps.end_ns[several] - stamps.first_token_ns[several]) <= 0)


def _time_per_output_token(stamps: LoopStamps) -> Floats:
    several = stamps.output_tokens > 1
    decode_ns = (stamps.end_ns - stamps.first_token_ns)[several]
    values: Floats = decode_ns / (stamps.output_tokens[several] - 1)
    return values


def _between_pieces(stamps: LoopStamps) -> Int64s:
    request = np.repeat(np.arange(len(stamps)), stamps.pieces)
    return np.diff(stamps.piece_ns)[np.diff(request) == 0]


def _said(stamps: LoopStamps) -> dict[str, float]:
    """Means of what was said, by names that at least one request has."""
    known = {name: values[np.isfinite(values)] for name, values in stamps.said.items()}
    return {name: float(values.mean()) for name, values in known.items() if len(values)}


def _arrival_figures(run: LoopRun, whole: LoopStamps, limits: LatencyLimits) -> ArrivalFigures:
    stamps, (start_ns, end_ns) = run.stamps, run.window_ns
    window_s = (end_ns - start_ns) / _NS
    ended = int(((stamps.end_ns > start_ns) & (stamps.end_ns <= end_ns)).sum())
    third_ns = (end_ns - start_ns) // 3
    early = mean_open(stamps.due_ns, stamps.end_ns, start_ns, start_ns + third_ns)
    late = mean_open(stamps.due_ns, stamps.end_ns, end_ns - third_ns, end_ns)
    good = _within(whole, limits)
    return ArrivalFigures(
        offered_per_s=len(whole) / window_s,
        achieved_per_s=ended / window_s,
        ttft_from_due_s=percentiles(whole.first_token_ns - whole.due_ns),
        e2e_from_due_s=percentiles(whole.end_ns - whole.due_ns),
        open_growth=late - early,
        saturated=late - early > _GROWTH_TAIL * math.sqrt(early + 1.0),
        limits=limits,
        goodput=None if good is None or not len(whole) else good / len(whole),
        goodput_per_s=None if good is None else good / window_s,
    )


def _within(stamps: LoopStamps, limits: LatencyLimits) -> int | None:
    """How many requests kept all limits; None without limits."""
    if limits == LatencyLimits():
        return None
    ttft_s, tpot_s, e2e_s = (math.inf if limit is None else limit for limit in astuple(limits))
    decode_ns = (stamps.end_ns - stamps.first_token_ns) / np.maximum(stamps.output_tokens - 1, 1)
    kept = (
        ((stamps.first_token_ns - stamps.due_ns) / _NS <= ttft_s)
        & (decode_ns / _NS <= tpot_s)
        & ((stamps.end_ns - stamps.due_ns) / _NS <= e2e_s)
    )
    return int(kept.sum())


def _server_figures(readings: ServerReadings) -> ServerFigures:
    names = dict.fromkeys(name for reading in readings.during for name in reading)
    series = {name: [reading[name] for reading in readings.during if name in reading] for name in names}
    series = {name: finite for name, values in series.items() if (finite := list(filter(math.isfinite, values)))}
    return ServerFigures(
        before=_finite(readings.before),
        during_mean={name: float(np.mean(values)) for name, values in series.items()},
        during_max={name: max(values) for name, values in series.items()},
        readings=len(readings.during),
        after=_finite(readings.after),
    )


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
