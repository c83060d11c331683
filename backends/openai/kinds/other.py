"""Any other server: what it takes is found out by trying."""

from __future__ import annotations

from backends.openai.control import Control
from backends.openai.kinds.base import EXACT_LENGTHS, IGNORE_EOS, RUNNING_USAGE, USAGE, Form, Kind, Signs, Told, whole

_NAMES = ("max_model_len", "context_length", "context_window", "max_context_length")


def _ask(control: Control, signs: Signs) -> Told:
    version = control.look("/version")
    lengths = [length for name in _NAMES if (length := whole(signs.card.get(name)))]
    said = version.get("version") if isinstance(version, dict) else None
    return Told(version=said if isinstance(said, str) else None, context_length=lengths[0] if lengths else None)


KIND = Kind(
    name="other",
    is_shown_by=lambda signs: True,
    ask=_ask,
    forms=(
        Form("ids", EXACT_LENGTHS, RUNNING_USAGE),
        Form("ids", extra=USAGE),
        Form("text", EXACT_LENGTHS, IGNORE_EOS),
        Form("text", extra=USAGE),
        Form("chat", EXACT_LENGTHS, IGNORE_EOS),
        Form("chat", extra=USAGE),
    ),
    no_metrics="its metrics are not known",
)
