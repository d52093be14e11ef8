"""What a task is: a frozen spec that prepares data, seeded streams of batches, and the metrics made from summed scores.

A spec imports neither torch nor numpy; `prepare` does. A training batch is a pure function of (seed, step), so a stream
resumes anywhere at once and every design sees the same data in the same order. A user's task is one class: fields,
`vocab`, `context`, `metrics`, `prepare`, and `VARIANTS = register(MyTask)` at the file's foot.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
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

IGNORE = -100
"""Target of a position that is not scored."""

TRAIN, VALIDATION, TEST = 0, 1, 2
"""Streams of random numbers: two of them never share a draw, whatever their seeds."""


class Metric(NamedTuple):
    """A number a task reports: its name, whether more or less is better, and its unit ("" for a plain ratio)."""

    name: str
    goal: Literal["max", "min"]
    unit: str = ""


class Batch(NamedTuple):
    """Rows of tokens and what is to be predicted.

    `inputs`, `targets`: int64 [B, T]; the logits at position t are scored against `targets[:, t]`, -100 is not scored.
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
    """

    lengths: torch.Tensor | None = None
    count: int = 0
    nll: float = 0.0
    correct: int = 0
    bytes: int = 0
    late_count: int = 0
    late_nll: float = 0.0
    late_bytes: int = 0

    def add(self, nll: torch.Tensor, correct: torch.Tensor, targets: torch.Tensor) -> None:
        """Take in a batch.

        Args:
            nll: float [B, T], nats; summed in float64. Positions whose target is -100 may hold anything.
            correct: bool [B, T], the most likely token is the target.
            targets: int64 [B, T].
        """
        scored = targets != IGNORE
        nats = nll.double().masked_fill(~scored, 0.0)
        half = targets.shape[1] // 2
        self.count += int(scored.sum())
        self.nll += float(nats.sum())
        self.correct += int((correct.bool() & scored).sum())
        self.late_count += int(scored[:, half:].sum())
        self.late_nll += float(nats[:, half:].sum())
        if self.lengths is not None:
            lengths = self.lengths.to(targets.device)[targets.clamp_min(0)].masked_fill(~scored, 0)
            self.bytes += int(lengths.sum())
            self.late_bytes += int(lengths[:, half:].sum())

    @property
    def mean_nll(self) -> float:
        """Nats a scored token; NaN if none was scored."""
        return self.nll / self.count if self.count else math.nan

    @property
    def accuracy(self) -> float:
        """Fraction of the scored tokens that were the most likely one (micro); NaN if none was scored."""
        return self.correct / self.count if self.count else math.nan


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


class Task(Choice, ABC):
    """Base of all tasks: what a trial trains on and is judged by.

    `name` is how ledger and objectives call the task (`name.accuracy`); by default its kind. `batch`: rows a step.
    """

    role: ClassVar[str] = "task"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", "max"), Metric("nll", "min", "nats/token"))
    """What `metrics_from` returns; the first is the primary one."""

    name: str = Field("", pattern=r"^([A-Za-z][A-Za-z0-9_-]*)?$", validate_default=True)
    batch: int = Field(32, ge=1, le=65536)

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
        return {"accuracy": totals.accuracy, "nll": totals.mean_nll}

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


class Draws:
    """Random numbers of (seed, stream, step), the same on every machine and numpy version.

    Only the raw 64-bit output of PCG64 is used: numpy guarantees that, but not its distributions.
    """

    def __init__(self, seed: int, stream: int, step: int) -> None:
        import numpy as np

        # spawn_key, not a longer entropy list: SeedSequence pads entropy with zeros, so [1] and [1, 0] would be one.
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream, step)))

    def raw(self, *shape: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words."""
        return self._bits.random_raw(math.prod(shape)).reshape(shape)

    def below(self, n: int, *shape: int) -> NDArray[np.int64]:
        """Uniform integers in [0, n), int64; the bias is below n / 2**64."""
        import numpy as np

        return (self.raw(*shape) % np.uint64(n)).astype(np.int64)

    def orders(self, rows: int, n: int) -> NDArray[np.int64]:
        """A random permutation of 0 .. n - 1 in every row, int64 [rows, n]."""
        import numpy as np

        return np.argsort(self.raw(rows, n), axis=1).astype(np.int64)


def to_batch(inputs: NDArray[np.int64], targets: NDArray[np.int64], reset: NDArray[np.bool_] | None = None) -> Batch:
    """Arrays as a batch of tensors on the CPU."""
    import numpy as np
    import torch

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    return Batch(tensor(inputs), tensor(targets), None if reset is None else tensor(reset))


def batches_hash(batches: Iterable[Batch]) -> str:
    """First 16 hex digits of the SHA-256 of inputs and targets, int64 little-endian."""
    digest = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.inputs, batch.targets):
            digest.update(tensor.numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]
