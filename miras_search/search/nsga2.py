"""`nsga2`: non-dominated sorting and crowding, as a function of what has finished."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from miras_search.search.chance import RandomSampler
from miras_search.search.draws import Ask, Dice, Draw
from miras_search.search.genes import Child, crossed, parents
from miras_search.search.outcomes import Goal, fronts


class Nsga2Sampler:
    """NSGA-II (Deb et al. 2002) without generations: every child comes of the best `population` so far.

    The best by Pareto rank, and among equals by crowding distance, stay; two of them, each the winner of a tournament
    of two, are crossed, and every parameter is changed with probability 1 / their number. A generation would have to
    be kept somewhere; this one is computed from the results. Draws are random before `startup` results, and after
    `tries` children that were refused or known already.
    """

    name: ClassVar[str] = "nsga2"
    adaptive: ClassVar[bool] = True
    population, startup, tries = 20, 10, 32

    def draws(self, ask: Ask) -> Iterator[Draw]:
        """Children, then random draws."""
        found = parents(ask)
        if len(found) >= self.startup:
            order = ranked([values for _, values in found], [o.goal for o in ask.space.objectives])
            best = [found[i][0] for i in order[: self.population]]
            for j in range(self.tries):
                rng = random.Random(ask.seed("nsga2", j))
                dice = Dice(rng)
                a, b = (best[min(dice.below(len(best)), dice.below(len(best)))] for _ in range(2))
                genes = crossed(a, b, rng)
                rate = 1 / len(genes)
                yield Draw(ask.space.draw(Child(genes, rng, lambda _: dice.rng.random() < rate)), self.name)  # noqa: B023
        yield from RandomSampler().draws(ask)


def ranked(points: Sequence[Sequence[float]], goals: Sequence[Goal]) -> list[int]:
    """Indices, best first: by Pareto rank, then the less crowded, then the newer."""
    ranks = fronts(points, goals)
    room = [0.0] * len(points)
    fronts_of: dict[int, list[int]] = {}
    for i, rank in enumerate(ranks):
        fronts_of.setdefault(rank, []).append(i)
    for members in fronts_of.values():
        for axis in range(len(goals)):
            along = sorted(members, key=lambda i: points[i][axis])
            low, high = points[along[0]][axis], points[along[-1]][axis]
            if high <= low:  # all alike: nobody is at an end
                continue
            room[along[0]] = room[along[-1]] = math.inf
            for before, i, after in zip(along, along[1:], along[2:], strict=False):
                room[i] += (points[after][axis] - points[before][axis]) / (high - low)
    return sorted(range(len(points)), key=lambda i: (ranks[i], -room[i], -i))
