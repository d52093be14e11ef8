"""Each sampler does what it says: evolution finds, a survey is balanced, 1,080 points are not drawn twice."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import combinations
from typing import Any, get_args

import pytest
from test_search import LEAN, MIXED, Outcome, run, space

from miras_search.errors import SpaceError
from miras_search.search import Search, samplers
from miras_search.search.draws import inside
from miras_search.search.genes import Child, crossed
from miras_search.search.nsga2 import ranked
from miras_search.search.survey import SurveySampler
from miras_search.space import Space
from miras_search.space.counting import PARTS
from miras_search.space.settings import ADAPTIVE, Sampler

POINTS = """
name: points
design: {memory: matrix, bias: l2, retention: l2, algorithm: gradient_descent}
optimiser:
  lr: {log_float: [1e-3, 1e2], step: 10}
  weight_decay: [0, 0.1, 0.2, 0.3, 0.4, 0.5]
  clip: {float: [0.5, 3.0], step: 0.5}
  warmup: {float: [0.0, 0.4], step: 0.1}
task: mqar
budget: {tokens: 1e4}
objectives: [{metric: mqar.accuracy, goal: max}]
search: {sampler: random, parallel: 1, trials: 200}
"""
"""6 x 6 x 6 x 5 = 1,080 points, each another candidate."""


def bowl(on: Space, n: int, assignment: dict[str, Any]) -> Outcome:
    """Best at lr 0.1, weight decay 0.2, clip 2.0, warm-up 0.1."""
    o = on.candidate(assignment).optimiser
    value = -abs(math.log10(o.lr) + 1) - 5 * abs(o.weight_decay - 0.2) - abs(o.clip - 2.0) - 5 * abs(o.warmup - 0.1)
    return Outcome(n, assignment, "ok", (value,))


def proposals(on: Space, count: int) -> tuple[list[Outcome], int]:
    """Outcomes of so many suggestions, and how many draws were known already."""
    search = Search(on)
    done: list[Outcome] = []
    repeated = 0
    for n in range(count):
        s = search.ask(n, done, [o.assignment for o in done])
        assert s is not None
        repeated += s.repeated
        done.append(bowl(on, n, s.assignment))
    return done, repeated


def test_names_of_yaml_are_the_samplers() -> None:
    assert set(get_args(Sampler)) == set(samplers.SAMPLERS)
    assert {s.name for s in samplers.SAMPLERS.values() if s.adaptive} == set(ADAPTIVE)


@pytest.mark.parametrize("sampler", [s for s in samplers.SAMPLERS if s != "tpe"])
def test_200_proposals_on_1080_points_are_distinct(sampler: str) -> None:
    on = space(POINTS, f"search.sampler={sampler}")
    assert on.size().total == 1080
    done, _ = proposals(on, 200)
    assert len({on.candidate(o.assignment).fingerprint for o in done}) == 200


@pytest.mark.slow
def test_200_proposals_of_the_estimator_are_distinct() -> None:
    on = space(POINTS, "search.sampler=tpe")
    assert len({on.candidate(o.assignment).fingerprint for o in proposals(on, 200)[0]}) == 200


@pytest.mark.parametrize("sampler", ["nsga2", "evolution"])
def test_evolution_beats_chance(sampler: str) -> None:
    def best(name: str, seed: int) -> float:
        done = run(space(LEAN, f"search.sampler={name}", f"search.seed={seed}"), 60)
        return max(o.values[0] for _, o in done if o.values)

    pairs = [(best(sampler, seed), best("random", seed)) for seed in range(10)]
    assert sum(e > r for e, r in pairs) >= 6, pairs
    assert sum(e - r for e, r in pairs) / len(pairs) > 0.05, pairs


@pytest.mark.parametrize("sampler", ["nsga2", "evolution", "survey"])
def test_a_suggestion_is_a_function_of_what_is_visible(sampler: str) -> None:
    on = space(MIXED, f"search.sampler={sampler}")
    done = run(on, 24)
    earlier, committed = [s.assignment for s, _ in done], [o for _, o in done]
    random.seed(5)
    for n in (3, 17, 23):
        search = Search(on)
        assert search.ask(n, committed[: search.needs(n)], earlier[:n]) == done[n][0]
    worse = [Outcome(o.n, o.assignment, "ok", tuple(-v for v in o.values or ())) for o in committed]
    again = [Search(on).ask(n, worse, earlier[:n]) == done[n][0] for n in range(18, 24)]
    assert all(again) if sampler == "survey" else not all(again), "optimisers look at results, a survey does not"
    if sampler != "survey":
        assert {s.how for s, _ in done} == {"start_with", "random", sampler}


def test_children_stay_in_the_space_and_differ_in_what_is_changed() -> None:
    on = space(MIXED)
    rng = random.Random(0)
    a, b = (on.draw(samplers.Dice(random.Random(seed))) for seed in (1, 2))
    for _ in range(200):
        genes = crossed(a, b, rng)
        assert all(value in (a.get(path), b.get(path)) for path, value in genes.items())
        child = on.draw(Child(a, rng, lambda _: False))
        assert child == a
        path = rng.choice(sorted(a))
        changed = on.draw(Child(a, rng, path.__eq__))
        assert changed[path] != a[path]
        assert {p for p in a if p in changed and changed[p] != a[p]} == {path}


def test_nsga2_keeps_the_ends_of_a_front_before_what_is_crowded() -> None:
    points = [(0.0, 0.0), (1.0, 5.0), (5.0, 1.0), (2.0, 4.0), (2.1, 3.9), (4.0, 2.0)]
    order = ranked(points, ["max", "max"])
    assert set(order[:2]) == {1, 2}
    assert order[-1] == 0
    assert order.index(5) < order.index(4)
    assert ranked([(0.0,), (1.0,), (1.0,), (0.5,)], ["max"]) == [2, 1, 3, 0], "of equal ones the newer"


def kinds_of(on: Space, count: int) -> list[dict[str, str]]:
    found = []
    for s, _ in run(on, count):
        design = on.candidate(s.assignment).design
        if s.how != "start_with":
            found.append({part: getattr(design, part).kind for part in PARTS})
    return found


def test_a_survey_is_balanced_at_every_length_where_nothing_is_refused() -> None:
    text = MIXED.replace("memory: [matrix, mlp]", "memory: mlp").replace(
        "retention: [none, l2, kl, lq]", "retention: [none, {kind: l2, gate: [scalar, channel]}, l2]"
    )
    on = space(text.replace("{kind: lp, p: {float: [1.5, 4.0]}}, huber", "huber"), "search.sampler=survey")
    assert not on.size().exclusions
    drawn = kinds_of(on, 38)
    for count in range(1, len(drawn) + 1):
        for part in ("bias", "retention", "algorithm"):
            had = Counter(kinds[part] for kinds in drawn[:count])
            width = len({kinds[part] for kinds in drawn})
            assert max(had.values()) - (min(had.values()) if len(had) == width else 0) <= 1, (part, count, had)
    for a, b in combinations(("bias", "retention", "algorithm"), 2):
        pairs = Counter((kinds[a], kinds[b]) for kinds in drawn[:36])
        assert max(pairs.values()) - min(pairs.values()) <= 2, pairs


def test_a_survey_is_as_balanced_as_the_refusals_allow() -> None:
    """`online` needs l2 and a linear memory, kl a memory that starts at something: marginals stay even all the same."""
    text = MIXED.replace("momentum]", "momentum, {kind: gradient_descent, gradient: online, chunk: 8}]")
    on = space(text, "search.sampler=survey")
    assert on.size().exclusions
    drawn = kinds_of(on, 66)
    cells = SurveySampler().cells(on)
    assert 0 < len(cells) < 2 * 4 * 4 * 3
    for part, spread in (("memory", 2), ("bias", 2), ("retention", 2)):
        had = Counter(kinds[part] for kinds in drawn)
        assert max(had.values()) - min(had.values()) <= spread, (part, had)
    by_chance = Counter(kinds["bias"] for kinds in kinds_of(space(text, "search.sampler=random"), 66))
    assert max(by_chance.values()) - min(by_chance.values()) > 2, "which chance does not"


def test_a_survey_of_published_designs_has_each_equally_often() -> None:
    text = MIXED.split("design:")[0] + "design: [yaad-r, moneta-r, deltanet]\n" + MIXED[MIXED.index("optimiser:") :]
    done = run(space(text, "search.sampler=survey"), 9)
    assert set(Counter(s.assignment["design"] for s, _ in done).values()) == {3}
    assert inside(space(text), done[0][0].assignment) == done[0][0].assignment


def test_a_survey_stops_nothing_early() -> None:
    with pytest.raises(SpaceError, match="a survey has no early stopping"):
        space(MIXED + "halving: {rungs: [0.5]}\n", "search.sampler=survey")
