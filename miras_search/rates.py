"""The learning rate, searched inside a trial: one trainer a rate, the worst stop at rungs, the last one left is the trial.

So every design is compared at a rate that suits it, and the search for it is repeated with every seed. A rate's trainer
is an ordinary one, with the schedule of the whole budget, so that the survivor is what it would have been alone.

    trials/KEY/rates/I/        of the I-th rate, while it is searched: checkpoint, steps.jsonl, evaluated.json
    trials/KEY/rates.json      what was found; the survivor's files are then those of the trial
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from miras_search import disk
from miras_search.ledger import Rates
from miras_search.space.settings import LrSearch
from miras_search.trial import Diverged, Progress, Report, Trainer

FOUND, EVALUATED = "rates.json", "evaluated.json"


class RateSearch:
    """Trains the rates of a grid until one is left. What it knows is in the folder, so it can be made anew at any time.

    Args:
        spec: grid, rungs, and how many go on.
        build: makes the trainer of a rate in a folder, from its checkpoint if there is one.
        folder: of the trial.
    """

    def __init__(self, spec: LrSearch, build: Callable[[float, Path], Trainer], folder: Path) -> None:
        self.spec, self.build, self.folder = spec, build, folder
        self._trainer: Trainer | None = None
        self._at = -1

    @property
    def progress(self) -> Progress | None:
        """Of the rate at work."""
        return self._trainer.progress if self._trainer is not None else None

    def advance(self, report: Report) -> Rates | None:
        """Train on until one rate is left, or `report` says stop (None).

        Raises:
            Diverged: if no rate is left.
        """
        if (self.folder / FOUND).exists():
            return self._settle(Rates.model_validate_json((self.folder / FOUND).read_bytes()))
        alive = list(range(len(self.spec.grid)))
        values: list[list[float | None]] = []
        cause, tokens = "", 0
        for rung, fraction in enumerate(self.spec.rungs):
            row: list[float | None] = [None] * len(self.spec.grid)
            for i in alive:
                found = self._value(i, rung, fraction, report)
                if found is None:
                    return None
                row[i], why = found
                cause = cause or why
            values.append(row)
            ranked = sorted((i for i in alive if row[i] is not None), key=lambda i: (row[i], i))
            if not ranked:
                raise Diverged(f"at every rate of {list(self.spec.grid)}: {cause}")
            alive = ranked[: self.spec.left(len(alive), rung)]
        trained = self._tokens()
        tokens = sum(count for i, count in trained.items() if i != alive[0])
        return self._settle(self._found(alive[0], values, tokens))

    def save(self) -> None:
        """Leave a checkpoint of the rate at work."""
        if self._trainer is not None and self._trainer.step:
            self._trainer.save()

    def _place(self, i: int) -> Path:
        return self.folder / "rates" / str(i)

    def _value(self, i: int, rung: int, fraction: float, report: Report) -> tuple[float | None, str] | None:
        """Loss of a rate at a rung, or None and why; None alone if `report` said stop."""
        path = self._place(i) / EVALUATED
        known: dict[str, Any] = {"values": [], "cause": "", "tokens": 0}
        if path.exists():
            known = json.loads(path.read_bytes())
        if len(known["values"]) > rung:
            return known["values"][rung], known["cause"]
        try:
            trainer = self._held(i)
            target = min(math.ceil(fraction * trainer.budget), trainer.budget)
            trainer.advance(target, report)
            if trainer.tokens < target:
                return None
            value: float | None = _loss(trainer)
            trainer.save()
        except Diverged as error:
            value, known["cause"] = None, str(error)
        known["values"].append(value)
        known["tokens"] = self._trainer.tokens if self._trainer is not None else 0
        disk.replace(path, json.dumps(known))
        return value, known["cause"]

    def _held(self, i: int) -> Trainer:
        """The trainer of a rate; one at a time is in memory."""
        if self._trainer is None or self._at != i:
            self.save()
            self._trainer = None
            place = self._place(i)
            place.mkdir(parents=True, exist_ok=True)
            self._trainer, self._at = self.build(self.spec.grid[i], place), i
        return self._trainer

    def _tokens(self) -> dict[int, int]:
        """Tokens that each rate was trained on."""
        files = {i: self._place(i) / EVALUATED for i in range(len(self.spec.grid))}
        return {i: int(json.loads(file.read_bytes())["tokens"]) for i, file in files.items() if file.exists()}

    def _found(self, best: int, values: list[list[float | None]], tokens: int) -> Rates:
        grid, first = self.spec.grid, values[0]
        good = first[best]
        assert good is not None
        works = [v is not None and v <= good + self.spec.within * abs(good) for v in first]
        low = high = best
        while low and works[low - 1]:
            low -= 1
        while high + 1 < len(grid) and works[high + 1]:
            high += 1
        return Rates(
            grid=grid,
            values=tuple(map(tuple, values)),
            best=grid[best],
            low=grid[low],
            high=grid[high],
            decades=math.log10(grid[high] / grid[low]),
            edge=best in (0, len(grid) - 1),
            tokens=tokens,
        )

    def _settle(self, found: Rates) -> Rates:
        """Make the survivor's files those of the trial, and forget the others'. A kill in between loses work, no more."""
        self._trainer = None
        disk.replace(self.folder / FOUND, found.model_dump_json())
        place = self._place(self.spec.grid.index(found.best))
        if place.is_dir():
            for file in sorted(place.iterdir()):
                if file.name != EVALUATED:
                    file.replace(self.folder / file.name)
        shutil.rmtree(self.folder / "rates", ignore_errors=True)
        return found


def _loss(trainer: Trainer) -> float:
    """What rates are compared by: the loss on the split that the task compares on, or its primary metric, less is better.

    The loss comes first because an accuracy is at chance until a task of recall is learned, whatever the rate.
    """
    metrics = trainer.evaluate(trainer.task.compared_on)
    if "nll" in metrics:
        value = metrics["nll"]
    else:
        primary = trainer.task.primary
        value = metrics[primary.name] if primary.goal == "min" else -metrics[primary.name]
    if not math.isfinite(value):
        raise Diverged(f"the loss on validation data is {value} at step {trainer.step}")
    return value
