"""How one request runs on torch: eagerly, from a captured CUDA graph, or compiled by Inductor.

A decoder is made for one request and runs it as often as asked: ``begin`` outside the phases, then ``prefill``, which
chooses the first output token, then ``decode``, which chooses the others and never waits for the device.
"""

from __future__ import annotations

import gc
import os
import shutil
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import Config, InvalidConfig, Prepared
from backends.transformers.forward import ForwardPass, chunked, growing_cache, positions_of, static_cache

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel

MODES = ("none", "graph", "inductor")

_UNCAPTURABLE = {"falcon"}
"""Types of models that index with lists, such as ``[-2]``: torch makes a tensor of them on the host and copies it."""

WARMUP_STEPS = 3
"""Decode steps before a capture: libraries allocate and choose their kernels in the first ones."""

Capture = Callable[[Callable[[], None], Callable[[], None]], Callable[[], None]]
"""Takes the steps that run first, uncaptured, and the step to capture; returns what replays the step."""


def refuse(config: Config, device: str) -> None:
    """Refuse what can't be compiled or cut into chunks. Raises InvalidConfig, before any weights are made.

    ``device`` is the kind that was chosen: ``cuda``, ``mps`` or ``cpu``.
    """
    if config.compile not in MODES:
        raise InvalidConfig(f"compile mode '{config.compile}' isn't one of {', '.join(MODES)}")
    if config.prefill_chunk is not None and config.prefill_chunk < 1:
        raise InvalidConfig(f"a prefill chunk must hold at least 1 token, not {config.prefill_chunk}")
    if not config.kv_cache and (config.compile != "none" or config.prefill_chunk is not None):
        option = "--prefill-chunk" if config.compile == "none" else f"--compile {config.compile}"
        raise InvalidConfig(f"{option} needs the KV cache: without it every step is another prefill; use --kv-cache")
    if config.compile == "graph" and device != "cuda":
        raise InvalidConfig(f"--compile graph captures CUDA graphs and can't run on {device}; use none or inductor")
    if config.compile == "inductor":
        _refuse_without_cache_directory()
        _refuse_without_compiler(device)


def refuse_architecture(config: Config, model_type: str) -> None:
    """Refuse models whose step can't be captured. Raises InvalidConfig, before any weights are made."""
    if config.compile == "graph" and model_type in _UNCAPTURABLE:
        raise InvalidConfig(
            f"--compile graph can't capture {model_type}: its attention copies indices from the host in every step, "
            "which a CUDA graph may not do; use --compile inductor or none"
        )


def _refuse_without_cache_directory() -> None:
    try:
        # The import makes the directory too, the first time.
        from torch._inductor.runtime.runtime_utils import cache_dir

        with tempfile.TemporaryFile(dir=cache_dir()):
            pass
    except OSError as error:
        raise InvalidConfig(
            f"--compile inductor can't write its cache ({error}); name a folder for it: "
            "TORCHINDUCTOR_CACHE_DIR=/path/to/folder"
        ) from None


def _refuse_without_compiler(device: str) -> None:
    import torch._inductor.config

    if device == "cuda":
        if find_spec("triton") is None:
            raise InvalidConfig("--compile inductor needs Triton on CUDA; install it with: pip install triton")
        header = Path(sysconfig.get_path("include")) / "Python.h"
        if not header.is_file():
            raise InvalidConfig(
                f"--compile inductor needs Python's headers on CUDA (for Triton), and {header} is missing; "
                "install them (Debian, Ubuntu: apt install python3-dev)"
            )
        # Triton compiles what launches its kernels; these are the compilers it looks for.
        if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
            raise InvalidConfig(
                "--compile inductor needs a C compiler on CUDA (gcc or clang, for Triton); install one "
                "(Debian, Ubuntu: apt install gcc) or name it: CC=/path/to/compiler"
            )
    candidates = torch._inductor.config.cpp.cxx
    compilers = [name for name in ([candidates] if isinstance(candidates, str) else candidates) if name]
    if device == "cpu" and not any(map(shutil.which, compilers)):
        looked_for = " or ".join(compilers) or "CXX is empty"
        raise InvalidConfig(
            f"--compile inductor needs a C++ compiler ({looked_for}); install one (Debian, Ubuntu: "
            "apt install g++; macOS: xcode-select --install) or name it: CXX=/path/to/compiler"
        )


def decoder(model: PreTrainedModel, input_ids: torch.Tensor, output_tokens: int, config: Config) -> Decoder:
    """The decoder that ``config`` asks for."""
    if config.compile == "none":
        return EagerDecoder(model, input_ids, output_tokens, config)
    capture = partial(cuda_graph, input_ids.device) if input_ids.device.type == "cuda" else None
    return StaticDecoder(model, input_ids, output_tokens, config, capture)


def cuda_graph(device: torch.device, first_steps: Callable[[], None], step: Callable[[], None]) -> Callable[[], None]:
    """Capture ``step`` in a CUDA graph; returns what replays it, on the same memory, without waiting."""
    import torch

    with torch.cuda.device(device):
        # Steps before a capture belong on another stream than the default one, says torch's manual on CUDA graphs.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            first_steps()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        torch.cuda.synchronize()
    return graph.replay


class Decoder(ABC):
    """Runs one request of ``concurrency`` sequences, greedily. All calls belong inside ``torch.inference_mode()``."""

    def __init__(self, model: PreTrainedModel, input_ids: torch.Tensor, output_tokens: int, config: Config) -> None:
        self._pass = ForwardPass.of(model)
        self._input_ids = input_ids
        self._steps = output_tokens - 1
        self._config = config
        self._positions = positions_of(input_ids, self.input_tokens + output_tokens)

    @property
    def input_tokens(self) -> int:
        """Input tokens of each sequence."""
        return self._input_ids.shape[1]

    def prepare(self) -> Prepared:
        """Compile and capture what ``decode`` uses, once."""
        return Prepared()

    @abstractmethod
    def begin(self) -> None:
        """Forget the last run."""

    @abstractmethod
    def prefill(self) -> None:
        """Process the input tokens and choose the first output token."""

    @abstractmethod
    def decode(self) -> None:
        """Choose the other output tokens."""

    @abstractmethod
    def output_ids(self) -> torch.Tensor:
        """What was chosen, shape (concurrency, n)."""

    def _first_token(self, cache: Cache | None) -> torch.Tensor:
        """Process the input, in chunks where asked; returns the first output token, shape (concurrency, 1)."""
        positions = self._positions[:, : self.input_tokens]
        *chunks, last = chunked(self._input_ids, positions, self._config.prefill_chunk)
        for chunk in chunks:
            _next_token(self._pass.model, **self._pass.inputs(*chunk, cache))
        return _next_token(self._pass.model, **self._pass.inputs(*last, cache))


class EagerDecoder(Decoder):
    """The plain loop: every operation of every step is launched from Python."""

    def __init__(self, model: PreTrainedModel, input_ids: torch.Tensor, output_tokens: int, config: Config) -> None:
        super().__init__(model, input_ids, output_tokens, config)
        self._cache: Cache | None = None
        self._produced: list[torch.Tensor] = []

    def begin(self) -> None:
        self._cache = growing_cache(self._pass.model) if self._config.kv_cache else None
        self._produced = []

    def prefill(self) -> None:
        self._produced.append(self._first_token(self._cache))

    def decode(self) -> None:
        import torch

        sequence = self._input_ids
        for length in range(self.input_tokens + 1, self.input_tokens + self._steps + 1):
            if self._cache is None:
                sequence = torch.cat((sequence, self._produced[-1]), dim=1)
                inputs = self._pass.inputs(sequence, self._positions[:, :length], None)
            else:
                inputs = self._pass.inputs(self._produced[-1], self._positions[:, length - 1 : length], self._cache)
            self._produced.append(_next_token(self._pass.model, **inputs))

    def output_ids(self) -> torch.Tensor:
        import torch

        return torch.cat(self._produced, dim=1)


class StaticDecoder(Decoder):
    """Decode steps of unchanging shapes and addresses, so that they can be compiled, and replayed as a CUDA graph.

    Everything a step reads and writes stays on the device: the latest token, the cache with its length, the tokens
    chosen so far. ``graph`` captures the step in a CUDA graph; ``inductor`` compiles the model's part of it and, on
    CUDA, captures that. Prefill is not compiled: its shape is another in every request.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        output_tokens: int,
        config: Config,
        capture: Capture | None,
    ) -> None:
        import torch

        super().__init__(model, input_ids, output_tokens, config)
        self._capture = capture
        concurrency, input_tokens = input_ids.shape
        self._cache = static_cache(model.config, input_tokens + output_tokens)
        self._position = torch.full((concurrency, 1), input_tokens, dtype=torch.long, device=input_ids.device)
        self._token = torch.zeros((concurrency, 1), dtype=torch.long, device=input_ids.device)
        self._produced = torch.zeros((concurrency, output_tokens), dtype=torch.long, device=input_ids.device)
        self._index = torch.zeros(1, dtype=torch.long, device=input_ids.device)
        """Number of tokens chosen: the column of ``_produced`` that the next one goes to."""
        self._next_token: Callable[..., torch.Tensor] = _next_token
        self._replay: Callable[[], None] | None = None

    def prepare(self) -> Prepared:
        """Compile, then capture. The seconds include the first steps that run, and are apart from every phase."""
        import torch

        if self._config.compile == "inductor":
            # Code is made for the sizes of this request alone; what earlier ones left would count against torch's
            # limit of versions, beyond which it runs eagerly, and holds their caches in cycles.
            torch.compiler.reset()
            gc.collect()
        if not self._steps:
            return Prepared()
        compile_s = capture_s = None
        if self._config.compile == "inductor":
            self._next_token = torch.compile(_next_token, fullgraph=True, dynamic=False)
            start_s = time.monotonic()
            self.begin()
            self.prefill()
            self._first_steps()
            compile_s = time.monotonic() - start_s
        if self._capture:
            start_s = time.monotonic()
            self.begin()
            self.prefill()  # it makes the cache's tensors, and runs on the stream of all later ones
            self._replay = self._capture(self._first_steps, self._step)
            capture_s = time.monotonic() - start_s
        return Prepared(compile_s=compile_s, capture_s=capture_s)

    def begin(self) -> None:
        # Keys and values of the last run stay: the mask hides what lies beyond the cache's length.
        for layer in self._cache.layers:
            layer.cumulative_length.zero_()
        self._index.zero_()
        self._position.fill_(self.input_tokens)

    def prefill(self) -> None:
        self._store(self._first_token(self._cache))

    def decode(self) -> None:
        step = self._replay or self._step
        for _ in range(self._steps):
            step()

    def output_ids(self) -> torch.Tensor:
        # As many as were really chosen, by the device's own count.
        return self._produced[:, : int(self._index)]

    def _step(self) -> None:
        inputs = self._pass.inputs(self._token, self._position, self._cache)
        self._store(self._next_token(self._pass.model, **inputs))
        self._position.add_(1)

    def _store(self, token: torch.Tensor) -> None:
        self._token.copy_(token)
        self._produced.index_copy_(1, self._index, token)
        self._index.add_(1)

    def _first_steps(self) -> None:
        for _ in range(min(WARMUP_STEPS, self._steps)):
            self._step()


def _next_token(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """The likeliest next token of each sequence, of shape (concurrency, 1)."""
    token: torch.Tensor = model(**inputs).logits[:, -1].argmax(dim=-1, keepdim=True)
    return token
