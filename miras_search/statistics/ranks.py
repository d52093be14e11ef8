"""Does a cheap task or a small budget order designs as the expensive one does?

Kendall's tau-b: of two designs, how much more often both tests agree on the better one than not. Spearman's rho: correlation of
the ranks. Intervals by Fisher's z with Bonett and Wright's variances (2000, Psychometrika 65, 23), which cover for few
designs where a bootstrap does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from miras_search.statistics.intervals import LEVEL, Interval

Floats = NDArray[np.float64]


class Agreement(NamedTuple):
    """How well a proxy orders: `kendall` and `spearman`; `best`: rank, on the target, of the proxy's best (1 is the best)."""

    kendall: Interval
    spearman: Interval
    best: int
    designs: int


def rank_agreement(
    proxy: Mapping[Any, float] | pd.Series[Any],
    target: Mapping[Any, float] | pd.Series[Any],
    goals: tuple[Literal["max", "min"], Literal["max", "min"]] = ("max", "max"),
    level: float = LEVEL,
) -> Agreement:
    """Compare the orders that two tests give of the designs both have.

    Noise of seeds in either test pulls both numbers towards zero: they speak of these scores, not of perfect ones.

    Args:
        proxy: value by design, of the cheap task or budget.
        target: value by design.
        goals: whether more or less is better, of proxy and target.
        level: of confidence.

    Raises:
        ValueError: if fewer than two designs are common, or a design stands twice.
    """
    a, b = pd.Series(proxy, dtype="float64").dropna(), pd.Series(target, dtype="float64").dropna()
    if not (a.index.is_unique and b.index.is_unique):
        raise ValueError("a design stands twice; take the mean over its trials first")
    a, b = a.align(b, join="inner")
    if len(a) < 2:
        raise ValueError(f"{len(a)} designs are common to both, no order")
    x, y = (s.to_numpy() * (1.0 if g == "max" else -1.0) for s, g in zip((a, b), goals, strict=True))
    n = len(x)
    tau, rho = _tau(x, y), _pearson(_ranks(x), _ranks(y))
    place = int((y > y[int(np.argmax(x))]).sum()) + 1
    kendall = _fisher(tau, 0.437 / (n - 4) if n > 4 else math.nan, n, level)
    spearman = _fisher(rho, (1 + rho * rho / 2) / (n - 3) if n > 3 else math.nan, n, level)
    return Agreement(kendall, spearman, place, n)


def _tau(x: Floats, y: Floats) -> float:
    i, j = np.triu_indices(len(x), 1)
    dx, dy = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
    size = math.sqrt(float((dx != 0).sum()) * float((dy != 0).sum()))
    return float((dx * dy).sum()) / size if size else math.nan


def _ranks(x: Floats) -> Floats:
    return np.asarray(pd.Series(x).rank(), dtype=np.float64)


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / size if size else math.nan


def _fisher(r: float, variance: float, n: int, level: float) -> Interval:
    """A correlation with the interval of its Fisher transform; none where the variance is not known or all ranks agree."""
    if math.isnan(r) or math.isnan(variance):
        return Interval(r, math.nan, math.nan, n, level)
    # a perfect order has an infinite transform; half a pair short of it has not
    z = math.atanh(max(-1 + 1 / (n * n), min(1 - 1 / (n * n), r)))
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    return Interval(r, math.tanh(z - half), math.tanh(z + half) if r < 1 else 1.0, n, level, "fisher")
