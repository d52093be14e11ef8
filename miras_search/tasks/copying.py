"""Copying and n-gram look-up of strings: what a fixed-size state cannot hold, and whether it works at other lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.tasks.base import IGNORE, Draws, Published, remainder
from miras_search.tasks.synthetic import Split, Synthetic, pick

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miras_search.tasks.synthetic import Rows

_SCORED = 40
"""Bit of a pointer that marks a scored token."""


class Copying(Synthetic):
    """Copy a random string, or what follows an n-gram of it: `$str|str.`, `$ngram|str|rest.`, `$str|ngram rest.`

    `form`: `string`, `prefix` (the n-gram comes first, and can be looked for in one pass) or `suffix` (it comes after). What
    follows is counted from the n-gram's first occurrence; `answer` letters of it, 0: to the end of the string.
    Strings of `shortest` to `longest` letters. Training packs examples into rows of `length` tokens, what is cut off at the end is not
    scored; evaluation has one example a row, of `eval_shortest` to `eval_longest` letters (0: as in training), padded: longer
    ones show whether the rule was learned or the length. Scored: the answer and its full stop; `exact` counts whole strings.

    The authors' default answers run to the end of the string; they choose among n-grams of strings with at least one n-gram that is
    unique, here every string is taken.
    """

    kind: Literal["copying"] = "copying"
    published: ClassVar[Published | None] = Published(
        "Jelassi et al. 2024, arXiv 2402.01032; github.com/sjelassi/transformers_ssm_copy, synthetic_exps/data_utils.py",
        "exact",
        "no table of numbers is at hand: figures of Transformers (width 1024, 12 layers) against Mamba (state 32) and LSTM",
    )

    form: Literal["string", "prefix", "suffix"] = "string"
    letters: int = Field(26, ge=2, le=65536)
    ngram: int = Field(3, ge=1, le=64)
    answer: int = Field(0, ge=0, le=4096)
    shortest: int = Field(5, ge=1, le=16384)
    longest: int = Field(20, ge=1, le=16384)
    eval_shortest: int = Field(0, ge=0, le=16384)
    eval_longest: int = Field(0, ge=0, le=16384)
    length: int = Field(220, ge=4, le=1 << 20)

    @property
    def vocab(self) -> int:
        """Letters, then `$`, `|`, `.` and padding `*`."""
        return self.letters + 4

    @property
    def context(self) -> int:
        """Tokens of a training row: the last one is only predicted."""
        return self.length - 1

    @property
    def longer(self) -> str:
        """How to lengthen the rows."""
        return "raise the task's `length`"

    @model_validator(mode="after")
    def _fits(self) -> Copying:
        low, high = self._lengths("validation")
        for what, least, most in (("", self.shortest, self.longest), ("eval_", low, high)):
            if least > most:
                raise ValueError(f"{what}shortest: {least} is more than {what}longest: {most}; swap them")
            need = self._needed
            if least < need:
                raise ValueError(
                    f"{what}shortest: {least} letters are too few for ngram and answer; use {need} or more"
                )
        if self._example(self.longest) > self.length:
            raise ValueError(
                f"length: {self.length} has no room for an example of longest: {self.longest}; raise length to "
                f"{self._example(self.longest)}"
            )
        return self

    @property
    def _needed(self) -> int:
        return 1 if self.form == "string" else self.ngram + max(1, self.answer)

    def _example(self, letters: int) -> int:
        """Tokens of the longest example of a string of this many letters."""
        if self.form == "string":
            return letters + (min(self.answer, letters) or letters) + 3
        rest = self.answer or letters - self.ngram
        return letters + self.ngram + rest + (4 if self.form == "prefix" else 3)

    def _lengths(self, split: Split) -> tuple[int, int]:
        if split == "train":
            return self.shortest, self.longest
        return self.eval_shortest or self.shortest, self.eval_longest or max(self.longest, self.eval_shortest)

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Examples, packed for training.

        A row is read out of its strings by one pointer a token, which goes on by one and jumps where a stretch begins.
        """
        import numpy as np

        low, high = self._lengths(split)
        train = split == "train"
        length = self.length if train else self._example(high)
        shortest = low + 3 if self.form == "string" and not self.answer else low + 4
        each = length // shortest + 1 if train else 1
        size = low + draws.below(high - low + 1, rows, each)
        words = draws.raw(rows, each, high)
        grams = draws.raw(rows, each) if self.form != "string" else None
        # what begins beyond the end of every row is not made
        least = self._least(size)
        used = int(((least.cumsum(1) - least) < length).sum(1).max())
        size, words = size[:, :used], words[:, :used]

        width = high + 3  # of an example's string with its signs
        strings = np.empty((rows, used, width), dtype=np.int64)
        strings[:, :, 0], strings[:, :, high + 1], strings[:, :, high + 2] = range(self.letters, self.letters + 3)
        strings[:, :, 1 : high + 1] = remainder(words, self.letters)
        stretches = self._stretches(strings[:, :, 1 : high + 1], size, None if grams is None else grams[:, :used])
        source, tokens = (np.stack(np.broadcast_arrays(*parts), axis=2) for parts in zip(*stretches, strict=True))
        ends = tokens.reshape(rows, -1).cumsum(1)
        total = tokens.sum(2)
        kept = ends.reshape(tokens.shape)[:, :, -1] <= length  # whole examples; the next one is cut and not scored
        # place -> pointer: place + base, constant over a stretch; bit 40 marks what is scored, the last two stretches
        start = ends - tokens.reshape(rows, -1)
        base = source + width * np.arange(used)[:, None]
        base[:, :, -2:] += (kept[:, :, None]).astype(np.int64) << _SCORED
        base = base.reshape(rows, -1) - start
        jump = np.zeros((rows, length + 1), dtype=np.int64)
        np.put_along_axis(jump, np.minimum(start, length), np.diff(base, axis=1, prepend=0), axis=1)
        pointer = jump[:, :length].cumsum(1) + np.arange(length)
        scored = pointer >> _SCORED != 0
        pointer &= (1 << _SCORED) - 1
        if train:
            out = pick(strings.reshape(rows, -1), pointer)
        else:
            inside = np.arange(length) < total
            scored &= inside
            out = np.where(inside, pick(strings.reshape(rows, -1), np.where(inside, pointer, 0)), self.letters + 3)
        return out[:, :-1], np.where(scored, out, IGNORE)[:, 1:]

    def _least(self, size: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens that examples of strings of these sizes have at least."""
        import numpy as np

        if self.form == "string":
            return size + 3 + (np.minimum(size, self.answer) if self.answer else size)
        return size + self.ngram + max(1, self.answer) + (4 if self.form == "prefix" else 3)

    def _stretches(
        self, string: NDArray[np.int64], size: NDArray[np.int64], grams: NDArray[np.uint64] | None
    ) -> list[tuple[NDArray[np.int64] | int, NDArray[np.int64] | int]]:
        """An example as stretches of `$`, string, `|`, `.` in a row: where each begins there, and how many tokens it has."""
        import numpy as np

        bar, stop = string.shape[2] + 1, string.shape[2] + 2
        begin = np.zeros_like(size)
        gram: NDArray[np.int64] | int = 0
        if grams is not None:
            n = self.ngram
            gram = (grams % (size - n - max(1, self.answer) + 1).astype(np.uint64)).astype(np.int64)
            starts = string.shape[2] - n + 1
            same = np.ones((*size.shape, starts), dtype=bool)
            for i in range(n):
                same &= string[:, :, i : i + starts] == np.take_along_axis(string, gram[:, :, None] + i, axis=2)
            begin = same.argmax(2) + n  # an earlier occurrence counts
            gram = gram + 1
        rest = np.minimum(size - begin, self.answer) if self.answer else size - begin
        answer = [(1 + begin, rest), (stop, 1)]
        if self.form == "prefix":
            return [(0, 1), (gram, self.ngram), (bar, 1), (1, size), (bar, 1), *answer]
        asked = [(gram, self.ngram)] if self.form == "suffix" else []
        return [(0, size + 1), (bar, 1), *asked, *answer]

    def spell(self, token: int) -> str:
        """Letters as a, b, ... (beyond 26 by number), then `$`, `|`, `.` and `*`."""
        if token >= self.letters:
            return "$|.*"[token - self.letters]
        return chr(ord("a") + token) if self.letters <= 26 else f"l{token}"


VARIANTS = register(Copying)
