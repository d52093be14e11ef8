"""What every sampler needs: what it may look at, what it yields, dice, and a start as a point of the axes.

A sampler yields draws in the order of preference. Whoever asks takes the first that is a valid candidate and new, so a
sampler knows nothing of refusals and duplicates. Draw j of suggestion n is a function of (seed, n, j) and of what `Ask`
holds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import operator
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from miras_search import named
from miras_search.errors import DesignError, MatchError, SpaceError
from miras_search.ledger import Status
from miras_search.search.outcomes import Outcome
from miras_search.space import Space
from miras_search.space.domain import Assignment, Float, Int, Replay

FAULTLESS: tuple[Status, ...] = ("crashed", "node_lost", "cancelled")
"""Ends of a trial that say nothing about its candidate."""


Item = TypeVar("Item")
State = TypeVar("State")


class Fold(Generic[Item, State]):
    """What is computed from a list that grows, an item at a time: what was there the last time is not gone through again.

    A list that does not begin with the same objects is gone through anew, so the result is a function of the list alone.

    Args:
        new: makes the state of an empty list.
        add: takes one more item in.
    """

    def __init__(self, new: Callable[[], State], add: Callable[[State, Item], None]) -> None:
        self.new, self.add = new, add
        self._items: list[Item] = []
        self._state = new()

    def over(self, items: Sequence[Item]) -> State:
        """The state of this list; not to be changed."""
        known = self._items
        if len(items) < len(known) or not all(map(operator.is_, known, items)):
            self._items = known = []
            self._state = self.new()
        for item in items[len(known) :]:
            self.add(self._state, item)
            known.append(item)
        return self._state


@dataclass(frozen=True)
class Ask:
    """All that a sampler may look at.

    Attributes:
        space: what is open.
        n: number of the suggestion.
        history: visible results, in the order of their numbers.
        earlier: the assignments of all suggestions before this one.
        last: the suggestion before this one, unless that was a start.
    """

    space: Space
    n: int
    history: Sequence[Outcome] = ()
    earlier: Sequence[Mapping[str, Any]] = ()
    last: Assignment | None = None

    @cached_property
    def pending(self) -> list[Mapping[str, Any]]:
        """Earlier suggestions whose results are not visible."""
        seen = {outcome.n for outcome in self.history}
        return [assignment for i, assignment in enumerate(self.earlier) if i not in seen]

    def seed(self, *what: str | int) -> int:
        """128 bits that depend on the seed of the space, the number of the suggestion, and `what`."""
        text = json.dumps([self.space.search.seed, self.n, *what])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


class Draw(NamedTuple):
    """What was drawn, and by what (the name of a sampler, or `enumerated`)."""

    assignment: Assignment
    how: str


class Sampler(Protocol):
    """A way to search. `adaptive`: it looks at results, so a suggestion waits for those it is to see."""

    name: ClassVar[str]
    adaptive: ClassVar[bool]

    def draws(self, ask: Ask) -> Iterator[Draw]:
        """Draws, best first. Ends only when every point of the space has been offered.

        Raises:
            SpaceError: if the sampler cannot search this space, or gives up.
        """
        ...


def enumerate_space(space: Space, limit: int) -> list[Assignment] | None:
    """All points of a discrete space; None if it is continuous or has more than `limit`."""
    try:
        points = list(itertools.islice(space.grid(), limit + 1))
    except SpaceError:
        return None
    return points if len(points) <= limit else None


class Dice:
    """Answers at random; uses `random()` alone, which Python keeps the same from version to version."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def below(self, count: Int) -> Int:
        """A whole number in [0, count)."""
        return min(int(self.rng.random() * count), count - 1)

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        """Any option."""
        return self.below(len(options))

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        """Any number of the grid."""
        return low + self.below((high - low) // step + 1) * step

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        """Any number of the grid or range."""
        if step is not None:
            return low + self.below(round((high - low) / step) + 1) * step
        if log:
            return math.exp(math.log(low) + self.rng.random() * (math.log(high) - math.log(low)))
        return low + self.rng.random() * (high - low)


class _Placed(Replay):
    """Answers from a published design, `start_with`: what its fields are where the space leaves them open."""

    def __init__(self, assignment: Mapping[str, Any]) -> None:
        super().__init__(assignment)
        self.design, _ = named.composition(assignment["design"])

    def _get(self, path: str) -> Any:
        head, *rest = re.sub(r"\[\d+\]", "", path).split(".")
        part = getattr(self.design, head, None)
        if part is None:
            return super()._get(path)
        if not rest:
            return part.kind
        return part.model_dump(mode="json").get(rest[-1])


def inside(space: Space, assignment: Mapping[str, Any]) -> Assignment | None:
    """A suggestion by the axes of the space; None for a start that is no point of them."""
    if "design" not in assignment or any(axis.path == "design" for axis in space.axes()):
        return dict(assignment)
    try:
        found = space.draw(_Placed(assignment))
        same = space.candidate(found).fingerprint == space.candidate(assignment).fingerprint
    except (SpaceError, DesignError, MatchError, TypeError):
        return None
    return found if same else None
