"""Fronts of several objectives: who is on them, the volume they dominate, and what seeds leave uncertain of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miras_search.statistics.intervals import LEVEL, Interval, t_quantile

Floats = NDArray[np.float64]


def pareto_front(points: ArrayLike, goals: Sequence[str]) -> NDArray[np.bool_]:
    """Which points no other point beats: as good in every objective and better in one.

    Args:
        points: `[n, d]`; a point with a missing value is not on the front.
        goals: `max` or `min`, d of them.

    Returns:
        `[n]` truths; equal points are on it together.

    Raises:
        ValueError: if shapes or goals do not fit.
    """
    x = np.array(points, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != len(goals) or not set(goals) <= {"max", "min"}:
        raise ValueError(f"points of shape {x.shape} do not go with goals {list(goals)}")
    cost = x * np.where([g == "max" for g in goals], -1.0, 1.0)
    front = np.zeros(len(x), dtype=np.bool_)
    alive = np.flatnonzero(~np.isnan(cost).any(axis=1))
    # Best sums first: such a point removes most others, so that few rounds are needed.
    with np.errstate(invalid="ignore"):
        alive = alive[np.argsort(cost[alive].sum(axis=1), kind="stable")]
    while len(alive):
        first = cost[alive[0]]
        beats_first = (cost[alive] <= first).all(axis=1) & (cost[alive] < first).any(axis=1)
        if not beats_first.any():
            front[alive[0]] = True
        beaten = (first <= cost[alive]).all(axis=1) & (first < cost[alive]).any(axis=1)
        beaten[0] = True
        alive = alive[~beaten]
    return front


def hypervolume(points: ArrayLike, reference: Sequence[float], goals: Sequence[str]) -> float:
    """Volume that points dominate up to a reference (Zitzler & Thiele 1998), exact, for one to three objectives.

    In two objectives it is a sum of rectangles; in three the third is swept, and the area of a slice is that of the points seen
    so far: O(n^2 log n).

    Args:
        points: `[n, d]`; a point with a missing value, or not better than the reference in every objective, adds nothing.
        reference: `[d]`, the worst that counts.
        goals: `max` or `min`, d of them.

    Raises:
        ValueError: if shapes or goals do not fit, or there are more than three objectives.
    """
    cost, worst = _costs(points, reference, goals)
    cost = cost[(cost < worst).all(axis=1)]  # false for a missing value
    if len(worst) == 1:
        return float((worst - cost.min(axis=0))[0]) if len(cost) else 0.0
    if len(worst) == 2:
        return _area(cost, worst)
    cost = cost[pareto_front(cost, ["min"] * 3)]
    cost = cost[np.argsort(cost[:, 2], kind="stable")]
    ends = np.append(cost[1:, 2], worst[2])
    return float(sum(_area(cost[: i + 1, :2], worst[:2]) * (ends[i] - cost[i, 2]) for i in range(len(cost))))


@dataclass(frozen=True)
class Front:
    """`points`: means over seeds `[n, d]`. `on`: on the front by these. `chance`: to be on it, over resampled seeds.

    `volume`: that the front dominates, with its interval.
    """

    points: Floats
    on: NDArray[np.bool_]
    chance: Floats
    volume: Interval


def front(
    values: ArrayLike,
    reference: Sequence[float],
    goals: Sequence[str],
    level: float = LEVEL,
    resamples: int = 400,
    seed: int = 0,
) -> Front:
    """The front of means over seeds, and how sure it is: seeds are resampled, the same for all (they are paired).

    The volume of means over few seeds is too large, since the luckiest stand on the front; resampling repeats that error,
    so its bias is taken off (the basic bootstrap interval: Davison & Hinkley 1997, 5.2).

    Args:
        values: `[n, seeds, d]`; missing ones are NaN.
        reference: as in `hypervolume`.
        goals: likewise.
        level: of confidence.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: as `hypervolume`.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 3:
        raise ValueError(f"values of shape {x.shape} are no [candidate, seed, objective]")
    seeds = x.shape[1]
    points = _mean(x, np.ones((1, seeds)))[0]
    on, volume = pareto_front(points, goals), hypervolume(points, reference, goals)
    if seeds < 2:
        unknown = Interval(volume, np.nan, np.nan, seeds, level)
        return Front(points, on, np.full(len(x), np.nan), unknown)
    draws = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    means = _mean(x, draws.astype(np.float64))
    chance = np.mean([pareto_front(m, goals) for m in means], axis=0)
    volumes = [hypervolume(m, reference, goals) for m in means]
    # the variance of a mean over resampled seeds is too small by (n - 1) / n, and that of few seeds is itself uncertain
    stretch = (
        math.sqrt(seeds / (seeds - 1)) * t_quantile((1 + level) / 2, seeds - 1) / NormalDist().inv_cdf((1 + level) / 2)
    )
    low, high = np.quantile(volumes, [(1 - level) / 2, (1 + level) / 2])
    centre = float(np.mean(volumes))
    estimate = max(0.0, 2 * volume - centre)
    interval = Interval(
        estimate, max(0.0, estimate - stretch * (high - centre)), estimate + stretch * (centre - low), seeds, level,
        "bootstrap",
    )  # fmt: skip
    return Front(points, on, np.asarray(chance, dtype=np.float64), interval)


def _mean(x: Floats, weights: Floats) -> Floats:
    """Means over seeds by resample `[r, n, d]`; of a candidate none of whose seeds was drawn, NaN."""
    there = ~np.isnan(x)
    size = np.einsum("rs,nsd->rnd", weights, there)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.einsum("rs,nsd->rnd", weights, np.where(there, x, 0.0)) / size)


def _area(cost: Floats, worst: Floats) -> float:
    order = cost[np.lexsort((cost[:, 1], cost[:, 0]))]
    lowest = np.minimum.accumulate(order[:, 1])
    widths = np.append(order[1:, 0], worst[0]) - order[:, 0]
    return float((widths * (worst[1] - lowest)).sum())


def _costs(points: ArrayLike, reference: Sequence[float], goals: Sequence[str]) -> tuple[Floats, Floats]:
    x = np.array(points, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != len(goals) or len(reference) != len(goals) or not set(goals) <= {"max", "min"}:
        raise ValueError(
            f"points of shape {x.shape} do not go with goals {list(goals)} and reference {list(reference)}"
        )
    if len(goals) > 3:
        raise ValueError("the volume of more than three objectives is not offered")
    sign = np.where([g == "max" for g in goals], -1.0, 1.0)
    return x * sign, np.asarray(reference, dtype=np.float64) * sign
