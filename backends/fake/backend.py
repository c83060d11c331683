"""A backend with a known cost formula, for tests and for trying the harness without a model.

The model's name carries its behaviour: ``fake`` or ``fake:key=value,key=value`` with the keys of ``_Behaviour``.
Its clock is virtual, so that an hour of requests takes no time; with ``realtime=1`` it sleeps instead.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, fields

from backends.base import (
    Backend,
    BackendError,
    Capabilities,
    Completion,
    Config,
    InvalidConfig,
    Loaded,
    Model,
    OutOfMemory,
    Prepared,
    Request,
    refuse_request,
    refuse_unused,
)


@dataclass(frozen=True)
class _Behaviour:
    """Cost in seconds of a forward pass over x tokens of c sequences: floor_s + c·(linear_s·x + quadratic_s·x²), of a
    cached decode step at position x: step_s + batch_s·(c − 1) + c·step_linear_s·x. A size written as ``64x8`` is
    m = 64, n = 8, whatever c is."""

    floor_s: float = 0.010
    linear_s: float = 1e-4
    quadratic_s: float = 1e-8
    step_s: float = 0.005
    step_linear_s: float = 1e-6
    batch_s: float = 0.001
    """What each sequence beyond the first adds to a decode step."""
    first: float = 1.0
    """How many times as long the first request of a size takes, as where kernels are planned on it."""
    noise: float = 0.0
    """Relative standard deviation of each request's runtime."""
    context: int = 8192
    oom_above: int = 1 << 60
    """Requests of more tokens, c·(m + n), than this run out of memory."""
    segfault_at: str = ""
    hang_at: str = ""
    error_at: str = ""
    short_at: str = ""
    """Size at which one output token too few is produced."""
    realtime: int = 0
    refuse: int = 0
    """1 makes loading fail as an invalid configuration does."""
    refuse_when: str = ""
    """Path of a file; while it exists loading is refused, as when a device has been lost."""


def _parse(model: str) -> _Behaviour:
    name, _, options = model.partition(":")
    types: dict[str, type] = {field.name: type(field.default) for field in fields(_Behaviour)}
    values = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if name != "fake" or key not in types:
            raise InvalidConfig(f"unknown option '{key}' of the fake model; it has {', '.join(types)}")
        try:
            values[key] = types[key](value)
        except ValueError:
            raise InvalidConfig(f"'{value}' is no value for the fake model's {key}") from None
    if name != "fake":
        raise InvalidConfig(f"unknown model '{model}'; the fake backend runs 'fake' or 'fake:key=value,…'")
    return _Behaviour(**values)


class FakeBackend(Backend):
    """Costs time, computes nothing."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._behaviour = _Behaviour()
        self._now_ns = 0
        self._random = random.Random(0)
        self._is_first = True

    def capabilities(self) -> Capabilities:
        return Capabilities(devices=("cpu",), dtypes=("float32",), concurrency="static batch", samples_tokens=False)

    def resolve(self, config: Config) -> Model:
        behaviour = _parse(config.model)
        refuse_unused(config, "fake", "compile", "prefill_chunk", "random_weights")
        if config.device not in ("auto", "cpu"):
            raise InvalidConfig(f"device '{config.device}' is not there; the fake backend has only cpu")
        if config.dtype not in ("auto", "float32"):
            raise InvalidConfig(f"dtype '{config.dtype}' is unknown to the fake backend; use float32")
        return Model(
            name=config.model,
            architecture="fake",
            source="fake",
            random_weights=True,
            parameters=1,
            weight_bytes=4,
            context_length=behaviour.context,
            vocabulary_size=256,
            dtype="float32",
        )

    def load(self, config: Config) -> Loaded:
        model = self.resolve(config)
        self._behaviour = _parse(config.model)
        if self._behaviour.refuse or (self._behaviour.refuse_when and os.path.exists(self._behaviour.refuse_when)):
            raise InvalidConfig("the fake model refuses to load")
        self._config = config
        self._now_ns = time.monotonic_ns()
        self._random = random.Random(config.seed)
        settings = {"virtual_clock": not self._behaviour.realtime}
        return Loaded(model, device="cpu", device_names=("fake",), settings=settings)

    def prepare(self, request: Request) -> Prepared:
        refuse_request(request, self._behaviour.context)
        self._is_first = True
        return Prepared()

    def run(self, request: Request) -> Completion:
        if self._config is None:
            raise BackendError("no model is loaded")
        self._misbehave(request)
        m, n, c = request.input_tokens, request.output_tokens, request.concurrency
        noise = 1 + self._behaviour.noise * self._random.gauss(0, 1)
        if self._is_first:
            noise *= self._behaviour.first
            self._is_first = False
        start_ns = time.monotonic_ns() if self._behaviour.realtime else self._now_ns
        prefill_end_ns = self._pass(start_ns, self._forward_s(m, c) * noise)
        decode_s = sum(self._step_s(m + k, c) for k in range(1, n))
        self._now_ns = end_ns = self._pass(prefill_end_ns, decode_s * noise)
        produced = n - 1 if self._behaviour.short_at == f"{m}x{n}" else n
        return Completion(start_ns, prefill_end_ns, end_ns, m, produced)

    def _forward_s(self, tokens: int, sequences: int) -> float:
        costs = self._behaviour
        return costs.floor_s + sequences * (costs.linear_s * tokens + costs.quadratic_s * tokens**2)

    def _step_s(self, position: int, sequences: int) -> float:
        assert self._config is not None
        if not self._config.kv_cache:
            return self._forward_s(position, sequences)
        costs = self._behaviour
        return costs.step_s + costs.batch_s * (sequences - 1) + sequences * costs.step_linear_s * position

    def _pass(self, from_ns: int, duration_s: float) -> int:
        if not self._behaviour.realtime:
            return from_ns + max(1, round(duration_s * 1e9))
        time.sleep(max(0.0, duration_s))
        return time.monotonic_ns()

    def _misbehave(self, request: Request) -> None:
        size = f"{request.input_tokens}x{request.output_tokens}"
        if request.concurrency * (request.input_tokens + request.output_tokens) > self._behaviour.oom_above:
            raise OutOfMemory(f"the fake device holds {self._behaviour.oom_above} tokens")
        if size == self._behaviour.error_at:
            raise BackendError("the fake backend fails here")
        if size == self._behaviour.segfault_at:
            os.kill(os.getpid(), signal.SIGSEGV)
        if size == self._behaviour.hang_at:
            time.sleep(3600)

    def versions(self) -> dict[str, str]:
        return {"fake": "1"}

    def close(self) -> None:
        self._config = None


create = FakeBackend
