"""What the headers of safetensors files say of a checkpoint, read without its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backends.base import InvalidConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_HEADER_BYTES = 100_000_000
"""The format's own limit."""


def refuse_without_weights(name: str) -> None:
    """Raises InvalidConfig for a folder without safetensors files, or without some of those that its index names."""
    folder = Path(name)
    random = "--random-weights measures its shapes"
    try:
        files = _files(folder)
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"'{name}' has an index of weights that can't be read ({error}); {random}") from error
    if not files:
        pickled = next((file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern)), None)
        if pickled is not None:
            raise InvalidConfig(
                f"'{name}' has its weights in {pickled}, a format that can run code and isn't read; convert it with "
                f"from_pretrained and save_pretrained of transformers, or {random}"
            )
        raise InvalidConfig(f"'{name}' has a config.json and no weights ({WEIGHTS}); {random}")
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise InvalidConfig(
            f"'{name}' lacks {absent[0]}, of {len(files)} files of weights; fetch it again, or {random}"
        )


def tensor_bytes(name: str, revision: str | None) -> dict[str, int]:
    """Bytes of each stored tensor by its name, of a folder or a hub model. Raises OSError or ValueError."""
    folder = Path(name)
    if folder.is_dir():
        return {key: size for file in _files(folder) for key, size in _of_file(file).items()}
    from huggingface_hub import get_safetensors_metadata, try_to_load_from_cache

    cached = [try_to_load_from_cache(name, file, revision=revision) for file in (INDEX, WEIGHTS)]
    local = next((Path(path).parent for path in cached if isinstance(path, str)), None)
    if local is not None and all(file.is_file() for file in _files(local)):
        return tensor_bytes(str(local), None)
    found = get_safetensors_metadata(name, revision=revision).files_metadata.values()
    return {key: _size(tensor.data_offsets) for file in found for key, tensor in file.tensors.items()}


def _files(folder: Path) -> list[Path]:
    """The files that hold a model's weights, by its index where it has one."""
    if (folder / INDEX).is_file():
        try:
            return [
                folder / name for name in sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it has no weight_map: {error}") from error
    return [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []


def _of_file(file: Path) -> dict[str, int]:
    """A header is its length in 8 bytes, then JSON (the safetensors format)."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _MOST_HEADER_BYTES:
            raise ValueError(f"{file.name} is no safetensors file")
        header: dict[str, Any] = json.loads(stream.read(length))
    return {key: _size(tensor["data_offsets"]) for key, tensor in header.items() if key != "__metadata__"}


def _size(offsets: Any) -> int:
    first, end = offsets
    return int(end) - int(first)
