"""Estimates with intervals: means over seeds, paired differences, rates.

Every function says what it assumes and what it cannot conclude. Randomness (bootstrap) is seeded, so that a report is
the same twice. References:

- Student's t: Abramowitz & Stegun 1964, 26.7.3-4 (closed form for whole degrees of freedom).
- Percentile bootstrap: Efron & Tibshirani 1993, chapter 13.
- Score interval of a rate: Wilson 1927; coverage: Brown, Cai & DasGupta 2001.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Method = Literal["auto", "t", "bootstrap"]
LEVEL = 0.95
RESAMPLES = 4000
ENOUGH = 10
"""From this many values on, `auto` takes the bootstrap: below it, percentile intervals cover too little."""


class Interval(NamedTuple):
    """An estimate with its interval; `low` and `high` are NaN where the data give none (one seed)."""

    estimate: float
    low: float
    high: float
    n: int
    level: float = LEVEL
    method: str = ""

    @property
    def known(self) -> bool:
        """There is an interval, not only an estimate."""
        return not math.isnan(self.low)

    @property
    def excludes_zero(self) -> bool:
        """The interval lies on one side of zero."""
        return self.known and (self.low > 0 or self.high < 0)


def mean_interval(
    values: ArrayLike,
    level: float = LEVEL,
    method: Method = "auto",
    resamples: int = RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Mean of independent values (one a seed) with a two-sided interval.

    Args:
        values: `[n]`; missing ones (NaN) are left out.
        level: of confidence.
        method: `t` (Student's; wide for few values, exact if normal), `bootstrap` (percentile; no normality,
            but covers too little below about ten values), `auto`: t below ten values, else bootstrap.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        bounds: of what is measured; the interval is cut to them (an accuracy is at most 1).

    One value gives no interval. Equal values give a point: these seeds agree, which says little of the next one.
    """
    x = _finite(values)
    n = len(x)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, level)
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1, level)
    if method == "auto":
        method = "bootstrap" if n >= ENOUGH else "t"
    if method == "t":
        half = t_quantile((1 + level) / 2, n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
        return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n, level, "t")
    draws = x[np.random.default_rng(seed).integers(0, n, (resamples, n))].mean(axis=1)
    return Interval(mean, *percentiles(draws, level), n, level, "bootstrap")


def paired_difference(
    a: Mapping[Any, float] | pd.Series[Any] | ArrayLike,
    b: Mapping[Any, float] | pd.Series[Any] | ArrayLike,
    level: float = LEVEL,
    method: Method = "auto",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over the seeds that both have.

    Designs that share a seed share the data order, so that the difference varies less than the values do.

    Args:
        a: by seed (a mapping or Series), or aligned `[n]`.
        b: likewise.
        level: of confidence.
        method: as in `mean_interval`, of the differences.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: for aligned values of unequal number, or a Series that has a seed twice.
    """
    if isinstance(a, (Mapping, pd.Series)) and isinstance(b, (Mapping, pd.Series)):
        left, right = pd.Series(a, dtype="float64"), pd.Series(b, dtype="float64")
        if not (left.index.is_unique and right.index.is_unique):
            raise ValueError("a seed stands twice; take the mean over its trials first")
        left, right = left.align(right, join="inner")
        return mean_interval((left - right).to_numpy(), level, method, resamples, seed)
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"{len(x)} values cannot be paired with {len(y)}")
    return mean_interval(x - y, level, method, resamples, seed)


def probability_ahead(a: pd.Series[Any] | Mapping[Any, float], b: pd.Series[Any] | Mapping[Any, float]) -> float:
    """Probability that a's mean is above b's, from seeds that both have; NaN for fewer than two.

    The posterior of the mean difference under a flat prior is Student's t, if differences are about normal. Where all
    are equal (solved by one and not by the other, on every seed) their spread is unknown, not zero: then it is
    Laplace's (n + 1) / (n + 2), or a half if they are zero.

    Args:
        a: value by seed; more is better.
        b: likewise.
    """
    left, right = pd.Series(a, dtype="float64").align(pd.Series(b, dtype="float64"), join="inner")
    d = _finite((left - right).to_numpy())
    if len(d) < 2:
        return math.nan
    mean, spread = float(d.mean()), float(d.std(ddof=1))
    if spread <= 1e-12 * (abs(mean) + 1e-300):
        return 0.5 if mean == 0 else (len(d) + 1) / (len(d) + 2) if mean > 0 else 1 / (len(d) + 2)
    t = mean / (spread / math.sqrt(len(d)))
    return 0.5 + math.copysign(0.5 * _t_inside(abs(t), len(d) - 1), t)


def wilson_interval(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Share of successes among n independent attempts with Wilson's score interval; sound at 0 of n and for small n.

    Raises:
        ValueError: unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The bounds are exact at the ends; rounding would give -1e-17 for 0 of n.
    low, high = (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)
    return Interval(p, low, high, n, level, "wilson")


def solve_rate(values: ArrayLike, threshold: float = 0.5, level: float = LEVEL) -> Interval:
    """Share of seeds whose value reaches the threshold: recall is bimodal (solved or not), which a mean hides."""
    x = _finite(values)
    return wilson_interval(int((x >= threshold).sum()), len(x), level)


def t_quantile(probability: float, df: int) -> float:
    """Quantile of Student's t, to 1e-12 relative.

    Args:
        probability: in (0, 1).
        df: degrees of freedom, at least 1.

    Raises:
        ValueError: if either is out of range.
    """
    if not 0 < probability < 1 or df < 1:
        raise ValueError(f"no quantile {probability} of t with {df} degrees of freedom")
    if probability == 0.5:
        return 0.0
    if probability < 0.5:
        return -t_quantile(1 - probability, df)
    low, high = 0.0, 1.0
    while _t_inside(high, df) < 2 * probability - 1:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, df) < 2 * probability - 1 else (low, middle)
        if high - low <= 1e-13 * high:
            break
    return (low + high) / 2


def _t_inside(t: float, df: int) -> float:
    """P(|T| < t): A&S 26.7.3 (odd df), 26.7.4 (even df)."""
    theta = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    if df % 2:
        term, total = cosine, cosine if df > 1 else 0.0
        for k in range(2, df - 1, 2):
            term *= k / (k + 1) * cosine * cosine
            total += term
        return 2 / math.pi * (theta + sine * total)
    term = total = 1.0
    for k in range(1, df - 2, 2):
        term *= k / (k + 1) * cosine * cosine
        total += term
    return sine * total


def percentiles(draws: Floats, level: float) -> tuple[float, float]:
    """The middle `level` of draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _finite(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64).ravel()
    return x[~np.isnan(x)]
