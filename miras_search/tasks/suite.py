"""Several tasks as one, with weights: one model is trained on all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from miras_search.choice import OneOf, register
from miras_search.tasks.base import IGNORE, Batch, Metric, Stream, Task, TaskData, Totals, check_names
from miras_search.tasks.draws import Draws

_CHOICE = 5  # the stream that says which task a step is of


class Suite(Task):
    """A weighted mixture of tasks: every training step is a batch of one of them, drawn in proportion to its weight.

    Each task keeps ids of its own, so a model can tell them apart; rows are padded to the longest of the tasks, nothing is scored
    there. `score` is the weighted mean of the tasks' first metrics, `worst` the least of them; each stands beside them as
    `TASK_METRIC`. Tasks must be of tokens and judged by a share between 0 and 1, more being better. To train a model for each
    task instead, list them in the space's `tasks:`.
    """

    kind: Literal["suite"] = "suite"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("score", "max"), Metric("worst", "max"))

    tasks: tuple[SerializeAsAny[Annotated[Task, OneOf("task")]], ...] = Field(min_length=1)
    weights: tuple[float, ...] = ()

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        for weight in weights:
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"weights: {weight} is no weight; use numbers > 0")
        return weights

    @model_validator(mode="after")
    def _judged_alike(self) -> Suite:
        check_names(self.tasks)
        if self.weights and len(self.weights) != len(self.tasks):
            raise ValueError(f"weights: {len(self.weights)} for {len(self.tasks)} tasks; give one a task, or none")
        for task in self.tasks:
            metric = task.metrics[0]
            if task.head != "tokens" or metric.goal != "max" or metric.unit:
                raise ValueError(
                    f"tasks: {task.name} is judged by {metric.name} of a {task.head} head, not by a share of tokens; leave it out"
                )
            finite = getattr(task, "train", 0)
            if 0 < finite < self.batch:
                raise ValueError(f"tasks: {task.name} has {finite} training rows, fewer than batch: {self.batch}")
        return self

    @property
    def members(self) -> list[Task]:
        """The tasks, with the suite's batch."""
        return [task.model_copy(update={"batch": self.batch}) for task in self.tasks]

    @property
    def shares(self) -> list[float]:
        """The weights, of sum 1."""
        weights = self.weights or (1.0,) * len(self.tasks)
        return [weight / math.fsum(weights) for weight in weights]

    @property
    def vocab(self) -> int:
        """Ids of all tasks."""
        return sum(task.vocab for task in self.tasks)

    @property
    def context(self) -> int:
        """Tokens a row, of the longest task."""
        return max(task.context for task in self.tasks)

    @property
    def longer(self) -> str:
        """How to lengthen the rows."""
        return "lengthen one of the suite's tasks"

    def prepare(self, cache: Path | None = None) -> SuiteData:
        """Prepare all tasks.

        Raises:
            TaskError: if one cannot be prepared.
        """
        return SuiteData(self, cache)

    def metrics_from(self, totals: Totals) -> dict[str, float]:
        """Score, worst, and every task's first metric."""
        parts = totals.parts if isinstance(totals, SuiteTotals) else [Totals() for _ in self.tasks]
        found = {}
        for task, part in zip(self.tasks, parts, strict=True):
            metric = task.metrics[0].name
            found[f"{task.name}_{metric}"] = task.metrics_from(part)[metric]
        values = list(found.values())
        score = math.fsum(share * value for share, value in zip(self.shares, values, strict=True))
        return {"score": score, "worst": math.nan if math.isnan(score) else min(values)} | found


class SuiteTotals(Totals):
    """Totals of every task, in their own ids. A row belongs to the task whose ids its targets are."""

    def __init__(self, parts: list[Totals], offsets: list[int]) -> None:
        super().__init__()
        self.parts, self.offsets = parts, offsets

    def add(self, nll, predicted, targets) -> None:  # type: ignore[no-untyped-def]
        """Take in a batch of one task."""
        super().add(nll, predicted, targets)
        largest = int(targets.max())
        if largest == IGNORE:
            return
        n = max(i for i, offset in enumerate(self.offsets) if offset <= largest)
        own = (targets - self.offsets[n]).masked_fill(targets == IGNORE, IGNORE)
        # an answer out of the ids of another task is wrong, and of no class of this one
        said = (predicted - self.offsets[n]).clamp_min(0)
        end = self.offsets[n + 1] if n + 1 < len(self.offsets) else None
        strange = (predicted < self.offsets[n]) | (predicted >= end if end is not None else predicted < 0)
        self.parts[n].add(nll, said.masked_fill(strange, int(own.max()) + 1), own)


class SuiteData(TaskData):
    """Batches of the tasks, ids shifted."""

    def __init__(self, task: Suite, cache: Path | None) -> None:
        super().__init__(task)
        self._parts = [member.prepare(cache) for member in task.members]
        self._offsets = list(itertools.accumulate((part.vocab for part in self._parts[:-1]), initial=0))
        bounds = itertools.accumulate(task.shares)
        self._ends = [round(bound * 2.0**32) for bound in bounds]

    def train(self, seed: int) -> Stream:
        """Which task a step is of is drawn; its batch is that of this step in the task's own stream."""
        streams = [part.train(seed) for part in self._parts]

        def batch(step: int) -> Batch:
            at = Draws(seed, _CHOICE, step).below(1 << 32, 1)[0]
            n = next((i for i, end in enumerate(self._ends) if at < end), len(streams) - 1)
            streams[n].seek({"step": step})
            return self._shifted(next(streams[n]), n, self.context)

        return Stream(batch)

    def validation(self) -> list[Batch]:
        """The fixed batches of all tasks, one task after another."""
        return [self._shifted(b, n, 0) for n, part in enumerate(self._parts) for b in part.validation()]

    def test(self) -> list[Batch]:
        """The same of the test sets."""
        return [self._shifted(b, n, 0) for n, part in enumerate(self._parts) for b in part.test()]

    def decode(self, ids: Sequence[int]) -> str:
        """Stretches of one task's ids, each as that task spells them."""
        stretches = itertools.groupby(ids, lambda i: max(n for n, offset in enumerate(self._offsets) if offset <= i))
        return " ".join(self._parts[n].decode([i - self._offsets[n] for i in some]) for n, some in stretches)

    def totals(self) -> SuiteTotals:
        """Empty sums a task."""
        return SuiteTotals([part.totals() for part in self._parts], self._offsets)

    def _shifted(self, batch: Batch, n: int, width: int) -> Batch:
        from torch.nn import functional as F

        pad = (0, max(0, width - batch.inputs.shape[1]))
        targets = (batch.targets + self._offsets[n]).masked_fill(batch.targets == IGNORE, IGNORE)
        reset = None if batch.reset is None else F.pad(batch.reset, pad)
        return Batch(
            F.pad(batch.inputs + self._offsets[n], pad, value=self._offsets[n]),
            F.pad(targets, pad, value=IGNORE),
            reset,
        )


VARIANTS = register(Suite)
