"""The ``transformers`` backend: Hugging Face models on torch, on NVIDIA GPUs, Apple GPUs and CPUs.

Requests run through own loops over ``model(...)`` (``decode``): greedy, without tokenizer, never stopped by an
end-of-sequence token, and without waiting for the device between steps.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

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
)
from backends.transformers import decode, devices, forward, headers, kinds, models, placement, quantizers, stored
from backends.transformers.guard import Guard, draw_tokens
from backends.transformers.precision import DTYPES, Precision, chosen_precision
from backends.transformers.sizes import size_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from backends.presets import ModelSource
    from backends.transformers.decode import Decoder

OLDEST_TRANSFORMERS = "5.14"

T = TypeVar("T")


@dataclass(frozen=True)
class _Plan:
    """What a configuration comes to, once it has been checked."""

    model: Model
    devices: tuple[torch.device, ...]
    """The device, or the GPUs that the model is spread over; inputs go to the first."""
    dtype: torch.dtype
    """Of the activations, the cache and unquantised weights."""
    precision: Precision

    @property
    def packages(self) -> tuple[str, ...]:
        """What is needed beside torch and transformers."""
        if self.precision.quantization is not None:
            return self.precision.packages
        return ("accelerate",) if len(self.devices) > 1 else ()


class TransformersBackend(Backend):
    """``model`` is the loaded torch module, None while nothing is loaded; nothing is imported until it is used."""

    def __init__(self) -> None:
        self.model: PreTrainedModel | None = None
        self._guard: Guard | None = None
        self._config = Config(model="")
        self._context_length: int | None = 0
        self._devices: tuple[torch.device, ...] = ()
        self._packages: tuple[str, ...] = ()
        self._threads_before: int | None = None
        self._prepared: tuple[Request, Decoder] | None = None

    def capabilities(self) -> Capabilities:
        _require_packages()
        found = devices.usable()
        return Capabilities(found, DTYPES + quantizers.usable(found), concurrency="static batch", samples_tokens=True)

    def versions(self) -> dict[str, str]:
        """Versions of torch, transformers, CUDA where torch was built with it, and what else the loaded model needs."""
        _require_packages()
        import torch
        import transformers

        versions = {"torch": str(torch.__version__), "transformers": transformers.__version__}
        if torch.version.cuda is not None:
            versions["cuda"] = torch.version.cuda
        return versions | {package: importlib.metadata.version(package) for package in self._packages}

    def resolve(self, config: Config) -> Model:
        """The model, from its shapes alone; of a hub model only config.json is fetched."""
        _require_packages()
        return _plan(config, *models.read_config(config.model, config.random_weights)).model

    def load(self, config: Config) -> Loaded:
        _require_packages()
        self.close()
        import torch

        source, model_config = models.read_config(config.model, config.random_weights)
        plan = _plan(config, source, model_config)
        if config.threads is not None:
            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(config.threads)
        try:
            self.model = _guarded(lambda: _weights(config, source, model_config, plan)).eval()
            self._guard = self._checked(config, plan)
        except BackendError:
            self.close()
            raise
        self._config, self._devices, self._packages = config, plan.devices, plan.packages
        self._context_length = plan.model.context_length
        return Loaded(
            model=plan.model,
            device=plan.devices[0].type,
            device_names=tuple(map(devices.name_of, plan.devices)),
            gpu_uuids=devices.gpu_uuids(plan.devices),
            cuda_unusable=devices.cuda_unusable(),
            settings={
                "attention": self.model.config._attn_implementation,
                **forward.cache_settings(self.model, config),
                **plan.precision.settings(),
                "threads": torch.get_num_threads(),
                "float32_matmul_precision": torch.get_float32_matmul_precision(),
            },
        )

    def prepare(self, request: Request) -> Prepared:
        import torch

        model, guard = self._loaded(), self._guard
        assert guard is not None
        refuse_request(request, self._context_length)
        self._prepared = None

        def ready() -> tuple[Decoder, Prepared]:
            with torch.inference_mode():
                check_s = guard.check(request)
                ids = self._draw_tokens(request)
                decoder = decode.decoder(model, ids, request.output_tokens, self._config)
                prepared = decoder.prepare()
                if self._config.compile != "none":
                    check_s += guard.check_tokens(decoder, ids, request)
                return decoder, replace(prepared, check_s=check_s or None)

        decoder, prepared = _guarded(ready)
        self._prepared = request, decoder
        return prepared

    def run(self, request: Request) -> Completion:
        if self._prepared is None or self._prepared[0] != request:
            raise BackendError("this request was not prepared")
        decoder = self._prepared[1]
        return _guarded(lambda: self._complete(decoder))

    def close(self) -> None:
        """Free the model and put torch's number of threads back."""
        self.model = self._guard = self._prepared = None
        if self._threads_before is not None:
            import torch

            torch.set_num_threads(self._threads_before)
            self._threads_before = None
        if self._devices:
            devices.release_memory()
            self._devices = ()

    def _checked(self, config: Config, plan: _Plan) -> Guard:
        """What compares the loaded model's steps, its shortest comparison done. Raises InvalidConfig."""
        import torch

        guard = Guard(
            self._loaded(), config, str(plan.dtype).removeprefix("torch."), plan.precision.quantization is not None
        )

        def check() -> None:
            with torch.inference_mode():
                guard.check(Request(1, 1))

        self._devices = plan.devices
        _guarded(check)
        if plan.precision.packed_by_others:
            assert plan.model.weight_bytes is not None
            stored.refuse_unpacked(self._loaded(), plan.model.weight_bytes)
        return guard

    def _draw_tokens(self, request: Request) -> torch.Tensor:
        """Token ids of shape (concurrency, m), drawn on the CPU so that a seed means the same everywhere."""
        import torch

        generator = torch.Generator().manual_seed(request.seed)
        shape = (request.concurrency, request.input_tokens)
        return draw_tokens(self._loaded().config, shape, generator).to(self._devices[0])

    def _complete(self, decoder: Decoder) -> Completion:
        """Run one request. The device is waited for only where a phase begins or ends."""
        import torch

        synchronize = devices.synchronizer(self._devices)
        with torch.inference_mode():
            decoder.begin()
            synchronize()
            start_ns = time.monotonic_ns()
            decoder.prefill()
            synchronize()
            prefill_end_ns = time.monotonic_ns()
            decoder.decode()
            synchronize()
            end_ns = time.monotonic_ns()
            output_ids = decoder.output_ids()
        first_ids = tuple(output_ids[0].tolist())
        return Completion(start_ns, prefill_end_ns, end_ns, decoder.input_tokens, output_ids.shape[1], first_ids)

    def _loaded(self) -> PreTrainedModel:
        if self.model is None:
            raise BackendError("no model is loaded")
        return self.model


def _require_packages() -> None:
    # Both libraries would otherwise report usage over the network and draw progress bars.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Quantising packages, where installed, warn as soon as transformers imports them of kernels that aren't for here.
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import torch  # noqa: F401
        import transformers
        from huggingface_hub.utils import disable_progress_bars
        from huggingface_hub.utils import logging as hub_logging
        from packaging.version import Version
    except (ImportError, OSError) as error:  # OSError: torch without a library that it was built against
        reason, remedy = " ".join(str(error).split()), pip_install("torch>=2.6", f"transformers>={OLDEST_TRANSFORMERS}")
        raise NotInstalled(f"the transformers backend can't be used ({reason}); install with: {remedy}") from error
    if Version(transformers.__version__).release < Version(OLDEST_TRANSFORMERS).release:
        raise NotInstalled(
            f"transformers {transformers.__version__} is too old for this backend; install with: "
            f"pip install --upgrade 'transformers>={OLDEST_TRANSFORMERS}'"
        )
    disable_progress_bars()
    hub_logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _plan(config: Config, source: ModelSource, model_config: PreTrainedConfig) -> _Plan:
    """The model as it would be loaded, once device, precision and numbers have been checked."""
    import torch

    chosen = devices.chosen(config.device)
    if config.threads is not None and config.threads < 1:
        raise InvalidConfig(f"the number of threads must be at least 1, not {config.threads}")
    decode.refuse(config, chosen[0].type)
    decode.refuse_architecture(config, model_config.model_type)
    if config.compile != "none":
        forward.static_cache(model_config, 1)  # refuses models that can't have one
    placement.refuse(config, tuple(device.index or 0 for device in chosen))
    precision = chosen_precision(config, model_config, chosen)
    dtype = getattr(torch, precision.activations)
    try:
        tensors = (
            headers.tensor_bytes(config.model, getattr(model_config, "_commit_hash", None))
            if precision.packed_by_others
            else None
        )
        size = size_of(model_config, dtype, None if precision.unpacked else precision.quantization, tensors)
    except Exception as error:  # shapes that don't fit together fail in any way while the modules are built
        raise models.unreadable(config.model, source, error) from error
    if source == "folder" and not config.random_weights:
        headers.refuse_without_weights(config.model)
    text_config = model_config.get_text_config()
    model = Model(
        name=config.model,
        architecture=model_config.model_type,
        source=source,
        random_weights=source == "preset" or config.random_weights,
        parameters=size.parameters,
        weight_bytes=size.weight_bytes,
        active_parameters=size.active_parameters,
        step_bytes=size.step_bytes,
        context_length=kinds.context_length(model_config),
        vocabulary_size=text_config.vocab_size,
        dtype=precision.name,
        revision=getattr(model_config, "_commit_hash", None),
    )
    return _Plan(model, chosen, dtype, precision)


def _weights(config: Config, source: ModelSource, model_config: PreTrainedConfig, plan: _Plan) -> PreTrainedModel:
    """Make or read the weights where they belong. Raises InvalidConfig or OutOfMemory."""
    device, dtype, quantization = plan.devices[0], plan.dtype, plan.precision.quantization
    placed: placement.DeviceMap | None = None
    if len(plan.devices) > 1:
        free = placement.free_bytes(tuple(one.index for one in plan.devices))
        placed = placement.device_map(model_config, dtype, free, None if plan.precision.unpacked else quantization)
    elif quantization is not None:
        placed = {"": str(device)}
    if not plan.model.random_weights:
        return models.pretrained_model(config.model, source, model_config, dtype, placed or device, quantization)
    if placed is None:
        return models.random_model(model_config, dtype, device, config.seed)
    return placement.random_model(model_config, dtype, placed, config.seed, quantization)


def _guarded(action: Callable[[], T]) -> T:
    """What ``action`` returns. Raises OutOfMemory or BackendError for what goes wrong in torch."""
    try:
        return action()
    except (RuntimeError, MemoryError) as error:
        # What follows in torch's texts is for its own developers.
        said = re.split(r"Set TORCHDYNAMO_VERBOSE|For even more developer context", str(error))[0]
        message = " ".join(said.split())[:300]
        out_of_memory = isinstance(error, MemoryError) or MEMORY_WORDS.search(message)
        if not out_of_memory and type(error).__module__.startswith("torch._dynamo"):
            said = re.split(r"(?<=[^.]{8})\. ", message)[0][:200]
            raise InvalidConfig(f"torch can't compile this model's step: {said}; use --compile none") from error
        if not out_of_memory:
            raise BackendError(f"{type(error).__name__}: {message}") from error
    # Raised only here, after the failed frames are gone: they hold the tensors that filled the memory.
    devices.release_memory()
    raise OutOfMemory(message or "out of memory")


create = TransformersBackend
