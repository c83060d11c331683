"""The fake backend's cost is the formula that it documents: other tests work out their expectations from it."""

import pytest

import backends
from backends.base import Config, OutOfMemory, Request

OPTIONS = "floor_s=0.01,linear_s=1e-4,quadratic_s=1e-8,step_s=0.005,step_linear_s=1e-6,batch_s=0.002"


@pytest.mark.parametrize("concurrency", [1, 2, 5])
@pytest.mark.parametrize("kv_cache", [True, False])
def test_cost_is_the_documented_formula(concurrency, kv_cache):
    backend = backends.create("fake")
    backend.load(Config(f"fake:{OPTIONS}", kv_cache=kv_cache))
    request = Request(100, 3, concurrency=concurrency)
    backend.prepare(request)
    done = backend.run(request)

    def forward_s(tokens):
        return 0.01 + concurrency * (1e-4 * tokens + 1e-8 * tokens**2)

    def step_s(position):
        return 0.005 + 0.002 * (concurrency - 1) + concurrency * 1e-6 * position

    cost = step_s if kv_cache else forward_s
    assert (done.prefill_end_ns - done.start_ns) / 1e9 == pytest.approx(forward_s(100), abs=1e-8)
    assert (done.end_ns - done.prefill_end_ns) / 1e9 == pytest.approx(cost(101) + cost(102), abs=1e-8)


def test_all_sequences_of_a_batch_fill_the_memory():
    backend = backends.create("fake")
    backend.load(Config("fake:oom_above=100"))
    assert backend.run(Request(20, 5, concurrency=4)).output_tokens == 5
    with pytest.raises(OutOfMemory):
        backend.run(Request(20, 6, concurrency=4))
