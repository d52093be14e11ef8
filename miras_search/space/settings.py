"""The part of a space that is not searched: budget, objectives, how to search, when to stop early."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from miras_search.choice import Frozen

Tokens = Annotated[int, Field(ge=1)]

Sampler = Literal["random", "grid", "survey", "tpe", "nsga2", "evolution"]
ADAPTIVE: tuple[Sampler, ...] = ("tpe", "nsga2", "evolution")
"""Those that follow results: what they draw shows what is best, and not what matters."""

COSTS: dict[str, Literal["max", "min"]] = {
    "parameters": "min",
    "state_bytes": "min",
    "flops_per_token": "min",
    "tokens_per_second": "max",
    "seconds": "min",
}
"""Objectives that are columns of the ledger rather than metrics of a task, and what is better."""


class Budget(Frozen):
    """How long a trial trains: `tokens` for every task, or a number a task, `{mqar: 1e6, text: 4e5}`."""

    tokens: Tokens | dict[str, Tokens]

    def of(self, task: str) -> int:
        """Tokens of that task."""
        return self.tokens[task] if isinstance(self.tokens, dict) else self.tokens


class Objective(Frozen):
    """What is better: `metric` is `TASK.METRIC` (validation), or one of `COSTS`."""

    metric: str
    goal: Literal["max", "min"]

    @property
    def task(self) -> str:
        """The task whose metric it is; empty for a cost."""
        return self.metric.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The metric's name within its task."""
        return self.metric.rpartition(".")[2]


class Search(Frozen):
    """How candidates are suggested.

    `sampler`: `survey` (balanced over the four choices, for what matters); for what is best `tpe` (Optuna), `nsga2`,
    `evolution`, `random` or `grid` (every point, discrete spaces only). `parallel`: trials at a time; a suggestion sees
    the results of all but the last so many. `trials`: rows of the ledger, candidates x tasks x seeds.
    """

    sampler: Sampler = "tpe"
    seed: int = Field(0, ge=0, le=2**31 - 1)
    parallel: int = Field(2, ge=1, le=4096)
    trials: int = Field(12, ge=1, le=1_000_000)


class LrSearch(Frozen):
    """The learning rate, searched inside every trial, so that each design is compared at one that suits it.

    All rates of `grid` are trained; at each of `rungs` (a fraction of the budget) the best `keep` go on, at the last one
    only the best, which is the trial. Rungs of [1] train them all to the end. `by`: the split that decides, by the loss.
    `within`: rates whose loss at the first rung is at most so much (relative) above the survivor's are said to work.
    """

    grid: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(min_length=2, max_length=16)
    by: Literal["validation"] = "validation"
    rungs: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field((0.25, 0.5), min_length=1, max_length=16)
    keep: float = Field(0.5, gt=0.0, lt=1.0)
    within: float = Field(0.05, gt=0.0)

    @model_validator(mode="after")
    def _rising(self) -> LrSearch:
        for name in ("grid", "rungs"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} {list(values)} do not rise; write them in order, each once")
        return self

    def left(self, count: int, rung: int) -> int:
        """How many of so many go on from a rung."""
        return 1 if rung + 1 == len(self.rungs) else max(1, math.floor(self.keep * count + 1e-9))

    @property
    def work(self) -> float:
        """Tokens that are trained on in all, in budgets."""
        total, count, start = 1.0, len(self.grid), 0.0
        for rung, end in enumerate(self.rungs):
            total += (count - 1) * (end - start)
            count, start = self.left(count, rung), end
        return total


class Finalists(Frozen):
    """The best `count` of a search, trained again with `seeds` fresh seeds and then, once, tested on the test split."""

    count: int = Field(ge=1, le=1000)
    seeds: int = Field(3, ge=1, le=1000)


class Checkpoints(Frozen):
    """What the weights of a run may take on the disk.

    `keep`: of so many candidates, the best by Pareto rank, weights stay, and those of finalists; by default of all.
    `max_gb`: all checkpoints together, those of trials at work included; the worst candidate's weights go first. A trial
    that needs more than its part of it, `max_gb / parallel`, is refused before it is trained.
    """

    keep: int | None = Field(None, ge=0)
    max_gb: float | None = Field(None, gt=0.0)


LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]


class Loggers(Frozen):
    """Where loss curves and results go besides the ledger: `loggers: [tensorboard, csv]`; by default nowhere."""

    to: tuple[LoggerName, ...] = ()


class Halving(Frozen):
    """Successive halving: at each rung (a fraction of the budget) the best `keep` of the trials there go on.

    `trust`: nobody is stopped at a rung before trials that went the whole way show a rank correlation of at least this
    between the rung and the end; -1: from the start. By default 0.5 where the first metric is an accuracy, which is
    learned suddenly, and -1 elsewhere.
    """

    rungs: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = Field(min_length=1, max_length=16)
    keep: float = Field(0.5, gt=0.0, lt=1.0)
    trust: float | None = Field(None, ge=-1.0, le=1.0)

    @model_validator(mode="after")
    def _rising(self) -> Halving:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs {list(self.rungs)} do not rise; write them in order, each once")
        return self
