"""Effects of the choices on a metric and on failures: means and rates at every value, with intervals.

Bootstrap over candidates: Davison & Hinkley 1997, 3.8 (seeds are averaged within a candidate first).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from miras_search.errors import RunError
from miras_search.results import CHOICES
from miras_search.space.settings import ADAPTIVE
from miras_search.statistics.intervals import LEVEL, RESAMPLES, percentiles, wilson_interval


def choice_effects(
    frame: pd.DataFrame,
    metric: str,
    choices: Sequence[str] = CHOICES,
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
                low, high = percentiles(draws, level)
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
    choices: Sequence[str] = CHOICES,
    unit: str = "fingerprint",
) -> bool:
    """Every two choices are crossed evenly: each pair of values is held by equally many candidates."""
    units = frame.drop_duplicates([unit, *choices])
    varied = [c for c in choices if units[c].nunique() > 1]
    return all(np.ptp(pd.crosstab(units[a], units[b]).to_numpy()).item() == 0 for a, b in combinations(varied, 2))


def failure_rates(
    frame: pd.DataFrame,
    choices: Sequence[str] = CHOICES,
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
