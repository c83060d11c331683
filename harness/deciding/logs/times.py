"""Times as logs write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

EPOCH_UNITS: Final = (("nanoseconds", 1e17, 1e9), ("microseconds", 1e14, 1e6), ("milliseconds", 1e11, 1e3))
"""Units of times since 1970, from which number on they are meant, and how many are a second."""
LARGEST: Final = 1e20
"""A number of at least so much is no time."""


def date_s(value: object) -> float | None:
    """A date, by itself or in ISO 8601, in s since 1970; without a zone it is in UTC. None for what is none."""
    if not isinstance(value, datetime):
        head, dot, fraction = str(value).strip().partition(".")
        digits = len(fraction) - len(fraction.lstrip("0123456789"))
        try:
            # Python reads six digits of a second; some logs write more.
            value = datetime.fromisoformat(f"{head}{dot}{fraction[: min(digits, 6)]}{fraction[digits:]}")
        except ValueError:
            return None
    return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
