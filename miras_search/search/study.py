"""A run as a study of Optuna, to be looked at with optuna-dashboard. A copy: nothing reads it back.

    optuna-dashboard sqlite:///first.db

A trial of the study is a suggestion: complete, with the values of the objectives; pruned; failed; running, while rows are
missing. Parameters are those that it has, choices by their names. A run that goes on is brought up to date in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miras_search.errors import RunError
from miras_search.ledger import Record
from miras_search.search.draws import inside
from miras_search.search.halving import Rungs
from miras_search.search.leaders import describe
from miras_search.search.outcomes import Outcome, outcomes
from miras_search.search.tpe import quiet
from miras_search.space import Space
from miras_search.space.domain import Float, Int, Replay

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

NUMBER = "suggestion"
"""Attribute of a trial of the study."""


def write_study(space: Space, rows: Sequence[Record], name: str, path: Path) -> dict[str, int]:
    """Make or renew the study of a run in an SQLite file, which may hold those of other runs.

    Args:
        space: of the run.
        rows: of its ledger.
        name: of the study.
        path: of the file; made if it is not there.

    Returns:
        Trials of the study by state.

    Raises:
        RunError: if the file holds something else under that name, or cannot be written.
    """
    import optuna
    from optuna.trial import TrialState
    from sqlalchemy.exc import SQLAlchemyError

    held = contextlib.ExitStack()
    held.enter_context(quiet())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        held.callback(storage.engine.dispose)
        goals = {"max": optuna.study.StudyDirection.MAXIMIZE, "min": optuna.study.StudyDirection.MINIMIZE}
        directions = [goals[o.goal] for o in space.objectives]
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        if study.user_attrs.get("space", space.digest) != space.digest:
            raise RunError(f"study {name} is of another space", where=str(path), hint="write to another file")
        study.set_user_attr("space", space.digest)
        study.set_metric_names([o.metric for o in space.objectives])
        known = {trial.user_attrs.get(NUMBER): trial for trial in study.trials}
        for trial in _trials(space, rows):
            there = known.get(trial.user_attrs[NUMBER])
            if there is None:
                study.add_trial(trial)
            elif not there.state.is_finished() and trial.state.is_finished():
                for key, value in trial.user_attrs.items():
                    storage.set_trial_user_attr(there._trial_id, key, value)
                for step, value in trial.intermediate_values.items():
                    storage.set_trial_intermediate_value(there._trial_id, step, value)
                values = trial.values if trial.state == TrialState.COMPLETE else None
                storage.set_trial_state_values(there._trial_id, trial.state, values)
        counted = {state.name.lower(): 0 for state in TrialState}
        for trial in study.get_trials(deepcopy=False):
            counted[trial.state.name.lower()] += 1
    except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        what = " ".join(str(getattr(error, "orig", error)).split())
        raise RunError(f"cannot be written: {what}", where=str(path), hint="choose another file") from None
    except ValueError as error:  # a study with other directions
        raise RunError(f"study {name}: {error}", where=str(path), hint="write to another file") from None
    finally:
        held.close()
    return {state: count for state, count in counted.items() if count}


def _trials(space: Space, rows: Sequence[Record]) -> list[FrozenTrial]:
    done = {outcome.n: outcome for outcome in outcomes(rows, space)}
    mine: dict[int, list[Record]] = {}
    for row in rows:
        if row.n >= 0 and row.stage == "search" and row.status != "cancelled":
            mine.setdefault(row.n, []).append(row)
    return [_trial(space, n, mine[n], done.get(n)) for n in sorted(mine)]


def _trial(space: Space, n: int, rows: Sequence[Record], done: Outcome | None) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    states = {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    state = states.get(done.status, TrialState.FAIL) if done else TrialState.RUNNING
    params, distributions = _parameters(space, rows[0].assignment)
    attributes: dict[str, Any] = {
        NUMBER: n,
        "design": describe(rows[0]),
        "fingerprint": rows[0].fingerprint,
        "how": rows[0].how,
        "trials": [row.key for row in rows],
        "status": sorted({row.status for row in rows}),
    }
    if causes := sorted({row.cause for row in rows if row.cause}):
        attributes["causes"] = causes
    return create_trial(
        state=state,
        values=done.values if done and done.values is not None else None,
        params=params,
        distributions=distributions,
        user_attrs=attributes,
        intermediate_values=_on_the_way(space, rows),
    )


def _on_the_way(space: Space, rows: Sequence[Record]) -> dict[int, float]:
    """Values at rungs, by tokens; Optuna has a place for them where there is one objective and one trial."""
    if len(space.objectives) != 1 or len(rows) != 1:
        return {}
    rungs = Rungs(space)
    values = [rungs.values(rows[0], i) for i in range(len(rows[0].rungs))]
    return {rung["tokens"]: found[0] for rung, found in zip(rows[0].rungs, values, strict=True) if found}


def _parameters(space: Space, assignment: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """What was drawn, and from what; a start that is no point of the axes has its name for the design."""
    from optuna.distributions import CategoricalDistribution

    found = inside(space, assignment)
    taken = _Taken(assignment if found is None else found)
    if found is not None:
        space.draw(taken)
    else:
        space.backbone.walk("backbone", taken, {})
        space.optimiser.walk("optimiser", taken, {})
        taken.params["design"] = assignment["design"]
        taken.distributions["design"] = CategoricalDistribution(tuple(space.start_with))
    return taken.params, taken.distributions


class _Taken(Replay):
    """Answers from an assignment and keeps each parameter with what it was chosen from."""

    def __init__(self, assignment: Mapping[str, Any]) -> None:
        super().__init__(assignment)
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        from optuna.distributions import CategoricalDistribution

        index = super().choice(path, options)
        labels = [option if isinstance(option, str | int | float | bool) else str(option) for option in options]
        if len(set(labels)) < len(labels):  # True and 1 are one to Optuna
            labels = [str(label) for label in labels]
        self.params[path], self.distributions[path] = labels[index], CategoricalDistribution(labels)
        return index

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        from optuna.distributions import IntDistribution

        self.params[path] = value = super().int(path, low, high, step)
        self.distributions[path] = IntDistribution(low, high, step=step)
        return value

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        from optuna.distributions import FloatDistribution

        self.params[path] = value = super().float(path, low, high, log, step)
        self.distributions[path] = FloatDistribution(low, high, log=log, step=step)
        return value
