"""What to try next: a pure function of a seed and of the results so far.

Suggestion n is a function of (seed of the space, n, the first `max(0, n + 1 - parallel)` committed suggestions in the
order in which the ledger committed them) and of nothing else: not of results that came in later, of what ran in
between, or of the process. A sweep that was killed and resumed therefore asks for exactly what it would have asked for
undisturbed. What a sampler keeps from one draw to the next only saves computing it from the results again.

    search = Search(space)
    while search.needs(n) <= len(committed := outcomes(ledger.rows(), space)):
        suggestion = search.ask(n, committed, earlier)
"""

from __future__ import annotations

import bisect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from miras_search.errors import DesignError, MatchError
from miras_search.search import samplers
from miras_search.search.draws import Fold
from miras_search.search.halving import Rungs
from miras_search.search.outcomes import Outcome, outcomes
from miras_search.space import Space, refusal_code
from miras_search.space.domain import Assignment

__all__ = ["Outcome", "Rungs", "Search", "Suggestion", "outcomes"]


@dataclass(frozen=True)
class Suggestion:
    """What to try.

    Attributes:
        n: its number, from 0.
        assignment: the parameters; `space.candidate` builds it.
        how: `start_with`, the name of a sampler, or `enumerated` (a small space, nearly exhausted, gone through).
        rejected: draws before it that were no candidate, by code.
        repeated: draws before it that were an earlier suggestion again.
    """

    n: int
    assignment: Assignment
    how: str
    rejected: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0


class Search:
    """Asks a space for suggestions. Holds nothing but what it can compute again.

    Args:
        space: what is searched.
        vocab: tokens of the vocabulary, where `match` needs it; default: that of the first task.

    Raises:
        SpaceError: if the space names an unknown sampler.
        DesignError, MatchError: if a design of `start_with` is no candidate of this space.
    """

    def __init__(self, space: Space, vocab: int | None = None) -> None:
        self.space, self.vocab = space, vocab
        self.sampler = samplers.get(space.search.sampler)
        self._known: dict[str, str] = {}
        self._taken: Fold[Mapping[str, object], set[str]] = Fold(set, self._take)
        self._history: Fold[Outcome, list[Outcome]] = Fold(list, _insert)
        distinct: dict[str, Assignment] = {}
        for start in space.starts():
            distinct.setdefault(self._fingerprint(start), start)
        self.starts = list(distinct.values())

    def needs(self, n: int) -> int:
        """How many suggestions must be committed before suggestion n can be asked for."""
        if n < len(self.starts) or not self.sampler.adaptive:
            return 0
        return max(0, n + 1 - self.space.search.parallel)

    def ask(self, n: int, committed: Sequence[Outcome], earlier: Sequence[Mapping[str, object]]) -> Suggestion | None:
        """Suggestion n.

        Args:
            n: its number.
            committed: outcomes in the order of commitment; what is beyond `needs(n)` is not looked at.
            earlier: the assignments of suggestions 0 to n - 1, whether committed or not.

        Returns:
            A candidate that is no earlier one, or None: every point of the space has been suggested. That is proved by
            going through all points; `random` and `tpe` never claim it of a space that is continuous or has more than
            4096 points.

        Raises:
            SpaceError: if the sampler cannot search this space, or finds nothing new in a large one.
            ValueError: if too few are committed, or `earlier` are not n.
        """
        needs = self.needs(n)
        if len(committed) < needs or len(earlier) != n:
            have = f"{len(committed)}, {len(earlier)}"
            raise ValueError(f"suggestion {n} needs {needs} committed and {n} earlier, not {have}")
        if n < len(self.starts):
            return Suggestion(n, self.starts[n], "start_with")
        history = self._history.over(committed[:needs])
        if history and history[-1].n >= n:
            history = [outcome for outcome in history if outcome.n < n]
        last = dict(earlier[-1]) if n > len(self.starts) else None
        ask = samplers.Ask(space=self.space, n=n, history=history, earlier=earlier, last=last)
        taken = self._taken.over(earlier)
        rejected: Counter[str] = Counter()
        repeated = 0
        for assignment, how in self.sampler.draws(ask):
            try:
                fingerprint = self._fingerprint(assignment)
            except (DesignError, MatchError) as error:
                rejected[refusal_code(error)] += 1
                continue
            if fingerprint not in taken:
                return Suggestion(n, assignment, how, dict(rejected), repeated)
            repeated += 1
        return None

    def _take(self, taken: set[str], assignment: Mapping[str, object]) -> None:
        taken.add(self._fingerprint(dict(assignment)))

    def _fingerprint(self, assignment: Assignment) -> str:
        text = json.dumps(assignment, sort_keys=True)
        if text not in self._known:
            self._known[text] = self.space.candidate(assignment, self.vocab).fingerprint
        return self._known[text]


def _insert(history: list[Outcome], outcome: Outcome) -> None:
    bisect.insort(history, outcome, key=lambda o: o.n)
