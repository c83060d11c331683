"""The ``mlx`` backend: mlx-lm's models in this process, on Apple GPUs, and on CPUs by MLX's build for them.

Greedy, without tokenizer, never stopped by an end-of-sequence token. Written for Metal by MLX's documents and run on
Linux's CPU build, where MLX computes with one thread.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from backends.base import (
    MEMORY_WORDS,
    Backend,
    BackendError,
    Capabilities,
    Completion,
    Config,
    InvalidConfig,
    Loaded,
    Model,
    NotInstalled,
    OutOfMemory,
    Prepared,
    Request,
    pip_install,
    refuse_request,
    refuse_unused,
)
from backends.mlx import models
from backends.mlx.decode import STEP_TOKENS, Decoder, cache_bytes, cache_class

if TYPE_CHECKING:
    from backends.mlx.models import MlxModel

OLDEST_MLX_LM = "0.32"

T = TypeVar("T")


class MlxBackend(Backend):
    """Nothing is imported until it is used."""

    def __init__(self) -> None:
        self._config = Config(model="")
        self._device = "cpu"
        self._module: Any = None
        self._context_length: int | None = 0
        self._vocabulary_size = 0
        self._prepared: tuple[Request, Decoder] | None = None
        self._wired_bytes_before: int | None = None

    def capabilities(self) -> Capabilities:
        _require_packages()
        names = (*models.DTYPES, *models.QUANTIZATIONS)
        return Capabilities(_devices(), names, concurrency="static batch", samples_tokens=True)

    def versions(self) -> dict[str, str]:
        _require_packages()
        return {package: importlib.metadata.version(package) for package in ("mlx", "mlx-lm")}

    def resolve(self, config: Config) -> Model:
        """The model, from its shapes alone; of a hub model only config.json is fetched."""
        _require_packages()
        with _on(_refuse(config)):
            return _described(self._made(config, fetch=False), config)

    def load(self, config: Config) -> Loaded:
        _require_packages()
        self.close()
        device = _refuse(config)
        with _on(device):
            made = self._made(config, fetch=True)
            model = _described(made, config)
            _refuse_memory(f"the weights of {config.model}", model.weight_bytes or 0, device)
            _guarded(lambda: models.evaluate(made.module))
            settings = _settings(made, config)
        self._config, self._device, self._module = config, device, made.module
        self._context_length, self._vocabulary_size = models.context_length(made), models.vocabulary_size(made)
        if device == "metal":
            settings["wired_limit_bytes"] = self._keep_resident()
        return Loaded(
            model=model,
            device=device,
            device_names=(_device_name(device),),
            cuda_unusable="the mlx backend computes on Apple GPUs and CPUs; use --backend transformers or llama-cpp",
            settings=settings,
        )

    def prepare(self, request: Request) -> Prepared:
        import mlx.core as mx

        module = self._loaded()
        refuse_request(request, self._context_length)
        self._prepared = None
        mx.clear_cache()
        m, n, c = request.input_tokens, request.output_tokens, request.concurrency
        with _on(self._device):
            cache = c * cache_bytes(module, m + n)
            _refuse_memory(f"the cache of {c} × {m + n} tokens", cache, self._device)

            def draw() -> Any:
                generator = random.Random(request.seed)
                ids = mx.array([generator.choices(range(self._vocabulary_size), k=m) for _ in range(c)])
                mx.eval(ids)
                return ids

            step_tokens = self._config.prefill_chunk or STEP_TOKENS
            self._prepared = request, Decoder(module, _guarded(draw), n, step_tokens, self._config.kv_cache)
        return Prepared()

    def run(self, request: Request) -> Completion:
        if self._prepared is None or self._prepared[0] != request:
            raise BackendError("this request was not prepared")
        decoder = self._prepared[1]
        with _on(self._device):
            return _guarded(lambda: _complete(decoder))

    def close(self) -> None:
        """Free the model and put MLX's limit of wired memory back."""
        self._module = self._prepared = None
        if self._wired_bytes_before is not None:
            import mlx.core as mx

            mx.set_wired_limit(self._wired_bytes_before)
            self._wired_bytes_before = None

    def _made(self, config: Config, fetch: bool) -> MlxModel:
        default = "float16" if _refuse(config) == "metal" else "float32"
        return models.make(config.model, config.dtype, default, config.seed, fetch)

    def _keep_resident(self) -> int:
        """Let Metal keep as much memory wired as it recommends, as mlx-lm does while it generates."""
        import mlx.core as mx

        limit = int(mx.device_info()["max_recommended_working_set_size"])
        self._wired_bytes_before = mx.set_wired_limit(limit)
        return limit

    def _loaded(self) -> Any:
        if self._module is None:
            raise BackendError("no model is loaded")
        return self._module


def _complete(decoder: Decoder) -> Completion:
    """Run one request. The device is waited for where a phase begins or ends."""
    import mlx.core as mx

    decoder.begin()
    mx.synchronize()
    start_ns = time.monotonic_ns()
    decoder.prefill()
    mx.synchronize()
    prefill_end_ns = time.monotonic_ns()
    decoder.decode()
    mx.synchronize()
    end_ns = time.monotonic_ns()
    first_ids = tuple(decoder.output_ids()[0])
    return Completion(start_ns, prefill_end_ns, end_ns, decoder.input_tokens, len(first_ids), first_ids)


def _require_packages() -> None:
    # The hub's library would otherwise report usage over the network and draw progress bars.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    remedy = pip_install(f"mlx-lm[cpu]>={OLDEST_MLX_LM}")
    try:
        import mlx.core  # noqa: F401
        import mlx_lm
        from huggingface_hub.utils import disable_progress_bars
        from huggingface_hub.utils import logging as hub_logging
        from packaging.version import Version
    except (ImportError, OSError, ValueError) as error:  # ValueError: a limit of open files below mlx-lm's own
        raise NotInstalled(f"the mlx backend can't be used ({_one_line(error)}); install with: {remedy}") from error
    # Older ones run code that a model brings with it.
    if Version(mlx_lm.__version__).release < Version(OLDEST_MLX_LM).release:
        raise NotInstalled(f"mlx-lm {mlx_lm.__version__} is too old for this backend; install with: {remedy}")
    disable_progress_bars()
    hub_logging.set_verbosity_error()


def _devices() -> tuple[str, ...]:
    import mlx.core as mx

    return ("metal", "cpu") if mx.metal.is_available() else ("cpu",)


def _refuse(config: Config) -> str:
    """The device that a configuration comes to. Raises InvalidConfig for what can't work here."""
    refuse_unused(config, "mlx", "compile", "threads", "random_weights")
    if config.prefill_chunk is not None and config.prefill_chunk < 1:
        raise InvalidConfig(f"a prefill chunk must hold at least 1 token, not {config.prefill_chunk}")
    here = _devices()
    if config.device == "auto":
        return here[0]
    if config.device not in here:
        raise InvalidConfig(f"mlx has no device '{config.device}' here; choose {' or '.join(here)}")
    return config.device


def _on(device: str) -> contextlib.AbstractContextManager[Any]:
    """Whatever is computed inside is computed on this device."""
    import mlx.core as mx

    context: contextlib.AbstractContextManager[Any] = mx.stream(mx.gpu if device == "metal" else mx.cpu)
    return context


def _described(made: MlxModel, config: Config) -> Model:
    parameters, weight_bytes = models.size(made.module)
    return Model(
        name=config.model,
        architecture=made.config["model_type"],
        source=made.source,
        random_weights=made.source == "preset",
        parameters=parameters,
        weight_bytes=weight_bytes,
        context_length=models.context_length(made),
        vocabulary_size=models.vocabulary_size(made),
        dtype=made.dtype,
        revision=made.revision,
    )


def _settings(made: MlxModel, config: Config) -> dict[str, str | int | float | bool | None]:
    quantization = made.quantization
    return {
        "kv_cache_class": cache_class(made.module) if config.kv_cache else None,
        "prefill_step_tokens": config.prefill_chunk or STEP_TOKENS,
        **({"activation_dtype": made.activations} if made.dtype not in models.DTYPES else {}),
        **({"quantization_group_size": quantization.group_size} if quantization else {}),
    }


def _device_name(device: str) -> str:
    import mlx.core as mx

    information = mx.device_info(mx.gpu if device == "metal" else mx.cpu)
    return str(information.get("device_name") or platform.processor() or platform.machine())


def _refuse_memory(what: str, needed_bytes: int, device: str) -> None:
    """Raise OutOfMemory for more than there is: on a CPU MLX doesn't check what it is given, and dies of a signal."""
    free = _free_bytes(device)
    if needed_bytes > free:
        raise OutOfMemory(f"{what} takes {needed_bytes / 1e9:.1f} GB, of which {max(free, 0) / 1e9:.1f} GB are free")


def _free_bytes(device: str) -> int:
    import mlx.core as mx
    import psutil

    if device == "metal":
        return int(mx.device_info(mx.gpu)["memory_size"]) - int(mx.get_active_memory())
    return int(psutil.virtual_memory().available)


def _guarded(action: Callable[[], T]) -> T:
    """What ``action`` returns. Raises OutOfMemory or BackendError for what goes wrong in MLX."""
    import mlx.core as mx

    try:
        return action()
    except (RuntimeError, ValueError, MemoryError) as error:
        message = _one_line(error)
        if not (isinstance(error, MemoryError) or MEMORY_WORDS.search(message)):
            raise BackendError(f"{type(error).__name__}: {message}") from error
    # Raised only here, after the failed frames are gone: they hold the arrays that filled the memory.
    mx.clear_cache()
    raise OutOfMemory(message or "out of memory")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


create = MlxBackend
