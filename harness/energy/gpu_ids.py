"""One spelling for the numbers by which AMD's GPUs are known."""

from __future__ import annotations

_DIGITS = 16
_HEX = frozenset("0123456789abcdef")


def amd_gpu_id(name: str) -> str:
    """The unique id of an AMD GPU, 16 hexadecimal digits, from any of the ways in which it is written.

    The kernel and HIP write the digits (``GPU-a1b2…``), amdsmi puts 0x before them, and torch writes the characters of
    the digits as if they were the bytes of a UUID. Anything else comes back in small letters.
    """
    bare = name.strip().lower().removeprefix("gpu-").removeprefix("0x").replace("-", "")
    if len(bare) == 2 * _DIGITS and set(bare) <= _HEX:
        characters = bytes.fromhex(bare).decode("latin-1").lower()
        if set(characters) <= _HEX:
            return characters
    return bare.zfill(_DIGITS) if bare and set(bare) <= _HEX else bare
