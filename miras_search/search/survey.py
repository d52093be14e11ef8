"""`survey`: candidates balanced over the four choices, whatever the results: for what matters, not for what is best."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from miras_search.errors import DesignError, MatchError
from miras_search.search.chance import RandomSampler
from miras_search.search.draws import Ask, Dice, Draw, Fold
from miras_search.space import Space
from miras_search.space.counting import PARTS
from miras_search.space.domain import Alternatives, Domain, Int, Struct

Cell = tuple[int, ...]
"""An alternative of every choice, by position."""


class Had(NamedTuple):
    """How often every kind of a choice (by its position), and every pair of kinds, was suggested."""

    singles: Counter[tuple[int, str]]
    pairs: Counter[tuple[int, str, int, str]]


class SurveySampler:
    """Every kind of every choice equally often, as far as the refusals allow; then every pair of kinds; the rest at random.

    The next candidate is of the cell (an alternative of each choice) whose kinds have been had least: the sum over the
    choices of how often, times the number of kinds, which is the step that keeps the squares of the counts smallest.
    Among those, the one whose pairs of kinds have been had least, then any. Within a cell the other parameters are
    uniform. Where nothing is refused, the counts of a choice's kinds never differ by more than one. Results are not
    looked at, so nothing waits, and the order says nothing.

    A cell of which `trials` draws are all refused is left out.
    """

    name: ClassVar[str] = "survey"
    adaptive: ClassVar[bool] = False
    trials, tries = 16, 8

    def __init__(self) -> None:
        self._found: tuple[str, list[Cell]] = ("", [])
        self._had: tuple[str, Fold[Mapping[str, Any], Had]] | None = None

    def draws(self, ask: Ask) -> Iterator[Draw]:
        """Draws from the cells, the least had first."""
        choices = open_choices(ask.space)
        kinds = [[_kind(option) for option in domain.options] for _, domain in choices]
        singles, pairs = self.had(ask.space).over(ask.earlier)

        def had_least(cell: Cell) -> tuple[float, int, float]:
            mine = [(i, kinds[i][at]) for i, at in enumerate(cell)]
            often = sum(singles[kind] * len(set(kinds[kind[0]])) for kind in mine)
            return often, sum(pairs[*a, *b] for a, b in itertools.combinations(mine, 2)), ties.random()

        ties = random.Random(ask.seed("survey"))
        for cell in sorted(self.cells(ask.space), key=had_least):
            for j in range(self.tries):
                rng = random.Random(ask.seed("survey", *cell, j))
                fixed = {path: at for (path, _), at in zip(choices, cell, strict=True)}
                yield Draw(ask.space.draw(_Within(fixed, rng)), self.name)
        yield from RandomSampler().draws(ask)

    def had(self, space: Space) -> Fold[Mapping[str, Any], Had]:
        """How often kinds and their pairs were suggested; a start that is no point of the choices does not count."""
        if self._had is None or self._had[0] != space.digest:
            choices = open_choices(space)
            kinds = [(path, dict(zip(d.labels, map(_kind, d.options), strict=True))) for path, d in choices]

            def add(had: Had, assignment: Mapping[str, Any]) -> None:
                if all(path in assignment for path, _ in kinds):
                    mine = [(i, which[assignment[path]]) for i, (path, which) in enumerate(kinds)]
                    had.singles.update(mine)
                    had.pairs.update((*a, *b) for a, b in itertools.combinations(mine, 2))

            self._had = space.digest, Fold(lambda: Had(Counter(), Counter()), add)
        return self._had[1]

    def cells(self, space: Space) -> list[Cell]:
        """The cells that have a candidate; computed once a space."""
        if self._found[0] != space.digest:
            choices = open_choices(space)
            products = itertools.product(*(range(len(domain.options)) for _, domain in choices))
            fixed = [({path: at for (path, _), at in zip(choices, cell, strict=True)}, cell) for cell in products]
            self._found = space.digest, [cell for places, cell in fixed if self._alive(space, places)]
        return self._found[1]

    def _alive(self, space: Space, fixed: Mapping[str, int]) -> bool:
        rng = random.Random(0)
        for _ in range(self.trials):
            try:
                space.candidate(space.draw(_Within(fixed, rng)))
            except (DesignError, MatchError):
                continue
            return True
        return False


def open_choices(space: Space) -> list[tuple[str, Alternatives]]:
    """The choices that have alternatives, by name; of a space of published designs, `design`."""
    if not isinstance(space.design, Struct):
        return [("design", space.design)] if isinstance(space.design, Alternatives) else []
    fields: Mapping[str, Domain] = space.design.fields
    return [(part, domain) for part in PARTS if isinstance(domain := fields[part], Alternatives)]


def _kind(option: Domain) -> str:
    return option.kind if isinstance(option, Struct) else str(option.plain())


class _Within(Dice):
    """Answers at random, but for the alternatives that are fixed."""

    def __init__(self, fixed: Mapping[str, int], rng: random.Random) -> None:
        super().__init__(rng)
        self.fixed = fixed

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        """The fixed one, or any."""
        return self.fixed[path] if path in self.fixed else super().choice(path, options)
