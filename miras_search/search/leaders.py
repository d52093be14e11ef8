"""What is best so far: the best committed suggestion by each objective."""

from __future__ import annotations

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


def leaders(done: Iterable[Outcome], rows: Sequence[Record], space: Space) -> list[Leader]:
    """The leaders of a run, in the order of the objectives; of equal ones the earliest suggestion.

    Args:
        done: of `outcomes`.
        rows: what they were made from.
        space: its objectives.
    """
    good = [(outcome.n, outcome.values) for outcome in done if outcome.values is not None]
    found = []
    for i, objective in enumerate(space.objectives if good else ()):
        sign = 1.0 if objective.goal == "max" else -1.0
        n, values = max(good, key=lambda entry: (sign * entry[1][i], -entry[0]))
        mine = [row for row in rows if row.n == n]
        row = next((row for row in mine if row.task == objective.task), mine[0])
        found.append(Leader(objective.metric, objective.goal, values[i], n, describe(row), row.key))
    return found


def describe(record: Record) -> str:
    """The name of the published design, or its four choices."""
    if record.label:
        return record.label
    design = record.candidate.get("design", {})
    return "/".join(str(design.get(part, {}).get("kind", "?")) for part in ("memory", "bias", "retention", "algorithm"))
