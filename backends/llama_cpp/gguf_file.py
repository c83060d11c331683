"""GGUF files with random weights for the presets, kept in the user's cache directory.

A file's name identifies its content; it appears under that name only when it is complete, so that what a killed
run leaves behind is never loaded.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from backends import model_cache
from backends.base import InvalidConfig
from backends.llama_cpp.gguf_header import read_header, require_gguf
from backends.llama_cpp.gguf_layout import Tensor, gguf_architecture, metadata, tensors, vocabulary
from backends.presets import PRESETS, Architecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = ("F32", "F16", "Q8_0", "Q4_0")
"""Precisions of the matrices; vectors are F32. Unlike llama.cpp's own ``Q4_0`` the output matrix is Q4_0 too."""
_BLOCKS = {"F32": (1, 4), "F16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18)}
"""Elements and bytes of one block of each type; written out so that a size is known before gguf is imported."""
RANDOM_WEIGHTS = "joulebench.random_weights"
"""Metadata key by which such a file is known again wherever it is copied to."""
_VERSION = 2
"""Of the content: a change of layout or weights gives files another name. Those of version 1 have no vocabulary."""
_ALIGNMENT = 32
_HEADER_BYTES = 4 << 20
"""More than the header of any preset; only for the check of free space."""
_STANDARD_DEVIATION = 0.02
"""Of random weights: the usual initialisation of these families, which keeps activations finite."""
_CHUNK_ELEMENTS = 1 << 20
"""Weights drawn at a time by one thread: small enough for its temporaries to stay in cache."""


def weight_bytes(architecture: Architecture, dtype: str) -> int:
    """Size of all tensors in bytes, padding not included."""
    return sum(_tensor_bytes(tensor, dtype) for tensor in tensors(architecture))


def check_space(preset: str, dtype: str, seed: int) -> None:
    """Raises InvalidConfig when the preset's file has yet to be written and the disk has no room for it."""
    path = _path(preset, dtype, seed)
    if path.exists():
        return
    model_cache.check_room(path, _file_bytes(preset, dtype))


def _file_bytes(preset: str, dtype: str) -> int:
    """Size of the preset's file, or a little more."""
    architecture = PRESETS[preset].architecture
    return weight_bytes(architecture, dtype) + _ALIGNMENT * len(tensors(architecture)) + _HEADER_BYTES


def preset_file(preset: str, dtype: str, seed: int) -> Path:
    """Path of the preset's file; it is written first if the cache doesn't hold it.

    Memory stays at a few chunks of 2²⁰ weights. Raises InvalidConfig when the cache directory can't be written
    or the disk is too small, NotInstalled without the package gguf.
    """
    require_gguf()
    path = _path(preset, dtype, seed)
    if _is_whole(path):
        return path
    with model_cache.new_file(path, _file_bytes(preset, dtype)) as (file, unfinished):
        _write_header(unfinished, preset, dtype)
        file.seek(0, os.SEEK_END)
        _write_weights(file, tensors(PRESETS[preset].architecture), dtype, seed)
    return path


def _path(preset: str, dtype: str, seed: int) -> Path:
    identity = repr((_VERSION, PRESETS[preset].architecture, dtype, seed))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return model_cache.cache_directory() / "gguf" / f"{preset}-{dtype}-random-{seed}-{digest}.gguf"


def _is_whole(path: Path) -> bool:
    """False also for a file that somebody truncated: it is then written anew."""
    if not path.exists():
        return False
    try:
        read_header(path)
    except InvalidConfig:
        path.unlink()
        return False
    return True


def _write_header(path: Path, preset: str, dtype: str) -> None:
    import gguf
    import numpy as np

    architecture = PRESETS[preset].architecture
    writer = gguf.GGUFWriter(path, gguf_architecture(architecture))
    writer.add_name(f"{preset}, random weights")
    writer.add_bool(RANDOM_WEIGHTS, True)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if dtype == "F32" else f"MOSTLY_{dtype}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in metadata(architecture).items():
        add[type(value)](key, value)
    writer.add_token_list(vocabulary(architecture.vocab_size))
    for tensor in tensors(architecture):
        kind, nbytes = gguf.GGMLQuantizationType[_kind(tensor, dtype)], _tensor_bytes(tensor, dtype)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _write_weights(file: BinaryIO, layout: list[Tensor], dtype: str, seed: int) -> None:
    import numpy as np

    workers = min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(workers) as pool:
        for index, tensor in enumerate(layout):
            file.write(bytes(-file.tell() % _ALIGNMENT))
            if tensor.values is not None:
                file.write(np.array(tensor.values, dtype="<f4").data)
                continue
            chunks = [(shape, dtype, (seed, index, number)) for number, shape in enumerate(_row_chunks(tensor))]
            for first in range(0, len(chunks), workers):
                # A few at a time: a slow disk must not make the chunks pile up in memory.
                for data in pool.map(_random_rows, *zip(*chunks[first : first + workers], strict=True)):
                    file.write(data.data)
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _row_chunks(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Shapes of consecutive groups of rows."""
    rows, columns = tensor.shape
    step = max(1, _CHUNK_ELEMENTS // columns)
    for first in range(0, rows, step):
        yield min(step, rows - first), columns


def _random_rows(shape: tuple[int, int], dtype: str, seed: tuple[int, int, int]) -> NDArray[np.generic]:
    """Normally distributed weights in the file's format; the same for the same seed whoever draws them."""
    import gguf
    import numpy as np

    generator = np.random.Generator(np.random.SFC64(seed))
    weights = generator.standard_normal(shape, dtype=np.float32)
    weights *= np.float32(_STANDARD_DEVIATION)
    return np.ascontiguousarray(gguf.quants.quantize(weights, gguf.GGMLQuantizationType[dtype]))


def _kind(tensor: Tensor, dtype: str) -> str:
    return dtype if tensor.values is None else "F32"


def _tensor_bytes(tensor: Tensor, dtype: str) -> int:
    elements, size_bytes = _BLOCKS[_kind(tensor, dtype)]
    return math.prod(tensor.shape) // elements * size_bytes
