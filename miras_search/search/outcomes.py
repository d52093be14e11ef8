"""What the search sees of a run: committed suggestions and the values of the objectives, computed from ledger rows.

A suggestion is one candidate; it is run on every task with every seed, and is committed with the last of those rows. An
objective is `TASK.METRIC` (mean over seeds) or a cost such as `parameters` (mean over all rows).
"""

from __future__ import annotations

import difflib
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from miras_search.errors import SpaceError
from miras_search.ledger import Record, Status
from miras_search.space import Space
from miras_search.space.settings import Objective

Goal = Literal["max", "min"]


@dataclass(frozen=True)
class Outcome:
    """A committed suggestion.

    Attributes:
        n: its number.
        assignment: what was drawn.
        status: `ok` if every row is; else that of the first failed row; `pruned` if none failed but one was stopped.
        values: of the objectives, in their order, all finite; None unless the status is `ok`.
    """

    n: int
    assignment: Mapping[str, Any]
    status: Status
    values: tuple[float, ...] | None


def outcomes(records: Iterable[Record], space: Space) -> list[Outcome]:
    """The committed suggestions in the order of commitment.

    Cancelled rows are no results (the trial will run again) and commit nothing. Of two results of one trial the first
    counts: what later suggestions were made from does not change under them.

    Args:
        records: the rows of the ledger, in its order.
        space: its tasks, seeds and objectives.

    Raises:
        SpaceError: if an objective names a metric that no finished row has.
    """
    names = {task.name for task in space.tasks}
    rows: dict[int, dict[tuple[str, int], Record]] = {}
    found: list[Outcome] = []
    for record in records:
        if record.n < 0 or record.stage != "search" or record.status == "cancelled" or record.task not in names:
            continue
        mine = rows.setdefault(record.n, {})
        if (record.task, record.seed) in mine:
            continue
        mine[record.task, record.seed] = record
        if len(mine) == space.rows:
            found.append(_outcome(list(mine.values()), space.objectives))
    return found


def _outcome(rows: Sequence[Record], objectives: Sequence[Objective]) -> Outcome:
    n, assignment = rows[0].n, rows[0].assignment
    bad = [row.status for row in rows if row.status not in ("ok", "pruned")]
    if bad or any(row.status == "pruned" for row in rows):
        return Outcome(n, assignment, bad[0] if bad else "pruned", None)
    values = []
    for objective in objectives:
        found = [value(objective, row, row.metrics) for row in rows if objective.task in ("", row.task)]
        values.append(math.fsum(found) / len(found) if found else math.nan)
    if not all(math.isfinite(x) for x in values):
        return Outcome(n, assignment, "diverged", None)
    return Outcome(n, assignment, "ok", tuple(values))


def value(objective: Objective, record: Record, metrics: Mapping[str, float]) -> float:
    """The objective's value for one trial.

    Args:
        objective: a cost, or a metric of the record's task.
        record: of the trial; costs are read from it.
        metrics: of the record or of one of its rungs.

    Raises:
        SpaceError: if the task reports no such metric; says which is nearest.
    """
    if not objective.task:
        return float(getattr(record, objective.metric))
    if objective.name not in metrics:
        near = difflib.get_close_matches(objective.name, metrics, n=1)
        raise SpaceError(
            f"objective {objective.metric}: task {record.task} reports no {objective.name}",
            hint=f"did you mean {record.task}.{near[0]}?" if near else f"it reports {', '.join(metrics) or 'nothing'}",
        )
    return float(metrics[objective.name])


def fronts(points: Sequence[Sequence[float]], goals: Sequence[Goal]) -> list[int]:
    """Pareto rank of each point: 0 if none is better, 1 if none is once those are gone, and so on.

    A point is better than another if it is at least as good in every objective and better in one; equal points have
    equal rank. With one objective the rank counts the distinct better values. A value that is not finite is worse than
    any that is.
    """
    signs = [1.0 if goal == "max" else -1.0 for goal in goals]
    gains = [
        tuple(s * x if math.isfinite(x) else -math.inf for s, x in zip(signs, point, strict=True)) for point in points
    ]
    ordered = sorted(set(gains), reverse=True)  # whoever is better comes first
    if len(goals) == 1:
        rank = {gain: i for i, gain in enumerate(ordered)}
    elif len(goals) == 2:
        rank, least = {}, list[float]()  # of every rank the best second value, negated: it falls from rank to rank
        for gain in ordered:
            at = rank[gain] = bisect_right(least, -gain[1])
            least[at : at + 1] = [-gain[1]]
    else:
        rank = {}
        for gain in ordered:  # the longest chain of better points above it
            above = (r for other, r in rank.items() if all(y >= x for x, y in zip(gain, other, strict=True)))
            rank[gain] = 1 + max(above, default=-1)
    return [rank[gain] for gain in gains]
