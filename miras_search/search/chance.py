"""Without looking at results: `random` draws, and the `grid` of all points."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import ClassVar

from miras_search.errors import SpaceError
from miras_search.search.draws import Ask, Dice, Draw, enumerate_space
from miras_search.space import Space
from miras_search.space.domain import Assignment


class RandomSampler:
    """Every choice uniform over its options, every range uniform (or log-uniform) over its values.

    A variant with many parameters is as likely as one with none. After `redraws` draws without success a discrete space
    of at most `enumerable` points is gone through in random order, which proves that it is exhausted if it is; in a
    larger one `limit` draws without success are an error.
    """

    name: ClassVar[str] = "random"
    adaptive: ClassVar[bool] = False
    redraws, limit, enumerable = 64, 1000, 4096

    def draws(self, ask: Ask) -> Iterator[Draw]:
        """Independent draws, then all points."""
        points: list[Assignment] | None = None
        for j in range(self.limit):
            if j == self.redraws:
                points = enumerate_space(ask.space, self.enumerable)
                if points is not None:
                    break
            yield Draw(ask.space.draw(Dice(random.Random(ask.seed("random", j)))), "random")
        if points is None:
            raise SpaceError(
                f"{self.limit} draws gave no new valid candidate",
                hint="widen the space, ask for fewer trials, or exclude what is refused; `validate` says what and why",
            )
        random.Random(ask.seed("enumerated")).shuffle(points)
        for point in points:
            yield Draw(point, "enumerated")


class GridSampler:
    """All points of a discrete space in the order of its axes, the last one fastest. A float range needs a `step`."""

    name: ClassVar[str] = "grid"
    adaptive: ClassVar[bool] = False

    def __init__(self) -> None:
        self._at: tuple[Space, Assignment, Iterator[Assignment]] | None = None

    def draws(self, ask: Ask) -> Iterator[Draw]:
        """The points after the last suggestion; where that was the last one drawn here, it need not be looked for."""
        if self._at is not None and self._at[0] is ask.space and self._at[1] == ask.last:
            points = self._at[2]
        else:
            points = ask.space.grid()
            if ask.last is not None:
                points = itertools.dropwhile(ask.last.__ne__, points)
                next(points, None)
        for point in points:
            self._at = ask.space, point, points
            yield Draw(point, "grid")
