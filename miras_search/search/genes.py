"""Assignments as genes: a child answers what a space asks from its parents, and now and then with something near."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from miras_search.search.draws import Ask, Dice, inside
from miras_search.space.domain import Assignment, Float, Int, Replay

REACH = 0.25
"""How far a number moves at most, as a share of its range (of its logarithm, where that is drawn evenly)."""


class Child(Replay):
    """Answers from genes; where they have none (another kind has other parameters), at random.

    Args:
        genes: parameters of the parents.
        rng: for what is changed and what is new.
        changes: whether a parameter is changed. A choice becomes another one, a number one near it.
    """

    def __init__(self, genes: Mapping[str, Any], rng: random.Random, changes: Callable[[str], bool]) -> None:
        super().__init__(genes)
        self.dice, self.changes = Dice(rng), changes

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        """The gene's option, or any other."""
        if path not in self.assignment:
            return self.dice.choice(path, options)
        index = super().choice(path, options)
        if len(options) == 1 or not self.changes(path):
            return index
        other = self.dice.below(len(options) - 1)
        return other + (other >= index)

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        """The gene's number, or one near it."""
        if path not in self.assignment:
            return self.dice.int(path, low, high, step)
        return low + self._near(path, (super().int(path, low, high, step) - low) // step, (high - low) // step) * step

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        """The gene's number, or one near it."""
        if path not in self.assignment:
            return self.dice.float(path, low, high, log, step)
        value = super().float(path, low, high, log, step)
        if step is not None:
            return low + self._near(path, round((value - low) / step), round((high - low) / step)) * step
        if not self.changes(path):
            return value
        start, end = (math.log(low), math.log(high)) if log else (low, high)
        at = (math.log(value) if log else value) + REACH * (2 * self.dice.rng.random() - 1) * (end - start)
        at = 2 * start - at if at < start else 2 * end - at if at > end else at  # reflected at the bounds
        return min(max(math.exp(at) if log else at, low), high)

    def _near(self, path: str, at: Int, last: Int) -> Int:
        """A place of a grid 0 .. last, near another."""
        if last == 0 or not self.changes(path):
            return at
        reach = max(1, round(REACH * last))
        places = [p for p in range(max(0, at - reach), min(last, at + reach) + 1) if p != at]
        return places[self.dice.below(len(places))]


def crossed(a: Mapping[str, Any], b: Mapping[str, Any], rng: random.Random) -> Assignment:
    """Genes of two parents: of a parameter that both have, those of either."""
    shared = {path: (b if rng.random() < 0.5 else a)[path] for path in a if path in b}
    return {**b, **a, **shared}


def parents(ask: Ask, newest: int | None = None) -> list[tuple[Assignment, tuple[float, ...]]]:
    """What has finished, by the axes of the space, oldest first; a start that is no point of them has no genes.

    `newest`: only so many, the last.
    """
    found: list[tuple[Assignment, tuple[float, ...]]] = []
    for outcome in reversed(ask.history):
        if len(found) == newest:
            break
        if outcome.values is not None and (genes := inside(ask.space, outcome.assignment)) is not None:
            found.append((genes, outcome.values))
    return found[::-1]
