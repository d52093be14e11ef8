"""`evolution`: regularised evolution, as a function of what has finished."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

from miras_search.search.chance import RandomSampler
from miras_search.search.draws import Ask, Dice, Draw
from miras_search.search.genes import Child, parents
from miras_search.search.outcomes import fronts


class EvolutionSampler:
    """Regularised evolution (Real et al. 2019, arXiv 1802.01548): the young only, tournaments, one change a child.

    The population are the last `population` that finished; of `tournament` of them, drawn at random, the one of the
    best Pareto rank has a child, in which one parameter is changed. So a lucky result is forgotten with age. Draws are
    random before `startup` results, and after `tries` children that were refused or known already.
    """

    name: ClassVar[str] = "evolution"
    adaptive: ClassVar[bool] = True
    population, tournament, startup, tries = 20, 5, 10, 32

    def draws(self, ask: Ask) -> Iterator[Draw]:
        """Children, then random draws."""
        alive = parents(ask, newest=self.population)
        if len(alive) >= self.startup:
            ranks = fronts([values for _, values in alive], [o.goal for o in ask.space.objectives])
            for j in range(self.tries):
                rng = random.Random(ask.seed("evolution", j))
                dice = Dice(rng)
                picked = [dice.below(len(alive)) for _ in range(self.tournament)]
                parent = alive[min(picked, key=lambda i: ranks[i])][0]
                changed = sorted(parent)[dice.below(len(parent))]
                yield Draw(ask.space.draw(Child(parent, rng, changed.__eq__)), self.name)
        yield from RandomSampler().draws(ask)
