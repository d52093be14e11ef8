"""Language modelling of text: bytes or a BPE, scored in bits per byte."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.errors import TaskError
from miras_search.tasks import sources
from miras_search.tasks.base import IGNORE, TRAIN, Batch, Metric, Stream, Task, TaskData, Totals, to_batch
from miras_search.tasks.draws import Draws
from miras_search.tasks.tokenizer import BYTES_VOCAB, read_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miras_search.tasks.store import Store


class Text(Task):
    """Next-token prediction on text, by default the help texts of Python itself, a byte a token.

    `source`: `python-docs` (374 KB) or `python-source` (9.8 MB), which every Python carries; a path or glob of UTF-8
    text, .jsonl or .parquet files (`text_field`); or `hf:NAME` of the Hugging Face hub (`subset`, `revision`).
    `validation`, `test`: files of their own; what is not given is cut from the end of the training text, `holdout` of
    its bytes each, with a margin between. Python's texts are freed of repeated paragraphs and split by document.
    `tokenizer`: `bytes`, or `bpe` with `bpe_vocab` ids, trained on the training part, or a folder with the `tokenizer.json`
    of a Hugging Face model that gives texts back unchanged. `<|endoftext|>` (or that tokenizer's own end) stands before every
    document; evaluation does not score it.
    `context`: tokens a row. Training rows begin anywhere; evaluation rows do not overlap, hold `eval_tokens` at most
    and are spread over the part. `reset`: the memory starts afresh at every document inside a row.

    bits_per_byte = sum of nll over predicted tokens / (ln 2 x bytes they decode to), comparable between tokenizers
    where `eval_tokens` covers the part. late_bits_per_byte counts the second half of every row only:
    a memory shows there. context_gain = bits per byte of the first eighth of the rows less those of the second half: a model that cannot
    use its context has none. perplexity = exp(nll a token).
    On python-docs bytes, a unigram model reaches 4.61 and a bigram model 3.26 bits per byte; a model of width 128 with
    convolutions and no memory at all 1.96 after 200 steps: compare with a zeroed memory, never with n-grams.
    """

    kind: Literal["text"] = "text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("bits_per_byte", "min", "bits/byte"),
        Metric("late_bits_per_byte", "min", "bits/byte"),
        Metric("perplexity", "min", "per token"),
        Metric("context_gain", "max", "bits/byte"),
    )

    source: str = Field("python-docs", min_length=1)
    validation: str | None = None
    test: str | None = None
    subset: str | None = None
    revision: str | None = None
    text_field: str = "text"
    tokenizer: str = Field("bytes", min_length=1)
    bpe_vocab: int = Field(2048, gt=BYTES_VOCAB, le=1 << 20)
    context: int = Field(256, ge=2, le=1 << 20)
    holdout: float = Field(0.1, gt=0.0, lt=0.5)
    eval_tokens: int = Field(32768, ge=1)
    reset: bool = False

    @model_validator(mode="after")
    def _fields_that_apply(self) -> Text:
        hub, own = self.source.startswith("hf:"), self.source in ("python-docs", "python-source")
        for field in ("subset", "revision"):
            if getattr(self, field) is not None and not hub:
                raise ValueError(f"{field} applies to source: hf:NAME, not to {self.source!r}; leave it out")
        for field in ("validation", "test"):
            if getattr(self, field) is not None and (hub or own):
                raise ValueError(f"{field} applies to files; {self.source!r} brings its own split; leave it out")
        return self

    @property
    def vocab(self) -> int:
        """257 for bytes, `bpe_vocab` for bpe, else what the folder's tokenizer has.

        Raises:
            TaskError: if that cannot be read.
        """
        if self.tokenizer == "bytes":
            return BYTES_VOCAB
        return self.bpe_vocab if self.tokenizer == "bpe" else read_tokenizer(self.tokenizer).vocab

    def prepare(self, cache: Path | None = None) -> TextData:
        """Read, split and tokenise the text.

        Raises:
            TaskError: for a text that is missing, empty, not UTF-8, or shorter than a row.
            MissingExtra: for hf:NAME without `datasets`.
        """
        from miras_search.tasks import store

        corpus = self._corpus()
        how: int | str | None = {"bytes": None, "bpe": self.bpe_vocab}.get(self.tokenizer, self.tokenizer)
        loaded = store.load(corpus, how, cache, self.source)
        for split, ids in loaded.ids.items():
            if len(ids) <= self.context:
                raise TaskError(
                    f"the {split} part has {len(ids)} tokens; a row of context {self.context} needs {self.context + 1}",
                    where=getattr(self, split, None) or self.source,
                    hint="use a longer text" + (f", or context: {len(ids) - 1} or less" if len(ids) > 2 else ""),
                )
        return TextData(self, loaded, dict(corpus.facts))

    def metrics_from(self, totals: Totals) -> dict[str, float]:
        """Bits per byte over all and over the second half of the rows; perplexity a token."""
        nll = totals.mean_nll
        return {
            "bits_per_byte": _bits(totals.nll, totals.bytes),
            "late_bits_per_byte": _bits(totals.late_nll, totals.late_bytes),
            "perplexity": math.exp(nll) if not nll > 700 else math.inf,
            "context_gain": _first(totals) - _bits(totals.late_nll, totals.late_bytes),
        }

    def _corpus(self) -> sources.Corpus:
        if self.source == "python-docs":
            return sources.python_docs(self.holdout)
        if self.source == "python-source":
            return sources.python_source(self.holdout)
        if self.source.startswith("hf:"):
            name = self.source.removeprefix("hf:")
            return sources.hugging_face(name, self.subset, self.revision, self.text_field, self.holdout)
        return sources.files(self.source, self.validation, self.test, self.text_field, self.holdout)


class TextData(TaskData):
    """A tokenised text; `end` is the id that stands before every document."""

    def __init__(self, task: Text, store: Store, facts: dict[str, str]) -> None:
        super().__init__(task)
        self._task, self._store, self._facts = task, store, facts
        self.tokenizer_json, self.end = store.tokenizer.json, store.tokenizer.end

    @cached_property
    def hashes(self) -> dict[str, str]:
        """sha256[:16] of the text of each part and of the tokenizer; the Python version for its own texts."""
        tokenizer = hashlib.sha256(self._store.tokenizer.json.encode()).hexdigest()[:16]
        return self._store.hashes | {"tokenizer": tokenizer} | self._facts

    def tokens(self, split: str) -> int:
        """Tokens of a part, `train`, `validation` or `test`."""
        return len(self._store.ids[split])

    def part(self, split: str) -> NDArray[np.unsignedinteger[Any]]:
        """All ids of a part."""
        return self._store.ids[split]

    def train(self, seed: int) -> Stream:
        """Rows that begin at random places of the training part."""
        ids = self._store.ids["train"]

        def batch(step: int) -> Batch:
            starts = Draws(seed, TRAIN, step).below(len(ids) - self.context, self.batch)
            return self._rows(ids, starts, score_ends=True)

        return Stream(batch)

    def validation(self) -> list[Batch]:
        """Rows without overlap, spread over the validation part."""
        return self._fixed("validation")

    def test(self) -> list[Batch]:
        """Rows without overlap, spread over the test part."""
        return self._fixed("test")

    def encode(self, text: str) -> list[int]:
        """Text as tokens, without `<|endoftext|>`."""
        return [int(i) for i in self._store.tokenizer.encode(text.encode())]

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text."""
        return self._store.tokenizer.decode(ids)

    def totals(self) -> Totals:
        """Empty sums that count bytes as well."""
        import torch

        return Totals(lengths=torch.from_numpy(self._store.tokenizer.lengths))

    def _fixed(self, split: str) -> list[Batch]:
        import numpy as np

        ids = self._store.ids[split]
        rows = (len(ids) - 1) // self.context
        kept = min(rows, max(1, self._task.eval_tokens // self.context))
        starts = np.arange(kept) * rows // kept * self.context
        return [self._rows(ids, starts[i : i + self.batch], score_ends=False) for i in range(0, kept, self.batch)]

    def _rows(self, ids: NDArray[np.unsignedinteger[Any]], starts: NDArray[np.int64], *, score_ends: bool) -> Batch:
        import numpy as np

        rows = ids[starts[:, None] + np.arange(self.context + 1)].astype(np.int64)
        inputs, targets = rows[:, :-1], rows[:, 1:]
        if not score_ends:
            targets = np.where(targets == self.end, IGNORE, targets)
        return to_batch(inputs, targets, inputs == self.end if self._task.reset else None)


def _first(totals: Totals) -> float:
    """Bits per byte of the first eighth of the rows."""
    if totals.at is None:
        return math.nan
    _, nats, _, size = totals.at[: max(1, len(totals.at) // 8)].sum(0).tolist()
    return _bits(nats, int(size))


def _bits(nats: float, size: int) -> float:
    return nats / math.log(2) / size if size else math.nan


VARIANTS = register(Text)
