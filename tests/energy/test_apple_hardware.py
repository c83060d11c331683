"""What only an Apple Silicon machine can show: llama.cpp on Metal, and the chip's own energy counters."""

import platform
import sys
import time

import pytest

from backends.base import Config, NotInstalled, OutOfMemory, Request
from backends.llama_cpp.backend import create as create_backend
from harness.core.errors import ProbeUnavailable
from harness.energy.probes import ioreport
from harness.energy.probes.base import ProbeContext

ON_APPLE_SILICON = sys.platform == "darwin" and platform.machine() == "arm64"

pytestmark = [
    pytest.mark.metal,
    pytest.mark.skipif(not ON_APPLE_SILICON, reason="needs Apple Silicon"),
]


def test_llama_cpp_offloads_to_metal(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path))
    backend = create_backend()
    try:
        devices = backend.capabilities().devices
    except NotInstalled as absent:
        pytest.skip(str(absent))
    assert devices[0] == "metal"
    try:
        loaded = backend.load(Config("smollm2-135m", dtype="Q8_0"))
    except OutOfMemory:
        pytest.skip("the GPU is listed and has no memory, as on hosted virtual machines")
    assert loaded.device == "metal"
    assert loaded.settings["gpu_layers_offloaded"] > 0
    request = Request(64, 16)
    backend.prepare(request)
    completion = backend.run(request)
    assert (completion.input_tokens, completion.output_tokens) == (64, 16)
    assert completion.start_ns < completion.prefill_end_ns < completion.end_ns
    backend.close()


def test_ioreport_sees_the_cpu_work():
    probe = ioreport.create()
    try:
        probe.open(ProbeContext())
    except ProbeUnavailable as unavailable:
        # Virtual machines, such as hosted runners, may hide the counters.
        pytest.skip(unavailable.reason)
    cpu = next(domain.name for domain in probe.domains() if domain.component == "cpu")
    first = {reading.domain: reading.value for reading in probe.read()}
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass
    second = {reading.domain: reading.value for reading in probe.read()}
    probe.close()
    assert all(second[name] >= first[name] for name in first)
    assert 0.05 < (second[cpu] - first[cpu]) / 2 < 200, "watts of a busy core"
