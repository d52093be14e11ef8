"""The part of a space that is not searched: budget, objectives, how to search, when to stop early."""

from __future__ import annotations

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


class Halving(Frozen):
    """Successive halving: at each rung (a fraction of the budget) the best `keep` of the trials there go on."""

    rungs: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = Field(min_length=1, max_length=16)
    keep: float = Field(0.5, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _rising(self) -> Halving:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs {list(self.rungs)} do not rise; write them in order, each once")
        return self
