"""A run as a study of Optuna: Optuna itself reads it back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from test_sweep import TINY, rows, space, sweep

from miras_search.errors import RunError
from miras_search.ledger import Record
from miras_search.search.study import NUMBER, write_study

TWO = ("objectives=[mqar.nll, mqar.accuracy]", "search.trials=6", "seeds=2", "search.sampler=random")


def states(path: Path, name: str) -> Counter[str]:
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.load_study(study_name=name, storage=storage)
    found = Counter(trial.state.name for trial in study.trials)
    storage.engine.dispose()
    return found


def test_optuna_reads_what_the_ledger_says(tmp_path: Path) -> None:
    import optuna

    what = space(TINY, *TWO)
    sweep(tmp_path, what)
    path, found = tmp_path / "x.db", rows(tmp_path / "run")
    failed = [row.model_copy(update={"status": "error", "cause": "boom"}) if row.n == 2 else row for row in found]
    assert write_study(what, failed[:-1], "run", path) == {"running": 1, "complete": 2}
    assert states(path, "run") == {"COMPLETE": 2, "RUNNING": 1}
    assert write_study(what, failed, "run", path) == {"complete": 2, "fail": 1}, "what goes on is brought up to date"
    assert write_study(what, failed, "run", path) == {"complete": 2, "fail": 1}, "and nothing is there twice"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.load_study(study_name="run", storage=storage)
    assert [d.name for d in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    for trial in study.trials:
        mine = [row for row in failed if row.n == trial.user_attrs[NUMBER]]
        if trial.state.name == "COMPLETE":
            means = [sum(row.metrics[name] for row in mine) / 2 for name in ("nll", "accuracy")]
            assert trial.values == pytest.approx(means)
        else:
            assert trial.user_attrs["causes"] == ["boom"]
        for name, value in mine[0].assignment.items():
            if "design" not in mine[0].assignment:
                assert trial.params[name] == value
    first = next(trial for trial in study.trials if trial.user_attrs[NUMBER] == 0)
    assert first.user_attrs["design"] == "deltanet"
    assert first.params == {"design": "deltanet", "optimiser.lr": pytest.approx(0.00948683)}, "no point of the axes"
    storage.engine.dispose()


def test_rungs_are_values_on_the_way(tmp_path: Path) -> None:
    import optuna

    what = space(TINY, "objectives=[mqar.nll]", "halving={rungs: [0.25, 0.5], keep: 0.5, trust: -1}", "search.trials=6")
    sweep(tmp_path, what)
    found = rows(tmp_path / "run")
    counts = Counter(row.status for row in found)
    assert set(counts) == {"ok", "pruned"}
    path = tmp_path / "x.db"
    assert write_study(what, found, "run", path) == {"complete": counts["ok"], "pruned": counts["pruned"]}
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    for trial in optuna.load_study(study_name="run", storage=storage).trials:
        (row,) = [row for row in found if row.n == trial.user_attrs[NUMBER]]
        assert trial.intermediate_values == {r["tokens"]: r["metrics"]["nll"] for r in row.rungs}
    storage.engine.dispose()


def test_another_space_or_no_database(tmp_path: Path) -> None:
    what = space(TINY, "search.trials=1")
    sweep(tmp_path, what)
    found: list[Record] = rows(tmp_path / "run")
    write_study(what, found, "run", tmp_path / "x.db")
    with pytest.raises(RunError, match="is of another space"):
        write_study(space(TINY, "optimiser.lr=0.01"), found, "run", tmp_path / "x.db")
    (tmp_path / "no.db").write_text("this is no database, and longer than a header of one hundred bytes " * 4)
    with pytest.raises(RunError, match="cannot be written"):
        write_study(what, found, "run", tmp_path / "no.db")
