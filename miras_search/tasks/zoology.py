"""MQAR as its authors generate and mix it, so that a result can stand beside their curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.tasks.base import IGNORE, TEST, VALIDATION, Batch, Published, TaskData, to_batch
from miras_search.tasks.draws import Draws
from miras_search.tasks.synthetic import Drawn, Split, Synthetic

if TYPE_CHECKING:
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

    @property
    def together(self) -> int:
        """One batch of a mix, since what is drawn at once has one setting."""
        return 1 if self.mix == "original" else super().together

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
        if not (wide := self.context - inputs.shape[1] if split == "train" else 0):
            return inputs, targets
        return np.pad(inputs, ((0, 0), (0, wide))), np.pad(targets, ((0, 0), (0, wide)), constant_values=IGNORE)

    def rows(self, draws: Draws, rows: int, setting: Setting) -> Rows:
        """Rows of a setting, [R, length - 1]."""
        import numpy as np

        length, pairs, half = setting.length - 1, setting.pairs, self.vocabulary // 2
        keys = draws.distinct(half - 1, pairs, rows)
        values = draws.distinct(self.vocabulary - half, pairs, rows)
        keys += 1
        values += half
        inputs = np.zeros((rows, length), dtype=np.int64)
        inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
        weights = np.arange(1, (setting.length - 2 * pairs) // 2 + 1) ** (self.power - 1.0)
        asked = draws.weighted(weights, pairs, rows)
        asked *= 2
        asked += 2 * pairs + length * np.arange(rows)[:, None]
        targets = np.full((rows, length), np.full(length, IGNORE))  # a row of them is copied faster
        inputs.reshape(-1)[asked], targets.reshape(-1)[asked] = keys, values
        if self.filler:
            inputs = np.where(inputs == 0, draws.few(self.vocabulary, rows, length), inputs)
        return inputs, targets

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


VARIANTS = register(MqarZoology)
