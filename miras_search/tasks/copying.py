"""Copying and n-gram look-up of strings: what a fixed-size state cannot hold, and whether it works at other lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.tasks.base import IGNORE, Draws, Published
from miras_search.tasks.synthetic import Split, Synthetic, pick

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miras_search.tasks.synthetic import Rows


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
        """Examples, packed for training."""
        import numpy as np

        low, high = self._lengths(split)
        if split != "train":
            tokens, scored, _ = self._examples(draws, rows, low, high)
        else:
            shortest = low + 3 if self.form == "string" and not self.answer else low + 4
            each = self.length // shortest + 1
            parts, marks, sizes = self._examples(draws, rows * each, low, high)
            sizes = sizes.reshape(rows, each)
            start = sizes.cumsum(1) - sizes
            kept = start + sizes <= self.length  # whole examples; the next one is cut and not scored
            tokens = np.full((rows, self.length), self.letters + 3, dtype=np.int64)
            scored = np.zeros((rows, self.length), dtype=bool)
            at = start[:, :, None] + np.arange(parts.shape[1])
            inside = (np.arange(parts.shape[1]) < sizes[:, :, None]) & (at < self.length)
            row = np.broadcast_to(np.arange(rows)[:, None, None], at.shape)
            tokens[row[inside], at[inside]] = parts.reshape(at.shape)[inside]
            scored[row[inside], at[inside]] = (marks.reshape(at.shape) & kept[:, :, None])[inside]
        return tokens[:, :-1], np.where(scored, tokens, IGNORE)[:, 1:]

    def _examples(
        self, draws: Draws, count: int, low: int, high: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Tokens padded to the longest possible example, which of them are answers, and the tokens of each example."""
        import numpy as np

        dollar, bar, stop, pad = range(self.letters, self.letters + 4)
        size = low + draws.below(high - low + 1, count, 1)
        string = draws.below(self.letters, count, high)
        gram = string[:, :0]
        begin = np.zeros_like(size)
        if self.form != "string":
            n = self.ngram
            chosen = (draws.raw(count, 1) % (size - n - max(1, self.answer) + 1).astype(np.uint64)).astype(np.int64)
            gram = pick(string, chosen + np.arange(n))
            starts = high - n + 1
            same = np.ones((count, starts), dtype=bool)
            for i in range(n):
                same &= string[:, i : i + starts] == gram[:, i : i + 1]
            begin = same.argmax(1)[:, None] + n  # an earlier occurrence counts
        rest = size - begin
        if self.answer:
            rest = np.minimum(rest, self.answer)

        # the example as stretches: each with its length and a function of the place inside
        place = np.arange(self._example(high))
        tokens = np.full((count, len(place)), pad, dtype=np.int64)
        at = np.zeros_like(size)

        def put(values: NDArray[np.int64], length: NDArray[np.int64], first: NDArray[np.int64]) -> None:
            nonlocal at
            inside = (place >= at) & (place < at + length)
            index = np.clip(place - at + first, 0, max(0, values.shape[1] - 1))
            np.copyto(tokens, np.take_along_axis(values, index, axis=1), where=inside)
            at = at + length

        def sign(token: int) -> None:
            put(np.full((count, 1), token), np.ones_like(size), np.zeros_like(size))

        zero, n_gram = np.zeros_like(size), np.full_like(size, self.ngram)
        sign(dollar)
        if self.form == "prefix":
            put(gram, n_gram, zero)
            sign(bar)
        put(string, size, zero)
        sign(bar)
        if self.form == "suffix":
            put(gram, n_gram, zero)
        answer = at
        put(string, rest, begin)
        sign(stop)
        return tokens, (place >= answer) & (place < at), at

    def spell(self, token: int) -> str:
        """Letters as a, b, ... (beyond 26 by number), then `$`, `|`, `.` and `*`."""
        if token >= self.letters:
            return "$|.*"[token - self.letters]
        return chr(ord("a") + token) if self.letters <= 26 else f"l{token}"


VARIANTS = register(Copying)
