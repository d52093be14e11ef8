"""How much of the winner's lead is luck: the best of many was picked by the very scores shown."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from miras_search.statistics.intervals import LEVEL, Interval


class Shrunk(NamedTuple):
    """`shown`: mean of the winner over its seeds. `fresh`: what to expect of it on fresh seeds.

    `kept`: the share of its distance from the mean of all that is not luck; 1: seeds do not matter, 0: nothing but seeds.
    """

    winner: int
    shown: float
    fresh: Interval
    kept: float


def winners_shrinkage(values: ArrayLike, goal: str = "max", level: float = LEVEL) -> Shrunk:
    """Expected score of the winner on seeds that took no part in the choice (empirical Bayes: Efron & Morris 1973).

    Means of candidates are taken as normal around one centre, and seeds as normal around a candidate's mean with a
    common variance. Where most candidates fail and few succeed the centre means little; then train the winner again
    on fresh seeds, which is better anyway.

    Args:
        values: `[candidates, seeds]`, missing ones NaN; at least four candidates, and two seeds of some.
        goal: `max` or `min`.
        level: of confidence.

    Raises:
        ValueError: if there are too few.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[(~np.isnan(x)).any(axis=1)] if x.ndim == 2 else x
    if x.ndim != 2 or len(x) < 4 or goal not in ("max", "min"):
        raise ValueError(f"values of shape {x.shape} are no table of four candidates or more, or goal {goal!r} is none")
    seeds = (~np.isnan(x)).sum(axis=1)
    free = int((seeds - 1).sum())
    if free < 1:
        raise ValueError("no candidate has two seeds, so that nothing is known of their spread")
    mean = np.nanmean(x, axis=1)
    within = float(np.nansum((x - mean[:, None]) ** 2)) / free
    error = within / seeds
    at = int(np.argmax(mean if goal == "max" else -mean))
    k = len(mean)
    between = float(mean.var(ddof=1))
    centre = float(mean.mean())
    # (k - 3) / (k - 1) makes the estimate of the share unbiased (Efron & Morris, 1973, 3)
    lost = min(1.0, (k - 3) / (k - 1) * error[at] / between) if between > 0 else 1.0
    fresh = centre + (1 - lost) * (mean[at] - centre)
    # the spread of the winner around that, and what is not known of centre and share (Morris 1983, JASA 78, 47)
    variance = error[at] * (1 - (k - 1) / k * lost) + 2 / (k - 3) * lost**2 * (mean[at] - centre) ** 2
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    n = int(seeds[at])
    return Shrunk(at, float(mean[at]), Interval(fresh, fresh - half, fresh + half, n, level, "shrinkage"), 1 - lost)
