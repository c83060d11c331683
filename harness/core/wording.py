"""How numbers are written for people: values with their intervals, shares in per cent, estimates. Pure."""

import math


def plus_minus(value: float, half_width: float | None, unit: str = "") -> str:
    """``0.8780 ± 0.0066 s``: half-width to two significant digits, value to the same decimal; never an exponent.

    A half-width that is not known is written ``± ?``.
    """
    end = f" {unit}" if unit else ""
    if half_width is None or not math.isfinite(half_width):
        return f"{number(value)} ± ?{end}"
    decimals = _decimals(half_width, 2) if half_width > 0 else _decimals(value, 4)
    return f"{_rounded(value, decimals)} ± {_rounded(half_width, decimals)}{end}"


def plus_minus_percent(share: float, half_width: float | None, signed: bool = False) -> str:
    """``8.0 % ± 3.5 %`` of a share of 0.08; ``signed`` writes the + of a positive one."""
    value, _, spread = plus_minus(100 * share, None if half_width is None else 100 * half_width).partition(" ± ")
    sign = "+" if signed and share > 0 else ""
    return f"{sign}{value} % ± {spread if spread == '?' else spread + ' %'}"


def percent(share: float, signed: bool = False, digits: int = 1) -> str:
    """``3.8 %`` of a share of 0.038, to so many decimals; ``signed`` writes the + of a positive one."""
    return f"{100 * share:{'+' if signed else ''},.{digits}f} %"


def estimated(value: float, unit: str = "") -> str:
    """``≈ 8.8 J``: an estimate, to two significant digits and without the ± of something measured."""
    return f"≈ {_rounded(value, _decimals(value, 2))}" + (f" {unit}" if unit else "")


def number(value: float, digits: int = 4) -> str:
    """A number to so many significant digits, thousands set apart; never an exponent."""
    return _rounded(value, max(_decimals(value, digits), 0))


def _decimals(value: float, digits: int) -> int:
    """Decimals that show so many significant digits of a value; negative for tens, hundreds, …"""
    if value == 0 or not math.isfinite(value):
        return 0
    # Of the value as it is written: 0.0997 to two digits is 0.10.
    return digits - 1 - int(f"{value:.{digits - 1}e}".partition("e")[2])


def _rounded(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:,.{max(decimals, 0)}f}"
