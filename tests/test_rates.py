"""The learning rate searched inside a trial: the survivor is what it would have been alone, killed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_sweep import TINY, measured, rows, space, sweep

from miras_search.candidate import Candidate
from miras_search.errors import SpaceError
from miras_search.rates import FOUND
from miras_search.space.settings import LrSearch
from miras_search.sweep.attempt import Attempt
from miras_search.sweep.job import Event, Job
from miras_search.trial import blank, train

TEXT = TINY.replace("optimiser: {lr: {log_float: [3e-3, 3e-2]}}\n", "").replace("0.1, 1.0]}", "0.3, 0.4]}")
SEARCH = "lr_search: {grid: [1e-4, 1e-2, 1e30], rungs: [0.25, 0.5]}\n"
"""The last rate diverges."""


def job(folder: Path, text: str = TEXT + SEARCH) -> Job:
    on = space(text)
    candidate = on.candidate(on.assignment_of("deltanet"))
    record = blank(candidate, on.tasks[0], 640, 0, on.lr_search).model_copy(update={"n": 0})
    task = on.tasks[0].model_dump(mode="json")
    return Job(record=record, task=task, budget=640, folder=str(folder), lr_search=on.lr_search)


def go(what: Job, seconds: float = 60.0, steps: int = 100) -> Event:
    attempt = Attempt(what)
    try:
        for _ in range(steps):
            event = attempt.step(seconds)
            if event.kind == "end":
                break
    finally:
        attempt.close()
    return event


def test_the_survivor_is_what_it_would_have_been_alone(tmp_path: Path) -> None:
    what = job(tmp_path / "a")
    record = go(what).record
    assert record is not None
    assert record.status == "ok", record.cause
    assert record.rates is not None
    found = record.rates
    assert (record.key, record.fingerprint) == (what.key, what.record.fingerprint)
    assert found.best == record.candidate["optimiser"]["lr"] == 1e-2
    first, second = found.values
    assert first[0] is not None
    assert first[1] is not None
    assert first[1] < first[0]
    assert first[2] is None, "it diverged"
    assert second == (None, None, None) or second[0] is None, "the worse half stopped at the first rung"
    assert (found.low, found.high, found.decades, found.edge) in ((1e-2, 1e-2, 0.0, False), (1e-4, 1e-2, 2.0, False))
    assert found.tokens > 0
    candidate = Candidate.model_validate(record.candidate)
    alone = train(candidate, space(TEXT).tasks[0], 640, 0)
    assert alone.metrics == record.metrics
    assert alone.tokens == record.tokens == 640
    assert alone.key != record.key, "a trial that searches its rate is another trial"
    assert {"checkpoint.safetensors", "steps.jsonl", FOUND} <= {p.name for p in (tmp_path / "a").iterdir()}
    assert not (tmp_path / "a" / "rates").exists()


def test_a_search_that_was_cut_short_ends_as_undisturbed(tmp_path: Path) -> None:
    whole = go(job(tmp_path / "whole")).record
    assert whole is not None
    parts = job(tmp_path / "parts")
    event = None
    for _ in range(60):  # a new process after every other step
        event = go(parts, seconds=0.0, steps=3)
        if event.kind == "end":
            break
    assert event is not None
    assert event.record is not None
    assert event.record.attempts > 4
    assert measured(event.record) == measured(whole)


def test_no_rate_left(tmp_path: Path) -> None:
    text = TEXT + "lr_search: {grid: [1e29, 1e30], rungs: [1.0]}\n"
    record = go(job(tmp_path, text)).record
    assert record is not None
    assert record.status == "diverged"
    assert record.cause.startswith("at every rate of [1e+29, 1e+30]: ")
    assert not (tmp_path / "rates").exists()


def test_a_sweep_searches_for_every_seed(tmp_path: Path) -> None:
    sweep(tmp_path, space(TEXT + SEARCH, "seeds=2", "search.trials=4", "search.parallel=1"))
    found = rows(tmp_path / "run")
    assert [(r.n, r.seed, r.status) for r in found] == [(0, 0, "ok"), (0, 1, "ok"), (1, 0, "ok"), (1, 1, "ok")]
    assert len({r.fingerprint for r in found}) == 2
    assert all(r.rates is not None for r in found)


def test_the_work_of_a_search() -> None:
    assert LrSearch(grid=(1e-3, 1e-2, 1e-1)).work == pytest.approx(1.0 + 2 * 0.25)
    assert LrSearch(grid=(1e-3, 1e-2, 1e-1, 1.0)).work == pytest.approx(1.0 + 3 * 0.25 + 1 * 0.25)
    assert LrSearch(grid=(1e-3, 1e-2), rungs=(1.0,)).work == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("optimiser: {lr: 1e-2}\nlr_search: {grid: [1e-3, 1e-2]}", "lr is searched by lr_search:"),
        ("lr_search: {grid: [1e-2, 1e-3]}", "grid [0.01, 0.001] do not rise"),
        ("lr_search: {grid: [1e-3, 1e-2]}\nhalving: {rungs: [0.1, 0.5]}", "while its rate is still searched"),
    ],
)
def test_what_does_not_go_together(more: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(TEXT + more + "\n")
    assert message in str(caught.value)
    plain: Any = space(TEXT + SEARCH)
    assert plain.digest != space(TEXT).digest
    assert space(plain.to_yaml()).digest == plain.digest
