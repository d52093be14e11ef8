"""Two designs on the seeds they share, where a seed may be solved or not at all.

Recall is often bimodal: a seed reaches the top or stays at chance. A mean over few such seeds is neither normal nor
typical, and Student's interval of it is wrong in both directions: three seeds that happen to agree give one of width zero.
Then what can be compared is how often each solves the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from miras_search.statistics.intervals import LEVEL, Interval, paired_difference, wilson_interval

Floats = NDArray[np.float64]
EXACT = 14
"""Up to so many seeds all changes of sign are tried, beyond it a sample of them."""
APART = 3.0
"""Widths of the wider heap between two heaps: six normal values seldom part so far by chance."""


class Comparison(NamedTuple):
    """a against b, over common seeds.

    `difference`: of means, Student's or bootstrapped. `wins`: how often a is above b (a tie is half). `p_value`: two-sided,
    of the differences' signs, exact without any shape. `solved_a`, `solved_b`: shares of seeds at the threshold or above,
    `solved`: their difference. `bimodal`: a design's own seeds lie on both sides of
    a gap, so that `solved` is what counts.
    """

    difference: Interval
    wins: Interval
    p_value: float
    solved_a: Interval
    solved_b: Interval
    solved: Interval
    bimodal: bool

    @property
    def best(self) -> Interval:
        """The difference to believe: of solve rates where values are bimodal, else of means."""
        return self.solved if self.bimodal else self.difference


def compare(
    a: Mapping[Any, float] | pd.Series[Any],
    b: Mapping[Any, float] | pd.Series[Any],
    threshold: float | None = None,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare two designs by seed.

    Args:
        a: value by seed; more is better.
        b: likewise.
        threshold: from which on a seed is solved; None: the middle of the widest gap of all values.
        level: of confidence.
        seed: of the bootstrap and of sampled signs.

    Raises:
        ValueError: if no seed is common, or a seed stands twice.
    """
    left, right = pd.Series(a, dtype="float64").dropna(), pd.Series(b, dtype="float64").dropna()
    difference = paired_difference(left, right, level, seed=seed)
    left, right = left.align(right, join="inner")
    x, y = left.to_numpy(), right.to_numpy()
    if not len(x):
        raise ValueError("no seed is common to both")
    both = np.concatenate([x, y])
    at = _gap(both) if threshold is None else threshold
    up, down = x >= at, y >= at
    above = float(np.where(x == y, 0.5, x > y).sum())
    return Comparison(
        difference=difference,
        wins=_half_wilson(above, len(x), level),
        p_value=sign_flip(x - y, seed),
        solved_a=wilson_interval(int(up.sum()), len(x), level),
        solved_b=wilson_interval(int(down.sum()), len(x), level),
        solved=paired_rates(up, down, level),
        bimodal=bimodal(both, at) and any(0 < solved.sum() < len(solved) for solved in (up, down)),
    )


def bimodal(values: Floats, at: float | None = None) -> bool:
    """Values lie in two heaps: a gap in which the threshold lies is three times as wide as either, and no heap is a single value.

    Of fewer than four values nothing is said (False).
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    if len(x) < 4:
        return False
    threshold = _gap(x) if at is None else at
    low, high = x[x < threshold], x[x >= threshold]
    if len(low) < 2 or len(high) < 2:
        return False
    return bool(high[0] - low[-1] > APART * max(np.ptp(low), np.ptp(high)))


def sign_flip(differences: Floats, seed: int = 0, samples: int = 20_000) -> float:
    """Two-sided p-value that differences are as far from zero by chance: their signs are exchanged (Fisher 1935, 21).

    Exact up to `EXACT` seeds; it cannot be below 2^(1 - n), so that three seeds never settle anything.
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[~np.isnan(d)]
    if len(d) <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=len(d))))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), (samples, len(d)))
        signs[0] = 1.0
    sums = np.abs(signs @ d)
    return float((sums >= abs(d.sum()) * (1 - 1e-12)).mean())


def paired_rates(a: NDArray[np.bool_], b: NDArray[np.bool_], level: float = LEVEL) -> Interval:
    """Difference of two rates over the same attempts: Newcombe 1998 (Statist. Med. 17, 2635), method 10.

    Raises:
        ValueError: for unequal numbers.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} attempts cannot be paired with {len(b)}")
    n = len(a)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, level)
    one, two = wilson_interval(int(a.sum()), n, level), wilson_interval(int(b.sum()), n, level)
    both, only_a, only_b, none = (int(x.sum()) for x in (a & b, a & ~b, ~a & b, ~a & ~b))
    product_ = (both + only_a) * (only_b + none) * (both + only_b) * (only_a + none)
    cross: float = both * none - only_a * only_b
    # the correction for continuity of a positive correlation
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross
    phi = cross / math.sqrt(product_) if product_ else 0.0
    estimate = one.estimate - two.estimate
    l1, u1 = one.estimate - one.low, one.high - one.estimate
    l2, u2 = two.estimate - two.low, two.high - two.estimate
    low = estimate - math.sqrt(max(0.0, l1 * l1 - 2 * phi * l1 * u2 + u2 * u2))
    high = estimate + math.sqrt(max(0.0, u1 * u1 - 2 * phi * u1 * l2 + l2 * l2))
    return Interval(estimate, max(low, -1.0), min(high, 1.0), n, level, "newcombe")


def _half_wilson(successes: float, n: int, level: float) -> Interval:
    """Wilson's interval with ties as halves: the outer bounds of the two whole counts beside."""
    low, high = (wilson_interval(k, n, level) for k in (math.floor(successes), math.ceil(successes)))
    return Interval(successes / n, low.low, high.high, n, level, "wilson")


def _gap(values: Floats) -> float:
    """The middle of the widest gap."""
    x = np.sort(values)
    if len(x) < 2:
        return float(x[0])
    i = int(np.argmax(np.diff(x)))
    return float((x[i] + x[i + 1]) / 2)
