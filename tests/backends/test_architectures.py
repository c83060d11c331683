"""Every architecture gives the tokens of ``generate()``, or is refused: nothing else is measured as if it were it."""

import dataclasses
import shutil

import pytest

from backends.base import Config, InvalidConfig, Request

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from backends.transformers.backend import TransformersBackend  # noqa: E402
from tests.backends.tiny_models import BY_SIZE, ENCODERS, SPECIAL, save_tiny  # noqa: E402

USUAL = ("llama", "gemma2", "mixtral", "mamba", "bamba", "rwkv", "mistral3", "phi3 with longrope")
COMPILED = ("llama", "gemma2", "qwen3", "gpt_neox")
MODES = {"cache": {}, "no cache": {"kv_cache": False}, "chunks": {"prefill_chunk": 7}}
M, N = 20, 12
"""Past windows of 16 tokens, and past longrope's switch at 20."""


@pytest.fixture
def backend():
    backend = TransformersBackend()
    yield backend
    backend.close()


def generated(backend, request, kv_cache=True):
    ids = backend._draw_tokens(request)
    n = request.output_tokens
    options = {"do_sample": False, "min_new_tokens": n, "max_new_tokens": n, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        made = backend.model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=kv_cache, **options)
    return tuple(made[0, request.input_tokens :].tolist())


def outcome(backend, config, *requests):
    """``same`` where the tokens of all requests are those of ``generate()``, ``refused`` where the architecture is."""
    try:
        backend.load(config)
        backend.prepare(requests[0])
    except InvalidConfig:
        return "refused"
    for request in requests:
        backend.prepare(request)
        assert backend.run(request).output_ids == generated(backend, request, config.kv_cache)
    return "same"


def marked(kinds, usual):
    return [kind if kind in usual else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


@pytest.mark.parametrize("kind", marked([*SPECIAL, *BY_SIZE], USUAL))
def test_tokens_are_those_of_generate(backend, tmp_path, kind):
    save_tiny(kind, tmp_path)
    found = {}
    for mode, options in MODES.items():
        config = Config(str(tmp_path), device="cpu", dtype="float32", threads=1, **options)
        found[mode] = outcome(backend, config, Request(M, N, 3, 1), Request(M, N, 4, 3))
    assert found["no cache"] == "same"
    if kind not in ("rwkv", "openai-gpt", "moshi", "minimax", "paligemma", "phi3 with longrope"):
        assert found["cache"] == "same"


def test_sizes_that_do_not_cross_a_switch_of_frequencies_are_measured(backend, tmp_path):
    """Past it ``generate()`` computes the whole prompt once more, which a cached step doesn't."""
    save_tiny("phi3 with longrope", tmp_path)
    config = Config(str(tmp_path), device="cpu", dtype="float32", threads=1)
    assert outcome(backend, config, Request(8, 6, 1)) == "same"
    assert outcome(backend, config, Request(24, 6, 1)) == "same"
    with pytest.raises(InvalidConfig, match=r"past 20 tokens.*--no-kv-cache"):
        backend.prepare(Request(18, 12, 1))


@pytest.mark.parametrize(
    ("kind", "cache"),
    [
        ("gemma2", "DynamicCache"),
        ("mamba", "DynamicCache: LinearAttentionLayer"),
        ("bamba", "DynamicCache: LinearAttentionLayer + DynamicLayer"),
    ],
)
def test_cache_is_recorded_as_what_the_layers_keep(backend, tmp_path, kind, cache):
    save_tiny(kind, tmp_path)
    loaded = backend.load(Config(str(tmp_path), device="cpu", dtype="float32", threads=1))
    assert loaded.settings["kv_cache_class"] == cache


def test_comparing_is_told_once(backend, tmp_path):
    save_tiny("gemma2", tmp_path)
    backend.load(Config(str(tmp_path), device="cpu", dtype="float32", threads=1))
    assert backend.prepare(Request(8, 4)).check_s is None
    assert backend.prepare(Request(20, 4)).check_s > 0
    assert backend.prepare(Request(21, 5)).check_s is None


@pytest.mark.parametrize("kind", [ENCODERS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in ENCODERS[1:])])
def test_encoders_are_refused_by_name(backend, tmp_path, kind):
    save_tiny(kind, tmp_path)
    for action in (backend.resolve, backend.load):
        with pytest.raises(InvalidConfig, match=rf"is an encoder \({kind}\)"):
            action(Config(str(tmp_path), device="cpu"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("kind", COMPILED)
def test_compiled_steps_choose_the_tokens_of_generate(backend, tmp_path, kind):
    save_tiny(kind, tmp_path)
    plain = Config(str(tmp_path), device="cpu", dtype="float32", threads=1)
    config = dataclasses.replace(plain, compile="inductor")
    assert outcome(backend, config, Request(M, N, 3, 1), Request(M, N, 3, 3)) == "same"


def test_a_cache_that_is_ignored_is_noticed(backend, tmp_path, monkeypatch):
    """The architecture is right, and its forward pass is made to forget."""
    save_tiny("llama", tmp_path)
    config = Config(str(tmp_path), device="cpu", dtype="float32", threads=1)
    backend.load(config)
    forward = type(backend.model.model).forward
    without = ("cache", "past_key_values")
    monkeypatch.setattr(
        type(backend.model.model),
        "forward",
        lambda self, *given, **options: forward(
            self, *given, **{name: None if name in without else value for name, value in options.items()}
        ),
    )
    with pytest.raises(InvalidConfig, match=r"step with the KV cache isn't that of generate\(\).*--no-kv-cache"):
        backend.load(config)
