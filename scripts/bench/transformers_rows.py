"""The transformers backend beside ``generate()``, and its ways of decoding beside each other and the memory's speed."""

from __future__ import annotations

import roofline
from comparison import Comparison, Options, Unavailable, complete, decode_rate, in_turns, per_second, rates

import backends
from backends.base import Backend, Config, InvalidConfig, Request
from backends.presets import PRESETS

GENERATED_TOKENS = 32
DECODED = Request(32, 128)
"""What the modes are compared on: short input, so that decoding decides."""
BFLOAT16_BYTES = 2


def against_generate(options: Options) -> list[Comparison]:
    """Tokens/s of whole requests: the transformers backend's loop against ``generate()`` on the same model and input.

    Weights, attention implementation, cache class, threads and tokens are those of one process; both are timed
    from outside. Raises AssertionError when they choose different tokens.
    """
    backend = backends.create("transformers")
    backend.load(Config(options.model, device="cpu", threads=options.threads))
    model = backend.model  # type: ignore[attr-defined]
    # generate() would otherwise look for an end of sequence at every step, which the loop never does.
    model.generation_config.eos_token_id = None
    request = Request(1, GENERATED_TOKENS)
    backend.prepare(request)
    input_ids = backend._draw_tokens(request)  # type: ignore[attr-defined]

    def ours() -> tuple[int, ...]:
        return backend.run(request).output_ids

    def reference() -> tuple[int, ...]:
        output = model.generate(input_ids, max_new_tokens=GENERATED_TOKENS, do_sample=False)
        return tuple(output[0, input_ids.shape[1] :].tolist())

    assert ours() == reference(), "generate() chooses other tokens"
    mine, theirs = rates(per_second(ours), per_second(reference), options.rounds)
    backend.close()
    name = f"transformers 1 + {GENERATED_TOKENS}"
    return [Comparison(name, "req/s", mine, theirs, "generate()", 1.0)]


def inductor_against_eager(options: Options) -> list[Comparison]:
    """Decode tokens/s on the CPU: steps compiled by Inductor against the plain loop."""
    settings = {"device": "cpu", "threads": options.threads}
    return [_modes("inductor", "none", options, options.model, settings, aim=1.0)]


def graph_against_eager(options: Options) -> list[Comparison]:
    """Decode tokens/s on a CUDA GPU: a captured graph, and compiled steps in a graph, against the plain loop."""
    model = _model_for_cuda(options)
    settings = {"device": "cuda", "dtype": "bfloat16"}
    return [
        _modes("graph", "none", options, model, settings, aim=3.0),
        _modes("inductor", "none", options, model, settings, aim=3.0),
    ]


def graph_against_roofline(options: Options) -> list[Comparison]:
    """Decode tokens/s on a CUDA GPU: a captured graph against the time that reading the memory alone would take."""
    model = _model_for_cuda(options)
    backend = _loaded(Config(model, device="cuda", dtype="bfloat16", compile="graph"))
    complete(backend, DECODED)
    context = DECODED.input_tokens + DECODED.output_tokens / 2
    step_bytes = roofline.decode_step_bytes(PRESETS[model].architecture, context, BFLOAT16_BYTES)

    def ours() -> float:
        return decode_rate(backend.run(DECODED))

    def limit() -> float:
        return roofline.copy_bandwidth("cuda", samples=3) / step_bytes

    mine, bound = rates(ours, limit, options.rounds)
    backend.close()
    return [Comparison(f"{model} graph decode", "decode tokens/s", mine, bound, "memory roofline", 0.6)]


def _model_for_cuda(options: Options) -> str:
    import torch

    if not torch.cuda.is_available():
        raise Unavailable("it needs a CUDA GPU")
    return options.model if options.short else "llama-2-7b"


def _loaded(config: Config) -> Backend:
    backend = backends.create("transformers")
    try:
        backend.load(config)
    except InvalidConfig as refused:
        raise Unavailable(str(refused)) from None
    return backend


def _modes(
    ours: str, reference: str, options: Options, model: str, settings: dict[str, object], aim: float
) -> Comparison:
    """Decode tokens/s of two compile modes, each compiled once and before. Both must choose the same tokens."""
    mine, theirs = (
        _loaded(Config(model, compile=mode, **settings))  # type: ignore[arg-type]
        for mode in (ours, reference)
    )
    for backend in (mine, theirs):
        backend.prepare(DECODED)
    same = mine.run(DECODED).output_ids == theirs.run(DECODED).output_ids
    # In half precision two tokens may be as likely but for the order of a sum.
    assert same or settings.get("dtype") == "bfloat16", f"{ours} chooses other tokens than {reference}"

    pairs = list(
        in_turns(
            lambda: decode_rate(mine.run(DECODED)),
            lambda: decode_rate(theirs.run(DECODED)),
            options.rounds,
        )
    )
    mine.close()
    theirs.close()
    name = f"{model} {ours} decode {DECODED.output_tokens - 1}"
    return Comparison(
        name, "decode tokens/s", [a for a, _ in pairs], [b for _, b in pairs], f"compile {reference}", aim
    )
