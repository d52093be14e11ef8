"""Needles in haystacks: one sentence of a long text must be recalled at its end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.errors import TaskError
from miras_search.tasks.base import (
    IGNORE,
    TEST,
    TRAIN,
    VALIDATION,
    Batch,
    Metric,
    Published,
    Stream,
    Task,
    TaskData,
    to_batch,
)
from miras_search.tasks.draws import Draws
from miras_search.tasks.synthetic import batches_together, by_blocks
from miras_search.tasks.text import Text
from miras_search.tasks.tokenizer import BYTES_VOCAB, byte_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEPTHS = 40
"""Evaluation puts the needle at this many evenly spaced depths."""

# 64 of five letters each, so that every row has one length
_ADJECTIVES = """
amber basic blank bland brave brief brisk broad chief civic civil clean clear close crisp dense eager early empty
equal exact extra faint final fixed fresh giant grand great green happy harsh heavy ideal joint known large legal
light local loose loyal lunar major minor moral muted naive noble novel outer plain polar prime quick quiet rapid
ready rigid rough royal rural sharp solar
"""
_NOUNS = """
actor angle apple arrow beach berry blade board brick brush cabin cable canal chain chair chalk cliff clock cloud
coast comet crane crown dance drill eagle earth fence field flame flute forge frost fruit glass globe grape horse
hotel house jewel knife ladle lemon lever maple metal model mouse night ocean olive opera organ panel paper pearl
piano pilot plant plate river robot stone
"""
ADJECTIVES, NOUNS = _ADJECTIVES.split(), _NOUNS.split()

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
"""Haystack of `needle: passkey`."""

KEY, VALUE = "KEY", "VALUE"
_TYPES = {"passkey": "numbers", "number": "numbers", "word": "words", "uuid": "uuids"}
_LENGTHS = {"passkey": 7, "number": 7, "word": 11, "uuid": 36}


def template(needle: str) -> tuple[list[str], list[str]]:
    """Sentence and question, in pieces; `KEY` and `VALUE` stand for themselves."""
    kind = _TYPES[needle]
    one = kind[:-1]
    return (
        [f" One of the special magic {kind} for ", KEY, " is: ", VALUE, ". "],
        [
            f"\nWhat is the special magic {one} for ",
            KEY,
            f" mentioned in the provided text? The special magic {one} for ",
            KEY,
            " mentioned in the provided text is: ",
            VALUE,
        ],
    )


class Niah(Task):
    """Single needle in a haystack (S-NIAH), in bytes: a key's value is said once in a long text and asked for at its end.

    "One of the special magic numbers for KEY is: VALUE." stands somewhere in a stretch of text, then comes the question, then the
    value, which alone is scored. KEY and a `word` are an adjective and a noun of 64 each; `needle: passkey` and `number` are 7
    digits, `uuid` 36 characters. The haystack of `passkey` is one sentence again and again, of the others the text of `source`:
    `python-source`, or your file or glob (its parts for training, validation and test are those of `text`). Training puts the
    needle anywhere, evaluation at 40 depths in turn. `exact` is the share of values of which every byte is the most likely one after
    those before it, which is when greedy decoding writes the value.

    The benchmark asks pretrained models, with essays as haystack; here a model is trained on the task (`loss: answer`), or on the text
    as well (`all`), so published numbers say how the task is scored, not what to reach.
    """

    kind: Literal["niah"] = "niah"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("exact", "max"), *(m for m in Task.metrics if m.name != "exact"))
    published: ClassVar[Published | None] = Published(
        "Hsieh et al. 2024, arXiv 2404.06654; github.com/NVIDIA/RULER, scripts/data/synthetic (niah_single_1 to _3)",
        "exact",
        "passkey / number / third task at 2K, 4K, 8K, 16K (secondary sources; the third is uuid in RULER, printed as word): Titans LMM 99.8 "
        "98.4 98.2 96.2 / 100 99.8 93.4 80.2 / 90.4 89.4 85.8 80.6; DeltaNet 96.8 98.8 98.6 71.4 / 47.2 15.4 12.8 5.4 / 46.2 20.0 1.6 0; "
        "Mamba-2 98.6 61.4 31.0 5.4 / 98.4 55.8 14.2 0 / 42.2 4.2 0 0; TTT 98.4 98.8 98.0 88.4 / 60.2 36.6 10.2 4.4 / 78.8 28.0 4.4 0; at "
        "8K, 8K, 4K: Moneta 98.8 92.8 70.8, Yaad 94.4 93.2 67.4, Memora 92.6 93.2 70.4",
    )

    needle: Literal["passkey", "number", "word", "uuid"] = "number"
    source: str = Field("python-source", min_length=1)
    context: int = Field(512, ge=2, le=1 << 20)
    holdout: float = Field(0.1, gt=0.0, lt=0.5)
    loss: Literal["answer", "all"] = "answer"
    validation: int = Field(500, ge=1)
    test: int = Field(500, ge=1)

    @property
    def vocab(self) -> int:
        """Bytes."""
        return BYTES_VOCAB

    @property
    def hay(self) -> int:
        """Bytes of text around the needle."""
        sizes = {KEY: 11, VALUE: _LENGTHS[self.needle]}
        return self.context + 1 - sum(sizes.get(piece, len(piece)) for part in template(self.needle) for piece in part)

    @model_validator(mode="after")
    def _room(self) -> Niah:
        if self.hay < 0:
            raise ValueError(
                f"context: {self.context} has no room for the needle; use {self.context - self.hay} or more"
            )
        return self

    def prepare(self, cache: Path | None = None) -> NiahData:
        """Read the haystack.

        Raises:
            TaskError: as `text` does.
        """
        return NiahData(self, cache)


class NiahData(TaskData):
    """Rows with a needle each."""

    def __init__(self, task: Niah, cache: Path | None) -> None:
        import numpy as np

        super().__init__(task)
        self.task = task
        self._tokenizer = byte_tokenizer()
        self.tokenizer_json = self._tokenizer.json
        self._text: dict[str, NDArray[Any]] = {}
        self._known: dict[bytes, NDArray[np.int64]] = {}  # tokens of the pieces that all rows have
        self._facts: dict[str, str] = {}
        if task.needle == "passkey":
            noise = self._ids(NOISE.encode() * (2 + task.hay // len(NOISE))).astype(np.uint16)
            self._text = dict.fromkeys(("train", "validation", "test"), noise)
            return
        text = Text(source=task.source, holdout=task.holdout, context=max(2, task.hay)).prepare(cache)
        self._facts = text.hashes
        self._text = {split: text.part(split) for split in ("train", "validation", "test")}
        short = min(self._text, key=lambda split: len(self._text[split]))
        if len(self._text[short]) <= task.hay:
            raise TaskError(
                f"the {short} part has {len(self._text[short])} bytes; a haystack has {task.hay}",
                where=task.source,
                hint="use a longer text or a smaller context",
            )

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Those of the text, or of the first training batch and the fixed sets where there is none."""
        return self._facts or super().hashes

    def train(self, seed: int) -> Stream:
        """Needles anywhere in the training part."""
        together = batches_together(self.task)
        rows = together * self.batch
        return Stream(by_blocks(lambda n: self._rows(Draws(seed, TRAIN, n), rows, "train", None), together))

    def validation(self) -> list[Batch]:
        """Needles at 40 depths in turn, in the validation part."""
        return self._fixed(VALIDATION, self.task.validation, "validation")

    def test(self) -> list[Batch]:
        """The same in the test part."""
        return self._fixed(TEST, self.task.test, "test")

    def decode(self, ids: Sequence[int]) -> str:
        """Text."""
        return self._tokenizer.decode(ids)

    def encode(self, text: str) -> list[int]:
        """Bytes."""
        return [int(i) for i in self._tokenizer.encode(text.encode())]

    def _ids(self, text: bytes) -> NDArray[np.int64]:
        import numpy as np

        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text).astype(np.int64)
        return self._known[text]

    def _fixed(self, stream: int, count: int, split: str) -> list[Batch]:
        batches = []
        for start in range(0, count, _BLOCK):
            # drawn in blocks of a constant size, so that the set does not depend on the batch, and a larger one begins alike
            whole = self._rows(Draws(0, stream, start // _BLOCK), _BLOCK, split, start)
            rows = min(_BLOCK, count - start)
            ends = [(i, min(i + self.batch, rows)) for i in range(0, rows, self.batch)]
            batches += [Batch(whole.inputs[i:j], whole.targets[i:j]) for i, j in ends]
        return batches

    def _rows(self, draws: Draws, rows: int, split: str, first: int | None) -> Batch:
        """`first`: number of the first row of a fixed set, whose depths are a grid; None: depths are drawn."""
        import numpy as np

        task, text, hay = self.task, self._text[split], self.task.hay
        key, value = self._pair(draws, rows), self._value(draws, rows)
        filled = {KEY: key, VALUE: value}

        def row_of(pieces: list[str]) -> NDArray[np.int64]:
            ids = [filled[p] if p in filled else np.tile(self._ids(p.encode()), (rows, 1)) for p in pieces]
            return np.concatenate(ids, axis=1)

        needle, question = map(row_of, template(task.needle))
        # a text is cut anywhere, the noise always begins with its first sentence
        begin = np.zeros(rows, dtype=np.int64) if task.needle == "passkey" else draws.below(len(text) - hay, rows)
        depth = draws.below(hay + 1, rows)
        if first is not None:
            depth = (first + np.arange(rows)) % DEPTHS * hay // (DEPTHS - 1)
        # the text, and the text moved on by the needle's width, from which on it stands behind the needle
        width = needle.shape[1]
        twice = np.zeros((rows, width + hay + width), dtype=text.dtype)
        twice[:, width : width + hay] = np.lib.stride_tricks.sliding_window_view(text, hay)[begin] if hay else 0
        before, behind = twice[:, width:], twice[:, : hay + width]
        late = np.arange(hay + width, dtype=np.int32) >= depth.astype(np.int32)[:, None]
        row = np.empty((rows, hay + width + question.shape[1]), dtype=text.dtype)
        row[:, : hay + width] = before ^ (before ^ behind) * late.astype(text.dtype)
        at = depth + row.shape[1] * np.arange(rows)
        row.reshape(-1)[at[:, None] + np.arange(width)] = needle
        row[:, hay + width :] = question
        targets = row[:, 1:].astype(np.int64)
        if task.loss == "answer" or first is not None:
            targets[:, : -value.shape[1]] = IGNORE
        return to_batch(row[:, :-1].astype(np.int64), targets)

    def _pair(self, draws: Draws, rows: int) -> NDArray[np.int64]:
        """Adjective-noun, [rows, 11]."""
        import numpy as np

        parts = [
            self._ids("".join(group).encode()).reshape(64, 5)[draws.below(64, rows)] for group in (ADJECTIVES, NOUNS)
        ]
        return np.concatenate([parts[0], np.tile(self._ids(b"-"), (rows, 1)), parts[1]], axis=1)

    def _value(self, draws: Draws, rows: int) -> NDArray[np.int64]:
        if self.task.needle == "word":
            return self._pair(draws, rows)
        if self.task.needle == "uuid":
            value = self._ids(b"0123456789abcdef")[draws.below(16, rows, 36)]
            value[:, [8, 13, 18, 23]] = self._ids(b"-")
            value[:, 14] = self._ids(b"4")  # version 4, variant 8 to b
            value[:, 19] = self._ids(b"89ab")[draws.below(4, rows)]
            return value
        digits = draws.below(10, rows, 7)
        digits[:, 0] = 1 + draws.below(9, rows)
        return self._ids(b"0123456789")[digits]


_BLOCK = 120  # rows drawn at once for a fixed set: every depth three times

VARIANTS = register(Niah)
