"""Numbers as a reader wants them."""

from __future__ import annotations

import math
import re
from typing import Any


def number(value: Any, digits: int = 3) -> str:
    """A number as people write it: 3 significant digits, thousands grouped, no trailing zeros; text as it is."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    x = float(value)
    if math.isnan(x) or math.isinf(x):
        return "–" if math.isnan(x) else str(x)
    if x == int(x) and abs(x) < 1e15:
        return f"{int(x):,}" if abs(x) >= 10_000 else str(int(x))
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    text = f"{x:.{digits}g}"
    return re.sub(r"e([+-])0*", lambda m: "e" + m[1].replace("+", ""), text)


def plural(count: int, word: str) -> str:
    """`trial` or `trials`."""
    return word if count == 1 else f"{word}s"


def bytes_text(value: float) -> str:
    """`512 B`, `4 KiB`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"


def count_text(value: float) -> str:
    """`800`, `20k`, `1.5M`."""
    for unit in ("", "k", "M"):
        if abs(value) < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"
