"""MQAR as its authors generate and mix it, so that a result can stand beside their curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.tasks.base import IGNORE, TEST, VALIDATION, Batch, Draws, Published, TaskData, remainder, to_batch
from miras_search.tasks.synthetic import Drawn, Split, Synthetic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miras_search.tasks.synthetic import Rows


class Setting(NamedTuple):
    """Rows of one length and number of pairs: how many of them."""

    length: int
    pairs: int
    rows: int


ORIGINAL_TRAIN = (
    Setting(64, 4, 100_000),
    Setting(128, 8, 20_000),
    Setting(256, 16, 20_000),
    Setting(256, 32, 20_000),
    Setting(256, 64, 20_000),
)
ORIGINAL_TEST = tuple(
    Setting(*size, 1000) for size in ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256))
)


class MqarZoology(Synthetic):
    """Multi-query associative recall as in Zoology and Based: queries fall into gaps by a power law.

    `pairs` keys of [1, V / 2) and values of [V / 2, V), each without replacement, written as k v; then each key is asked for once, at
    slot 2 i after the pairs, slots chosen without replacement with weights a i^(a - 1), a = `power`. What is left is 0, or with
    `filler` a random token. Scored: the value, at the query.

    `mix: iclr24` is one setting (`length`, `pairs`): (64, 4), (128, 8), (256, 16), (512, 64) in the paper, 100,000 rows each.
    `mix: original` is that of the state-size curves: trained on (64, 4), (128, 8), (256, 16), (256, 32), (256, 64), 100,000 rows of
    the first to 20,000 of each other, a batch being of one setting; tested on 1,000 each of (64, 4), (64, 8), (64, 16), (128, 32),
    (256, 64), (512, 128), (1024, 256), longer and fuller than any it was trained on. Its training rows are padded to 256, so that a
    step has one number of tokens; nothing is scored there.
    """

    kind: Literal["mqar_zoology"] = "mqar_zoology"
    published: ClassVar[Published | None] = Published(
        "Arora et al. 2023, arXiv 2312.04927 (iclr24); Arora et al. 2024, arXiv 2402.18668 (original); github.com/HazyResearch/zoology, "
        "zoology/data/multiquery_ar.py",
        "row_accuracy",
        "original, state bytes -> accuracy, digitised (+- .005): DeltaNet 8.9k .793, 34.2k .963, 133.6k .995; Gated DeltaNet 17.1k .890, "
        "66.8k .988, 257k .993; RWKV-7 17.1k .816, 132k .914, 1.04M .980; GLA 4.8k .532, 17.9k .771, 68.3k .950; Mamba-2 8.2k .520, 32.6k "
        ".784, 97.9k .844; attention 524k .999. iclr24, length 256, widths 64 to 512, by eye: attention 1; H3 .06 .64 .62 .67; RWKV .05 "
        ".06 .67 .79; Hyena .04 .13 .53 .69",
        {"lr": (1e-4, 4.6e-4, 2.2e-3, 1e-2)},
    )

    mix: Literal["iclr24", "original"] = "iclr24"
    vocabulary: int = Field(8192, ge=8, le=1 << 20)
    length: int = Field(64, ge=8, le=1 << 20)
    pairs: int = Field(4, ge=1, le=65536)
    power: float = Field(0.01, gt=0.0, le=1.0)
    filler: bool = False
    batch: int = Field(256, ge=1, le=65536)
    train: int = Field(100_000, ge=0)
    validation: int = Field(1000, ge=1)
    test: int = Field(3000, ge=1)

    @property
    def vocab(self) -> int:
        """All ids."""
        return self.vocabulary

    @property
    def context(self) -> int:
        """Tokens of a training row: the last one is only predicted."""
        return max(setting.length for setting in self.settings("train")) - 1

    @property
    def longer(self) -> str:
        """How to lengthen the rows."""
        return "raise the task's `length`"

    @model_validator(mode="after")
    def _fits(self) -> MqarZoology:
        for length, pairs, _ in {*self.settings("train"), *self.settings("test")}:
            if 4 * pairs > length or length % 2:
                raise ValueError(
                    f"length: {length} has no room for pairs: {pairs}; use an even length of {4 * pairs} or more"
                )
            if 2 * (pairs + 1) > self.vocabulary:
                raise ValueError(
                    f"vocabulary: {self.vocabulary} has too few keys for pairs: {pairs}; raise vocabulary to {2 * pairs + 2}"
                )
        return self

    def settings(self, split: Split) -> tuple[Setting, ...]:
        """Lengths and pairs of a split, with the rows of each."""
        if self.mix == "original":
            return ORIGINAL_TRAIN if split == "train" else ORIGINAL_TEST
        rows = {"train": self.train, "validation": self.validation, "test": self.test}[split]
        return (Setting(self.length, self.pairs, rows),)

    def grid(self) -> list[dict[str, float]]:
        """Learning rates of the publication: 10^-4 to 10^-2 (iclr24), 10^-3 to 10^-1.5 (original), four of each."""
        if self.protocol == "paper" and self.mix == "original":
            return [{"lr": lr} for lr in (1e-3, 3.2e-3, 1e-2, 3.2e-2)]
        return super().grid()

    def prepare(self, cache: Path | None = None) -> TaskData:
        """Nothing to read."""
        return Mixed(self)

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Rows of one setting, drawn in proportion to its rows; training rows are padded to the longest."""
        import numpy as np

        known = self.settings(split)
        at = int(draws.below(sum(s.rows for s in known) or 1, 1)[0]) if len(known) > 1 else 0
        setting = next(s for i, s in enumerate(known) if at < sum(x.rows for x in known[: i + 1]) or len(known) == 1)
        inputs, targets = self.rows(draws, rows, setting)
        wide = self.context - inputs.shape[1] if split == "train" else 0
        return np.pad(inputs, ((0, 0), (0, wide))), np.pad(targets, ((0, 0), (0, wide)), constant_values=IGNORE)

    def rows(self, draws: Draws, rows: int, setting: Setting) -> Rows:
        """Rows of a setting, [R, length - 1]."""
        import numpy as np

        length, pairs, _ = setting
        half = self.vocabulary // 2
        keys = 1 + _some(draws, rows, half - 1, pairs)
        values = half + _some(draws, rows, self.vocabulary - half, pairs)
        tokens = np.zeros((rows, length), dtype=np.int64)
        tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
        places = (length - 2 * pairs) // 2
        weights = np.rint(self.power * np.arange(1, places + 1) ** (self.power - 1.0) * 2.0**36).astype(np.uint64)
        asked = _weighted(np.maximum(weights, np.uint64(1)), draws.raw(rows, pairs))
        at = 2 * pairs + 2 * asked
        targets = np.full((rows, length), IGNORE, dtype=np.int64)
        np.put_along_axis(tokens, at, keys, axis=1)
        np.put_along_axis(targets, at, values, axis=1)
        if self.filler:
            tokens = np.where(tokens == 0, draws.below(self.vocabulary, rows, length), tokens)
        return tokens[:, :-1], targets[:, :-1]

    def spell(self, token: int) -> str:
        """Keys and values by number; 0 is `_`."""
        half = self.vocabulary // 2
        return "_" if token == 0 else f"k{token}" if token < half else f"v{token - half}"


class Mixed(Drawn):
    """Fixed sets hold the rows of every setting, one after another, in batches of one setting."""

    task: MqarZoology

    def _fixed(self, split: Literal["validation", "test"]) -> list[Batch]:
        stream, batches = VALIDATION if split == "validation" else TEST, []
        for n, setting in enumerate(self.task.settings(split)):
            for start in range(0, setting.rows, _BLOCK):
                rows = min(_BLOCK, setting.rows - start)
                inputs, targets = self.task.rows(Draws(n, stream, start // _BLOCK), _BLOCK, setting)
                batches.append(to_batch(inputs[:rows], targets[:rows]))
        return batches


_BLOCK = 128


def _some(draws: Draws, rows: int, n: int, count: int) -> NDArray[np.int64]:
    """`count` distinct numbers below n in every row, in random order."""
    import numpy as np

    if 4 * count > n:
        return draws.orders(rows, n)[:, :count]
    # Floyd's sampling: a number that is there already is replaced by the largest of the moment
    words, row = draws.raw(rows, count), np.arange(rows)
    found = np.empty((rows, count), dtype=np.int64)
    there = np.zeros((rows, n), dtype=bool)
    for i, largest in enumerate(range(n - count, n)):
        number = remainder(words[:, i], largest + 1)
        found[:, i] = np.where(there[row, number], largest, number)
        there[row, found[:, i]] = True
    return np.take_along_axis(found, draws.orders(rows, count), axis=1)


def _weighted(weights: NDArray[np.uint64], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places drawn in proportion to their weights without replacement, a word a draw: [n], [R, count] -> int64 [R, count].

    One after another, since what is taken is no longer there; by blocks of about sqrt(n) places, so a draw costs two of them.
    """
    import numpy as np

    rows, count = words.shape
    size = math.isqrt(len(weights) - 1) + 1
    blocks = -(-len(weights) // size)
    left = np.zeros((rows, blocks, size), dtype=np.uint64)
    left.reshape(rows, -1)[:, : len(weights)] = weights
    sums, row = left.sum(2), np.arange(rows)
    out = np.empty((rows, count), dtype=np.int64)
    for i in range(count):
        ends = sums.cumsum(1)
        point = words[:, i] % ends[:, -1]
        block = (ends > point[:, None]).argmax(1)
        inner = left[row, block]
        point -= ends[row, block] - sums[row, block]
        at = (inner.cumsum(1) > point[:, None]).argmax(1)
        out[:, i] = block * size + at
        sums[row, block] -= inner[row, at]
        left[row, block, at] = 0
    return out


VARIANTS = register(MqarZoology)
