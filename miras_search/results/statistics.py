"""Small statistics with intervals: means over seeds, paired differences, effects of the choices, fronts, solve rates.

Every function says what it assumes and what it cannot conclude. Randomness (bootstrap) is seeded, so that a report is
the same twice. References:

- Student's t: Abramowitz & Stegun 1964, 26.7.3-4 (closed form for whole degrees of freedom).
- Percentile bootstrap: Efron & Tibshirani 1993, chapter 13; cluster form: Davison & Hinkley 1997, 3.8.
- Score interval of a rate: Wilson 1927; coverage: Brown, Cai & DasGupta 2001.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from miras_search.errors import RunError
from miras_search.space.settings import ADAPTIVE

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
    return Interval(mean, *_percentiles(draws, level), n, level, "bootstrap")


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


def choice_effects(
    frame: pd.DataFrame,
    metric: str,
    choices: Sequence[str] = ("memory", "bias", "retention", "algorithm"),
    unit: str = "fingerprint",
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Marginal mean of a metric at every value of every choice, with bootstrap intervals over candidates.

    Seeds are averaged within a candidate first, and candidates are resampled: seeds of one candidate
    are not independent evidence about a choice.

    What it can conclude: how candidates with this value did, on average, in this table. If the table is balanced (see
    `balanced`) that is the main effect of the choice, averaged over the others. If it is not, as with TPE, early
    stopping or refused combinations, values keep different company (a bias only ever seen with an MLP carries the MLP's
    effect), and the means describe the table but attribute nothing. It says nothing of interactions, and trials without
    the metric (failures) are left out: look at `failure_rates` beside it.

    Trials that an optimiser chose by what it had seen (column `how`) are refused: what does well is drawn again, in
    the company that did well. `unchosen` leaves them out.

    Raises:
        RunError: if any row was drawn by a sampler that follows results.

    Returns:
        Columns `choice`, `value`, `mean`, `low`, `high` (NaN below three candidates), `candidates`, `trials`; a choice
        with one value only is left out.
    """
    if len(chosen := frame[~_unchosen(frame)]):
        samplers = ", ".join(sorted(chosen["how"].unique()))
        raise RunError(
            f"{len(chosen)} of {len(frame)} trials were drawn by {samplers}, which follows results: they show what is best, not "
            "what matters",
            hint="run a survey (search: {sampler: survey}), or take the other trials alone: unchosen(frame)",
        )
    rows = frame[frame[metric].notna()]
    grouped = rows.groupby([unit, *choices], dropna=False, sort=True)[metric]
    units = pd.DataFrame({"mean": grouped.mean(), "trials": grouped.size()}).reset_index()
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for choice in choices:
        if units[choice].nunique() < 2:
            continue
        for value, part in units.groupby(choice, sort=True):
            x = part["mean"].to_numpy(dtype=np.float64)
            low, high = math.nan, math.nan
            if len(x) >= 3:
                draws = x[rng.integers(0, len(x), (resamples, len(x)))].mean(axis=1)
                low, high = _percentiles(draws, level)
            row = {"choice": choice, "value": value, "mean": float(x.mean()), "low": low, "high": high}
            found.append(row | {"candidates": len(x), "trials": int(part["trials"].sum())})
    names = ["choice", "value", "mean", "low", "high", "candidates", "trials"]
    return pd.DataFrame(found, columns=names)


def unchosen(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials that no optimiser chose by what it had seen: those of a survey, a grid, chance, and starts."""
    return frame[_unchosen(frame)]


def _unchosen(frame: pd.DataFrame) -> pd.Series[bool]:
    if "how" not in frame:
        return pd.Series(True, index=frame.index)
    return ~frame["how"].isin(ADAPTIVE)


def balanced(
    frame: pd.DataFrame,
    choices: Sequence[str] = ("memory", "bias", "retention", "algorithm"),
    unit: str = "fingerprint",
) -> bool:
    """Every two choices are crossed evenly: each pair of values is held by equally many candidates."""
    units = frame.drop_duplicates([unit, *choices])
    varied = [c for c in choices if units[c].nunique() > 1]
    return all(np.ptp(pd.crosstab(units[a], units[b]).to_numpy()).item() == 0 for a, b in combinations(varied, 2))


def failure_rates(
    frame: pd.DataFrame,
    choices: Sequence[str] = ("memory", "bias", "retention", "algorithm"),
    failed: Callable[[pd.Series[Any]], pd.Series[Any]] | None = None,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Share of trials that failed at every value of every choice, with Wilson intervals over trials.

    Args:
        frame: a row a trial, with `status`.
        choices: columns.
        failed: of the column `status`, which rows failed; default: neither ok nor pruned nor cancelled.
        level: of confidence.
    """
    bad = failed(frame["status"]) if failed else ~frame["status"].isin(["ok", "pruned", "cancelled"])
    found: list[dict[str, Any]] = []
    for choice in choices:
        for value, part in bad.groupby(frame[choice], sort=True):
            rate = wilson_interval(int(part.sum()), len(part), level)
            row = {"choice": choice, "value": value, "rate": rate.estimate, "low": rate.low, "high": rate.high}
            found.append(row | {"failed": int(part.sum()), "trials": len(part)})
    return pd.DataFrame(found, columns=["choice", "value", "rate", "low", "high", "failed", "trials"])


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


def _percentiles(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _finite(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64).ravel()
    return x[~np.isnan(x)]
