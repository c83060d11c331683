"""The border between the harness and a runtime that executes inference.

A backend is a module with ``create() -> Backend`` and one line in ``backends.BACKENDS``, or an entry point of the group
``joulebench.backends`` in another package. Backends know nothing of the harness: they take a configuration, run
requests of exactly ``input_tokens`` in and ``output_tokens`` out, and say when each phase began and ended.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, Protocol

from annotated_types import Ge, Le

MEMORY_WORDS = re.compile(
    r"out[ _]?of[ _]?memory|(not enough|insufficient) memory|(failed|unable) to allocate"
    r"|can(no|')t allocate memory|bad_alloc|alloc_failed|MemoryError|invalid buffer size|maximum allowed buffer size",
    re.IGNORECASE,
)
"""How torch, ggml, CUDA, Metal, the C++ library and the kernel say that memory couldn't be had."""


class BackendError(Exception):
    """The backend failed while loading or running; the trial ends with status ``error``."""


class OutOfMemory(BackendError):
    """The device or the host had too little memory; the trial ends with status ``oom``."""


class InvalidConfig(BackendError):
    """The configuration can't work here (unknown model, …); the message is one line and says how to mend it."""


def pip_install(*requirements: str) -> str:
    """The command that installs packages, as a shell takes it."""
    return shlex.join(["pip", "install", *requirements])


class NotInstalled(InvalidConfig):
    """A package that the backend needs is absent; the message names the command that installs it."""


Concurrency = Literal["one", "static batch", "closed loop"]
"""How several requests can be in flight."""


@dataclass(frozen=True)
class Config:
    """What to load and how to run it. Fields a backend has no use for must be at their default."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    """Weight precision: a torch dtype (``bfloat16``) or a GGUF quantisation (``Q8_0``)."""
    kv_cache: bool = True
    compile: str = "none"
    """How decode steps are launched: ``none``, one operation after the other; ``graph``, captured and replayed;
    ``inductor``, compiled, and captured where the device can."""
    prefill_chunk: Annotated[int, Ge(1)] | None = None
    """Most input tokens that one forward pass of the prefill takes; None for one pass over all."""
    threads: Annotated[int, Ge(1)] | None = None
    """CPU threads; None lets the backend choose, and what it chose is reported in ``Loaded.settings``."""
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Of random weights. A preset's GGUF file holds them, so that another seed writes another file of full size."""
    random_weights: bool = False
    """Whether a folder's or hub model's weights are drawn at random in its shapes: only its config.json is read."""
    url: str | None = None
    """Of a server that runs already, such as ``http://127.0.0.1:8000``; its path ends before ``/v1``."""
    serve: str | None = None
    """Name of the server to start and to end (``llama-server``, ``vllm``), in place of ``url``."""
    server_flags: tuple[str, ...] = ()
    """Further arguments of the server that is started."""
    server_pid: int | None = None
    """Process of the server at ``url``, where the owner of its port is not it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key; the key itself is never stored."""
    allow_inexact: bool = False
    """Whether requests that come out at other sizes than asked for are measured at the sizes they have."""


def refuse_unused(config: Config, backend: str, *names: str) -> None:
    """Refuse fields that the backend has no use for. Raises InvalidConfig naming the option."""
    for option in fields(config):
        value = getattr(config, option.name)
        if option.name in names and value != option.default:
            spelled = f"--{option.name.replace('_', '-')} {value}"
            raise InvalidConfig(f"the {backend} backend has no use for {spelled}; leave it out")


@dataclass(frozen=True)
class Request:
    """What is run: ``concurrency`` sequences of exactly m random input tokens, exactly n output tokens each.

    A runtime in this process computes them as one static batch; a server gets as many requests at the same time.
    """

    input_tokens: int
    output_tokens: int
    seed: int = 0
    concurrency: int = 1


def refuse_request(request: Request, context_length: int | None) -> None:
    """Refuse a request of no tokens or sequences, or of more than ``context_length``, None where it isn't known.

    Raises InvalidConfig.
    """
    m, n = request.input_tokens, request.output_tokens
    if m < 1 or n < 1:
        raise InvalidConfig(f"a request needs at least 1 input and 1 output token, not {m} and {n}")
    if request.concurrency < 1:
        raise InvalidConfig(f"a concurrency of {request.concurrency} makes no sense; ask for at least 1")
    if context_length is not None and m + n > context_length:
        raise InvalidConfig(
            f"{m} input and {n} output tokens are more than the model's context of {context_length}; "
            "ask for fewer tokens or take another model"
        )


@dataclass(frozen=True)
class Prepared:
    """Seconds that making a request ready took, apart from its phases; None where there was nothing to do."""

    compile_s: float | None = None
    """Compiling the decode step, its first runs included."""
    capture_s: float | None = None
    """Capturing the decode step in a graph, the runs that must come before included."""
    check_s: float | None = None
    """Comparing the steps with the model's own generation, where this request was the first to need it."""
    sizes: tuple[int, int] | None = None
    """Input and output tokens of a request as it came out where that differs from what was asked for, with
    ``Config.allow_inexact``; None where they agree."""


@dataclass(frozen=True)
class Completion:
    """What one request did. Times are CLOCK_MONOTONIC nanoseconds, taken after the device was synchronised.

    The first output token comes out of prefill, the other n − 1 out of decode steps, so that
    ``start_ns ≤ prefill_end_ns ≤ end_ns`` and, for n = 1, decode is empty.
    """

    start_ns: int
    prefill_end_ns: int
    end_ns: int
    input_tokens: int
    """Input tokens processed per sequence, counted by the backend."""
    output_tokens: int
    """Output tokens produced per sequence, counted by the backend, not copied from the request."""
    output_ids: tuple[int, ...] = ()
    """Token ids of the first sequence where the backend chooses tokens; empty where it doesn't sample."""


@dataclass(frozen=True)
class Model:
    """The model a configuration names, known before its weights are made or read."""

    name: str
    architecture: str
    """Family name such as ``llama`` or ``falcon``."""
    source: str
    """``preset``, ``hub``, ``folder``, ``gguf``, ``server`` or ``fake``."""
    random_weights: bool | None
    """None where a server doesn't say."""
    parameters: int | None
    """Number of weights; tied embeddings count once. None where a server doesn't say, never 0."""
    weight_bytes: int | None
    context_length: int | None
    """Longest m + n that the model is made for, or that its server takes, in tokens; None where that is not known."""
    vocabulary_size: int | None
    dtype: str | None
    """Precision of the weights; None where a server doesn't say."""
    active_parameters: int | None = None
    """Weights that one token uses: fewer than all in a mixture of experts. None where not known."""
    step_bytes: int | None = None
    """Bytes of weights that a decode step of one sequence reads: of its experts, without what embeds other tokens or
    images. None where not known."""
    revision: str | None = None
    """Commit of a hub model or SHA-256 prefix of a file's header and size; None where it has none."""


@dataclass(frozen=True)
class Loaded:
    """What is in memory now."""

    model: Model
    device: str
    """``cpu``, ``cuda``, ``mps`` or ``metal``: where the computation really runs."""
    device_names: tuple[str, ...]
    gpu_uuids: tuple[str, ...] = ()
    """UUIDs (``GPU-…`` or ``MIG-…``) of the NVIDIA GPUs used; energy probes match on these."""
    cuda_unusable: str | None = None
    """Why this runtime can't use an NVIDIA GPU, whether there is one or not, and what mends it; None where it can."""
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """Choices that change speed or energy: attention implementation, cache class and length, threads, flash attention,
    layers offloaded; a server's kind, command line, limits and flags."""
    server_pids: tuple[int, ...] = ()
    """Processes outside this one that compute, those that they started not included: their load is ours."""
    no_energy: str | None = None
    """Why no meter of this machine can read the energy of what was loaded; None where one may."""
    concurrency: Concurrency = "static batch"
    """How several requests are in flight; see ``Capabilities``."""
    most_in_flight: int | None = None
    """Requests that a server works on at once, beyond which they wait; None where it doesn't say."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do here; asked for instead of branching on its name."""

    devices: tuple[str, ...]
    """Devices usable on this machine, best first; the first is what ``auto`` means."""
    dtypes: tuple[str, ...]
    """Accepted values of ``Config.dtype`` besides ``auto``."""
    concurrency: Concurrency
    """How several requests are in flight: one after the other only, as a static batch, or in a closed loop."""
    samples_tokens: bool
    """Whether output tokens are chosen by the model (greedy) rather than fed at random."""


class Backend(Protocol):
    """A runtime. One instance lives in one process and holds at most one model."""

    def capabilities(self) -> Capabilities:
        """What works on this machine. Raises NotInstalled."""

    def resolve(self, config: Config) -> Model:
        """The model that ``load`` would load, without loading it: cheap, and the first place that refuses.

        Raises InvalidConfig (unknown model, absent device, unsupported dtype, too little disk) or NotInstalled.
        """

    def load(self, config: Config) -> Loaded:
        """Load or make the model. Raises InvalidConfig, NotInstalled, OutOfMemory or BackendError."""

    def prepare(self, request: Request) -> Prepared:
        """Do what a point needs once and must not be timed: size caches and contexts, draw input tokens, compile.

        Called before the first ``run`` of each point. Raises InvalidConfig, OutOfMemory or BackendError.
        """

    def run(self, request: Request) -> Completion:
        """Run one prepared request to its end. Raises OutOfMemory or BackendError.

        Nothing is kept between requests: no prefix cache, no early stop at an end-of-sequence token.
        """

    def versions(self) -> dict[str, str]:
        """Versions of the packages and libraries that decide the result."""

    def close(self) -> None:
        """Free the model. Safe to call twice and after a failed load."""


@dataclass(frozen=True)
class Reply:
    """What a server sent back for one request. Times are CLOCK_MONOTONIC nanoseconds, taken at the socket."""

    start_ns: int
    """When the request's first byte was handed to the socket, on a connection that was open before."""
    token_ns: tuple[int, ...]
    """When each piece of output arrived, in order; pieces without tokens are left out."""
    token_counts: tuple[int, ...]
    """Output tokens in each of these pieces, as the server or its ids tell; they add up to ``output_tokens``."""
    end_ns: int
    """When the last piece of output had arrived: the last of ``token_ns``."""
    input_tokens: int
    """By the server's usage, those of a chat template included."""
    output_tokens: int
    cached_tokens: int | None = None
    """Input tokens that the server took from its prefix cache; None where it doesn't say."""
    said: Mapping[str, float] = field(default_factory=dict)
    """What the server says of this request's own times, in s, by its own names (``prompt_ms`` of llama-server as
    ``prompt_s``)."""
    counted: bool = True
    """Whether ``token_counts`` follow from what came; False where fewer pieces than tokens came and nothing told the
    tokens of each: they are spread evenly then."""


class Client(Protocol):
    """The connections of one process to a server, inside one running asyncio loop."""

    async def open(self, connections: int) -> None:
        """Open that many connections. Raises BackendError."""

    async def send(self, connection: int, request: Request, number: int) -> Any:
        """Send one request (of ``concurrency`` 1) on a connection and wait for the end of its answer.

        ``number`` differs for every request of a run: the input tokens are drawn from it and from the request's seed,
        the first of them different each time. Returns what ``read`` takes, unread: reading while others are in flight
        would delay their stamps. Raises BackendError.
        """

    def get_ready(self, request: Request, numbers: Sequence[int]) -> None:
        """Draw and write requests that will be sent soon, while there is time for it, beside those that are ready."""

    def read(self, answer: Any) -> Reply:
        """What an answer says. Raises BackendError where it is garbage, ended early, or has other sizes than asked."""

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""


class ServingBackend(Backend, Protocol):
    """A backend whose requests are served elsewhere: its ``Capabilities.concurrency`` is ``closed loop``."""

    on_progress: Callable[[str], None]
    """Told in a line now and then how far ``load`` is; whoever holds the backend may set it."""

    def client_description(self) -> Mapping[str, object]:
        """What ``client`` needs in another process, as JSON; without any key. Call after ``load``, before each loop.

        Raises BackendError where the server is not the one that was loaded any more.
        """

    def client(self, description: Mapping[str, object]) -> Client:
        """A client of the loaded server; also in a process where nothing was loaded."""

    def blame(self, error: BackendError) -> BackendError:
        """What lies behind a client's error: how the server ended, where it is ours and did; else the error itself."""

    def server_figures(self) -> dict[str, float]:
        """What the server says of itself now: counters and gauges by the names of ``docs/servers.md``; may be empty."""


def gpu_indices(name: str, count: int) -> tuple[int, ...]:
    """Indices in ``cuda:0,1``, ascending; ``count`` is the number of GPUs here. Raises InvalidConfig."""
    kind, _, listed = name.partition(":")
    parts = listed.split(",")
    if kind != "cuda" or not all(part.isascii() and part.isdecimal() for part in parts):
        raise InvalidConfig(f"'{name}' doesn't name GPUs; write their numbers as in cuda:0,1")
    indices = [int(part) for part in parts]
    for index in indices:
        if index >= count:
            raise InvalidConfig(f"there is no device 'cuda:{index}'; the last one is cuda:{count - 1}")
        if indices.count(index) > 1:
            raise InvalidConfig(f"'{name}' names GPU {index} more than once; name each GPU once")
    return tuple(sorted(indices))
