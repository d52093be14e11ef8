"""Finalists: the best of a search on seeds that took no part in it, and on the test split, touched once.

What won was picked for its score, so its score is too good. Fresh seeds say by how much.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import pandas as pd

from miras_search.statistics.intervals import Interval, mean_interval, probability_ahead, wilson_interval


class Finalist(NamedTuple):
    """A finalist by one metric of one task.

    `searched`: mean over the seeds of the search; `fresh`: over new ones; `shrunk`: by how much it is worse there (less
    is better: negative means better there); `test`: the new ones on the test split; `ahead`: probability that it is
    better than the next, from paired fresh seeds (NaN for the last).
    """

    fingerprint: str
    n: int
    searched: float
    fresh: Interval
    shrunk: float
    test: Interval
    ahead: float

    def __str__(self) -> str:
        ahead = "" if math.isnan(self.ahead) else f", ahead of the next with probability {self.ahead:.2f}"
        interval = f" [{self.fresh.low:.4g}, {self.fresh.high:.4g}]" if self.fresh.known else ""
        return (
            f"suggestion {self.n}: {self.searched:.4g} in the search, {self.fresh.estimate:.4g}{interval} on {self.fresh.n} "
            f"fresh seeds (shrunk by {self.shrunk:.2g}), {self.test.estimate:.4g} on test{ahead}"
        )


def finalists(frame: pd.DataFrame, task: str, metric: str, goal: Literal["max", "min"]) -> list[Finalist]:
    """The finalists of a table of trials, the best on fresh seeds first; empty if there are none.

    Args:
        frame: of `load_results`, of one run.
        task: its name.
        metric: a column.
        goal: what is better.
    """
    rows = frame[(frame["task"] == task) & (frame["status"] == "ok")]
    final = rows[rows["stage"] == "final"]
    sign = 1.0 if goal == "max" else -1.0
    found: list[tuple[Finalist, pd.Series[float]]] = []
    for fingerprint, part in final.groupby("fingerprint", sort=True):
        before = rows[(rows["fingerprint"] == fingerprint) & (rows["stage"] == "search")][metric]
        fresh = part.set_index("seed")[metric].astype("float64")
        searched = float(before.mean())
        summary = _summary(fresh, metric)
        shrunk = sign * (searched - summary.estimate)
        test = _summary(part[f"test.{metric}"], metric) if f"test.{metric}" in part else mean_interval([])
        finalist = Finalist(str(fingerprint), int(part["n"].iloc[0]), searched, summary, shrunk, test, math.nan)
        found.append((finalist, fresh))
    found.sort(key=lambda entry: (-sign * entry[0].fresh.estimate, entry[0].n))
    out = []
    for i, (finalist, fresh) in enumerate(found):
        ahead = math.nan
        if i + 1 < len(found):
            ahead = probability_ahead(fresh * sign, found[i + 1][1] * sign)
        out.append(finalist._replace(ahead=ahead))
    return out


def _summary(values: pd.Series[float], metric: str) -> Interval:
    """The rate of seeds that solved the task, or a mean."""
    known = values.dropna()
    if metric == "solved":
        return wilson_interval(int(known.sum()), len(known))
    return mean_interval(known.to_numpy(dtype="float64"))
