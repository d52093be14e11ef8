"""Tasks whose rows are drawn from random numbers: fresh ones or a finite set for training, fixed ones to compare on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from miras_search.tasks.base import TEST, TRAIN, VALIDATION, Batch, Stream, Task, TaskData, to_batch
from miras_search.tasks.draws import Draws

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = tuple[NDArray[Any], NDArray[Any]]

Split = Literal["train", "validation", "test"]

_EPOCH = 3  # the stream that orders the batches of a finite training set
_BLOCK = 128  # rows drawn at once for validation and test


class Synthetic(Task):
    """Base of tasks that are drawn: a subclass gives `draw`, and `spell` for people.

    `train`: distinct training rows, whose batches come in a new order every epoch; 0: fresh ones every step.
    `validation`, `test`: rows of the fixed sets; they depend on nothing but the fields.
    """

    train: int = Field(0, ge=0)
    validation: int = Field(512, ge=1)
    test: int = Field(1024, ge=1)

    @model_validator(mode="after")
    def _batch_is_full(self) -> Synthetic:
        if 0 < self.train < self.batch:
            raise ValueError(
                f"train: {self.train} rows do not fill a batch of {self.batch}; lower batch or use train: 0"
            )
        return self

    @property
    def together(self) -> int:
        """Training batches drawn at once."""
        return batches_together(self)

    @abstractmethod
    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Inputs and targets of `rows` rows, arrays as in `Batch`; vectorised over rows."""

    def spell(self, token: int) -> str:
        """A token as a person reads it."""
        return str(token)

    def prepare(self, cache: Path | None = None) -> TaskData:
        """Nothing to read: rows are drawn when asked for."""
        return Drawn(self)


class Drawn(TaskData):
    """Rows of a `Synthetic` task: the training seed, validation and test have streams of random numbers of their own."""

    def __init__(self, task: Synthetic) -> None:
        super().__init__(task)
        self.task = task

    def train(self, seed: int) -> Stream:
        """Fresh rows at every step, or those of a finite set, in an order given by the seed."""
        task = self.task
        per_epoch = task.train // task.batch
        together = min(task.together, per_epoch or task.together)
        rows_of = 0 if task.train else seed  # a finite set is the same for all seeds
        rows = together * task.batch
        drawn = by_blocks(lambda number: to_batch(*task.draw(Draws(rows_of, TRAIN, number), rows)), together)
        if not per_epoch:
            return Stream(drawn)

        @lru_cache(maxsize=1)
        def order(epoch: int) -> list[int]:
            return epoch_order(Draws(seed, _EPOCH, epoch), per_epoch, together)

        return Stream(lambda step: drawn(order(step // per_epoch)[step % per_epoch]))

    def validation(self) -> list[Batch]:
        """`validation` rows, always the same."""
        return self._fixed("validation")

    def test(self) -> list[Batch]:
        """`test` rows, always the same."""
        return self._fixed("test")

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens by name, with spaces between."""
        return " ".join(self.task.spell(i) for i in ids)

    def _fixed(self, split: Literal["validation", "test"]) -> list[Batch]:
        inputs, targets = fixed(self.task, split)
        starts = range(0, len(inputs), self.batch)
        return [to_batch(inputs[i : i + self.batch], targets[i : i + self.batch]) for i in starts]


def batches_together(task: Task) -> int:
    """Batches worth drawing at once, up to 2^18 tokens: a call of numpy costs as much as some hundred numbers."""
    return max(1, min(100, (1 << 18) // task.tokens_per_step))


def by_blocks(draw: Callable[[int], Batch], together: int) -> Callable[[int], Batch]:
    """Batches by number, from a function that draws a block of so many; the last block is kept, and they are views of it."""

    @lru_cache(maxsize=1)
    def block(number: int) -> list[Batch]:
        whole = draw(number)
        return list(map(Batch, whole.inputs.chunk(together), whole.targets.chunk(together)))

    return lambda batch: block(batch // together)[batch % together]


def epoch_order(draws: Draws, batches: int, together: int) -> list[int]:
    """The batches of a finite set in random order, those of a block one after another, since a block is drawn as a whole."""
    blocks = -(-batches // together)
    first = draws.orders(1, blocks)[0]
    inside = draws.orders(blocks, together)[first]
    found: list[int] = (first[:, None] * together + inside).reshape(-1).tolist()
    return [batch for batch in found if batch < batches]


def fixed(task: Synthetic, split: Literal["validation", "test"]) -> Rows:
    """All rows of a fixed set."""
    import numpy as np

    rows, stream = (task.validation, VALIDATION) if split == "validation" else (task.test, TEST)
    # drawn in blocks of a constant size, so the set does not depend on the batch, and a larger one begins alike
    blocks = [task.draw(Draws(0, stream, block), _BLOCK, split) for block in range(-(-rows // _BLOCK))]
    inputs, targets = (np.concatenate(arrays)[:rows] for arrays in zip(*blocks, strict=True))
    return inputs, targets


def pick(values: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
    """`values[row, index[row]]`: [rows, n], [rows, m] -> [rows, m]."""
    import numpy as np

    return np.take_along_axis(values, index, axis=1)
