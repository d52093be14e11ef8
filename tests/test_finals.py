"""Finalists, reuse, and rungs that earn their trust: what a sweep does besides searching."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_rates import TEXT
from test_search import MIXED, row, run
from test_search import space as space_of
from test_sweep import TINY, measured, names, rows, space, sweep

from miras_search.errors import SpaceError
from miras_search.ledger import Ledger, Record, Rung
from miras_search.results import load_results
from miras_search.search.halving import ENOUGH, Rungs, rank_correlation
from miras_search.statistics import probability_ahead
from miras_search.statistics.finals import finalists
from miras_search.sweep.attempt import Attempt


def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the trials that are begun."""
    keys: list[str] = []
    plain = Attempt._take

    def take(self: Attempt) -> Record | None:
        keys.append(self.job.key)
        return plain(self)

    monkeypatch.setattr(Attempt, "_take", take)
    return keys


def test_the_best_are_trained_again_on_fresh_seeds_and_tested_once(tmp_path: Path) -> None:
    on = space(TINY, "finalists={count: 2, seeds: 2}", "search.sampler=random")
    summary, _ = sweep(tmp_path, on)
    found = rows(tmp_path / "run")
    assert [(r.n, r.seed, r.stage) for r in found[:4]] == [(n, 0, "search") for n in range(4)]
    final = found[4:]
    best = sorted(found[:4], key=lambda r: (-r.metrics["accuracy"], r.n))
    assert {r.n for r in final} == {r.n for r in best[:2]}
    assert [(r.seed, r.stage) for r in final] == [(1, "final"), (1, "final"), (2, "final"), (2, "final")]
    assert all(set(r.test) == set(r.metrics) for r in final)
    assert not any(r.test for r in found[:4]), "the search has not seen the test split"
    assert {r.fingerprint for r in final} <= {r.fingerprint for r in found[:4]}
    assert len(summary.finals) == 2
    assert "fresh seeds" in str(summary)
    again, _ = sweep(tmp_path, None, resume=True)
    assert (again.new, again.rows) == (0, 8)
    frame = load_results(tmp_path / "run")
    first, second = finalists(frame, "mqar", "accuracy", "max")
    mine = [r.metrics["accuracy"] for r in final if r.fingerprint == first.fingerprint]
    assert first.fresh.estimate == pytest.approx(sum(mine) / 2)
    assert first.shrunk == pytest.approx(first.searched - first.fresh.estimate)
    assert first.fresh.estimate >= second.fresh.estimate
    assert 0 <= first.ahead <= 1
    assert math.isnan(second.ahead)
    solved = finalists(frame, "mqar", "solved", "max")[0]
    assert (solved.fresh.method, solved.fresh.n) == ("wilson", 2)
    assert Ledger(tmp_path / "run").rows()[-1].how in ("random", "start_with")


def test_probability_ahead() -> None:
    assert probability_ahead({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 1.5, 2: 2.0}) == pytest.approx(0.9811, abs=1e-3)
    a, b = {0: 0.3, 1: 0.9}, {0: 0.5, 1: 0.2}
    assert probability_ahead(a, b) + probability_ahead(b, a) == pytest.approx(1.0)
    assert probability_ahead({0: 1.0, 1: 1.0, 2: 1.0}, {0: 0.0, 1: 0.0, 2: 0.0}) == pytest.approx(4 / 5)
    assert probability_ahead({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}) == 0.5
    assert math.isnan(probability_ahead({0: 1.0, 1: 2.0}, {1: 3.0, 2: 0.0})), "one seed in common"


def test_equal_trials_of_another_run_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = space(TINY, "search.sampler=random")
    sweep(tmp_path, first, "first")
    begun = trained(monkeypatch)
    more = space(TINY, "search.sampler=random", "search.parallel=1", "seeds=2", "search.trials=8")
    sweep(tmp_path, more, "second", reuse=["first"])
    old, new = rows(tmp_path / "first"), rows(tmp_path / "second")
    same = {r.key: r for r in old}
    taken = [r for r in new if r.reused]
    assert len(taken) == 4
    assert {r.reused for r in taken} == {"first"}
    assert len(begun) == len(set(begun)) == 4, "only the second seed was trained"
    for r in taken:
        assert measured(r) | {"reused": ""} == measured(same[r.key])
        assert {"checkpoint.safetensors", "steps.jsonl"} <= names(tmp_path / "second" / "trials" / r.key)
    shutil.rmtree(tmp_path / "first")
    assert (tmp_path / "second" / "trials" / taken[0].key / "checkpoint.safetensors").stat().st_size
    begun.clear()
    for path in (tmp_path / "second" / "ledger.jsonl",):
        path.write_text(path.read_text().replace('"validation":"', '"validation":"0'))
    sweep(tmp_path, first, "third", reuse=["second"])
    assert len(begun) == 4, "other data under one name are another trial"


def test_equal_keys_within_a_run_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two suggestions that are one trial on a task: here by a sampler that does not know its own draws."""
    from miras_search.search import Search

    plain = Search.ask

    def ask(self: Search, n: int, *rest: Any) -> Any:
        found = plain(self, n, *rest)
        return found if n == 0 or found is None else type(found)(n, self.first, found.how)

    on = space(TINY, "search.sampler=random", "search.trials=3", "start_with=[]")
    monkeypatch.setattr(Search, "first", Search(on).ask(0, [], []).assignment, raising=False)  # type: ignore[union-attr]
    monkeypatch.setattr(Search, "ask", ask)
    begun = trained(monkeypatch)
    sweep(tmp_path, on)
    found = rows(tmp_path / "run")
    assert [r.n for r in found] == [0, 1, 2]
    assert len({r.key for r in found}) == len(begun) == 1


def test_rank_correlation() -> None:
    assert rank_correlation([(1, 10), (2, 20), (3, 25)]) == pytest.approx(1.0)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1.0)
    assert rank_correlation([(1, 1), (1, 2), (2, 3), (3, 3)]) == pytest.approx(8 / 9)
    assert math.isnan(rank_correlation([(0, 1), (0, 2), (0, 3)]))
    assert math.isnan(rank_correlation([(0, 1), (1, 2)]))


def test_a_task_learned_suddenly_stops_nobody_before_its_rungs_have_shown_their_worth() -> None:
    on = space_of(MIXED + "halving: {rungs: [0.5], keep: 0.5}\n")
    suggestions = [s for s, _ in run(on, ENOUGH + 2)]

    def records(level: Any, count: int) -> list[Record]:
        return [
            row(on, s, metrics={"accuracy": i / 20}, rungs=[Rung(tokens=5000, metrics={"accuracy": level(i)})])
            for i, s in enumerate(suggestions[:count])
        ]

    rungs = Rungs(on)
    assert rungs.trust("mqar") == 0.5
    assert not rungs.evidence("mqar", 0, records(lambda i: i, ENOUGH - 1)).stops
    good = rungs.evidence("mqar", 0, records(lambda i: i * i, ENOUGH))
    assert (good.stops, good.correlation, good.trials) == (True, pytest.approx(1.0), ENOUGH)
    assert not rungs.evidence("mqar", 0, records(lambda i: 0.0, ENOUGH)).stops, "at chance all are alike"
    assert not rungs.evidence("mqar", 0, records(lambda i: -i, ENOUGH)).stops
    assert "stops nobody before 0.5 over 10" in str(rungs.evidence("mqar", 0, []))
    always = Rungs(space_of(MIXED + "halving: {rungs: [0.5], trust: -1}\n"))
    assert always.evidence("mqar", 0, []).stops
    text = TEXT.replace("kind: mqar, pairs: 2, rewrites: 2, keys: 8, values: 8, gap: 4,", "kind: text, context: 32,")
    text = (
        text.replace("validation: 32, test: 32", "batch: 4")
        .replace("batch: 4, batch", "batch")
        .replace("mqar.accuracy", "text.bits_per_byte")
    )
    assert Rungs(space_of(text + "halving: {rungs: [0.5]}\n")).trust("text") == -1


def test_a_number_is_short_for_finalists() -> None:
    on = space(TINY, "finalists=3")
    assert on.finalists is not None
    assert (on.finalists.count, on.finalists.seeds, on.final_rows) == (3, 3, 9)
    assert space(on.to_yaml()).digest == on.digest
    with pytest.raises(SpaceError, match="count of finalists is 0"):
        space(TINY, "finalists=0")
