"""A trial: its fields, what makes them valid, and the columns of the table of trials. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator

from harness.core.quantities import Facts
from harness.core.sizes import MAX_CONCURRENCY, Point
from harness.core.statistics import Estimate
from harness.energy.attribution import EnergyFigure, EnergyReport
from harness.energy.readings import AS_IT_STANDS
from harness.energy.stretches import LoopStretches
from harness.runs.load_figures import LoadFigures

Purpose = Literal["warmup", "measure", "drift", "open loop"]
"""Why a trial was run; only ``measure`` enters the statistics of its point. In an ``open loop`` requests came at times
of their own, at a rate or as in a log."""


def _as_named_now(status: object) -> object:
    return "disturbed" if status == "discarded" else status


Status = Annotated[
    Literal["ok", "oom", "timeout", "error", "disturbed", "skipped"],
    BeforeValidator(_as_named_now, json_schema_input_type=str),
]
"""How a trial ended. ``disturbed``: it came to its end, but others used the machine meanwhile, or it was throttled.
Earlier versions wrote ``discarded`` for it, which is read as ``disturbed``."""

_STATUS_WORDS = {"oom": "out of memory", "timeout": "timed out", "error": "failed"}


def status_words(status: str) -> str:
    """How people say a trial's status."""
    return _STATUS_WORDS.get(status, status)


MOST_TOKENS = 10**9
"""What is larger is damage, and no table could hold it."""


@dataclass(frozen=True)
class Trial:
    """One line of ``trials.jsonl``. Values per request are means over the window's requests."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    id: int
    session: int
    """Which start of the program measured it (0, 1, … after each resume)."""
    worker: int
    """Which child process of that session measured it."""
    purpose: Purpose
    input_tokens: int
    output_tokens: int
    status: Status
    started_at: str
    """UTC, ISO 8601."""
    concurrency: int = 1
    """c, requests in flight: as one static batch, or in a closed loop where a server computes. 1 in an open loop, where
    it has no meaning: ``load`` has the mean."""
    asked_tokens: tuple[int, int] | None = None
    """Input and output tokens that were asked for, where a server did not keep to them and that was allowed."""
    rate_per_s: float | None = None
    """Rate of an open loop's Poisson arrivals; None with a log's arrivals and for every other purpose."""
    reason: str | None = None
    repeats: int | None = None
    """Batches that ran one after the other; requests that a server ended within the window."""
    requests: float | None = None
    """Requests in the window, c for each batch, of those that cross a server's window the part inside."""
    window_s: float | None = None
    """First start to last end, gaps between requests included; under load while all c requests were in flight."""
    runtime_s: float | None = None
    """How long a request takes: requests in flight × (window − pauses) / requests. With c in flight this is a batch's
    runtime, and by Little's law the mean time of a request in a closed loop."""
    pauses: int | None = None
    """Random pauses between the window's requests, which break up their beat with a power sensor; None without any."""
    paused_s: float | None = None
    """Seconds of these pauses. They are part of ``window_s`` and of no figure per request."""
    prefill_s: float | None = None
    """Start of a request to its first output token, mean: the TTFT."""
    decode_s: float | None = None
    runtime_sd_s: float | None = None
    """Standard deviation of single requests inside the window; None for one repeat."""
    output_tokens_produced: int | None = None
    compile_s: float | None = None
    """Compiling for this size before the window; None where nothing was compiled."""
    capture_s: float | None = None
    """Capturing the decode step in a graph before the window; None where nothing was captured."""
    check_s: float | None = None
    """Comparing steps with the model's own generation before the window; None where nothing was compared."""
    trace: str | None = None
    """File with the raw marks and readings, relative to the run directory."""
    energy: EnergyReport | None = None
    """Joules per request, with the reasons for those that could not be told; None where no request was measured."""
    stretches: LoopStretches | None = None
    """Joules of a loop's ramp, window and drain and of the time around it, each integrated by itself."""
    load: LoadFigures | None = None
    """What a server did with the requests of the window; None where they were computed in a process of ours."""
    conditions: Facts = field(default_factory=dict)
    """Temperature, clocks, throttle reasons, foreign load during the window, as far as they can be read."""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for what no trial can be."""
        if self.status in ("ok", "disturbed") and not (self.runtime_s and self.runtime_s > 0):
            raise ValueError(f"a trial that is {self.status} needs a runtime above 0")
        for tokens in (self.input_tokens, self.output_tokens):
            if not 1 <= tokens <= MOST_TOKENS:
                raise ValueError(f"{tokens} tokens are no size of a request")
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"{self.concurrency} is no number of requests in flight")

    @property
    def point(self) -> Point:
        """The size of its requests, and how many were in flight."""
        return Point(self.input_tokens, self.output_tokens, self.concurrency)

    @property
    def asked(self) -> Point:
        """The point of the plan that it is a trial of: ``point``, unless a server did not keep to its sizes."""
        return Point(*self.asked_tokens, self.concurrency) if self.asked_tokens else self.point

    @property
    def counts(self) -> bool:
        """Whether it is a measurement that came to its end undisturbed."""
        return self.purpose == "measure" and self.status == "ok"

    @property
    def usable(self) -> bool:
        """Whether it is a measurement that came to its end, disturbed or not; see ``runs.summary.used_trials``."""
        return self.purpose == "measure" and self.status in ("ok", "disturbed")

    @property
    def usable_load(self) -> bool:
        """Whether it is an open loop that came to its end, disturbed or not."""
        return self.purpose == "open loop" and self.status in ("ok", "disturbed")


@dataclass(frozen=True)
class Row:
    """A trial with what else its columns are worked out from."""

    trial: Trial
    idle_w: Estimate | None
    """Idle power of its session, in W; None where not measured."""


@dataclass(frozen=True)
class Column:
    """A column of the table of trials."""

    name: str
    meaning: str
    value: Callable[[Row], object]
    """What stands in it; None where not measured."""


def net_energy_j(
    energy_j: float, energy_ci95_j: float, idle_w: float, idle_ci95_w: float, busy_s: float
) -> tuple[float, float]:
    """Energy above idle, energy − idle power × busy time, with its 95 % half-width. May be negative for tiny loads."""
    return energy_j - idle_w * busy_s, math.hypot(energy_ci95_j, idle_ci95_w * busy_s)


def _as_recorded(name: str, meaning: str) -> Column:
    return Column(name, meaning, attrgetter(f"trial.{name}"))


def prefill_tokens_per_s(row: Row) -> float | None:
    """Input tokens of all requests of a batch over the time to the first output token; None in a closed loop.

    There a prefill shares the machine with the decode steps of others, so that its time says nothing of its speed.
    """
    trial = row.trial
    return None if trial.load else _speed(trial.concurrency * trial.input_tokens, trial.prefill_s)


def decode_tokens_per_s(row: Row) -> float | None:
    """The n − 1 output tokens that decode steps produce, of all requests in flight, over their time; None for n = 1.

    None for several requests in a loop too: while one of them waits or is in prefill it doesn't decode.
    """
    trial = row.trial
    several = trial.load is not None and (trial.concurrency > 1 or trial.purpose == "open loop")
    return None if several else _speed(trial.concurrency * (trial.output_tokens - 1), trial.decode_s)


def total_tokens_per_s(row: Row) -> float | None:
    """Input and output tokens of all requests over the time they took: the throughput.

    That of Wilkins, Keshav, Mortier (2024), section 5.
    """
    return _throughput(row, row.trial.input_tokens + row.trial.output_tokens)


def output_tokens_per_s(row: Row) -> float | None:
    """Output tokens of all requests over the time they took."""
    return _throughput(row, row.trial.output_tokens)


def tpot_s(row: Row) -> float | None:
    """Time per output token after the first, mean; None for n = 1."""
    n = row.trial.output_tokens
    return None if row.trial.decode_s is None or n < 2 else row.trial.decode_s / (n - 1)


def tokens_per_j(row: Row) -> float | None:
    """Output tokens per joule."""
    joules = row.trial.energy.total.request_j if row.trial.energy else None
    return row.trial.output_tokens / joules if joules else None


def _throughput(row: Row, tokens: int) -> float | None:
    return _speed(_in_flight(row.trial) * tokens, row.trial.runtime_s)


def _in_flight(trial: Trial) -> float:
    """Requests in flight: c, or the mean in an open loop."""
    return trial.load.in_flight_mean if trial.load and trial.purpose == "open loop" else trial.concurrency


def _speed(tokens: float, seconds: float | None) -> float | None:
    return tokens / seconds if tokens and seconds else None


def _total(field: str) -> Callable[[Row], object]:
    return lambda row: None if row.trial.energy is None else getattr(row.trial.energy.total, field)


def joules_per(part: str, tokens: Callable[[Row], int] = lambda row: 1) -> Callable[[Row], Sequence[float | None]]:
    """Energy of a request or phase, over so many tokens, and its half-width."""

    def value(row: Row) -> Sequence[float | None]:
        total = row.trial.energy.total if row.trial.energy else None
        known = (getattr(total, f"{part}_j", None), getattr(total, f"{part}_ci95_j", None))
        return [None if joules is None else joules / tokens(row) for joules in known]

    return value


def tokens_out(row: Row) -> int:
    """Output tokens of a request."""
    return row.trial.output_tokens


def tokens_in_all(row: Row) -> int:
    """Input and output tokens of a request."""
    return row.trial.input_tokens + row.trial.output_tokens


def _net(row: Row) -> Sequence[float | None]:
    energy_j, ci95_j = joules_per("request")(row)
    if energy_j is None or row.idle_w is None or row.trial.runtime_s is None:
        return None, None
    # Requests in flight share the machine's time.
    busy_s = row.trial.runtime_s / _in_flight(row.trial)
    return net_energy_j(energy_j, ci95_j or 0.0, row.idle_w.mean, row.idle_w.half_width or 0.0, busy_s)


def _of_load(name: str, meaning: str) -> Column:
    """A field of ``LoadFigures``."""
    return Column(name, meaning, lambda row: getattr(row.trial.load, name, None))


def _percentiles_of(latency: str, meaning: str) -> Iterator[Column]:
    """The percentiles of a time of single requests at a server."""
    for percentile in (50, 90, 99):
        said = f"{meaning}, {percentile}th percentile of single requests at a server, s"
        yield Column(f"{latency}_p{percentile}_s", said, _percentile(f"{latency}_s", f"p{percentile}_s"))


def _percentile(latency: str, name: str) -> Callable[[Row], object]:
    return lambda row: getattr(getattr(row.trial.load, latency, None), name, None)


def _figure(name: str, meaning: str, value: Callable[[Row], Sequence[float | None]]) -> tuple[Column, Column]:
    half_width = f"{name.removesuffix('_j')}_ci95_j", "half-width of its 95 % interval, J"
    return Column(name, meaning, lambda row: value(row)[0]), Column(*half_width, lambda row: value(row)[1])


COLUMNS = (
    Column("trial_id", "number of the trial in the run, from 0", lambda row: row.trial.id),
    _as_recorded("session", "which start of the program measured it"),
    _as_recorded("worker", "which child process of the session measured it"),
    _as_recorded("purpose", "warmup, measure, drift or open loop; statistics use measure alone"),
    _as_recorded("status", "ok, oom, timeout, error, disturbed (measured while others used the machine) or skipped"),
    _as_recorded("reason", "why the status is not ok"),
    _as_recorded("started_at", "UTC, ISO 8601"),
    _as_recorded("input_tokens", "m, tokens per request"),
    _as_recorded("output_tokens", "n, tokens per request"),
    Column(
        "concurrency",
        "c, requests in flight: a static batch, or a closed loop where a server computes; absent in an open loop",
        lambda row: None if row.trial.purpose == "open loop" else row.trial.concurrency,
    ),
    _as_recorded("rate_per_s", "requests per second of an open loop's Poisson arrivals"),
    _as_recorded("output_tokens_produced", "tokens the backend or the server counted"),
    _as_recorded("repeats", "batches one after the other, or requests that a server ended in the window"),
    _as_recorded("requests", "requests in the window, of those that cross its edges the part inside"),
    _as_recorded("window_s", "first start to last end, or while all c requests were in flight, s"),
    _as_recorded("runtime_s", "requests in flight × (window_s − paused_s) / requests: how long a request takes, s"),
    _as_recorded("runtime_sd_s", "standard deviation of single requests in the window, s"),
    _as_recorded("pauses", "random pauses between requests that beat with a power sensor"),
    _as_recorded("paused_s", "these pauses together, in window_s but in no figure per request, s"),
    _as_recorded("prefill_s", "start to first output token (TTFT), mean per request, s"),
    _as_recorded("decode_s", "first to last output token, mean per request, s"),
    _as_recorded("compile_s", "compiling for this size, before the window and in no other column, s"),
    _as_recorded("capture_s", "capturing the decode step, before the window and in no other column, s"),
    Column("tpot_s", "decode_s over n − 1: time per output token, s", tpot_s),
    *_percentiles_of("ttft", "time to first token"),
    *_percentiles_of("tpot", "time per output token"),
    *_percentiles_of("e2e", "start to last output token"),
    _of_load("in_flight_mean", "requests in flight at a server, mean over the window"),
    _of_load("prefill_mean", "requests that wait for their first token, mean over the window"),
    _of_load("coherence", "0 where the clients of a closed loop are spread evenly, 1 where they are in step"),
    _of_load("cached_tokens_max", "most input tokens of a request out of the server's prefix cache"),
    Column("prefill_tokens_per_s", "c × m over prefill_s; absent in a closed loop", prefill_tokens_per_s),
    Column("decode_tokens_per_s", "c × (n − 1) over decode_s; absent with several in a loop", decode_tokens_per_s),
    Column("output_tokens_per_s", "c × n over runtime_s: throughput of output tokens", output_tokens_per_s),
    Column("total_tokens_per_s", "c × (m + n) over runtime_s", total_tokens_per_s),
    *_figure("energy_j", "sum over the components measured, J per request", joules_per("request")),
    Column("energy_method", "counter, integrated, modelled or estimated: the weakest of the parts", _total("method")),
    Column("energy_reason", "why energy_j is absent", _total("reason")),
    *_figure("prefill_energy_j", "energy of the prefill, J per request", joules_per("prefill")),
    *_figure("decode_energy_j", "energy of the decode steps, J per request", joules_per("decode")),
    *_figure(
        "energy_per_output_token_j",
        "energy_j over n",
        joules_per("request", tokens_out),
    ),
    *_figure(
        "energy_per_token_j",
        "energy_j over m + n",
        joules_per("request", tokens_in_all),
    ),
    Column("tokens_per_j", "n over energy_j: output tokens per joule", tokens_per_j),
    *_figure("net_energy_j", "energy_j less the session's idle power over runtime_s / c, J per request", _net),
    Column("warnings", "what puts the window in doubt", lambda row: "; ".join(row.trial.warnings) or None),
)
"""The table of trials, a line a column. What was not measured is missing, never 0. For each component c with a meter
the columns of ``component_columns`` follow."""


def component_columns(component: str, figure: EnergyFigure) -> dict[str, object]:
    """A component's own columns, such as ``gpu_energy_j`` and ``gpu_prefill_energy_ci95_j``."""
    columns: dict[str, object] = {f"{component}_energy_method": figure.method}
    for part, name in (("request", "energy"), ("prefill", "prefill_energy"), ("decode", "decode_energy")):
        columns[f"{component}_{name}_j"] = getattr(figure, f"{part}_j")
        columns[f"{component}_{name}_ci95_j"] = getattr(figure, f"{part}_ci95_j")
    return columns
