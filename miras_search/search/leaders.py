"""What is best so far: the best committed suggestion by each objective, and those that none is better than in all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from miras_search.ledger import Record
from miras_search.search.outcomes import Goal, Outcome
from miras_search.space import Space


class Leader(NamedTuple):
    """The best suggestion by one objective; `value`: mean over its seeds; `key`: of one of its trials on that task."""

    metric: str
    goal: Goal
    value: float
    n: int
    design: str
    key: str


class Point(NamedTuple):
    """A suggestion on the Pareto front, with the values of all objectives."""

    n: int
    design: str
    values: tuple[float, ...]


class Standing:
    """The best so far, kept while suggestions come in: what one more costs does not grow with their number.

    Args:
        space: its objectives.
    """

    def __init__(self, space: Space) -> None:
        self.objectives = space.objectives
        self._signs = [1.0 if o.goal == "max" else -1.0 for o in space.objectives]
        self._best: list[Leader] = []
        self._front: list[Point] = []

    @property
    def leaders(self) -> list[Leader]:
        """By each objective, in their order; of equal ones the earliest suggestion. Empty before there is one."""
        return list(self._best)

    @property
    def front(self) -> list[Point]:
        """The suggestions that no other is better than, the best by the first objective first."""
        return sorted(self._front, key=lambda point: (-self._signs[0] * point.values[0], point.n))

    def add(self, outcome: Outcome, rows: Iterable[Record]) -> None:
        """One more suggestion, and its rows."""
        if outcome.values is None:
            return
        mine, values = list(rows), outcome.values
        found = []
        for i, objective in enumerate(self.objectives):
            then = self._best[i] if self._best else None
            gain = self._signs[i] * values[i]
            if then is None or (gain, -outcome.n) > (self._signs[i] * then.value, -then.n):
                row = next((row for row in mine if row.task == objective.task), mine[0])
                then = Leader(objective.metric, objective.goal, values[i], outcome.n, describe(row), row.key)
            found.append(then)
        self._best = found
        if not any(self._better(point.values, values) for point in self._front):
            self._front = [point for point in self._front if not self._better(values, point.values)]
            self._front.append(Point(outcome.n, describe(mine[0]), values))

    def _better(self, a: Sequence[float], b: Sequence[float]) -> bool:
        """As good in every objective, and better in one."""
        return a != b and all(s * x >= s * y for s, x, y in zip(self._signs, a, b, strict=True))


def standing(done: Iterable[Outcome], rows: Iterable[Record], space: Space) -> Standing:
    """Where a run stands.

    Args:
        done: of `outcomes`.
        rows: what they were made from.
        space: its objectives.
    """
    mine: dict[int, list[Record]] = {}
    for row in rows:
        mine.setdefault(row.n, []).append(row)
    found = Standing(space)
    for outcome in done:
        found.add(outcome, mine[outcome.n])
    return found


def reason(record: Record) -> str:
    """Why a trial is not ok, to be counted by: without the step, which is another one in every trial."""
    cause = re.sub(r" at step \d+ of \d+", "", record.cause)
    return f"{record.status}: {cause}" if cause else record.status


def describe(record: Record) -> str:
    """The name of the published design, or its four choices."""
    if record.label:
        return record.label
    design = record.candidate.get("design", {})
    return "/".join(str(design.get(part, {}).get("kind", "?")) for part in ("memory", "bias", "retention", "algorithm"))
