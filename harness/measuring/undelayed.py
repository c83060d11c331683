"""Keeping Python itself from delaying what is timed."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_S = 0.0005
"""How long another thread of this process may keep the stamping of an answer waiting."""


@contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection inside: it would be charged to the request that it interrupts, and delay all stamps."""
    collected = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


@contextmanager
def quick_switches() -> Iterator[None]:
    """Inside, threads take turns so often that none keeps an answer's stamp waiting for long."""
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(switch_s)
