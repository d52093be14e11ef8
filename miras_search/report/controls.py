"""Controls: designs that are broken on purpose, beside the twin that is not.

What a memory is worth shows against a twin whose memory answers zero; whether the inner objective matters, against one that
climbs it or is shown other values. Controls are not ranked, and take no part in the effects of the choices.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from miras_search.results import CHOICES, columns_of
from miras_search.statistics import Interval, mean_interval, paired_difference, unchosen

CONTROLS = {
    ("block.output", "zeroed"): "memory answers zero",
    ("block.values", "shuffled"): "values shuffled",
    ("algorithm.sign", "ascent"): "inner loss climbed",
    ("algorithm.updates", "last_layer"): "last layer alone learns",
}
"""Column and value that make a design a control, and what it is."""


class Twin(NamedTuple):
    """A control beside the candidate that is the same but for it; `change`: paired, positive if the control is better."""

    control: str
    name: str
    own: str
    fingerprint: str
    value: float
    change: Interval


def is_control(frame: pd.DataFrame) -> pd.Series[bool]:
    """The rows that are controls; a published design is none."""
    found = pd.Series(False, index=frame.index)
    for column, value in CONTROLS:
        if column in frame:
            found |= frame[column].eq(value).fillna(False).astype(bool)
    return found & (frame["label"].fillna("") == "")


def drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """What speaks of the choices: drawn by what looks at no results, and not named by hand unless that is all there is."""
    free = unchosen(rows[~is_control(rows)])
    named = free["how"].eq("start_with") if "how" in free else pd.Series(False, index=free.index)
    return free if named.all() else free[~named]


def twins(rows: pd.DataFrame, metric: str, goal: str, names: pd.DataFrame) -> list[Twin]:
    """Every control that has a twin among the rows, finished trials of one task.

    Args:
        rows: controls and others.
        metric: column.
        goal: `max` or `min`.
        names: of `names_of`.
    """
    first = rows.drop_duplicates("fingerprint").set_index("fingerprint")
    broken = is_control(first)
    columns = [*CHOICES, *(c for g in (*CHOICES, "block", "backbone", "optimiser") for c in columns_of(rows, g))]
    switches = {column for column, _ in CONTROLS}
    told = first[[c for c in columns if c not in switches]].itertuples(index=False)
    same = dict(zip(first.index, ("\x1f".join(map(str, row)) for row in told), strict=True))
    own = {same[fingerprint]: str(fingerprint) for fingerprint in first.index[~broken]}
    sign = 1.0 if goal == "max" else -1.0
    by_seed = rows.groupby(["fingerprint", "seed"])[metric].mean() * sign
    found = []
    for fingerprint in first.index[broken]:
        at = own.get(same[fingerprint])
        if at is None:
            continue
        words = [text for (c, value), text in CONTROLS.items() if c in first and str(first.at[fingerprint, c]) == value]
        change = paired_difference(by_seed.loc[fingerprint], by_seed.loc[at])
        if change.n:
            value = float(sign * by_seed.loc[fingerprint].mean())
            name = str(names.at[at, "name"])
            found.append(Twin(" and ".join(words), name, at, str(fingerprint), value, change))
    return sorted(found, key=lambda t: (t.control, -t.change.estimate, t.fingerprint))


def changes(found: list[Twin]) -> dict[str, Interval]:
    """By control, the mean change over designs; a design is one value."""
    by: dict[str, list[Twin]] = {}
    for twin in found:
        by.setdefault(twin.control, []).append(twin)
    out: dict[str, Any] = {}
    for control, some in by.items():
        out[control] = some[0].change if len(some) == 1 else mean_interval([t.change.estimate for t in some])
    return {control: interval for control, interval in out.items() if not math.isnan(interval.estimate)}
