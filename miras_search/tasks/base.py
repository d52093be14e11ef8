"""What a task is: a frozen spec that prepares data, seeded streams of batches, and the metrics made from summed scores.

A spec imports neither torch nor numpy; `prepare` does. A training batch is a pure function of (seed, step), so a stream
resumes anywhere at once and every design sees the same data in the same order. A user's task is one class: fields,
`vocab`, `context`, `metrics`, `prepare`, and `VARIANTS = register(MyTask)` at the file's foot.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from miras_search.choice import Choice
from miras_search.errors import TaskError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from miras_search.candidate import Candidate

IGNORE = -100
"""Target of a position that is not scored."""

TRAIN, VALIDATION, TEST = 0, 1, 2
"""Streams of random numbers: two of them never share a draw, whatever their seeds."""


class Metric(NamedTuple):
    """A number a task reports: its name, whether more or less is better, and its unit ("" for a plain ratio)."""

    name: str
    goal: Literal["max", "min"]
    unit: str = ""


class Published(NamedTuple):
    """What a publication reports on a task.

    `source`: where the definition stands. `metric`: what it counts, one of the task's metrics. `numbers`: results as printed, with
    their scale. `grid`: optimiser fields it tries, the best on the test set counting.
    """

    source: str
    metric: str
    numbers: str = ""
    grid: Mapping[str, tuple[float, ...]] = {}


class Batch(NamedTuple):
    """Rows and what is to be predicted.

    `inputs`, `targets`: int64 [B, T]; the logits at position t are scored against `targets[:, t]`, -100 is not scored. For a task
    of vectors (`head: memory`), float32: `inputs` [B, T, 3, D] the queries, keys and values that drive a memory, `targets`
    [B, T, D] what it should answer; every position is scored.
    `reset`: bool [B, T], True at the first token of a new document inside a row; None where no row has any.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    reset: torch.Tensor | None = None


class Stream(Iterator[Batch]):
    """Training batches without end; resumes exactly.

    Args:
        batch: step index -> batch, a pure function.
    """

    def __init__(self, batch: Callable[[int], Batch]) -> None:
        self._batch = batch
        self._step = 0

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        batch = self._batch(self._step)
        self._step += 1
        return batch

    def state(self) -> dict[str, int]:
        """The cursor, as JSON."""
        return {"step": self._step}

    def seek(self, state: dict[str, int]) -> None:
        """Go to where `state()` was taken; takes no time.

        Raises:
            ValueError: if `state` is no cursor of a stream.
        """
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"not the state of a stream: {state!r}")
        self._step = step


@dataclass
class Totals:
    """Sums over the scored positions of a split, from which `Task.metrics_from` makes its metrics.

    `late_*`: the same over the second half of every row (t >= T // 2), where there is more context to use.
    `lengths`: int64 [vocab], bytes a token decodes to; None for tasks that are not text.
    `row_accuracy`: sum over rows of the share of a row's scored tokens that were predicted; `exact`: rows with all of them.
    `hits`, `asked`, `said`: by class, how often it was predicted rightly, was the target, was predicted at a scored position.
    `at`: by position in the row, columns count, nll, correct, bytes; float64 [T, 4].
    """

    lengths: torch.Tensor | None = None
    count: int = 0
    nll: float = 0.0
    correct: int = 0
    bytes: int = 0
    late_count: int = 0
    late_nll: float = 0.0
    late_bytes: int = 0
    rows: int = 0
    row_accuracy: float = 0.0
    exact: int = 0
    hits: torch.Tensor | None = None
    asked: torch.Tensor | None = None
    said: torch.Tensor | None = None
    at: torch.Tensor | None = None
    floor: float | None = None
    """Mean loss of the known optimum or baseline on the same split (`TaskData.floor`)."""

    def add(self, nll: torch.Tensor, predicted: torch.Tensor, targets: torch.Tensor) -> None:
        """Take in a batch.

        Args:
            nll: float [B, T], nats; summed in float64. Positions whose target is -100 may hold anything.
            predicted: int64 [B, T], the most likely token.
            targets: int64 [B, T].
        """
        import torch

        nll, predicted, targets = nll.cpu(), predicted.cpu(), targets.cpu()
        scored = targets != IGNORE
        nats = nll.double().masked_fill(~scored, 0.0)
        right = (predicted == targets) & scored
        sizes = torch.zeros_like(targets)
        if self.lengths is not None:
            sizes = self.lengths.to(targets.device)[targets.clamp_min(0)].masked_fill(~scored, 0)
        half = targets.shape[1] // 2
        self.count += int(scored.sum())
        self.nll += float(nats.sum())
        self.correct += int(right.sum())
        self.bytes += int(sizes.sum())
        self.late_count += int(scored[:, half:].sum())
        self.late_nll += float(nats[:, half:].sum())
        self.late_bytes += int(sizes[:, half:].sum())
        of_row, right_of_row = scored.sum(1), right.sum(1)
        some = of_row > 0
        self.rows += int(some.sum())
        self.row_accuracy += float((right_of_row[some] / of_row[some].double()).sum())
        self.exact += int((right_of_row == of_row)[some].sum())
        self.hits = _grown(self.hits, torch.bincount(targets[right]))
        self.asked = _grown(self.asked, torch.bincount(targets[scored]))
        self.said = _grown(self.said, torch.bincount(predicted[scored]))
        self.at = _grown(self.at, torch.stack([x.double().sum(0) for x in (scored, nats, right, sizes)], 1))

    @property
    def mean_nll(self) -> float:
        """Nats a scored token; NaN if none was scored."""
        return self.nll / self.count if self.count else math.nan

    @property
    def accuracy(self) -> float:
        """Fraction of the scored tokens that were the most likely one (micro); NaN if none was scored."""
        return self.correct / self.count if self.count else math.nan

    @property
    def macro_accuracy(self) -> float:
        """Mean over classes of the fraction of a class that was predicted; NaN if none was scored.

        As MAD counts it (torchmetrics, `average="macro"`): a class that is predicted and never asked for counts 0.
        """
        if self.hits is None or self.asked is None or self.said is None:
            return math.nan
        asked = _grown(self.asked, self.said * 0)
        hits = _grown(self.hits, asked * 0)
        known = (asked + _grown(self.said, asked * 0)) > 0
        return float((hits[known] / asked[known].clamp_min(1).double()).mean()) if bool(known.any()) else math.nan

    @property
    def mean_row_accuracy(self) -> float:
        """Mean over rows of a row's accuracy (per example); NaN if none was scored."""
        return self.row_accuracy / self.rows if self.rows else math.nan

    @property
    def exact_rows(self) -> float:
        """Share of the rows of which every scored token was predicted; NaN if none was scored."""
        return self.exact / self.rows if self.rows else math.nan


def _grown(total: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    """The sum of two tables, the shorter one ending in zeros."""
    import torch

    if total is None:
        return more
    out = torch.zeros(max(len(total), len(more)), *total.shape[1:], dtype=total.dtype)
    out[: len(total)] += total
    out[: len(more)] += more
    return out


class TaskData(ABC):
    """Data of a task, ready for training.

    `vocab`: number of token ids; `context`: tokens a row; `batch`: rows a batch; `metrics`: the primary one first;
    `tokenizer_json`: a Hugging Face `tokenizers` file, for text only.
    """

    tokenizer_json: str | None = None

    def __init__(self, task: Task) -> None:
        self.vocab, self.context, self.batch, self.metrics = task.vocab, task.context, task.batch, task.metrics

    @cached_property
    def hashes(self) -> dict[str, str]:
        """sha256[:16] of the data, for the record: here of the first training batch of seed 0, validation and test."""
        return {
            "train": batches_hash([next(self.train(0))]),
            "validation": batches_hash(self.validation()),
            "test": batches_hash(self.test()),
        }

    @abstractmethod
    def train(self, seed: int) -> Stream:
        """Training batches; the order depends on the seed alone."""

    @abstractmethod
    def validation(self) -> list[Batch]:
        """The fixed batches on which candidates are compared."""

    @abstractmethod
    def test(self) -> list[Batch]:
        """The fixed batches that no choice may depend on."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text, to be read by a person."""

    def encode(self, text: str) -> list[int]:
        """Text as tokens, for a prompt.

        Raises:
            TaskError: if the task is not about text.
        """
        raise TaskError("this task has no tokenizer", hint="use a text task to generate from a prompt")

    def totals(self) -> Totals:
        """Empty sums for one evaluation."""
        return Totals()

    def floor(self, split: Literal["validation", "test"]) -> float | None:
        """Mean loss of the known optimum or baseline on the fixed batches of a split; None where none is known."""
        return None


class Task(Choice, ABC):
    """Base of all tasks: what a trial trains on and is judged by.

    `name` is how ledger and objectives call the task (`name.accuracy`); by default its kind. `batch`: rows a step.
    `protocol`: `sound` compares candidates on validation data, by the first metric, accuracy over all scored tokens (micro); `paper`
    does what the publication does: its metric, on the test set itself, the best of its learning-rate grid counting.
    """

    role: ClassVar[str] = "task"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "max"),
        Metric("nll", "min", "nats/token"),
        Metric("macro_accuracy", "max"),
        Metric("row_accuracy", "max"),
        Metric("exact", "max"),
    )
    """What `metrics_from` returns; the first is the primary one of `protocol: sound`."""
    head: ClassVar[Literal["tokens", "autoencoder", "memory"]] = "tokens"
    """What is trained: a language model, one whose last vector a decoder unfolds, or a bare memory (`miras_search.heads`)."""
    published: ClassVar[Published | None] = None

    name: str = Field("", pattern=r"^([A-Za-z][A-Za-z0-9_-]*)?$", validate_default=True)
    batch: int = Field(32, ge=1, le=65536)
    protocol: Literal["sound", "paper"] = "sound"

    if TYPE_CHECKING:  # a field in one variant, derived from others in the next: a property here would shadow the field

        @property
        def context(self) -> int:
            """Tokens a row, T."""

    @field_validator("name")
    @classmethod
    def _kind_by_default(cls, name: str) -> str:
        return name or cls.variant()

    @property
    @abstractmethod
    def vocab(self) -> int:
        """Number of token ids; equal to that of the prepared data, and known before."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens a training step consumes, batch x context."""
        return self.batch * self.context

    @property
    def chance(self) -> float | None:
        """Primary metric of a model that has learned nothing; None if there is no such number."""
        return None

    @property
    def primary(self) -> Metric:
        """What candidates are compared by: the publication's metric under `protocol: paper`, else the first."""
        wanted = self.published.metric if self.protocol == "paper" and self.published is not None else ""
        return next((metric for metric in self.metrics if metric.name == wanted), self.metrics[0])

    @property
    def compared_on(self) -> Literal["validation", "test"]:
        """The split that candidates are compared on; publications without a validation set take the test set."""
        return "test" if self.protocol == "paper" else "validation"

    def grid(self) -> list[dict[str, float]]:
        """Settings of the optimiser that `protocol: paper` trains every design with, the best counting; else one, empty."""
        axes = self.published.grid if self.protocol == "paper" and self.published is not None else {}
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]

    def trained(self, candidate: Candidate) -> Candidate:
        """The candidate as this task trains it; a task of vectors replaces its backbone."""
        return candidate

    @property
    def longer(self) -> str:
        """How to lengthen the rows, for hints."""
        return "raise the task's `context`"

    @abstractmethod
    def prepare(self, cache: Path | None = None) -> TaskData:
        """Read or set up the data.

        Args:
            cache: folder for what is costly to make again (tokenised text); None keeps it in memory.

        Raises:
            TaskError: if the data cannot be read or is too small.
            MissingExtra: if reading them needs a package that is not installed.
        """

    def metrics_from(self, totals: Totals) -> dict[str, float]:
        """The metrics of a split, keys as in `metrics`."""
        return {
            "accuracy": totals.accuracy,
            "nll": totals.mean_nll,
            "macro_accuracy": totals.macro_accuracy,
            "row_accuracy": totals.mean_row_accuracy,
            "exact": totals.exact_rows,
        }

    def check_chunk(self, chunk: int) -> None:
        """Refuse a design whose chunk is longer than a row: its gradients would never leave the first chunk.

        Raises:
            TaskError: if `chunk > context`.
        """
        if chunk > self.context:
            raise TaskError(
                f"a row has {self.context} tokens, the design's chunk {chunk}: the whole row would be one chunk",
                where=f"task {self.name}",
                hint=f"use chunk: {self.context} or less, or {self.longer}",
            )


def check_names(tasks: Iterable[Task]) -> None:
    """Refuse two tasks of one name.

    Raises:
        TaskError: naming the first that occurs twice.
    """
    seen: set[str] = set()
    for task in tasks:
        if task.name in seen:
            raise TaskError(f"two tasks are called {task.name!r}", hint="give one of them another `name:`")
        seen.add(task.name)


def to_batch(inputs: NDArray[Any], targets: NDArray[Any], reset: NDArray[np.bool_] | None = None) -> Batch:
    """Arrays as a batch of tensors on the CPU."""
    import numpy as np
    import torch

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    return Batch(tensor(inputs), tensor(targets), None if reset is None else tensor(reset))


def batches_hash(batches: Iterable[Batch]) -> str:
    """First 16 hex digits of the SHA-256 of inputs and targets, little-endian int64 (vectors: float32)."""
    digest = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.inputs, batch.targets):
            digest.update(tensor.numpy().astype("<f4" if tensor.is_floating_point() else "<i8").tobytes())
    return digest.hexdigest()[:16]
