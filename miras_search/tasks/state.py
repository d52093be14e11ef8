"""State tracking: parity, modular arithmetic and word problems of groups. A linear recurrence with a diagonal of positive
eigenvalues solves none of them at lengths it was not trained on.

Shapes: `R` rows, `n` the longest row.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.tasks.base import IGNORE, Draws, Published
from miras_search.tasks.synthetic import Split, Synthetic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miras_search.tasks.synthetic import Rows

_UNLOCKING = "Grazzi et al. 2024, arXiv 2411.12537; github.com/automl/unlocking_state_tracking"


class Tracking(Synthetic):
    """What the three share: lengths in training and, for length generalisation, in evaluation; what is scored.

    Rows of `shortest` to `longest` symbols in training, `eval_shortest` to `eval_longest` in evaluation (0: as in training), padded to
    the longest. `score`: the state after `every` symbol, or after the `last` one of the row alone.
    """

    shortest: int = Field(3, ge=1, le=65536)
    longest: int = Field(40, ge=1, le=65536)
    eval_shortest: int = Field(0, ge=0, le=65536)
    eval_longest: int = Field(0, ge=0, le=65536)
    score: Literal["every", "last"] = "every"

    @property
    def context(self) -> int:
        """Tokens of a training row."""
        return self.longest

    @property
    def longer(self) -> str:
        """How to lengthen the rows."""
        return "raise the task's `longest`"

    @model_validator(mode="after")
    def _ordered(self) -> Tracking:
        for what, (least, most) in (("", self._lengths("train")), ("eval_", self._lengths("test"))):
            if least > most:
                raise ValueError(f"{what}shortest: {least} is more than {what}longest: {most}; swap them")
        return self

    def _lengths(self, split: Split) -> tuple[int, int]:
        if split == "train":
            return self.shortest, self.longest
        return self.eval_shortest or self.shortest, self.eval_longest or max(self.longest, self.eval_shortest)

    def _sizes(self, draws: Draws, rows: int, split: Split) -> tuple[NDArray[np.int64], int]:
        """Symbols of every row, [R, 1], and the longest possible."""
        low, high = self._lengths(split)
        return low + draws.below(high - low + 1, rows, 1), high

    def _finish(self, symbols: NDArray[np.int64], states: NDArray[np.int64], size: NDArray[np.int64], pad: int) -> Rows:
        import numpy as np

        place = np.arange(symbols.shape[1])
        scored = place < size if self.score == "every" else place == size - 1
        return np.where(place < size, symbols, pad), np.where(scored, states, IGNORE)


class Parity(Tracking):
    """Parity of a string of bits: is the number of ones odd? One bit of state, flipped by every one.

    s_t = s_{t-1} xor x_t. A diagonal state with eigenvalues in [0, 1] cannot alternate; one in [-1, 1] can.
    """

    kind: Literal["parity"] = "parity"
    published: ClassVar[Published | None] = Published(
        _UNLOCKING,
        "accuracy",
        "trained on 3 to 40 bits, tested on 40 to 256: Mamba and DeltaNet with eigenvalues in [0, 1] fail, in [-1, 1] solve it "
        "(width 128, 2 layers, 20,000 steps of 256, lr 1e-3; from the abstract)",
    )

    @property
    def vocab(self) -> int:
        """0, 1 and padding."""
        return 3

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 0.5

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Uniform bits."""
        size, n = self._sizes(draws, rows, split)
        bits = draws.below(2, rows, n)
        return self._finish(bits, bits.cumsum(1) % 2, size, 2)

    def spell(self, token: int) -> str:
        """Padding as `_`."""
        return "01_"[token]


class ModularArithmetic(Tracking):
    """Value of an expression without brackets modulo m, `3+2*4-1=`; multiplication binds more tightly.

    Symbols are counted with their operators: a row of length n has (n - 1) / 2 digits or so, the last an equals sign, at which the
    value is scored (`score: every`: at every digit as well, the value of the expression up to there).
    """

    kind: Literal["modular_arithmetic"] = "modular_arithmetic"
    published: ClassVar[Published | None] = Published(
        f"Deletang et al. 2022, arXiv 2207.02098; {_UNLOCKING}",
        "accuracy",
        "modulo 5, trained on 3 to 40 symbols, tested on 40 to 256 (width 128, 2 layers, 100,000 steps of 256); numbers not at hand",
    )
    modulus: int = Field(5, ge=2, le=256)
    shortest: int = Field(4, ge=2, le=65536)
    score: Literal["every", "last"] = "last"

    @property
    def vocab(self) -> int:
        """Digits, + - *, = and padding."""
        return self.modulus + 5

    @property
    def chance(self) -> float:
        """Accuracy of a guess, about."""
        return 1.0 / self.modulus

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Digits and operators in turn."""
        import numpy as np

        m = self.modulus
        size, n = self._sizes(draws, rows, split)
        size = size // 2 * 2  # digit, operator, .., digit, equals
        n = n // 2 * 2
        digits, operators = draws.below(m, rows, n // 2), draws.below(3, rows, n // 2)
        symbols = np.empty((rows, n), dtype=np.int64)
        symbols[:, ::2], symbols[:, 1::2] = digits, m + operators
        values = np.empty_like(symbols)
        total, term = np.zeros((2, rows), dtype=np.int64)  # value = total + term; a product may still grow the term
        for i in range(n // 2):
            before = operators[:, i - 1] if i else np.zeros(rows, dtype=np.int64)
            times = before == 2
            total = np.where(times, total, (total + term) % m)
            term = np.where(times, term * digits[:, i], np.where(before == 1, -digits[:, i], digits[:, i])) % m
            values[:, 2 * i] = values[:, 2 * i + 1] = (total + term) % m
        np.put_along_axis(symbols, size - 1, m + 3, axis=1)
        inputs, targets = self._finish(symbols, values, size, m + 4)
        if self.score == "every":  # at digits and at the equals sign
            targets[(inputs >= m) & (inputs < m + 3)] = IGNORE
        return inputs, targets

    def spell(self, token: int) -> str:
        """Digits and signs; padding `_`."""
        return str(token) if token < self.modulus else "+-*=_"[token - self.modulus]


class WordProblem(Tracking):
    """Running product of group elements: after every symbol, which element is the product so far?

    s_t = s_{t-1} x_t, (a b)(i) = a(b(i)) for permutations. `group`: `s5` (120 elements) and `a5` (60), whose word problems are
    complete for NC1; `a4xz5` (60, solvable) and `z60` (60, abelian). `exact` counts rows with all states right.
    """

    kind: Literal["word_problem"] = "word_problem"
    published: ClassVar[Published | None] = Published(
        "Merrill et al. 2024, arXiv 2404.08819; github.com/jopetty/word-problem",
        "exact",
        "what is reported is the least number of layers that reaches .99 at each length (2 to 20; width 512, up to 1M rows a length)",
    )
    group: Literal["s5", "a5", "a4xz5", "z60"] = "s5"
    shortest: int = Field(20, ge=1, le=65536)
    longest: int = Field(20, ge=1, le=65536)

    @property
    def vocab(self) -> int:
        """Elements, and padding."""
        return (120 if self.group == "s5" else 60) + 1

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1.0 / (self.vocab - 1)

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Uniform elements."""

        table = product_table(self.group)
        size, n = self._sizes(draws, rows, split)
        symbols = draws.below(self.vocab - 1, rows, n)
        states = symbols.copy()
        for t in range(1, n):
            states[:, t] = table[states[:, t - 1], symbols[:, t]]
        return self._finish(symbols, states, size, self.vocab - 1)

    def spell(self, token: int) -> str:
        """Elements by number, in the order of `elements`; padding `_`."""
        return "_" if token == self.vocab - 1 else f"g{token}"


def elements(group: str) -> list[tuple[int, ...]]:
    """The elements as permutations, in lexicographic order (direct products: the second factor runs fastest); the identity first."""
    if group == "z60":
        return [tuple((i + shift) % 60 for i in range(60)) for shift in range(60)]
    points = 4 if group == "a4xz5" else 5
    found = [p for p in permutations(range(points)) if group == "s5" or _even(p)]
    if group != "a4xz5":
        return found
    return [p + tuple(4 + (i + shift) % 5 for i in range(5)) for p in found for shift in range(5)]


def _even(p: tuple[int, ...]) -> bool:
    return sum(p[i] > p[j] for j in range(len(p)) for i in range(j)) % 2 == 0


@lru_cache(maxsize=4)
def product_table(group: str) -> NDArray[np.int64]:
    """`table[a, b]` is the element a b, first b then a; int64 [|G|, |G|]."""
    import numpy as np

    known = elements(group)
    index = {p: i for i, p in enumerate(known)}
    return np.array([[index[tuple(a[b[i]] for i in range(len(a)))] for b in known] for a in known])


VARIANTS = register(Parity, ModularArithmetic, WordProblem)
