"""Numbers as a reader wants them."""

from __future__ import annotations

import math
import re
from typing import Any

from miras_search.statistics import Interval


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


def percent(share: float) -> str:
    """`45 %`, `2.5 %`, `under 0.1 %`."""
    value = 100 * share
    if 0 < value < 0.1:
        return "under 0.1\u00a0%"
    return f"{value:.0f}\u00a0%" if value >= 9.95 or value == 0 else f"{value:.1f}\u00a0%"


def words(name: str) -> str:
    """`bits per byte` of `bits_per_byte`."""
    return name.replace("_", " ")


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


def estimate(interval: Interval) -> str:
    """The estimate, to the second digit of its uncertainty; to three digits where that is not known."""
    return _rounded(interval.estimate, interval)


def bounds(interval: Interval) -> str:
    """`0.91 to 0.98`, or a dash where there is no interval."""
    return f"{_rounded(interval.low, interval)} to {_rounded(interval.high, interval)}" if interval.known else "–"


def _rounded(value: float, interval: Interval) -> str:
    """Three decimals as a rule, so that a column reads as one; more for narrow intervals, fewer for large numbers."""
    half = (interval.high - interval.low) / 2 if interval.known else 0.0
    if not half > 0:
        return (f"{value:.3f}" if 0.01 <= abs(value) < 10 else number(value)).replace("-", "−")
    digits = 1 - math.floor(math.log10(half))
    if half >= 1e-3 and abs(interval.estimate) < 10:
        digits = 3
    return f"{value:,.{min(6, max(0, digits))}f}".replace("-", "−")
