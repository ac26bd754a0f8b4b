"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any

MISSING = "-"
_LONGEST = 15  # digits; longer integers are told by their magnitude
_WIDEST = 40  # characters of a distribution, which is a JSON text; reports as JSON and as frames have all of it


def shown(value: Any) -> str:
    """A value for a table: thousands separators, four significant digits, `~10^143.6` for long integers."""
    if value is None:
        return MISSING
    if isinstance(value, str) and value[:1] in ("{", "[") and len(value) > _WIDEST:
        return f"{value[: _WIDEST - 4]} ..."
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        if abs(value) < 10**_LONGEST:
            return f"{value:,}"
        return f"{'-' if value < 0 else ''}~10^{math.log10(abs(value)):.1f}"
    if math.isnan(value):
        return MISSING
    size = abs(value)
    if size == 0 or 1e-4 <= size < 1e3:
        return f"{value:.4g}"
    return f"{value:,.1f}" if 1e3 <= size < 1e9 else f"{value:.3e}"


def digits(value: int) -> str:
    """All decimal digits of an integer of any length.

    `str` refuses integers beyond a few thousand digits (a guard of the interpreter against slow input);
    path counts may be longer.
    """
    piece = 10**4000
    if abs(value) < piece:
        return str(value)
    high, low = divmod(abs(value), piece)
    return f"{'-' if value < 0 else ''}{digits(high)}{low:04000d}"


def parse_digits(text: str) -> int:
    """The integer of a decimal string of any length."""
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    total = 0
    for begin in range(0, len(text), 4000):
        part = text[begin : begin + 4000]
        total = total * 10 ** len(part) + int(part)
    return sign * total
