"""Copying and n-gram look-up of strings: what a fixed-size state cannot hold, and whether it works at other lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.tasks.base import IGNORE, Published
from miras_search.tasks.draws import Draws
from miras_search.tasks.synthetic import Split, Synthetic

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
        """Examples, packed for training.

        The letters of all strings stand one after another in a pool, and behind them once more, marked as scored. A row is read out of
        the pool by runs; the signs are written over their ends.
        """
        import numpy as np

        low, high = self._lengths(split)
        length = self.length if split == "train" else self._example(high)
        most = length // int(self._least(np.array(low))) + 1 if split == "train" else 1
        size = low + draws.few(high - low + 1, rows, most)
        least = self._least(size)
        used = int((least.cumsum(1) - least < length).sum(1).max())  # the others begin beyond the end of every row
        size = size[:, :used]
        behind = size.cumsum(1)
        room = int(behind[:, -1].max())
        kind: type[np.signedinteger[Any]] = np.int16 if self.letters < 1 << 13 else np.int32
        scored = 1 << 14 if self.letters < 1 << 13 else 1 << 20  # a bit no token has
        letters: NDArray[np.signedinteger[Any]] = draws.few(self.letters, rows * room).astype(kind)
        pool = np.concatenate([letters, letters | kind(scored)])
        first = behind - size + room * np.arange(rows)[:, None]  # of a string, in the pool
        runs = self._runs(draws, letters, first, size)
        source, tokens = (np.stack(np.broadcast_arrays(*parts), axis=2) for parts in zip(*runs, strict=True))
        ends = tokens.reshape(rows, -1).cumsum(1).reshape(tokens.shape)
        source[:, :, -1] += len(letters) * (ends[:, :, -1] <= length)  # what is cut off is not scored

        # places in the pool go on by one and jump where a run begins; the last column takes what is beyond
        flat, width = np.arange(rows)[:, None] * (length + 1), length + 1
        jump = source.reshape(rows, -1).copy()
        jump[:, 1:] -= (source + tokens).reshape(rows, -1)[:, :-1] - 1
        begins = ends - tokens
        steps = np.full(rows * width, 1)
        steps[np.minimum(begins.reshape(rows, -1), length) + flat] = jump
        place = steps.reshape(rows, width).cumsum(1)
        out = pool.take(place, mode="clip")
        dollar, bar, stop = self.letters, self.letters + 1, self.letters + 2 | scored
        signs = [(dollar, begins[:, :, 0]), (bar, ends[:, :, 0] - 1), (stop, ends[:, :, -1] - 1)]
        if self.form == "prefix":
            signs.append((bar, ends[:, :, 1] - 1))
        for sign, at in signs:
            out.reshape(-1)[np.minimum(at, length) + flat] = sign
        if split != "train":
            out = np.where(np.arange(width) < ends[:, 0, -1:], out, kind(self.letters + 3))

        tokens = out & kind(scored - 1)
        targets = (tokens - kind(IGNORE)) * (out >= scored) + kind(IGNORE)
        return tokens[:, : length - 1].astype(np.int64), targets[:, 1:length].astype(np.int64)

    def _least(self, size: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens that examples of strings of these sizes have at least."""
        import numpy as np

        if self.form == "string":
            return size + 3 + (np.minimum(size, self.answer) if self.answer else size)
        return size + self.ngram + max(1, self.answer) + (4 if self.form == "prefix" else 3)

    def _runs(
        self, draws: Draws, letters: NDArray[np.signedinteger[Any]], first: NDArray[np.int64], size: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64] | int]]:
        """The runs of an example, `$` and `|` counted in: place in the pool and number of tokens; the last one, answer and `.`, is scored."""
        import numpy as np

        n, begin = self.ngram, first
        if self.form != "string":
            gram = first + draws.few(size - n - max(1, self.answer) + 1, *size.shape)
            gram = _earliest(_codes(letters, n, self.letters), first, gram)
            begin = gram + n
        rest = size - (begin - first)
        answer = (begin, (np.minimum(rest, self.answer) if self.answer else rest) + 1)
        if self.form == "prefix":
            return [(gram - 1, n + 2), (first, size + 1), answer]
        return [(first - 1, size + 2), *([(gram, n)] if self.form == "suffix" else []), answer]

    def spell(self, token: int) -> str:
        """Letters as a, b, ... (beyond 26 by number), then `$`, `|`, `.` and `*`."""
        if token >= self.letters:
            return "$|.*"[token - self.letters]
        return chr(ord("a") + token) if self.letters <= 26 else f"l{token}"


def _earliest(
    codes: NDArray[np.unsignedinteger[Any]], first: NDArray[np.int64], at: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The earliest place from `first` on that has the code of the place `at`."""
    import numpy as np

    code, found, before, first = codes[at].reshape(-1), at.reshape(-1).copy(), at.reshape(-1).copy(), first.reshape(-1)
    for _ in range(int((found - first).max())):
        before -= 1
        same = np.flatnonzero(codes.take(before, mode="clip") == code)
        same = same[before[same] >= first[same]]
        found[same] = before[same]
    return found.reshape(at.shape)


def _codes(letters: NDArray[np.signedinteger[Any]], n: int, kinds: int) -> NDArray[np.unsignedinteger[Any]]:
    """A number for the n letters from each place on, equal where these are; fewer at the end."""
    import numpy as np

    parts: NDArray[np.unsignedinteger[Any]] = letters.astype(np.min_scalar_type(min(kinds**n, 1 << 62)))
    codes, most = parts, kinds
    for i in range(1, n):
        if most * kinds >= 1 << 62:
            codes = np.unique(codes, return_inverse=True)[1].astype(np.uint64)
            most = len(codes)
        codes = codes[:-1] * codes.dtype.type(kinds) + parts[i:]
        most *= kinds
    return codes


VARIANTS = register(Copying)
