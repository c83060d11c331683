"""Names that tell systems apart."""

from typing import Any

from harness.modelling.profile_schema import Identity
from harness.modelling.system_names import default_name, told_apart


def identity(**changed: Any) -> Identity:
    known: dict[str, Any] = {
        "system": "xeon",
        "model": "tiny",
        "kv_cache": True,
        "concurrency": 1,
        "backend": "transformers",
        "device": "cpu",
        "device_names": [],
        "dtype": "float32",
        "random_weights": True,
    }
    return Identity(**{**known, **changed})


def named(*identities: Identity, **options: Any) -> list[str]:
    return told_apart([one.system for one in identities], identities, **options)


def test_distinct_names_stay() -> None:
    assert named(identity(), identity(system="m1", backend="llama-cpp")) == ["xeon", "m1"]


def test_backend_and_precision_tell_one_machine_apart() -> None:
    pair = named(identity(), identity(backend="llama-cpp", dtype="Q4_0"))
    assert pair == ["xeon (transformers, float32)", "xeon (llama-cpp, Q4_0)"]
    assert named(identity(dtype="float16"), identity(backend="llama-cpp", dtype="F16")) == [
        "xeon (transformers)",
        "xeon (llama-cpp)",
    ]
    assert named(identity(), identity(model="other")) == ["xeon (tiny)", "xeon (other)"]


def test_other_differences_are_named_where_these_are_the_same() -> None:
    graph = identity(settings={"compile": "graph", "threads": 2})
    assert named(identity(settings={"compile": "none", "threads": 2}), graph) == [
        "xeon (compile none)",
        "xeon (compile graph)",
    ]
    assert named(identity(), identity(concurrency=8)) == ["xeon (c = 1)", "xeon (c = 8)"]
    assert named(identity(concurrency=None), identity(concurrency=8)) == ["xeon (concurrency unknown)", "xeon (c = 8)"]
    assert named(identity(), identity(kv_cache=False)) == ["xeon (KV cache)", "xeon (no KV cache)"]
    assert named(identity(), identity(device="cuda", concurrency=None)) == ["xeon (cpu)", "xeon (cuda)"]


def test_alike_systems_are_numbered() -> None:
    three = named(identity(), identity(dtype="Q4_0"), identity())
    assert three == ["xeon (float32) #1", "xeon (Q4_0)", "xeon (float32) #2"]


def test_a_figure_may_show_one_system_once_for_each_model() -> None:
    drawn = named(identity(), identity(model="other"), identity(dtype="Q4_0"), per_model=True)
    assert drawn == ["xeon (float32)", "xeon", "xeon (Q4_0)"]
    assert named(identity(), identity(model="other"), identity(), per_model=True) == ["xeon #1", "xeon", "xeon #2"]


def test_a_fit_is_called_by_machine_model_backend_and_precision() -> None:
    assert default_name(identity(system="Intel(R) Xeon(R) CPU")) == "intel-xeon-cpu-tiny-transformers-float32"
    special = identity(backend="llama-cpp", dtype="F16", kv_cache=False, concurrency=4, settings={"compile": "graph"})
    assert default_name(special) == "xeon-tiny-llama-cpp-f16-no-kv-cache-c4-graph"
    elsewhere = identity(backend=None, dtype=None, kv_cache=False, concurrency=None, device=None, random_weights=None)
    assert default_name(elsewhere) == "xeon-tiny"
