"""A trial on its way between driver and worker. No torch: a Ray worker reads this before it has imported anything heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from miras_search.choice import Frozen
from miras_search.ledger import Record, Status, now
from miras_search.space.settings import LrSearch

if TYPE_CHECKING:
    from miras_search.trial import Progress

STATUS = "status.jsonl"
NOTES = ("n", "assignment", "how", "stage", "rejected", "match")
"""What of a row only the driver knows."""

GRACE = 2.0
"""Seconds that a worker has to notice its time limit itself before it is stopped."""
STARTUP = 120.0
"""Seconds that it has before that, if there is a time limit at all, to import torch and read the data."""


class Job(Frozen):
    """A trial as it is sent to a worker: values only.

    `record` is its row as far as the driver knows it: key, candidate, task, seed, assignment. `task` is the spec;
    `rungs` are tokens at which the trial is evaluated and waits for a decision; `lr_search`: how it finds its
    learning rate; `timeout` is in seconds of an attempt.
    """

    record: Record
    task: dict[str, Any]
    budget: int
    folder: str
    cache: str | None = None
    rungs: tuple[int, ...] = ()
    lr_search: LrSearch | None = None
    test: bool = False
    timeout: float | None = None
    threads: int = 1
    plugins: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Of the trial."""
        return self.record.key


class Event(NamedTuple):
    """What a slice led to. `record` is there at the end and at a rung (where it is that of a pruned trial)."""

    kind: Literal["progress", "rung", "end"]
    progress: Progress
    record: Record | None = None


def outcome(record: Record, history: list[dict[str, Any]]) -> Record | None:
    """The row of a trial that is over by its status.jsonl, whether its worker said so or the driver; else None.

    Args:
        record: the row as far as the driver knows it.
        history: lines of status.jsonl.
    """
    for line in reversed(history):
        if line["event"] == "end":
            return Record.model_validate(line["record"])
        if line["event"] == "gone":
            return lost(record, line["status"], line["cause"], history)
    return None


def lost(record: Record, status: Status, cause: str, history: list[dict[str, Any]]) -> Record:
    """The row of a trial whose worker is gone: with the rungs that it had passed."""
    rungs = {
        line["rung"]: {"tokens": line["tokens"], "metrics": line["metrics"]} for line in history if "tokens" in line
    }
    passed = [rungs[i] for i in sorted(rungs)]
    starts = sum(line["event"] == "start" for line in history)
    return record.model_copy(
        update={
            "status": status,
            "cause": cause,
            "rungs": passed,
            "tokens": passed[-1]["tokens"] if passed else 0,
            "attempts": max(1, starts),
            "time": now(),
        }
    )
