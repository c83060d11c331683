"""What a device can do at most: how fast it copies its memory, and how fast it multiplies matrices.

    python scripts/bench/roofline.py [--device cuda|cuda:1|mps|cpu] [--json]

Copying counts the bytes read and the bytes written. A sample is a burst of repetitions, long enough for the clock.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from comparison import OneLineParser

from backends.base import InvalidConfig
from backends.transformers import devices

if TYPE_CHECKING:
    import torch

    from backends.presets import Architecture

SAMPLES = 15
SAMPLE_S = 0.05
GPU_COPY_BYTES, CPU_COPY_BYTES = 2 << 30, 128 << 20
"""Far larger than any cache of a GPU; on a CPU larger than most, so that even small machines can do it."""
GPU_MATRIX, CPU_MATRIX = 8192, 1024
"""Rows and columns."""


@dataclass(frozen=True)
class Roofline:
    """Medians, with quartiles over the samples."""

    device: str
    device_name: str
    copy_bytes: int
    """Size of the tensor that was copied."""
    copy_bytes_per_s: float
    copy_bytes_per_s_quartiles: tuple[float, float]
    matmul_dtype: str
    matmul_flops_per_s: float
    matmul_flops_per_s_quartiles: tuple[float, float]


def decode_step_bytes(architecture: Architecture, context: float, bytes_per_value: int) -> float:
    """Bytes that a decode step of one sequence must read: all weights, and keys and values of ``context`` tokens.

    Of an input embedding with weights of its own only one row is read.
    """
    embedding = 0 if architecture.tied_embeddings else architecture.vocab_size * architecture.hidden_size
    cached = 2 * architecture.layers * architecture.kv_heads * architecture.head_dim * context
    return bytes_per_value * (architecture.parameters() - embedding + cached)


def measure(device: str, samples: int = SAMPLES) -> Roofline:
    """Both rates of the device; takes a few seconds and, on a GPU, 4 GiB of its memory. Raises InvalidConfig."""
    import torch

    places = devices.chosen(device)
    if len(places) > 1:
        raise InvalidConfig(f"'{device}' names several GPUs; a roofline is that of one")
    place = places[0]
    copy_bytes = CPU_COPY_BYTES if place.type == "cpu" else GPU_COPY_BYTES
    copy, copy_quartiles = _middle(_copy_rates(place, copy_bytes, samples))
    # What models run in there; CPUs mostly emulate bfloat16.
    size, dtype = (CPU_MATRIX, torch.float32) if place.type == "cpu" else (GPU_MATRIX, torch.bfloat16)
    product, product_quartiles = _middle(_product_rates(place, size, dtype, samples))
    return Roofline(
        device=device,
        device_name=torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        copy_bytes=copy_bytes,
        copy_bytes_per_s=copy,
        copy_bytes_per_s_quartiles=copy_quartiles,
        matmul_dtype=str(dtype).removeprefix("torch."),
        matmul_flops_per_s=product,
        matmul_flops_per_s_quartiles=product_quartiles,
    )


def copy_bandwidth(device: str, samples: int) -> float:
    """Bytes/s, read and written, of copying the device's memory: the median."""
    import torch

    return statistics.median(_copy_rates(torch.device(device), GPU_COPY_BYTES, samples))


def _copy_rates(device: torch.device, size_bytes: int, samples: int) -> list[float]:
    """Bytes/s, read and written, of copying a tensor."""
    import torch

    origin = torch.ones(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(origin)
    return _rates(lambda: target.copy_(origin), 2.0 * size_bytes, device, samples)


def _product_rates(device: torch.device, size: int, dtype: torch.dtype, samples: int) -> list[float]:
    """Floating-point operations/s of a product of square matrices."""
    import torch

    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    return _rates(lambda: torch.matmul(left, right, out=product), 2.0 * size**3, device, samples)


def _middle(values: list[float]) -> tuple[float, tuple[float, float]]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (low, high)


def _rates(action: Callable[[], object], work: float, device: torch.device, samples: int) -> list[float]:
    """Work per second in each sample, after bursts that are not counted."""
    repeats = 1
    while (elapsed_s := _elapsed_s(action, repeats, device)) < SAMPLE_S:
        repeats = max(2 * repeats, round(repeats * SAMPLE_S / max(elapsed_s, 1e-6)))
    return [work * repeats / _elapsed_s(action, repeats, device) for _ in range(samples)]


def _elapsed_s(action: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds until the device has done the action that often."""
    wait = devices.synchronizer((device,))
    wait()
    start_ns = time.monotonic_ns()
    for _ in range(repeats):
        action()
    wait()
    return (time.monotonic_ns() - start_ns) / 1e9


def main() -> None:
    """Print the roofline of one device."""
    parser = OneLineParser(description="Measure how fast a device copies memory and multiplies matrices.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, mps or cpu (default cuda)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        found = measure(options.device)
    except (ImportError, InvalidConfig) as refused:
        parser.error(str(refused))
    except RuntimeError as fault:
        first_line = str(fault).partition("\n")[0]
        parser.exit(1, f"{parser.prog}: {options.device} can't be measured: {first_line}\n")
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return
    low, high = (value / 1e9 for value in found.copy_bytes_per_s_quartiles)
    print(found.device_name)
    print(f"copy: {found.copy_bytes_per_s / 1e9:.1f} GB/s (quartiles {low:.1f} to {high:.1f}), reads and writes")
    low, high = (value / 1e12 for value in found.matmul_flops_per_s_quartiles)
    print(
        f"{found.matmul_dtype} matrix product: {found.matmul_flops_per_s / 1e12:.2f} TFLOP/s "
        f"(quartiles {low:.2f} to {high:.2f})"
    )


if __name__ == "__main__":
    main()
