"""Suggestions: pure, distinct, resumable; the estimator learns; rungs stop the worse half."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from miras_search.candidate import Candidate
from miras_search.errors import SpaceError
from miras_search.ledger import Ledger, Record, Rung, Status, trial_key
from miras_search.search import Search, Suggestion, samplers
from miras_search.search.halving import Rungs, survives
from miras_search.search.outcomes import Goal, Outcome, fronts, outcomes
from miras_search.space import Space

MIXED = """
name: mixed
design:
  memory: [matrix, mlp]
  bias: [l2, dot, {kind: lp, p: {float: [1.5, 4.0]}}, huber]
  retention: [none, l2, kl, lq]
  algorithm: [{kind: gradient_descent, chunk: [8, 16]}, momentum]
start_with: [yaad-r, deltanet]
optimiser: {lr: {log_float: [1e-4, 1e-1]}, clip: {float: [0.5, 2.0], step: 0.5}}
backbone: {width: {int: [32, 64], step: 16}}
task: {kind: mqar}
budget: {tokens: 1e4}
objectives: [{metric: mqar.accuracy, goal: max}]
search: {sampler: tpe, seed: 0, parallel: 3, trials: 40}
"""

LEAN = MIXED.replace(", clip: {float: [0.5, 2.0], step: 0.5}", "").replace(
    "backbone: {width: {int: [32, 64], step: 16}}\n", ""
)

SMALL = """
name: small
design:
  memory: matrix
  bias: [l2, dot, huber]
  retention: [none, l2]
  algorithm: {kind: gradient_descent, gradient: [chunk, online], chunk: [8, 16]}
task: {kind: mqar}
budget: {tokens: 1e4}
objectives: [{metric: mqar.accuracy, goal: max}]
search: {sampler: random, seed: 0, parallel: 1, trials: 40}
"""


def space(text: str, *overrides: str) -> Space:
    return Space.from_text(text, overrides=overrides)


def merit(candidate: Candidate) -> float:
    """Best (0) for l_p with p = 2.7 and the L2 gate at a rate of 10^-2.2."""
    bias = candidate.design.bias
    found: float = -abs(math.log10(candidate.optimiser.lr) + 2.2)
    found -= {"l2": 0.3, "dot": 0.6, "lp": 0.0, "huber": 0.2}[bias.kind]
    found -= 0.3 * abs(getattr(bias, "p", 2.7) - 2.7)
    return found - {"none": 0.2, "l2": 0.0, "kl": 0.5, "lq": 0.3}[candidate.design.retention.kind]


def outcome(on: Space, n: int, assignment: Mapping[str, Any], status: Status = "ok") -> Outcome:
    values = (merit(on.candidate(assignment)),) * len(on.objectives)
    return Outcome(n, assignment, status, values if status == "ok" else None)


def row(on: Space, s: Suggestion, status: Status = "ok", task: int = 0, seed: int = 0, **fields: Any) -> Record:
    candidate = on.candidate(s.assignment)
    return Record(
        **{
            "key": trial_key(candidate, on.tasks[task], 10_000, seed),
            "n": s.n,
            "task": on.tasks[task].name,
            "seed": seed,
            "status": status,
            "candidate": candidate.model_dump(mode="json"),
            "assignment": s.assignment,
            "fingerprint": candidate.fingerprint,
            "structure": candidate.design.structure,
            "metrics": {"accuracy": merit(candidate)} if status == "ok" else {},
            "parameters": 1000 + s.n,
        }
        | fields
    )


def run(on: Space, count: int, judge: Callable[[Outcome], Outcome] = lambda o: o) -> list[tuple[Suggestion, Outcome]]:
    """One suggestion at a time."""
    search = Search(on)
    done: list[tuple[Suggestion, Outcome]] = []
    for n in range(count):
        s = search.ask(n, [o for _, o in done], [s.assignment for s, _ in done])
        if s is None:
            break
        done.append((s, judge(outcome(on, n, s.assignment))))
    return done


def status_of(n: int) -> Status:
    return "diverged" if n % 7 == 3 else "pruned" if n % 5 == 2 else "crashed" if n % 11 == 6 else "ok"


def drive(on: Space, ledger: Ledger, count: int) -> list[Suggestion]:
    """A driver as a sweep has it: `parallel` in flight, which end in an order that is not that of asking."""
    search = Search(on)
    suggestions: list[Suggestion] = []
    while True:
        records = ledger.rows()
        committed = outcomes(records, on)
        known = {r.n: r.assignment for r in records}
        while len(suggestions) < count and search.needs(len(suggestions)) <= len(committed):
            n = len(suggestions)
            s = search.ask(n, committed, [s.assignment for s in suggestions])
            assert s is not None
            assert known.get(n, s.assignment) == s.assignment, "what was committed is what is asked for again"
            suggestions.append(s)
        ended = {o.n for o in committed}
        flying = [s for s in suggestions if s.n not in ended]
        if not flying:
            return suggestions
        assert len(flying) <= on.search.parallel or not search.sampler.adaptive
        s = min(flying, key=lambda s: random.Random(s.n).random())
        ledger.append(row(on, s, status_of(s.n)))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sweep_killed_at_any_commit_asks_the_same_again(tmp_path: Path, sampler: str) -> None:
    on = space(MIXED, f"search.sampler={sampler}")
    (tmp_path / "whole").mkdir()
    count = 18
    with Ledger(tmp_path / "whole") as ledger:
        whole = drive(on, ledger, count)
        order = [r.n for r in ledger.rows()]
    assert {s.how for s in whole} == {"start_with", "random"} | ({"tpe"} if sampler == "tpe" else set())
    assert order != sorted(order)
    lines = (tmp_path / "whole" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    for killed in range(count):
        folder = tmp_path / str(killed)
        folder.mkdir()
        (folder / "ledger.jsonl").write_bytes(b"".join(lines[:killed]) + lines[killed][: len(lines[killed]) // 2])
        with Ledger(folder) as ledger:
            assert drive(on, ledger, count) == whole
            assert [r.n for r in ledger.rows()] == order


def test_a_suggestion_depends_on_what_is_visible_alone() -> None:
    on = space(MIXED)
    done = run(on, 20)
    earlier, committed = [s.assignment for s, _ in done], [o for _, o in done]
    visible = Search(on).needs(16)
    assert visible == 14
    first = Search(on).ask(16, committed[:visible], earlier[:16])
    assert first is not None
    assert first.how == "tpe"
    later = [Outcome(o.n, o.assignment, "ok", (99.0,)) for o in committed[visible:]]
    search = Search(on)
    search.ask(17, committed, earlier[:17])
    random.seed(1)
    assert first == Search(on).ask(16, committed[:visible], earlier[:16])
    assert first == Search(on).ask(16, committed[:visible] + later, earlier[:16])
    assert first == search.ask(16, committed[: visible + 1], earlier[:16])
    other = [Outcome(o.n, o.assignment, "ok", tuple(-v for v in o.values or ())) for o in committed]
    assert first != Search(on).ask(16, other, earlier[:16]), "the results do matter"
    assert first != Search(space(MIXED, "search.seed=1")).ask(16, committed, earlier[:16])


def test_a_suggestion_is_the_same_in_another_process() -> None:
    done = run(space(MIXED), 14)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_search as t\n"
        "done = t.run(t.space(t.MIXED), 14)\n"
        "print([s.assignment for s, _ in done] , [s.how for s, _ in done])"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"})
    assert found.stdout.strip() == f"{[s.assignment for s, _ in done]} {[s.how for s, _ in done]}"


def test_too_few_results_or_the_wrong_number_of_suggestions_are_refused() -> None:
    on = space(MIXED)
    done = run(on, 8)
    earlier, committed = [s.assignment for s, _ in done], [o for _, o in done]
    with pytest.raises(ValueError, match="suggestion 8 needs 6 committed and 8 earlier, not 5, 8"):
        Search(on).ask(8, committed[:5], earlier)
    with pytest.raises(ValueError, match="needs 6 committed and 8 earlier, not 8, 7"):
        Search(on).ask(8, committed, earlier[:7])
    assert Search(space(MIXED, "search.sampler=random")).ask(8, [], earlier) is not None, "chance waits for nothing"


def test_starts_come_first_once_each() -> None:
    on = space(MIXED)
    names = [s.assignment.get("design") for s, _ in run(on, 6)]
    assert names[:2] == ["yaad-r", "deltanet"]
    assert names[2:] == [None] * 4
    assert [s.how for s, _ in run(on, 3)] == ["start_with", "start_with", "random"]


def test_a_start_inside_the_axes_informs_the_estimator() -> None:
    on = space(MIXED)
    inside = on.assignment_of("yaad-r")
    taken = samplers.locate(on, inside)
    assert taken is not None
    assert taken.params["bias"] == 3
    assert taken.params["algorithm[0].gradient_descent.chunk"] == 1
    assert samplers.locate(on, on.assignment_of("deltanet")) is None, "it is online, the axes are not"
    named = space(MIXED.split("design:")[0] + "design: [yaad-r, moneta-r]\n" + MIXED[MIXED.index("optimiser:") :])
    point = next(iter(named.axes())).path
    assert point == "design"
    assert samplers.locate(named, named.assignment_of("yaad-r")) is not None


def all_points(on: Space) -> set[str]:
    found = set()
    for assignment in on.grid():
        try:
            found.add(on.candidate(assignment).fingerprint)
        except ValueError:
            continue
    return found


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_small_space_is_exhausted_without_a_repeat(sampler: str) -> None:
    on = space(SMALL, f"search.sampler={sampler}")
    done = run(on, 100)
    found = [on.candidate(s.assignment).fingerprint for s, _ in done]
    points = all_points(on)
    assert len(points) < sum(1 for _ in on.grid()), "some points are one function, or none"
    assert len(found) == len(set(found)) == len(points)
    assert set(found) == points
    earlier, committed = [s.assignment for s, _ in done], [o for _, o in done]
    assert Search(on).ask(len(done), committed, earlier) is None


def test_what_chance_does_not_find_is_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers.RandomSampler, "redraws", 2)
    on = space(SMALL)
    done = run(on, 100)
    assert {on.candidate(s.assignment).fingerprint for s, _ in done} == all_points(on)
    assert done[-1][0].how == "enumerated"
    assert done == run(on, 100)


def test_the_grid_goes_through_the_axes_in_order() -> None:
    on = space(SMALL, "search.sampler=grid")
    done = run(on, 100)
    order = list(on.grid())
    places = [order.index(s.assignment) for s, _ in done]
    assert places == sorted(places)
    rejected = [s.rejected for s, _ in done]
    assert any("online-needs-delta-rule" in r for r in rejected)
    assert sum(s.repeated for s, _ in done) > 0
    bad = sum(sum(r.values()) for r in rejected) + sum(s.repeated for s, _ in done) + len(done)
    assert bad <= len(order), "every point is looked at once"


def test_the_grid_needs_a_step_and_names_the_axis() -> None:
    ask = samplers.Ask(space(MIXED), 0)
    with pytest.raises(SpaceError, match=r"optimiser.lr is continuous") as caught:
        next(samplers.get("grid").draws(ask))
    assert "step" in str(caught.value)


def test_the_grid_skips_a_start() -> None:
    on = space(SMALL.replace("task:", "start_with: [linear-attention]\ntask:"), "search.sampler=grid")
    found = [on.candidate(s.assignment).fingerprint for s, _ in run(on, 100)]
    assert len(found) == len(set(found)) == len(all_points(on) | {found[0]})


def test_a_large_space_without_anything_new_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers.RandomSampler, "enumerable", 4)
    monkeypatch.setattr(samplers.RandomSampler, "limit", 200)
    with pytest.raises(SpaceError, match="200 draws gave no new valid candidate"):
        run(space(SMALL), 100)


def test_refused_draws_are_counted_and_not_suggested() -> None:
    on = space(SMALL)
    done = run(on, 12)
    codes = {code for s, _ in done for code in s.rejected}
    assert codes == {"online-needs-delta-rule"}


def test_the_estimator_beats_chance() -> None:
    def best(sampler: str, seed: int) -> float:
        done = run(space(LEAN, f"search.sampler={sampler}", f"search.seed={seed}"), 40)
        return max(o.values[0] for _, o in done if o.values)

    pairs = [(best("tpe", seed), best("random", seed)) for seed in range(6)]
    assert sum(t > r for t, r in pairs) >= 5
    assert sum(t - r for t, r in pairs) / len(pairs) > 0.05


def test_several_objectives() -> None:
    two = "[{metric: mqar.accuracy, goal: max}, {metric: parameters, goal: min}]"
    on = space(MIXED.replace("[{metric: mqar.accuracy, goal: max}]", two))

    def judge(o: Outcome) -> Outcome:
        candidate = on.candidate(o.assignment)
        return Outcome(o.n, o.assignment, "ok", (merit(candidate), float(candidate.parameters(512))))

    done = run(on, 20, judge)
    assert [s.how for s, _ in done][-3:] == ["tpe"] * 3
    again = Search(on).ask(19, [o for _, o in done], [s.assignment for s, _ in done][:19])
    assert again == done[19][0]


@pytest.mark.parametrize("status", ["diverged", "crashed", "pruned"])
def test_a_history_without_a_result_leaves_chance(status: Status) -> None:
    done = run(space(MIXED), 16, lambda o: Outcome(o.n, o.assignment, status, None))
    assert {s.how for s, _ in done} == {"start_with", "random"}
    found = {space(MIXED).candidate(s.assignment).fingerprint for s, _ in done}
    assert len(found) == 16


def test_the_estimator_keeps_away_from_what_diverges() -> None:
    """A cliff just before the optimum: what diverges must not be forgotten, or it is drawn again and again."""

    def judge(o: Outcome) -> Outcome:
        over = on.candidate(o.assignment).optimiser.lr > 10**-2.3
        return Outcome(o.n, o.assignment, "diverged", None) if over else o

    share = []
    for seed in range(3):
        on = space(LEAN, f"search.seed={seed}")
        late = [o.status for s, o in run(on, 36, judge) if s.how == "tpe"]
        share.append(late.count("diverged") / len(late))
    assert sum(share) / 3 < 0.43, "0.43 is the share of a random draw"


def test_asking_is_fast_enough() -> None:
    import time

    on = space(MIXED, "search.sampler=random")
    done = run(on, 150)
    slow = space(MIXED)
    search = Search(slow)
    args = (150, [o for _, o in done], [s.assignment for s, _ in done])
    search.ask(*args)
    start = time.perf_counter()
    search.ask(*args)
    assert time.perf_counter() - start < 2


def test_unknown_sampler() -> None:
    with pytest.raises(SpaceError, match="unknown sampler randm") as caught:
        samplers.get("randm")
    assert "did you mean random?" in str(caught.value)


def test_adding_a_sampler_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class First:
        name: ClassVar[str] = "grid"
        adaptive: ClassVar[bool] = False

        def draws(self, ask: samplers.Ask) -> Iterator[samplers.Draw]:
            yield from (samplers.Draw(a, "first") for a in ask.space.grid())

    sampler: samplers.Sampler = First()
    monkeypatch.setitem(samplers.SAMPLERS, "grid", sampler)
    done = run(space(SMALL, "search.sampler=grid"), 50)
    assert {s.how for s, _ in done} == {"first"}
    assert len(done) == len(all_points(space(SMALL)))


# --- outcomes


TWO_TASKS = MIXED.replace(
    "task: {kind: mqar}", "tasks: [{kind: mqar}, {kind: mqar, name: long, pairs: 16}]\nseeds: 2"
).replace("goal: max}]", "goal: max}, {metric: long.accuracy, goal: max}, {metric: parameters, goal: min}]")


def rows_of(on: Space, s: Suggestion, **fields: Any) -> list[Record]:
    return [row(on, s, task=t, seed=k, **fields) for t in range(2) for k in range(2)]


def test_a_suggestion_is_committed_with_its_last_row() -> None:
    on = space(TWO_TASKS)
    a, b = [s for s, _ in run(on, 2)]
    first, second = rows_of(on, a), rows_of(on, b)
    for i, r in enumerate(first):
        first[i] = r.model_copy(update={"metrics": {"accuracy": float(i)}})
    mixed = [first[0], second[0], *second[1:], first[1], first[2]]
    assert [o.n for o in outcomes(mixed, on)] == [1]
    found = outcomes([*mixed, first[3]], on)
    assert [o.n for o in found] == [1, 0], "in the order of commitment"
    assert found[1].values == (0.5, 2.5, 1000.0)
    assert found[1].assignment == a.assignment
    assert outcomes(mixed + mixed, on) == outcomes(mixed, on), "a second row of one trial changes nothing"


def test_what_is_not_ok_has_no_values() -> None:
    on = space(TWO_TASKS)
    s = run(on, 1)[0][0]
    rows = rows_of(on, s)
    for statuses, expected in [
        (("ok", "ok", "ok", "pruned"), "pruned"),
        (("pruned", "ok", "oom", "timeout"), "oom"),
        (("ok", "diverged", "ok", "ok"), "diverged"),
    ]:
        pairs = zip(rows, statuses, strict=True)
        found = outcomes([r.model_copy(update={"status": status}) for r, status in pairs], on)
        assert [(o.status, o.values) for o in found] == [(expected, None)]
    cancelled = [rows[0].model_copy(update={"status": "cancelled"}), *rows[1:]]
    assert outcomes(cancelled, on) == []
    assert outcomes([*cancelled, rows[0]], on)[0].status == "ok"
    assert outcomes([r.model_copy(update={"n": -1}) for r in rows], on) == []
    strange = rows[0].model_copy(update={"metrics": {"accuracy": math.nan}})
    assert outcomes([strange, *rows[1:]], on)[0].status == "diverged"


def test_an_objective_that_no_task_reports() -> None:
    on = space(SMALL)
    s = run(on, 1)[0][0]
    with pytest.raises(SpaceError, match="task mqar reports no accuracy") as caught:
        outcomes([row(on, s, metrics={"acuracy": 1.0})], on)
    assert "did you mean mqar.acuracy?" in str(caught.value)


# --- rungs


def test_fronts() -> None:
    assert fronts([(1.0,), (3.0,), (2.0,), (3.0,)], ["max"]) == [2, 0, 1, 0]
    assert fronts([(1.0,), (3.0,), (2.0,)], ["min"]) == [0, 2, 1]
    assert fronts([(1, 1), (2, 0), (0, 2), (0, 0), (1, 1)], ["max", "max"]) == [0, 0, 0, 1, 0]
    assert fronts([(1, 1), (2, 0), (0, 2), (0, 3)], ["max", "min"]) == [1, 0, 2, 3]
    assert fronts([(math.nan,), (-1e9,), (math.inf,)], ["max"]) == [1, 0, 1]
    rng = random.Random(0)
    for _ in range(100):  # two objectives go another way than three
        points = [(rng.randrange(6), rng.randrange(6)) for _ in range(rng.randrange(1, 40))]
        assert fronts(points, ["max", "min"]) == fronts([(*p, 0) for p in points], ["max", "min", "max"])


@pytest.mark.parametrize(
    ("own", "others", "keep", "goes_on"),
    [
        (0.0, [], 0.5, True),
        (0.0, [1.0], 0.5, False),
        (1.0, [0.0], 0.5, True),
        (1.0, [1.0], 0.5, True),
        (1.0, [1.0, 1.0, 1.0], 0.5, True),
        (2.0, [1.0, 3.0, 4.0], 0.5, False),
        (3.0, [1.0, 2.0, 4.0], 0.5, True),
        (0.0, [1.0], 1 / 3, True),
        (0.0, [1.0, 2.0], 1 / 3, False),
        (2.0, [0.0, 1.0], 1 / 3, True),
        (0.0, [1.0, 1.0, 1.0], 0.25, False),
        (math.nan, [1.0], 0.5, False),
        (math.nan, [math.nan], 0.5, True),
        (0.0, [math.nan], 0.5, True),
    ],
)
def test_who_goes_on(own: float, others: Sequence[float], keep: float, goes_on: bool) -> None:
    values = [(v,) for v in others]
    assert survives((own,), values, ["max"], keep) is goes_on
    assert survives((-own,), [(-v,) for v in others], ["min"], keep) is goes_on


def test_who_goes_on_with_several_objectives() -> None:
    goals: list[Goal] = ["max", "min"]
    others = [(0.9, 100.0), (0.5, 10.0), (0.4, 50.0)]
    assert survives((0.7, 40.0), others, goals, 0.5), "a compromise on the front"
    assert not survives((0.4, 60.0), others, goals, 0.5)
    assert survives((0.4, 50.0), [(0.4, 50.0)] * 5, goals, 0.5), "ties go on"


def test_the_share_that_goes_on_when_trials_arrive_in_any_order() -> None:
    rng = random.Random(0)
    there: list[tuple[float]] = []
    kept = []
    for _ in range(400):
        own = (rng.random(),)
        kept.append(survives(own, there, ["max"], 0.5))
        there.append(own)
    assert 0.45 < sum(kept) / 400 < 0.55
    best = sorted(there)[-40:]
    assert all(kept[there.index(v)] for v in best)


def test_rungs_of_a_space() -> None:
    on = space(TWO_TASKS + "halving: {rungs: [0.25, 0.5], keep: 0.5}\n")
    rungs = Rungs(on)
    assert rungs.tokens("mqar") == (2500, 5000)
    assert [o.metric for o in rungs.objectives("long")] == ["long.accuracy", "parameters"]
    done = run(on, 3)
    steps = [[0.2, 0.6], [0.3], []]
    records = [
        row(on, s, rungs=[Rung(tokens=2500 * (i + 1), metrics={"accuracy": a}) for i, a in enumerate(accuracies)])
        for (s, _), accuracies in zip(done, steps, strict=True)
    ]
    assert rungs.reached(records, "mqar", 0) == [(0.2, 1000.0), (0.3, 1001.0)]
    assert rungs.reached(records + records, "mqar", 1) == [(0.6, 1000.0)]
    assert rungs.reached(records, "long", 0) == []
    others = rungs.reached(records, "mqar", 0)
    assert rungs.survives("mqar", 0, (0.25, 500.0), others)
    assert not rungs.survives("mqar", 0, (0.1, 2000.0), others)
    assert rungs.survives("mqar", 2, (0.1, 2000.0), others), "there is no third rung"


def test_a_space_without_halving_stops_nobody() -> None:
    rungs = Rungs(space(MIXED))
    assert rungs.tokens("mqar") == ()
    assert rungs.survives("mqar", 0, (0.0,), [(1.0,)] * 9)


def test_the_search_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, miras_search.search, miras_search.runs\n"
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
