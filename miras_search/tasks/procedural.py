"""A made-up language: infinite, the same everywhere, and its entropy is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from miras_search.choice import register
from miras_search.tasks.base import Metric, Totals
from miras_search.tasks.draws import Draws
from miras_search.tasks.synthetic import Split, Synthetic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miras_search.tasks.synthetic import Rows


class Procedural(Synthetic):
    """A procedural language: facts that chain, questions of several hops, and nested brackets between them.

    A row: a fact `a > b` for each of `names` names in random order, b = f(a) uniform; then `questions` questions `? h a y`, where
    y = f^h(a) and h goes through 1 .. `hops` in turn. After each stands a clause: a balanced word of `nesting` pairs of `brackets`
    kinds, uniform among all of them (context-free: a closing bracket must match one that may be far back). Every next token
    is scored, as in language modelling.

    The entropy of a row is exact, since all choices are uniform: log(names!) + names log names for facts, log names a question,
    log(Catalan(nesting)) + nesting log brackets a clause. `excess` is the nll above it, in nats a token: 0 for a perfect model.
    `lookup` and `multihop`: accuracy of answers to one hop, and to more (a guess: 1 / names). `closing`: of the closing brackets, the
    share that was the most likely token.
    """

    kind: Literal["procedural"] = "procedural"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("excess", "min", "nats/token"),
        Metric("nll", "min", "nats/token"),
        Metric("lookup", "max"),
        Metric("multihop", "max"),
        Metric("closing", "max"),
    )

    names: int = Field(8, ge=2, le=4096)
    questions: int = Field(9, ge=1, le=4096)
    hops: int = Field(3, ge=2, le=16)
    nesting: int = Field(4, ge=1, le=512)
    brackets: int = Field(4, ge=1, le=256)

    @property
    def vocab(self) -> int:
        """`>`, `?`, hop numbers, opening and closing brackets, names."""
        return 2 + self.hops + 2 * self.brackets + self.names

    @property
    def context(self) -> int:
        """Tokens a row: the last one is only predicted."""
        clause = 2 * self.nesting
        return self.names * (3 + clause) + self.questions * (4 + clause) - 1

    @property
    def longer(self) -> str:
        """How to lengthen the rows."""
        return "raise the task's `names`, `questions` or `nesting`"

    @property
    def entropy(self) -> float:
        """Nats a scored token, mean over a row; the first token is given."""
        n, clauses = self.names, self.names + self.questions
        facts = math.lgamma(n + 1) + n * math.log(n) - math.log(n)
        words = math.log(math.comb(2 * self.nesting, self.nesting) // (self.nesting + 1))
        words += self.nesting * math.log(self.brackets)
        return (facts + self.questions * math.log(n) + clauses * words) / self.context

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Rows of the language."""
        import numpy as np

        n, asked, clause = self.names, self.questions, 2 * self.nesting
        row = np.arange(rows)[:, None]
        opening = 2 + self.hops
        first = opening + 2 * self.brackets  # id of the first name
        order, image = draws.orders(rows, n), draws.below(n, rows, n)
        words = opening + self._words(draws, rows * (n + asked)).reshape(rows, n + asked, clause)
        facts = np.zeros((rows, n, 3 + clause), dtype=np.int64)
        facts[:, :, 0], facts[:, :, 2] = first + order, first + image[row, order]
        facts[:, :, 3:] = words[:, :n]
        start = draws.below(n, rows, asked)
        hop = 1 + np.arange(asked) % self.hops
        answer = start
        for h in range(self.hops):
            answer = np.where(hop > h, image[row, answer], answer)
        questions = np.ones((rows, asked, 4 + clause), dtype=np.int64)
        questions[:, :, 1], questions[:, :, 2], questions[:, :, 3] = 1 + hop, first + start, first + answer
        questions[:, :, 4:] = words[:, n:]
        tokens = np.concatenate([facts.reshape(rows, -1), questions.reshape(rows, -1)], axis=1)
        return tokens[:, :-1], tokens[:, 1:]

    def _words(self, draws: Draws, count: int) -> NDArray[np.int64]:
        """Uniform balanced words, [count, 2 nesting]: opening brackets 0 .. brackets - 1, closing ones after them."""
        import numpy as np

        length, row = 2 * self.nesting, np.arange(count)
        out = np.empty((count, length), dtype=np.int64)
        stack = np.zeros((count, self.nesting + 1), dtype=np.int64)
        height = np.zeros(count, dtype=np.int64)
        for place in range(length):
            left = length - place
            # of the words that go on from here, (left - h) (h + 2) in 2 left (h + 1) open a bracket
            opens = draws.below(1 << 62, count) % (2 * left * (height + 1)) < (left - height) * (height + 2)
            kind = draws.below(self.brackets, count)
            out[:, place] = np.where(opens, kind, self.brackets + stack[row, height - 1])
            stack[row, height] = np.where(opens, kind, stack[row, height])
            height = np.where(opens, height + 1, height - 1)
        return out

    def metrics_from(self, totals: Totals) -> dict[str, float]:
        """Nll, excess over the entropy, and accuracy of what can be known."""
        clause = 2 * self.nesting
        found = {"excess": totals.mean_nll - self.entropy, "nll": totals.mean_nll}
        first, step = self.names * (3 + clause) + 2, 4 + clause  # where the first answer is predicted
        for name, hops in (("lookup", [1]), ("multihop", range(2, self.hops + 1))):
            places = [first + step * i for i in range(self.questions) if 1 + i % self.hops in hops]
            found[name] = _share(totals, places)
        closing = slice(2 + self.hops + self.brackets, 2 + self.hops + 2 * self.brackets)
        found["closing"] = math.nan
        if totals.hits is not None and totals.asked is not None and int(totals.asked[closing].sum()):
            found["closing"] = float(totals.hits[closing].sum() / totals.asked[closing].sum())
        return found

    def spell(self, token: int) -> str:
        """Brackets as (1 and 1), names as letters or by number."""
        opening, first = 2 + self.hops, 2 + self.hops + 2 * self.brackets
        if token < opening:
            return ">?"[token] if token < 2 else str(token - 1)
        if token < first:
            kind = token - opening
            return f"({kind}" if kind < self.brackets else f"{kind - self.brackets})"
        return f"n{token - first}"


def _share(totals: Totals, places: list[int]) -> float:
    table = totals.at
    if table is None or not places or len(table) <= places[-1]:
        return math.nan
    return float(table[places, 2].sum() / table[places, 0].sum())


VARIANTS = register(Procedural)
