"""State tracking: parity, modular arithmetic and word problems of groups. A linear recurrence with a diagonal of positive
eigenvalues solves none of them at lengths it was not trained on.

Shapes: `R` rows, `n` the longest row.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations
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
        return low + draws.few(high - low + 1, rows, 1), high

    def _finish(self, symbols: NDArray[np.int16], states: NDArray[np.int16], size: NDArray[np.int64], pad: int) -> Rows:
        import numpy as np

        rows, n = symbols.shape
        inside = np.arange(n, dtype=np.int32) < size.astype(np.int32)
        inputs = _where(inside, symbols, pad)
        if self.score == "every":
            return inputs, _where(inside, states, IGNORE)
        targets, last = np.full(rows * n, IGNORE), n * np.arange(rows) + size[:, 0] - 1
        targets[last] = states.reshape(-1)[last]
        return inputs, targets.reshape(rows, n)


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
        import numpy as np

        size, n = self._sizes(draws, rows, split)
        bits = np.unpackbits(draws.octets(rows, -(-n // 8)), axis=1, count=n)
        odd = np.bitwise_xor.accumulate(bits, axis=1)
        return self._finish(bits.astype(np.int16), odd.astype(np.int16), size, 2)

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
        # narrow numbers are the faster ones
        kind: type[np.signedinteger[Any]] = np.int16 if m * max(m, n) < 1 << 15 else np.int32
        pairs = draws.few(3 * m, n // 2, rows).astype(kind)  # of an operator, + - *, and the digit behind it
        operators = pairs // m
        operators[0] = 0
        digits = pairs - pairs // m * m
        times, ends = (operators == 2).astype(kind), (operators != 2).astype(kind)
        signed = digits - 2 * digits * (operators == 1)
        values = np.empty_like(digits)
        total, term = np.zeros((2, rows), dtype=kind)  # a product may still grow the term
        for value, digit, sign, more, end in zip(values, digits, signed, times, ends, strict=True):
            total += term * end
            term *= digit
            term -= term // m * m
            term -= sign
            term *= more
            term += sign
            np.add(total, term, out=value)
        symbols, states = np.zeros((2, rows, n // 2, 2), dtype=np.int16)
        symbols[:, :, 0] = digits.astype(np.int16).T
        symbols[:, :-1, 1] = (m + operators[1:]).astype(np.int16).T
        states[:, :, 1] = (values - values // m * m).astype(np.int16).T
        if self.score == "every":
            states[:, :, 0] = states[:, :, 1]
        symbols, states = symbols.reshape(rows, -1), states.reshape(rows, -1)
        symbols.reshape(-1)[symbols.shape[1] * np.arange(rows) + size[:, 0] - 1] = m + 3
        inputs, targets = self._finish(symbols, states, size, m + 4)
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

        import numpy as np

        size, n = self._sizes(draws, rows, split)
        symbols = draws.few(self.vocab - 1, n, rows)
        table = product_table(self.group).reshape(-1)
        states = symbols.copy()
        for state, before, symbol in zip(states[1:], states, symbols[1:], strict=False):
            np.take(table, before * (self.vocab - 1) + symbol, out=state, mode="clip")
        by_row, after = symbols.T.astype(np.int16, order="C"), states.T.astype(np.int16, order="C")
        return self._finish(by_row, after, size, self.vocab - 1)

    def spell(self, token: int) -> str:
        """Elements by number, in the order of `elements`; padding `_`."""
        return "_" if token == self.vocab - 1 else f"g{token}"


def _where(there: NDArray[np.bool_], values: NDArray[np.int16], other: int) -> NDArray[np.int64]:
    """`values` there, elsewhere `other`; by arithmetic on narrow numbers, some times faster than numpy's where."""
    import numpy as np

    return ((values - np.int16(other)) * there + np.int16(other)).astype(np.int64)


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
