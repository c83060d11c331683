"""Reads what a GGUF file says about itself, without its weights and without llama.cpp.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

# Not gguf.GGUFReader (0.19): it keeps numpy views of every array element, 20 s and 0.6 GB for 128,000 tokens with their
# merges where this takes 0.4 s and 25 MB, and a damaged array length makes it run for ever.

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

from backends.base import InvalidConfig, NotInstalled, pip_install

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32
_OTHER_KINDS = {
    "adapter": "an adapter (LoRA)",
    "mmproj": "the part of a model that reads images (mmproj)",
    "imatrix": "an importance matrix (imatrix)",
}
"""By ``general.type``."""
_ENCODER, _DIFFUSION = "an encoder, which generates no text", "a diffusion model, which fills in all of a text at once"
_OTHER_ARCHITECTURES = {
    **dict.fromkeys(("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert"), _ENCODER),
    **dict.fromkeys(("neo-bert", "eurobert", "t5encoder", "gemma-embedding"), _ENCODER),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), _DIFFUSION),
    "t5": "an encoder–decoder",
    "clip": _OTHER_KINDS["mmproj"],
    "wavtokenizer-dec": "a decoder of sound",
}
"""By ``general.architecture``: what llama.cpp knows beside decoders."""


class _Tensor(NamedTuple):
    """One tensor as the header describes it; ``offset`` in bytes from the end of the header."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A GGUF file's description of its model."""

    metadata: Mapping[str, int | float | str]
    """Keys and values; of an array only its length."""
    parameters: int
    """Number of weights; constants of the rotary embedding don't count."""
    weight_bytes: int
    """Size of all tensors, padding not included."""
    active_parameters: int
    """Weights that one token uses."""
    step_bytes: int
    """Bytes of weights that a decode step of one sequence reads."""
    dtype: str
    """Quantisation as llama.cpp names it, such as ``F16`` or ``Q4_K_M``."""
    digest: str
    """First 16 hexadecimal digits of the SHA-256 of the header and the file's size."""

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def context_length(self) -> int:
        return int(self.metadata[f"{self.architecture}.context_length"])

    @property
    def vocabulary_size(self) -> int:
        declared = self.metadata.get(f"{self.architecture}.vocab_size")
        return int(declared or self.metadata["tokenizer.ggml.tokens"])


def require_gguf() -> None:
    """Raises NotInstalled without the package ``gguf``."""
    if find_spec("gguf") is None:
        raise NotInstalled(f"the package gguf is not installed; install with: {pip_install('gguf>=0.17')}")


def read_header(path: Path) -> Header:
    """The header of the GGUF file at ``path``; of a split model, whose first part it is, the sum of all parts.

    Raises InvalidConfig for a file that llama.cpp couldn't load or that is no decoder-only language model: other
    formats, files shorter than their header says, adapters, image parts, encoders, files that don't say their
    architecture, context length or vocabulary. Raises NotInstalled without ``gguf``.
    """
    require_gguf()
    metadata, tensors, digest = _read_part(path)
    parts = [tensors]
    for part in _other_parts(path, metadata):
        _, more, part_digest = _read_part(part)
        parts.append(more)
        digest = hashlib.sha256((digest + part_digest).encode()).hexdigest()[:16]
    tensors = [tensor for part in parts for tensor in part]
    weighing = [tensor for tensor in tensors if not tensor.name.startswith(("rope_freqs.", "rope_factors_"))]
    _refuse_other_kinds(metadata, path)
    header = Header(
        metadata,
        parameters=sum(tensor.elements for tensor in weighing),
        weight_bytes=sum(map(_bytes_of, tensors)),
        active_parameters=round(sum(_used_share(tensor, metadata) * tensor.elements for tensor in weighing)),
        step_bytes=round(sum(_read_share(tensor, tensors, metadata) * _bytes_of(tensor) for tensor in tensors)),
        dtype=_dtype(metadata, tensors),
        digest=digest,
    )
    _check(header, path)
    return header


def _read_part(path: Path) -> tuple[dict[str, int | float | str], list[_Tensor], str]:
    """Metadata, tensors and digest of one file, which is as long as its header says. Raises InvalidConfig."""
    from gguf import GGML_QUANT_SIZES

    try:
        with path.open("rb") as file:
            reader = _Reader(file, path)
            metadata, tensors = reader.metadata_and_tensors()
            header_bytes = reader.position
            file_bytes = reader.file_bytes
            file.seek(0)
            digest = hashlib.sha256(file.read(header_bytes) + str(file_bytes).encode()).hexdigest()[:16]
    except OSError as error:
        raise InvalidConfig(f"can't read '{path}': {error.strerror}") from error
    for tensor in tensors:
        if tensor.kind not in GGML_QUANT_SIZES:
            raise InvalidConfig(f"'{path}' holds tensors of unknown type {tensor.kind}; update the package gguf")
    end = max((tensor.offset + _bytes_of(tensor) for tensor in tensors), default=0)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise InvalidConfig(f"'{path}' is damaged: an alignment of {alignment}; download or convert it again")
    needed_bytes = math.ceil(header_bytes / alignment) * alignment + end
    if file_bytes < needed_bytes:
        raise InvalidConfig(
            f"'{path}' is truncated: {file_bytes} of at least {needed_bytes} bytes; download or convert it again"
        )
    return metadata, tensors, digest


def _bytes_of(tensor: _Tensor) -> int:
    from gguf import GGML_QUANT_SIZES

    block_elements, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    return tensor.elements // block_elements * block_bytes


def _used_share(tensor: _Tensor, metadata: Mapping[str, int | float | str]) -> float:
    """Share of a tensor that one token uses: of a mixture's experts, those that are chosen for it."""
    architecture = metadata.get("general.architecture")
    experts, used = (metadata.get(f"{architecture}.expert_{name}") for name in ("count", "used_count"))
    if "_exps." not in tensor.name or not isinstance(experts, int) or not isinstance(used, int) or experts < 1:
        return 1.0
    return min(used / experts, 1.0)


def _read_share(tensor: _Tensor, tensors: list[_Tensor], metadata: Mapping[str, int | float | str]) -> float:
    """Share of a tensor that a decode step reads: one row of an embedding that isn't the output matrix too."""
    untied = any(other.name == "output.weight" for other in tensors)
    if tensor.name == "token_embd.weight" and untied:
        return 1 / max(tensor.shape[-1], 1)
    return _used_share(tensor, metadata)


def _other_parts(path: Path, metadata: Mapping[str, int | float | str]) -> list[Path]:
    """The further files of a split model. Raises InvalidConfig where this isn't its first, or one is missing."""
    count, number = metadata.get("split.count", 1), metadata.get("split.no", 0)
    if not isinstance(count, int) or count <= 1:
        return []
    named = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if named is None or int(named[3]) != count:
        raise InvalidConfig(
            f"'{path}' is one part of a split model of {count} and isn't named so (…-00001-of-{count:05}.gguf); "
            "give the parts their names, or join them with llama-gguf-split --merge"
        )
    parts = [path.with_name(f"{named[1]}-{part:05}-of-{named[3]}.gguf") for part in range(1, count + 1)]
    if number != 0 or int(named[2]) != 1:
        raise InvalidConfig(f"'{path}' is a later part of a split model; give its first: {parts[0]}")
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise InvalidConfig(f"'{path}' is split, and {missing[0]} ({len(missing)} of {count} parts) is not beside it")
    return parts[1:]


def _refuse_other_kinds(metadata: Mapping[str, int | float | str], path: Path) -> None:
    """Raises InvalidConfig, with its name, for what is no decoder-only language model."""
    architecture = str(metadata.get("general.architecture", ""))
    kind = str(metadata.get("general.type", "model"))
    if kind in _OTHER_KINDS:
        raise InvalidConfig(f"'{path}' is {_OTHER_KINDS[kind]}, no model; give the model's own .gguf file")
    if architecture in _OTHER_ARCHITECTURES:
        what = _OTHER_ARCHITECTURES[architecture]
        raise InvalidConfig(f"'{path}' is {what} ({architecture}); decoder-only language models are measured")


def _dtype(metadata: Mapping[str, int | float | str], tensors: list[_Tensor]) -> str:
    from gguf import GGMLQuantizationType, LlamaFileType

    declared = metadata.get("general.file_type")
    for file_type in LlamaFileType:
        if file_type.value == declared:
            return file_type.name.removeprefix("MOSTLY_").removeprefix("ALL_")
    largest = max(tensors, key=lambda tensor: tensor.elements, default=_Tensor("", (), 0, 0))
    return GGMLQuantizationType(largest.kind).name


def _check(header: Header, path: Path) -> None:
    try:
        sizes = header.context_length, header.vocabulary_size
    except (KeyError, ValueError, OverflowError) as missing:
        raise InvalidConfig(f"'{path}' has no usable {missing} in its metadata; convert it again") from None
    if header.parameters == 0 or min(sizes) <= 0:
        raise InvalidConfig(f"'{path}' holds no language model; give the model's .gguf file")


class _Reader:
    """Reads the header's fields in order; every read that runs past the file's end raises InvalidConfig."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path
        self.file_bytes = path.stat().st_size
        self.position = 0

    def metadata_and_tensors(self) -> tuple[dict[str, int | float | str], list[_Tensor]]:
        if self.file_bytes < 4 or self.bytes(4) != b"GGUF":
            raise InvalidConfig(f"'{self.path}' is not a GGUF file; convert the model to GGUF first")
        version = self.scalar("I")
        if version not in (2, 3):
            raise InvalidConfig(f"'{self.path}' has GGUF version {version}, not 2 or 3; convert the model again")
        tensor_count, key_count = self.scalar("Q"), self.scalar("Q")
        metadata = {}
        for _ in range(key_count):
            key = self.string()
            metadata[key] = self.value(self.scalar("I"))
        return metadata, [self.tensor() for _ in range(tensor_count)]

    def tensor(self) -> _Tensor:
        name = self.string()
        dimensions = self.scalar("I")
        if dimensions > _MAX_DIMENSIONS:
            raise self.damaged(f"a tensor of {dimensions} dimensions")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))
        return _Tensor(name, shape, self.scalar("I"), self.scalar("Q"))

    def value(self, kind: int) -> int | float | str:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        return self.scalar(self.code(kind))

    def array(self) -> int:
        """Pass over an array and return its length. Arrays of arrays are refused, as llama.cpp refuses them."""
        kind, length = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            for _ in range(length):
                self.skip(self.scalar("Q"))
        else:
            self.skip(length * struct.calcsize(self.code(kind)))
        return length

    def code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.damaged(f"a value of type {kind}")
        return _SCALARS[kind]

    def scalar(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.bytes(struct.calcsize(code)))
        return value

    def string(self) -> str:
        return self.bytes(self.scalar("Q")).decode(errors="replace")

    def skip(self, count: int) -> None:
        self.advance(count)
        self.file.seek(self.position)

    def bytes(self, count: int) -> bytes:
        self.advance(count)
        return self.file.read(count)

    def advance(self, count: int) -> None:
        self.position += count
        if self.position > self.file_bytes:
            raise InvalidConfig(f"'{self.path}' is truncated inside its header; download or convert it again")

    def damaged(self, what: str) -> InvalidConfig:
        return InvalidConfig(f"'{self.path}' is damaged: {what} in its header; download or convert it again")
