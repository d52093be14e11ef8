"""Successive halving: which trials stop at a rung, decided the moment a trial reaches it.

A rung is a fraction of the budget. A trial that reaches it is compared with all trials of the same task that have
reached it before; it goes on if it is among the best `keep` of them, itself included, by Pareto rank. Ties go on.
Nobody is stopped before `1 / keep` have been there.

The rule is asynchronous: no trial waits for another. So a trial is judged by those who happened to come first: the
first `1 / keep - 1` always go on, some that are let through would not be among the best `keep` of all, and some that
are stopped would be. In random order about `keep` go on; under a sampler that improves, late trials meet worse ones,
and more do. A decision depends on the order of arrival, which is why it is recorded and never made again. A rung
compares at a fraction of the budget: what learns slowly and ends high is stopped unjustly. So stopped trials belong
in no statistics of what matters.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from miras_search.ledger import Record
from miras_search.search.outcomes import Goal, fronts, value
from miras_search.space import Space
from miras_search.space.settings import Objective

Values = tuple[float, ...]
SUDDEN, ENOUGH = 0.5, 10
"""Rank correlation, and trials that went the whole way, before a task that is learned suddenly stops anybody."""


def survives(own: Values, others: Sequence[Values], goals: Sequence[Goal], keep: float) -> bool:
    """Whether a trial goes on from a rung.

    Args:
        own: its values there.
        others: those of the trials that were there before it.
        goals: whether more or less of each value is better.
        keep: share that goes on, in (0, 1).

    Returns:
        True if fewer than `keep` of all (at least one) have a better Pareto rank, or fewer than `1 / keep` were there.
        False for a value that is not finite, unless all are alike.
    """
    count = len(others) + 1
    if count < math.ceil(1 / keep - 1e-9):
        return True
    ranks = fronts([own, *others], goals)
    better = sum(rank < ranks[0] for rank in ranks)
    return better < max(1, math.floor(keep * count + 1e-9))


class Evidence(NamedTuple):
    """How well a rung (from 0) foretells the end: Spearman's rank correlation over so many trials; NaN if all are alike.

    `stops`: it reaches what is needed, so that trials are stopped there.
    """

    task: str
    rung: int
    trials: int
    correlation: float
    needed: float
    stops: bool

    def __str__(self) -> str:
        found = "not known" if math.isnan(self.correlation) else f"{self.correlation:.2f}"
        verdict = "stops" if self.stops else f"stops nobody before {self.needed:g} over {ENOUGH}"
        return f"{self.task}, rung {self.rung + 1}: rank correlation with the end {found} over {self.trials} trials; {verdict}"


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's, ties at their mean rank; NaN for fewer than three pairs, or where all values are alike."""
    if len(pairs) < 3:
        return math.nan
    a, b = (_ranks(values) for values in zip(*pairs, strict=True))
    try:
        return statistics.correlation(a, b)
    except statistics.StatisticsError:
        return math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect_left(ordered, v) + bisect_right(ordered, v) - 1) / 2 for v in values]


class Rungs:
    """The rungs of a space. Without `halving` it has none, and everyone goes on."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.fractions: tuple[float, ...] = space.halving.rungs if space.halving else ()
        self.keep = space.halving.keep if space.halving else 1.0

    def tokens(self, task: str) -> tuple[int, ...]:
        """Tokens trained on at each rung of a task."""
        return tuple(math.ceil(fraction * self.space.budget.of(task)) for fraction in self.fractions)

    def objectives(self, task: str) -> tuple[Objective, ...]:
        """What trials of a task are compared by: its objectives and the costs; nothing if it has none of its own."""
        mine = [o for o in self.space.objectives if o.task in ("", task)]
        return tuple(mine) if any(o.task for o in mine) else ()

    def values(self, record: Record, rung: int) -> Values | None:
        """The values of a trial at a rung (from 0); None if it was not there.

        Raises:
            SpaceError: if the task does not report an objective.
        """
        if rung >= len(record.rungs):
            return None
        metrics = record.rungs[rung]["metrics"]
        return tuple(value(o, record, metrics) for o in self.objectives(record.task))

    def reached(self, records: Iterable[Record], task: str, rung: int) -> list[Values]:
        """The values of all trials of a task that were at a rung; of rows with one key the last counts."""
        found = {r.key: self.values(r, rung) for r in records if r.task == task}
        return [values for values in found.values() if values is not None]

    def evidence(self, task: str, rung: int, records: Iterable[Record]) -> Evidence:
        """What the trials that went the whole way say of a rung (from 0): how well it foretells the end.

        Once others are stopped, those are the better ones, among whom the correlation is lower: it errs on the side of
        stopping nobody.
        """
        metric = next((o for o in self.objectives(task) if o.task), None)
        pairs = []
        for record in records:
            whole = (record.task, record.status, record.stage) == (task, "ok", "search")
            if metric is not None and whole and rung < len(record.rungs):
                there = value(metric, record, record.rungs[rung]["metrics"])
                pairs.append((there, value(metric, record, record.metrics)))
        needed = self.trust(task)
        found = rank_correlation(pairs)
        return Evidence(
            task, rung, len(pairs), found, needed, needed <= -1 or (len(pairs) >= ENOUGH and found >= needed)
        )

    def trust(self, task: str) -> float:
        """The rank correlation that is needed before anybody is stopped."""
        halving = self.space.halving
        if halving is None or halving.trust is not None:
            return -1.0 if halving is None or halving.trust is None else halving.trust
        primary = next(t for t in self.space.tasks if t.name == task).primary
        return SUDDEN if primary.name.startswith("accuracy") else -1.0

    def survives(self, task: str, rung: int, own: Values, others: Sequence[Values]) -> bool:
        """Whether a trial of `task` with the values `own` goes on from `rung`, given those who were there before it."""
        goals: list[Goal] = [o.goal for o in self.objectives(task)]
        return rung >= len(self.fractions) or not goals or survives(own, others, goals, self.keep)
