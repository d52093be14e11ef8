"""How a suggestion is drawn: `random`, `grid`, `tpe`. Another one is one class with a `name`, listed in `SAMPLERS`.

A sampler yields draws in the order of preference. Whoever asks takes the first that is a valid candidate and new, so a
sampler knows nothing of refusals and duplicates. Draw j of suggestion n is a function of (seed, n, j) and of what `Ask`
holds. Optuna is imported when `tpe` is used.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import math
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from miras_search import named
from miras_search.errors import DesignError, MatchError, SpaceError
from miras_search.ledger import Status
from miras_search.search.outcomes import Outcome
from miras_search.space import Space
from miras_search.space.domain import Assignment, Float, Int, Replay

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial


FAULTLESS: tuple[Status, ...] = ("crashed", "node_lost", "cancelled")
"""Ends of a trial that say nothing about its candidate."""


@dataclass(frozen=True)
class Ask:
    """All that a sampler may look at.

    Attributes:
        space: what is open.
        n: number of the suggestion.
        history: visible results, in the order of their numbers.
        pending: earlier suggestions whose results are not visible.
        last: the suggestion before this one, unless that was a start.
    """

    space: Space
    n: int
    history: Sequence[Outcome] = ()
    pending: Sequence[Assignment] = ()
    last: Assignment | None = None

    def seed(self, *what: str | int) -> int:
        """128 bits that depend on the seed of the space, the number of the suggestion, and `what`."""
        text = json.dumps([self.space.search.seed, self.n, *what])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


class Draw(NamedTuple):
    """What was drawn, and by what (`random`, `grid`, `tpe`, `enumerated`)."""

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

    def draws(self, ask: Ask) -> Iterator[Draw]:
        """The points after the last suggestion."""
        behind = ask.last is None
        for point in ask.space.grid():
            if behind:
                yield Draw(point, "grid")
            behind = behind or point == ask.last


class TpeSampler:
    """Tree-structured Parzen estimator of Optuna: multivariate, grouped by condition, for one or more objectives.

    Suggestions in flight are told as running, so that it does not propose their neighbours (constant liar). Pruned ones
    are told as pruned without a value, worse than any finished one: their values at a smaller budget are never mixed
    with those at the full one. So are those that failed by their own fault (diverged, oom, timeout, error): what Optuna
    is told as failed it ignores, and so comes back to. On a toy space with a cliff beside the optimum 32 of 50 draws
    then diverged, 17 when told as pruned, 19 of random ones (means of 8 seeds). Only what is no fault of the candidate
    (`FAULTLESS`) is told as failed.

    Draws are random before `startup` results, while less than a tenth of them are ok (Optuna takes the best tenth for
    good, whatever it is), and after `tries` draws that were refused or known already.
    """

    name: ClassVar[str] = "tpe"
    adaptive: ClassVar[bool] = True
    startup, tries = 10, 8

    def draws(self, ask: Ask) -> Iterator[Draw]:
        """Draws from the estimator, then random ones."""
        count = sum(outcome.status not in FAULTLESS for outcome in ask.history)
        finished = sum(outcome.status == "ok" for outcome in ask.history)
        if count >= self.startup and 10 * finished >= count:
            told = self._told(ask)
            for j in range(self.tries):
                yield Draw(self._draw(ask, told, j), "tpe")
        yield from RandomSampler().draws(ask)

    def _draw(self, ask: Ask, told: Sequence[FrozenTrial], j: int) -> Assignment:
        with _quiet():
            import optuna

            sampler = optuna.samplers.TPESampler(
                seed=ask.seed("tpe", j) % 2**32,
                n_startup_trials=self.startup,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
            directions = optuna.study.StudyDirection
            goals = {"max": directions.MAXIMIZE, "min": directions.MINIMIZE}
            study = optuna.create_study(directions=[goals[o.goal] for o in ask.space.objectives], sampler=sampler)
            study.add_trials(told)
            return ask.space.draw(_Asked(study.ask()))

    def _told(self, ask: Ask) -> list[FrozenTrial]:
        """The results as trials of Optuna. A start that is no point of the axes has no place among them."""
        from optuna.trial import TrialState, create_trial

        states = {"ok": TrialState.COMPLETE} | dict.fromkeys(FAULTLESS, TrialState.FAIL)
        told = []
        for assignment, outcome in [*((o.assignment, o) for o in ask.history), *((a, None) for a in ask.pending)]:
            taken = locate(ask.space, assignment)
            if taken is not None:
                told.append(
                    create_trial(
                        state=states.get(outcome.status, TrialState.PRUNED) if outcome else TrialState.RUNNING,
                        values=outcome.values if outcome else None,
                        params=taken.params,
                        distributions=taken.distributions,
                    )
                )
        return told


SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in (RandomSampler(), GridSampler(), TpeSampler())}
"""By the word in YAML (`search: {sampler: tpe}`)."""


def get(name: str) -> Sampler:
    """The sampler of that name.

    Raises:
        SpaceError: if there is none; says which is nearest.
    """
    if name in SAMPLERS:
        return SAMPLERS[name]
    near = difflib.get_close_matches(name, SAMPLERS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(SAMPLERS)}"
    raise SpaceError(f"unknown sampler {name}", hint=hint)


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

    def _below(self, count: Int) -> Int:
        return min(int(self.rng.random() * count), count - 1)

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        """Any option."""
        return self._below(len(options))

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        """Any number of the grid."""
        return low + self._below((high - low) // step + 1) * step

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        """Any number of the grid or range."""
        if step is not None:
            return low + self._below(round((high - low) / step) + 1) * step
        if log:
            return math.exp(math.log(low) + self.rng.random() * (math.log(high) - math.log(low)))
        return low + self.rng.random() * (high - low)


class _Asked:
    """Answers from a trial of Optuna. A choice is its index, since Optuna's categories are compared by ==."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        return int(self.trial.suggest_categorical(path, range(len(options))))

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        return self.trial.suggest_int(path, low, high, step=step)

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        if step is not None:
            return low + self.trial.suggest_int(path, 0, round((high - low) / step)) * step
        return self.trial.suggest_float(path, low, high, log=log)


class _Taken(Replay):
    """Answers from an assignment and keeps what Optuna would have been asked, and would have answered."""

    def __init__(self, assignment: Mapping[str, Any]) -> None:
        super().__init__(assignment)
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        from optuna.distributions import CategoricalDistribution

        index = super().choice(path, options)
        self.params[path] = index
        self.distributions[path] = CategoricalDistribution(range(len(options)))
        return index

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        from optuna.distributions import IntDistribution

        value = super().int(path, low, high, step)
        self.params[path] = value
        self.distributions[path] = IntDistribution(low, high, step=step)
        return value

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        from optuna.distributions import FloatDistribution, IntDistribution

        value = super().float(path, low, high, log, step)
        if step is not None:
            self.params[path] = round((value - low) / step)
            self.distributions[path] = IntDistribution(0, round((high - low) / step))
        else:
            self.params[path] = value
            self.distributions[path] = FloatDistribution(low, high, log=log)
        return value


class _Placed(_Taken):
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


def locate(space: Space, assignment: Mapping[str, Any]) -> _Taken | None:
    """What Optuna would have been asked for this suggestion; None for a start that is no point of the space."""
    if "design" not in assignment or any(axis.path == "design" for axis in space.axes()):
        taken = _Taken(assignment)
        space.draw(taken)
        return taken
    placed = _Placed(assignment)
    try:
        same = space.candidate(space.draw(placed)).fingerprint == space.candidate(assignment).fingerprint
    except (SpaceError, DesignError, MatchError, TypeError):
        return None
    return placed if same else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log lines and no word about `group` being experimental."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
