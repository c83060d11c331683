"""Names of systems that can't be mistaken for each other, and the name that a fit gets by itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence

from harness.modelling.power_caps import APPLICATION_CLOCK, POWER_LIMIT, setting_words
from harness.modelling.profile_schema import Identity

_SAME_PRECISION = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_TELLING = ("model", "backend", "dtype")
"""What a name holds wherever it differs between systems of one name."""
_FURTHER = ("device", "concurrency", "kv_cache")
"""What it holds where systems of one name would else be called alike; then come the runtime's settings."""
_MARKS = re.compile(r"\((R|TM|C)\)", re.IGNORECASE)


def precision(dtype: str) -> str:
    """One name for one precision: llama.cpp's ``F16`` is torch's ``float16``."""
    return _SAME_PRECISION.get(dtype.lower(), dtype)


def plain_name(machine: str) -> str:
    """A processor's name without its trade marks: ``Intel Xeon Processor``."""
    return " ".join(_MARKS.sub(" ", machine).split())


def told_apart(names: Sequence[str], identities: Sequence[Identity], *, per_model: bool = False) -> list[str]:
    """The names, made distinct by what differs: ``xeon (transformers, float32)`` and ``xeon (llama-cpp, Q4_0)``.

    Names that are distinct already stay. Others get model, backend and precision where these differ, then whatever
    else does, and where nothing differs a number in the order given: ``xeon #1``. ``per_model`` is for figures, which
    say the model elsewhere: one system may then have its name once for each model.
    """
    keys: list[Hashable] = [
        (name, identity.model) if per_model else name for name, identity in zip(names, identities, strict=True)
    ]
    told = list(names)
    for key in dict.fromkeys(keys):
        group = [i for i, other in enumerate(keys) if other == key]
        if len(group) > 1:
            words = _words([identities[i] for i in group])
            for i, said in zip(group, words, strict=True):
                told[i] = f"{names[i]} ({', '.join(said)})" if said else names[i]
    return _numbered(told, keys if per_model else None)


def default_name(identity: Identity) -> str:
    """What a fit is called: machine, model, backend and precision, and what else is not the usual choice.

    Made of letters, digits, dots and dashes. What is unknown is left out, so that measurements made elsewhere are
    called by their machine and model.
    """
    special = [
        "" if identity.kv_cache or identity.backend is None else "no-kv-cache",
        f"c{identity.concurrency}" if (identity.concurrency or 1) > 1 else "",
        str(identity.settings.get("compile") or "none").replace("none", ""),
    ]
    parts = (plain_name(identity.system), identity.model, identity.backend, identity.dtype, *special)
    text = "-".join(part for part in parts if part).lower()
    return re.sub(r"[^a-z0-9.]+", "-", text)[:200].strip("-.") or "profile"


def _words(identities: Sequence[Identity]) -> list[list[str]]:
    """For each identity of one name, the values that tell it from the others; alike where nothing does."""
    words: list[list[str]] = [[] for _ in identities]
    settings = dict.fromkeys(key for identity in identities for key in identity.settings)
    for field in (*_TELLING, *_FURTHER, *settings):
        values = [_value(identity, field) for identity in identities]
        if len(set(values)) == 1 or (field not in _TELLING and _all_distinct(words)):
            continue
        for said, value in zip(words, values, strict=True):
            said.append(value)
    return words


def _all_distinct(words: Sequence[Sequence[str]]) -> bool:
    return len({tuple(said) for said in words}) == len(words)


def _value(identity: Identity, field: str) -> str:
    if field in (POWER_LIMIT, APPLICATION_CLOCK) and field in identity.settings:
        return setting_words(field, identity.settings[field])
    if field not in Identity.model_fields:
        return f"{field} {identity.settings.get(field)}" if field in identity.settings else f"{field} unknown"
    value = getattr(identity, field)
    if field == "kv_cache":
        return "KV cache" if value else "no KV cache"
    if value is None:
        return f"{field.replace('_', ' ')} unknown"
    if field == "dtype":
        return precision(value)
    return f"c = {value}" if field == "concurrency" else str(value)


def _numbered(names: Sequence[str], keys: Sequence[Hashable] | None) -> list[str]:
    """The names, each that several have with its number among them."""
    held = [(name, keys[i] if keys else None) for i, name in enumerate(names)]
    shared, seen = Counter(held), Counter[Hashable]()
    numbered = []
    for name, pair in zip(names, held, strict=True):
        seen[pair] += 1
        numbered.append(f"{name} #{seen[pair]}" if shared[pair] > 1 else name)
    return numbered
