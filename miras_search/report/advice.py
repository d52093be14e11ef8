"""What to try next, from what a table shows: each line a reason and a deed. Rules, not a model; none applies, none is given."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from miras_search.report.controls import is_control
from miras_search.report.numbers import number
from miras_search.report.verdicts import Verdict
from miras_search.results import CHOICES, columns_of
from miras_search.statistics import unchosen

BEST = 10
"""Candidates at the top whose settings are looked at."""
FEW = 0.05
"""A choice whose share is surely below this may be fixed."""
POWER = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)


def advice(done: pd.DataFrame, verdicts: list[Verdict], runs: list[str], failed: int) -> list[str]:
    """At most five lines, the most useful first.

    Args:
        done: finished trials.
        verdicts: of them.
        runs: names.
        failed: trials that failed.
    """
    if not verdicts:
        return ["Find out why trials fail before anything else: the causes are below."] if failed else []
    out: list[str] = []
    for verdict in verdicts:
        out += _seeds(verdict)
        out += _edges(done[done["task"] == verdict.objective.task], verdict)
        out += _narrow(verdict)
    if len(done) and not len(unchosen(done)):
        out.append("Run a survey, `search: {sampler: survey}`, to learn which choices matter: an optimiser cannot say.")
    if not is_control(done).any():
        out.append(
            f"Train the twin of **{verdicts[0].best.name}** whose memory answers zero, `block: {{output: zeroed, residual_conv: 4}}` "
            "beside `block: {residual_conv: 4}`: it shows what the memory is worth."
        )
    return list(dict.fromkeys(out))[:5]


def _seeds(verdict: Verdict) -> list[str]:
    """How many seeds would tell the first two apart, were the difference what it seems (80 % power)."""
    gap, other = verdict.ahead, verdict.runner_up
    if other is None or gap is None or gap.excludes_zero or gap.estimate <= 0:
        return []
    if gap.n < 2:
        return [f"Train **{verdict.best.name}** and **{other.name}** with three seeds or more: one seed ranks nothing."]
    shared = sorted(set(verdict.best.seeds) & set(other.seeds))
    spread = float(np.std([verdict.best.seeds[s] - other.seeds[s] for s in shared], ddof=1))
    needed = math.ceil((POWER * spread / gap.estimate) ** 2) if gap.method != "newcombe" else 0
    if not needed:
        return [
            f"Train **{verdict.best.name}** and **{other.name}** with more seeds: how often each solves is not yet clear."
        ]
    if needed > 100:
        return [
            f"Take **{verdict.best.name}** and **{other.name}** as equal: over 100 seeds would be needed to part them."
        ]
    needed = max(needed, gap.n + 1)
    return [
        f"Train **{verdict.best.name}** and **{other.name}** with about {needed} seeds: so many part them if the gap is real."
    ]


def _edges(rows: pd.DataFrame, verdict: Verdict) -> list[str]:
    """Ranges at whose end most of the best candidates lie."""
    first = rows.drop_duplicates("fingerprint").set_index("fingerprint")
    first = first[~is_control(first)]
    top = [e.fingerprint for e in verdict.ranked[:BEST]]
    out = []
    for column in [c for g in (*CHOICES, "optimiser") for c in columns_of(rows, g)]:
        held: Any = first[column].dropna()
        if not pd.api.types.is_numeric_dtype(held.dtype) or held.dtype == "boolean" or held.nunique() < 10:
            continue
        ranks = held.rank(pct=True)
        mine = ranks[[f for f in top if f in ranks.index]]
        if len(mine) < BEST // 2:
            continue
        for end, near in (("above", mine > 0.8), ("below", mine < 0.2)):
            if near.mean() >= 0.7:
                edge = held.max() if end == "above" else held.min()
                out.append(
                    f"Widen `{column}` {end} {number(edge)}: {int(near.sum())} of the {len(mine)} best lie at that end."
                )
    return out


def _narrow(verdict: Verdict) -> list[str]:
    """Choices that surely do little can be fixed, and the search spent on the rest."""
    if verdict.shares is None:
        return []
    groups = verdict.shares.groups
    little = groups[(groups["total_high"] < FEW) & (groups["total_low"] < FEW / 5)]["group"].tolist()
    most = groups.iloc[0]["group"]
    if not little:
        return []
    do = "does" if len(little) == 1 else "do"
    return [f"Fix {' and '.join(f'`{g}`' for g in little)}, which {do} little here, and spend the trials on `{most}`."]
