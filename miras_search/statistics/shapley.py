"""Shares of the kinds of the choices where some combinations are refused: Shapley effects (Owen 2014; Song et al. 2016).

Where kinds that never meet make the choices dependent, first-order and total shares no longer add up, and an effect of
one is in part that of its company. The Shapley value divides what the choices explain together evenly among
those that share it: never negative, and with the rest (parameters, seeds, the optimiser) it adds to one. On a crossed table it is
the first share of a choice and half of each pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from miras_search.errors import RunError
from miras_search.results import CHOICES
from miras_search.statistics.intervals import LEVEL

Floats = NDArray[np.float64]


def shapley(
    frame: pd.DataFrame,
    metric: str,
    choices: Sequence[str] = CHOICES,
    unit: str = "fingerprint",
    level: float = LEVEL,
    resamples: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """Shares of the variance between candidates, by choice, with bootstrap intervals over candidates.

    What a set of choices leaves unexplained is the variance within candidates that agree in them, over the cells that hold
    two candidates or more. Trials without the metric are left out.

    Returns:
        A row a choice that varies, and `rest`: `choice`, `share`, `low`, `high`; they add to one.

    Raises:
        RunError: if candidates do not differ, or no two agree in all choices.
    """
    rows = frame[frame[metric].notna()]
    first = rows.drop_duplicates(unit).set_index(unit)
    y = rows.groupby(unit)[metric].mean().reindex(first.index).to_numpy(dtype=np.float64)
    varied = [c for c in choices if first[c].nunique() > 1]
    n = len(y)
    if n < 3 or not np.ptp(y) > 0 or not varied:
        raise RunError(f"{n} candidates that differ in nothing", hint="there is nothing to split")
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)
    weights = np.vstack([np.ones(n), draws])
    y = y - y.mean()
    whole = _within(y, np.zeros(n, dtype=np.int64), weights)
    left: dict[tuple[str, ...], Floats] = {(): whole}
    for size in range(1, len(varied) + 1):
        for some in combinations(varied, size):
            cells = first.groupby(list(some), dropna=False, sort=False).ngroup().to_numpy()
            left[some] = _within(y, cells.astype(np.int64), weights)
    if np.isnan(left[tuple(varied)][0]):
        raise RunError("no two candidates agree in all choices", hint="go on with the survey, or name fewer choices")
    found: dict[str, Floats] = {}
    for choice in varied:
        others = [c for c in varied if c != choice]
        value = np.zeros(len(weights))
        for size in range(len(others) + 1):
            for some in combinations(others, size):
                joined = tuple(c for c in varied if c in some or c == choice)
                value += (left[some] - left[joined]) / comb(len(others), size) / len(varied)
        found[choice] = value / whole
    found["rest"] = left[tuple(varied)] / whole
    ends = [(1 - level) / 2, (1 + level) / 2]
    table = [(name, float(v[0]), *map(float, np.nanquantile(v[1:], ends))) for name, v in found.items()]
    return pd.DataFrame(table, columns=["choice", "share", "low", "high"])


def _within(y: Floats, cells: NDArray[np.int64], weights: Floats) -> Floats:
    """Mean variance within cells by resample, a candidate never held against itself; NaN if every cell holds one."""
    member = np.eye(int(cells.max()) + 1)[cells]
    size, total, squares = weights @ member, (weights * y) @ member, (weights * y * y) @ member
    pairs = size**2 - weights**2 @ member
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.where(pairs > 0, (size * squares - total**2) / pairs, 0.0)
        return np.asarray((size * variance).sum(1) / (size * (pairs > 0)).sum(1))
