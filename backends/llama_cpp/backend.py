"""llama.cpp through llama-cpp-python's low-level API, driven as its own llama-bench does.

Prefill decodes random token ids in batches; each decode step feeds one more random token of each sequence and waits for
the logits. Nothing is sampled. With the KV cache off, every step empties the cache and decodes everything again.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    gpu_indices,
    refuse_request,
    refuse_unused,
)
from backends.llama_cpp import batches, gguf_file, library
from backends.llama_cpp.gguf_header import read_header
from backends.llama_cpp.threads import default_threads
from backends.presets import PRESETS, classify

if TYPE_CHECKING:
    from backends.llama_cpp.batches import Batches
    from backends.llama_cpp.library import GpuDevice

_MICROBATCH_TOKENS = 512
_ALL_LAYERS = -1


class LlamaCpp(Backend):
    def __init__(self) -> None:
        self._config = Config(model="")
        self._context_length: int | None = 0
        self._vocabulary_size = 0
        self._threads = 1
        self._model: int | None = None
        self._context: int | None = None
        self._memory: int | None = None
        self._prepared: tuple[Request, Batches] | None = None

    def capabilities(self) -> Capabilities:
        kinds = dict.fromkeys(gpu.kind for gpu in library.gpus())
        return Capabilities((*kinds, "cpu"), gguf_file.DTYPES, concurrency="static batch", samples_tokens=False)

    def resolve(self, config: Config) -> Model:
        self._device(config)
        refuse_unused(config, "llama-cpp", "compile", "prefill_chunk", "random_weights")
        if config.threads is not None and config.threads < 1:
            raise InvalidConfig(f"{config.threads} threads make no sense; give 1 or more")
        source = classify(config.model)
        if source == "preset":
            return preset_model(config)
        if source == "gguf" or (source == "folder" and (found := model_file(config.model))):
            return file_model(config if source == "gguf" else replace(config, model=str(found)))
        raise InvalidConfig(
            f"llama-cpp can't load '{config.model}'; convert it with llama.cpp's convert_hf_to_gguf.py and give "
            "the .gguf file, or use --backend transformers"
        )

    def load(self, config: Config) -> Loaded:
        self.close()
        model = self.resolve(config)
        path = model_file(config.model) or Path(config.model)
        if model.source == "preset":
            assert model.dtype
            path = gguf_file.preset_file(config.model, model.dtype, config.seed)
        device, used = self._device(config)
        library.clear_log()
        self._load_model(path, used)
        offloaded = _offloaded_layers()
        if used and not offloaded:
            self.close()
            raise BackendError(f"no layer of {config.model} was offloaded to {device}; use --device cpu")
        self._config = config
        self._threads = config.threads or default_threads()
        self._context_length, self._vocabulary_size = model.context_length, model.vocabulary_size or 0
        return Loaded(
            model=model,
            device=device,
            device_names=tuple(gpu.description for gpu in used) or ("cpu",),
            gpu_uuids=_uuids(used),
            cuda_unusable=_cuda_unusable(),
            settings={
                "threads": self._threads,
                "batch_tokens": batches.BATCH_TOKENS,
                "microbatch_tokens": _MICROBATCH_TOKENS,
                "gpu_offload_supported": bool(library.library().llama_supports_gpu_offload()),
                "gpu_layers_offloaded": offloaded,
                "flash_attention": self._flash_attention(),
                "cache_type": "f16",
                **({"library": str(own)} if (own := library.own_build()) else {}),
                "instructions": library.library().llama_print_system_info().decode().strip(),
            },
        )

    def prepare(self, request: Request) -> Prepared:
        if self._model is None:
            raise BackendError("no model is loaded")
        refuse_request(request, self._context_length)
        self._refuse_sequences(request.concurrency)
        self._new_context(request.input_tokens + request.output_tokens, request.concurrency)
        self._prepared = request, batches.draw(request, self._vocabulary_size, self._config.kv_cache)
        return Prepared()

    def run(self, request: Request) -> Completion:
        if self._prepared is None or self._prepared[0] != request:
            raise BackendError("this request was not prepared")
        llama, prepared = library.library(), self._prepared[1]
        clear, synchronize, now = llama.llama_memory_clear, llama.llama_synchronize, time.monotonic_ns
        context, memory, recompute = self._context, self._memory, not self._config.kv_cache
        clear(memory, False)
        synchronize(context)

        start_ns = now()
        self._decode(prepared.prefill)
        synchronize(context)
        prefill_end_ns = now()
        output_tokens = 1
        for step in prepared.steps:
            if recompute:
                clear(memory, False)
            self._decode(step)
            synchronize(context)
            output_tokens += 1
        end_ns = now()

        input_tokens = self._positions(request.concurrency) - (output_tokens - 1)
        return Completion(start_ns, prefill_end_ns, end_ns, input_tokens, output_tokens)

    def versions(self) -> dict[str, str]:
        llama = library.library()
        return {"llama-cpp-python": llama.__version__, "llama.cpp": llama.llama_version().decode()}

    def close(self) -> None:
        self._free_context()
        if self._model is not None:
            library.library().llama_model_free(self._model)
            self._model = None

    def _device(self, config: Config) -> tuple[str, list[GpuDevice]]:
        """The device's kind and exactly the GPUs that ``config.device`` names. Raises InvalidConfig."""
        kinds = self.capabilities().devices
        name = kinds[0] if config.device == "auto" else config.device
        kind, colon, _ = name.partition(":")
        here = [gpu for gpu in library.gpus() if gpu.kind == kind]
        if kind in ("cuda", "metal") and not here:
            raise InvalidConfig(
                f"--device {name}: this build of llama-cpp-python sees no {kind} device; check the driver and "
                f"{_rebuild(kind)}"
            )
        if kind not in kinds or (colon and kind != "cuda"):
            raise InvalidConfig(f"llama-cpp has no device '{name}' here; choose {' or '.join(kinds)}")
        indices = gpu_indices(name, len(here)) if colon else (0,)
        return kind, [here[index] for index in indices if here]

    def _load_model(self, path: Path, gpus: list[GpuDevice]) -> None:
        llama = library.library()
        parameters = llama.llama_model_default_params()
        # The list ends with a null; an empty one keeps a GPU build from computing large batches on the GPU.
        handles = (ctypes.c_void_p * (len(gpus) + 1))(*(gpu.handle for gpu in gpus), None)
        parameters.devices = ctypes.cast(handles, ctypes.c_void_p)
        parameters.n_gpu_layers = _ALL_LAYERS if gpus else 0
        self._model = llama.llama_model_load_from_file(os.fsencode(path), parameters) or None
        if self._model is None:
            raise _failure(f"llama.cpp can't load '{path}'")
        if not llama.llama_model_has_decoder(self._model) or llama.llama_model_has_encoder(self._model):
            self.close()
            raise InvalidConfig(f"'{path}' is no decoder-only language model; choose one that generates text")

    def _refuse_sequences(self, count: int) -> None:
        most = library.library().llama_max_parallel_sequences()
        if count > most:
            raise InvalidConfig(f"llama.cpp holds at most {most} sequences, not {count}; ask for a lower concurrency")

    def _positions(self, sequences: int) -> int:
        """Tokens that the cache holds of each sequence. Raises BackendError where they differ."""
        last = library.library().llama_memory_seq_pos_max
        found = {last(self._memory, sequence) + 1 for sequence in range(sequences)}
        if len(found) > 1:
            raise BackendError(f"llama.cpp has processed sequences of one length to different ones: {sorted(found)}")
        return int(found.pop())

    def _new_context(self, tokens: int, sequences: int = 1) -> None:
        """A context for sequences of so many tokens each, every one with a cache of its own."""
        self._free_context()
        llama = library.library()
        library.clear_log()
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = tokens * sequences
        parameters.n_seq_max = sequences
        parameters.kv_unified = False
        parameters.n_batch = batches.BATCH_TOKENS
        parameters.n_ubatch = _MICROBATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_AUTO
        parameters.swa_full = False
        self._context = llama.llama_init_from_model(self._model, parameters) or None
        if self._context is None:
            raise _failure(f"llama.cpp can't make a context of {sequences} × {tokens} tokens")
        self._memory = llama.llama_get_memory(self._context)

    def _free_context(self) -> None:
        self._prepared = None
        if self._context is not None:
            library.library().llama_free(self._context)
            self._context = self._memory = None

    def _flash_attention(self) -> bool:
        """Whether ``auto`` means flash attention here; llama.cpp decides it when it makes a context."""
        self._new_context(_MICROBATCH_TOKENS)
        return library.search_log("Flash Attention (not supported|was auto, set to disabled)") is None

    def _decode(self, parts: list[Any]) -> None:
        llama_decode = library.library().llama_decode
        for batch in parts:
            code = llama_decode(self._context, batch)
            if code != 0:
                raise _failure(f"llama_decode returned {code}")


def _rebuild(kind: str) -> str:
    return (
        f'rebuild it with: CMAKE_ARGS="-DGGML_{kind.upper()}=on" '
        "pip install --force-reinstall --no-cache-dir llama-cpp-python"
    )


def _cuda_unusable() -> str | None:
    if any(gpu.kind == "cuda" for gpu in library.gpus()):
        return None
    if not library.library().llama_supports_gpu_offload():
        return f"this build of llama-cpp-python has no GPU support; {_rebuild('cuda')}"
    return f"this build of llama-cpp-python sees no CUDA device; update the NVIDIA driver, or {_rebuild('cuda')}"


def preset_model(config: Config) -> Model:
    """A preset as GGUF file. Raises InvalidConfig for a dtype that isn't one, or where the disk has no room for it."""
    dtypes = {"auto": "F16"} | {name.lower(): name for name in gguf_file.DTYPES}
    dtype = dtypes.get(config.dtype.lower())
    if dtype is None:
        raise InvalidConfig(f"llama-cpp has no dtype '{config.dtype}'; choose {', '.join(gguf_file.DTYPES)}")
    architecture = PRESETS[config.model].architecture
    gguf_file.check_space(config.model, dtype, config.seed)
    return Model(
        name=config.model,
        architecture=architecture.family,
        source="preset",
        random_weights=True,
        parameters=architecture.parameters(),
        weight_bytes=gguf_file.weight_bytes(architecture, dtype),
        context_length=architecture.context_length,
        vocabulary_size=architecture.vocab_size,
        dtype=dtype,
    )


def model_file(folder: str) -> Path | None:
    """The GGUF file in a folder, of a split one its first part; None where there is none, or it is a file itself.

    Raises InvalidConfig where there are several.
    """
    files = sorted(Path(folder).glob("*.gguf")) if Path(folder).is_dir() else []
    models = [file for file in files if not re.search(r"-of-\d{5}\.gguf$", file.name) or "-00001-of-" in file.name]
    models = [file for file in models if "mmproj" not in file.name.lower()] or models
    if len(models) > 1:
        raise InvalidConfig(f"'{folder}' holds {len(models)} models; name one: {', '.join(map(str, models[:4]))}")
    return models[0] if models else None


def file_model(config: Config) -> Model:
    """What a GGUF file holds. Raises InvalidConfig where it is broken, or a dtype is asked for."""
    if config.dtype != "auto":
        raise InvalidConfig(f"a .gguf file has its dtype; leave --dtype at auto instead of '{config.dtype}'")
    header = read_header(Path(config.model))
    return Model(
        name=Path(config.model).name,
        architecture=header.architecture,
        source="gguf",
        random_weights=gguf_file.RANDOM_WEIGHTS in header.metadata,
        parameters=header.parameters,
        weight_bytes=header.weight_bytes,
        active_parameters=header.active_parameters,
        step_bytes=header.step_bytes,
        context_length=header.context_length,
        vocabulary_size=header.vocabulary_size,
        dtype=header.dtype,
        revision=header.digest,
    )


def _failure(what: str) -> BackendError:
    reason = f"{what}: {library.last_errors()}"
    return OutOfMemory(reason) if library.ran_out_of_memory() else BackendError(reason)


def _offloaded_layers() -> int:
    match = library.search_log(r"offloaded (\d+)/\d+ layers to GPU")
    return int(match[1]) if match else 0


def _uuids(gpus: list[GpuDevice]) -> tuple[str, ...]:
    """UUIDs of the NVIDIA GPUs among ``gpus``; none unless the driver tells all: half of them would be misread."""
    bus_ids = [library.pci_bus_id(gpu) for gpu in gpus if gpu.kind == "cuda"]
    if not bus_ids or not all(bus_ids):
        return ()
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByPciBusId(bus_id) for bus_id in bus_ids]
        return tuple(pynvml.nvmlDeviceGetUUID(handle) for handle in handles)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


create = LlamaCpp
