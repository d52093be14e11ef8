"""Multi-query associative recall, plain and with re-writes: the small task that tells memories apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.tasks.base import IGNORE, Metric, Task, Totals
from miras_search.tasks.draws import Draws
from miras_search.tasks.synthetic import Split, Synthetic

if TYPE_CHECKING:
    from miras_search.tasks.synthetic import Rows

SOLVED = 0.95
"""Accuracy from which on a run counts as solved."""


class Mqar(Synthetic):
    """Multi-query associative recall: write key-value pairs, then ask for the value of each key.

    A row: `pairs + rewrites` writes `k v` in random order, `gap` separators, and `pairs` queries, one a key, shuffled.
    Every key is written once and `rewrites` further writes go to random ones of these keys; a key's last value
    counts. Keys of a row are distinct; values are drawn with replacement, so that no answer follows by elimination:
    chance is exactly 1 / values. Only answers are scored, at the position of the query.

    `query`: `filler` puts a random value after every query, `answer` the right one, `dense` nothing.
    Ids: 0 separator, 1 .. keys the keys, then the values. T = 2 (pairs + rewrites) + gap + pairs (1 if dense, else 2).
    `gap` keeps a short convolution from seeing a write and its query at once: with gap 0, two layers of width 4 and no
    memory reach .23 at 4 pairs and 16 values, where chance is .06.
    `train`: distinct training sequences, whose batches come in a new order every epoch; 0: fresh ones every step.
    `validation`, `test`: sequences of the fixed sets; they depend on nothing but the fields above.

    Source: Zoology (arXiv 2312.04927). There keys and values of a row never repeat and queries fall into gaps by a
    power law; its figure 2, read by eye, length 256, 16 pairs, widths 64 / 128 / 256 / 512: attention 1 / 1 / 1 / 1,
    H3 .06 / .64 / .62 / .67, RWKV .05 / .06 / .67 / .79. Those numbers cannot be compared with this generator's.
    Re-writes are ours: without them linear attention and the delta rule cannot be told apart at this size. At the
    defaults, one layer of width 32, lr 1e-2, 600 steps, three seeds: softmax attention with rotary positions .995 to
    .997, gated delta rule .991 to .999, linear attention .63 to .72; memory zeroed .03, which is chance. Recall comes
    by a sudden transition: report the rate of `solved` rather than means.
    """

    kind: Literal["mqar"] = "mqar"
    metrics: ClassVar[tuple[Metric, ...]] = (*Task.metrics, Metric("solved", "max"))

    pairs: int = Field(8, ge=1, le=4096)
    rewrites: int = Field(8, ge=0, le=4096)
    keys: int = Field(32, ge=1, le=65536)
    values: int = Field(32, ge=2, le=65536)
    gap: int = Field(8, ge=0, le=65536)
    query: Literal["filler", "answer", "dense"] = "filler"

    @model_validator(mode="after")
    def _enough_symbols(self) -> Mqar:
        if self.pairs > self.keys:
            raise ValueError(f"pairs: {self.pairs} distinct keys cannot be drawn from keys: {self.keys}; raise keys")
        return self

    @property
    def context(self) -> int:
        """Tokens a row."""
        return 2 * (self.pairs + self.rewrites) + self.gap + self.pairs * (1 if self.query == "dense" else 2)

    @property
    def vocab(self) -> int:
        """Separator, keys and values."""
        return 1 + self.keys + self.values

    @property
    def chance(self) -> float:
        """Accuracy of guessing a value."""
        return 1.0 / self.values

    @property
    def longer(self) -> str:
        """How to lengthen the rows."""
        return "raise the task's `pairs`, `rewrites` or `gap`"

    @property
    def together(self) -> int:
        """One batch: committed results were trained on these bytes."""
        return 1

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Sequences and their targets, int64 [rows, T]; targets are -100 but at queries."""
        import numpy as np

        pairs, writes, row = self.pairs, self.pairs + self.rewrites, np.arange(rows)[:, None]
        keys = 1 + draws.orders(rows, self.keys)[:, :pairs]  # [rows, pairs], distinct
        owner = np.broadcast_to(np.arange(pairs), (rows, pairs))
        owner = np.concatenate([owner, draws.below(pairs, rows, self.rewrites)], axis=1)
        owner = owner[row, draws.orders(rows, writes)]  # [rows, writes]: whose value the n-th write sets
        value = 1 + self.keys + draws.below(self.values, rows, writes)
        # the slot of a key's last write: the largest n with owner n
        slots = np.where(owner[:, :, None] == np.arange(pairs), np.arange(writes)[:, None], -1).max(axis=1)
        answer = value[row, slots]  # [rows, pairs]
        asked = draws.orders(rows, pairs)

        inputs = np.zeros((rows, self.context), dtype=np.int64)
        targets = np.full((rows, self.context), IGNORE, dtype=np.int64)
        inputs[:, 0 : 2 * writes : 2] = keys[row, owner]
        inputs[:, 1 : 2 * writes : 2] = value
        start, stride = 2 * writes + self.gap, 1 if self.query == "dense" else 2
        inputs[:, start::stride] = keys[row, asked]
        targets[:, start::stride] = answer[row, asked]
        if self.query == "answer":
            inputs[:, start + 1 :: 2] = answer[row, asked]
        elif self.query == "filler":
            inputs[:, start + 1 :: 2] = 1 + self.keys + draws.below(self.values, rows, pairs)
        return inputs, targets

    def spell(self, token: int) -> str:
        """`k3 v17 .. | | k3`: keys, values and separators by number."""
        return "|" if token == 0 else f"k{token - 1}" if token <= self.keys else f"v{token - 1 - self.keys}"

    def metrics_from(self, totals: Totals) -> dict[str, float]:
        """Accuracy and nll over all answers; solved is 1 from accuracy .95 on."""
        return super().metrics_from(totals) | {"solved": float(totals.accuracy >= SOLVED)}


VARIANTS = register(Mqar)
