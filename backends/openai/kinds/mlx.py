"""mlx_lm.server: it takes text only and ends where the model wants to; it names no owner of its models."""

from __future__ import annotations

from backends.openai.control import Control
from backends.openai.kinds.base import USAGE, Form, Kind, Signs, Told


def _is_shown_by(signs: Signs) -> bool:
    """By Python's plain web server, and by what its entries lack."""
    return signs.headers.get("server", "").startswith("BaseHTTP/") and not signs.owner


def _ask(control: Control, signs: Signs) -> Told:
    return Told()


KIND = Kind(
    name="mlx",
    is_shown_by=_is_shown_by,
    ask=_ask,
    forms=(Form("text", extra=USAGE), Form("chat", extra=USAGE)),
    no_metrics="mlx_lm.server has none",
    inexact="mlx_lm.server takes no token ids and can't be kept from ending early; --backend mlx measures exactly",
)
