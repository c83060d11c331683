"""Whether the steps that are measured are the model's: their logits against those of ``generate()`` without a cache.

A cached, chunked or captured step can be wrong without a word: caches that a forward pass ignores, positions it can't
tell, frequencies that change at some length, layers that look ahead. Each kind of step is compared once a model, at a
short size and, where the model changes its ways at some length, at the first planned size past it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backends.base import MEMORY_WORDS, Config, InvalidConfig, Request
from backends.transformers import kinds
from backends.transformers.forward import ForwardPass, chunked, positions_of, starting_cache

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from backends.transformers.decode import Decoder

SHORT = 13
"""Input tokens of the shortest comparison."""
STEPS = 3
"""Output tokens of a comparison; the first is prefill's."""
SEQUENCES = 2
_END = 32
"""Tokens at each end of an output that are compared with those of a compiled or captured decoder."""
TOLERANCE = {"float32": 2e-3, "float16": 3e-2, "bfloat16": 0.15}
"""Largest distance of logits, relative to how much they differ among tokens: what rounding in other order leaves."""
QUANTISED = 2.0
"""How many times as much quantised weights may differ, whose kernels depend on the number of rows."""

_SWITCHING = ("longrope", "su", "dynamic")
"""Kinds of rotary frequencies that are others past some length; those of YaRN and Llama 3 stay."""
_FAILURES = (ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError, RuntimeError)
"""What a forward pass raises that can't take its cache, positions or chunks."""


class Guard:
    """Compares the steps of one loaded model; what it has found once it says again at once."""

    def __init__(self, model: PreTrainedModel, config: Config, dtype: str, quantised: bool) -> None:
        self._model = model
        self._pass = ForwardPass.of(model)
        self._config = config
        self._tolerance = TOLERANCE[dtype] * (QUANTISED if quantised else 1.0)
        self._robust = dtype != "float32"
        self._found: dict[tuple[str, int], str | None] = {}
        self._checked_tokens: set[tuple[str, int]] = set()

    def check(self, request: Request) -> float:
        """Compare what this request is the first to need. Returns the seconds that it took, 0 where nothing was.

        Raises InvalidConfig for steps that aren't the model's.
        """
        start_s = time.monotonic()
        new = False
        for kind, length, input_tokens in self._needed(request):
            key = (kind, length)
            if key not in self._found:
                new = True
                self._found[key] = self._difference(input_tokens)
            said = self._found[key]
            if said is not None:
                raise InvalidConfig(self._refusal(kind, length, said))
        return time.monotonic() - start_s if new else 0.0

    def check_tokens(self, decoder: Decoder, ids: torch.Tensor, request: Request) -> float:
        """Compare the tokens that a compiled or captured decoder chooses; as ``check``."""
        needed = {(kind, length) for kind, length, _ in self._needed(request)}
        if request.output_tokens == 1 or needed <= self._checked_tokens:
            return 0.0
        import torch

        start_s = time.monotonic()
        decoder.begin()
        decoder.prefill()
        decoder.decode()
        ids, produced = ids[:SEQUENCES], decoder.output_ids()[:SEQUENCES]
        n = produced.shape[1]
        # The first and the last tokens: logits of all would fill the memory at large vocabularies.
        ends = sorted({min(n, _END), n})
        gaps = torch.cat([self._gaps(ids, produced[:, :end], min(_END, end)) for end in ends], dim=1)
        # Where two tokens are as likely as rounding can tell, either is right.
        worst = float(gaps.float().quantile(0.5 if self._robust else 1.0))
        if not worst <= 10 * self._tolerance:
            mode = self._config.compile
            raise InvalidConfig(
                f"--compile {mode} chooses other tokens than the model of type {self._model.config.model_type} does; "
                "use --compile none"
            )
        self._checked_tokens |= needed
        return time.monotonic() - start_s

    def _gaps(self, ids: torch.Tensor, produced: torch.Tensor, last: int) -> torch.Tensor:
        """How far the logits of the last tokens lie below the largest, in their spreads: (sequences, last)."""
        import torch

        sequence = torch.cat((ids, produced[:, :-1]), dim=1)
        logits = self._pass.logits(sequence, positions_of(sequence, sequence.shape[1]), None, last)
        chosen = logits.gather(-1, produced[:, -last:, None])[..., 0]
        return (logits.amax(-1) - chosen) / logits.std(-1)

    def _needed(self, request: Request) -> list[tuple[str, int, int]]:
        """Kind of comparison, the length that it is about, and its input tokens: short ones first."""
        m, total = request.input_tokens, request.input_tokens + request.output_tokens - 1
        longest = (kinds.context_length(self._model.config) or total + SHORT + STEPS) - STEPS
        needed = [("short", 0, max(min(SHORT, longest), 1))]
        chunk = self._config.prefill_chunk
        if chunk is not None and m > chunk:
            needed.append(("chunk", chunk, min(chunk + STEPS, longest)))
        for length in switches(self._model.config):
            if total > length and self._config.kv_cache:
                beyond = m > length
                needed.append(
                    ("beyond" if beyond else "crossing", length, min(length + (2 if beyond else -1), longest))
                )
        return [each for each in needed if each[2] >= 1]

    def _difference(self, input_tokens: int) -> str | None:
        """How the steps differ from those of ``generate()`` without a cache; None where they don't."""
        import torch

        device = self._model.get_input_embeddings().weight.device
        generator = torch.Generator().manual_seed(0)
        ids = draw_tokens(self._model.config, (SEQUENCES, input_tokens), generator).to(device)
        wanted, sequences = self._generated(ids)
        try:
            found = self._stepped(ids, sequences)
        except _FAILURES as error:
            if MEMORY_WORDS.search(str(error)):
                raise
            return f"it fails: {' '.join(str(error).split())[:150] or type(error).__name__}"
        apart = (found - wanted).float().norm(dim=-1)
        among = (wanted - wanted.mean(dim=-1, keepdim=True)).float().norm(dim=-1)
        relative = (apart / among).flatten()
        # In half precision single tokens may go to other experts, where two are as good: most tokens decide.
        worst = float(relative.quantile(0.5 if self._robust else 1.0))
        if worst <= self._tolerance:
            return None
        return f"its logits differ by {worst:.2g} of their spread, where rounding allows {self._tolerance:g}"

    def _generated(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of each output token (sequences, STEPS, vocabulary), and the tokens that ``generate()`` chose."""
        import torch
        from transformers import GenerationConfig

        options = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            use_cache=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
        try:
            made = self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)
        except Exception as error:  # as above
            kind, reason = self._model.config.model_type, " ".join(str(error).split())[:200]
            if MEMORY_WORDS.search(reason) or isinstance(error, MemoryError):
                raise
            raise InvalidConfig(f"transformers can't generate with models of type {kind}: {reason}") from error
        return torch.stack(made.logits, dim=1), made.sequences

    def _stepped(self, ids: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
        """Logits of the same tokens by the steps that are measured: shape (sequences, STEPS, vocabulary)."""
        import torch

        m = ids.shape[1]
        positions = positions_of(ids, m + STEPS)
        if not self._config.kv_cache:
            rows = [self._pass.logits(sequences[:, :k], positions[:, :k], None) for k in range(m, m + STEPS)]
            return torch.cat(rows, dim=1)
        cache = starting_cache(self._model, self._config, m + STEPS)
        parts = chunked(ids, positions[:, :m], self._config.prefill_chunk)
        rows = [self._pass.logits(*part, cache) for part in parts][-1:]
        rows += [
            self._pass.logits(sequences[:, k : k + 1], positions[:, k : k + 1], cache) for k in range(m, m + STEPS - 1)
        ]
        return torch.cat(rows, dim=1)

    def _refusal(self, kind: str, length: int, said: str) -> str:
        """Why requests can't be measured, and what can."""
        name = self._model.config.model_type
        what, remedy = "step with the KV cache", "use --no-kv-cache"
        if not self._config.kv_cache:
            what, remedy = "step without a KV cache", "take a decoder-only language model"
        elif kind == "chunk":
            what, remedy = f"prefill in chunks of {length}", "leave out --prefill-chunk"
        elif kind != "short":
            what, remedy = f"step past {length} tokens", f"ask for at most {length} in all, or use --no-kv-cache"
        return f"models of type {name} can't be measured so: the {what} isn't that of generate(), {said}; {remedy}"


def switches(config: PreTrainedConfig) -> list[int]:
    """Lengths past which the model attends or rotates in another way: sliding windows, chunks, longrope's switch."""
    text = config.get_text_config()
    names = ("sliding_window", "attention_chunk_size", "attention_window_size", "window_size")
    found = {getattr(text, name, None) for name in names}
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(text, name, None)
        if isinstance(rope, dict):
            # Some have one for each kind of layer.
            for each in (rope, *(one for one in rope.values() if isinstance(one, dict))):
                if each.get("rope_type", each.get("type")) in _SWITCHING:
                    found |= {
                        each.get("original_max_position_embeddings"),
                        getattr(text, "original_max_position_embeddings", None),
                    }
    return sorted(length for length in found if isinstance(length, int) and not isinstance(length, bool) and length > 0)


def draw_tokens(config: PreTrainedConfig, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Random token ids, none of which stands for an image or sound: these would be looked for."""
    import torch

    vocabulary = config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, shape, generator=generator)
    if config.get_text_config() is config:
        return ids
    settings = config.to_dict().items()
    placeholders = {
        value for key, value in settings if key.endswith(("_token_id", "_token_index")) and type(value) is int
    }
    while placeholders and bool((bad := torch.isin(ids, torch.tensor(sorted(placeholders)))).any()):
        ids[bad] = torch.randint(vocabulary, (int(bad.sum()),), generator=generator)
    return ids
