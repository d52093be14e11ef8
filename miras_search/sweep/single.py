"""One trial from the command line: a design trained on a task, or a trial of a run trained again.

A trial that is trained again has the same candidate, data, budget and seed, so on the same machine and versions it
gives the same numbers; `Again` says whether it did.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from miras_search import disk, op
from miras_search import trial as trials
from miras_search.candidate import Backbone, Candidate, Part
from miras_search.design import Design
from miras_search.errors import RunError, SpaceError, TaskError
from miras_search.ledger import Record
from miras_search.results import keep_results
from miras_search.runs import RunFolder
from miras_search.space import Space
from miras_search.space.domain import Middle
from miras_search.space.settings import Budget
from miras_search.sweep.progress import Monitor
from miras_search.tasks import Task

STEPS = 400
"""Steps where the budget is not given."""


@dataclass(frozen=True)
class Setup:
    """All that a trial is, and the space that it is the only point of."""

    space: Space
    candidate: Candidate
    task: Task
    budget: int
    seed: int


@dataclass(frozen=True)
class Row:
    """A number of a trial, then and now; equal means bit for bit."""

    name: str
    then: float | None
    now: float | None

    @property
    def equal(self) -> bool:
        """Both are there and the same."""
        return self.then is not None and self.then == self.now


@dataclass(frozen=True)
class Again:
    """A trial trained again: its old and its new record, and the numbers side by side."""

    then: Record
    now: Record
    rows: tuple[Row, ...]
    reasons: tuple[str, ...]
    """What differs in data or versions, and may explain a difference."""

    @property
    def equal(self) -> bool:
        """Ended alike, with the same numbers."""
        return self.then.status == self.now.status and all(row.equal for row in self.rows)


def setup(
    design: Design,
    task: str,
    overrides: Sequence[str],
    tokens: int | None,
    seed: int,
    pattern: Sequence[Part] = ("design",),
) -> Setup:
    """A trial from what was said on the command line.

    Args:
        design: what is trained.
        task: a kind, or a YAML mapping `{kind: mqar, pairs: 4}`.
        overrides: `PATH=VALUE` as in a space: `task.pairs=4`, `backbone.width=128`, `optimiser.lr=3e-3`.
        tokens: budget; default: what the overrides say, else `STEPS` steps.
        seed: of weights and data order.
        pattern: of the layers.

    Raises:
        SpaceError: if task or an override is wrong, or leaves something open.
        DesignError: if the overrides make the design an impossible one.
    """
    backbone = Backbone(layers=max(Backbone.model_fields["layers"].default, len(pattern)), pattern=tuple(pattern))
    text = {
        "name": Candidate(design=design, backbone=backbone).label or design.fingerprint,
        "design": design.model_dump(mode="json"),
        "backbone": {} if backbone == Backbone() else backbone.model_dump(mode="json", include={"layers", "pattern"}),
        "budget": {"tokens": tokens or 1},
        "search": {"trials": 1},
    }
    if "=" in task or not task.strip():
        raise SpaceError(f"{task!r} is no task", hint="--task NAME, and its fields by --set task.FIELD=VALUE")
    try:
        space = Space.from_text(json.dumps(text), "train", [f"task={task}", *overrides])
    except SpaceError as error:
        if (error.where or "").startswith("--set"):
            raise
        raise SpaceError(error.message.splitlines()[-1].strip()) from None  # not a place in a text nobody wrote
    axis = next(iter(space.axes()), None)
    if axis is not None:
        raise SpaceError(f"{axis.path} is open: {axis}", where="--set", hint="give it one value")
    if len(space.tasks) != 1:
        raise SpaceError(f"{len(space.tasks)} tasks are given", where="--task", hint="name one; a sweep takes several")
    spec = space.tasks[0]
    if tokens is None and not any(text.strip().startswith("budget") for text in overrides):
        space = replace(space, budget=Budget(tokens=STEPS * spec.tokens_per_step))
    return Setup(space, space.candidate(space.draw(Middle())), spec, space.budget.of(spec.name), seed)


def train(
    setup: Setup, *, name: str = "", run: Path | None = None, threads: int = 1, console: Console, command: str = ""
) -> Record:
    """Train one trial, showing its progress.

    Args:
        setup: what to train.
        name: for the display.
        run: folder of a run to keep it in, made if there is none; None: nothing is kept. A run that was interrupted
            goes on from its checkpoint.
        threads: of torch.
        console: for progress.
        command: line to be noted in the run's environment.

    Returns:
        The record; its status is `cancelled` after Ctrl-C.

    Raises:
        RunError: if there is another run of that name, or this one is finished.
        TaskError: if the data cannot be read, or the design's chunk is longer than a row.
    """
    trials.refuse(setup.candidate, setup.task)
    cache = op.cache_folder() / "data"
    trials.prepared(setup.task, cache)
    with contextlib.ExitStack() as held:
        if run is None:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="miras-search-")))
            kept = None
        else:
            kept = held.enter_context(_kept(setup, run, command).lock())
            known = trials.blank(setup.candidate, setup.task, setup.budget, setup.seed)
            folder = kept.trial(known.key)
        record = _shown(setup, name, folder, threads, cache, console)
        if kept is not None and record.status != "cancelled":
            kept.ledger.append(record)
            for design in setup.candidate.memories:
                kept.keep_source(design.fingerprint, op.source(design))
            keep_results(kept.path)
    return record


def _kept(setup: Setup, path: Path, command: str) -> RunFolder:
    """The run that holds this trial and no other."""
    text = setup.space.to_yaml()
    if not (path / "space.yaml").is_file():
        about = {"executor": "train", "seed": setup.seed, "command": command}
        return RunFolder.create(path, text, about=about)
    run = RunFolder.open(path)
    made = run.environment
    if run.space_yaml != text or made.get("executor") != "train" or made.get("seed") != setup.seed:
        raise RunError("exists already, and is of something else", where=str(path), hint="choose another --name")
    if run.ledger.rows():
        raise RunError("exists already, and is finished", where=str(path), hint="choose another --name")
    return run


def _shown(setup: Setup, name: str, folder: Path, threads: int, cache: Path, console: Console) -> Record:
    known = trials.blank(setup.candidate, setup.task, setup.budget, setup.seed).model_copy(update={"n": 0})
    with Monitor(console, name or known.label or known.key, 1) as monitor, _stoppable() as stop:
        monitor.started(known)
        told = 0

        def report(progress: trials.Progress) -> bool:
            nonlocal told
            monitor.advanced(known.key, progress)
            monitor.tick()
            tenths = 10 * progress.step // progress.steps
            if tenths > told and not console.is_terminal:
                told = tenths
                monitor.note(f"step {progress.step} of {progress.steps}, loss {progress.loss:.4g}")
            return not stop.is_set()

        record = trials.train(
            setup.candidate,
            setup.task,
            setup.budget,
            setup.seed,
            folder=folder,
            report=report,
            threads=threads,
            cache=cache,
        )
        return record.model_copy(update={"n": 0})


@contextlib.contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of raising, so that a step is finished and a checkpoint written."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, old)


def again(run: RunFolder, then: Record, *, threads: int = 1, console: Console) -> Again:
    """Train a trial of a run once more, in a folder that is thrown away, and compare.

    Args:
        run: of the trial.
        then: its row.
        threads: of torch; a sweep's default is 1, and another number may change the last digits.
        console: for progress.

    Raises:
        RunError: if the trial did not come to an end of its own (stopped early, killed), so that nothing can be equal.
        TaskError: if the data cannot be read.
    """
    if then.status not in ("ok", "diverged", "error", "oom", "invalid"):
        raise RunError(
            f"trial {then.key} was {then.status} before its end, so there is nothing to compare",
            where=str(run.path),
            hint="name one whose status is ok: miras-search results",
        )
    space = Space.from_text(run.space_yaml, str(run.path / "space.yaml"))
    task = next((task for task in space.tasks if task.name == then.task), None)
    if task is None:
        raise TaskError(f"task {then.task} of trial {then.key} is not in space.yaml", where=str(run.path))
    what = Setup(space, Candidate.model_validate(then.candidate), task, space.budget.of(task.name), then.seed)
    cache = op.cache_folder() / "data"
    trials.prepared(task, cache)
    with tempfile.TemporaryDirectory(prefix="miras-search-") as folder:
        now = _shown(what, f"{run.path.name} {then.key}", Path(folder), threads, cache, console)
        losses = [_loss(place) for place in (run.trial(then.key), Path(folder))]
    names = list(dict.fromkeys([*then.metrics, *now.metrics]))
    rows = [Row(f"{task.name}.{name}", then.metrics.get(name), now.metrics.get(name)) for name in names]
    if losses[0] is not None:
        rows.insert(0, Row("training loss of the last step", *losses))
    return Again(then, now, tuple(rows), tuple(_reasons(run, then, now)))


def _loss(folder: Path) -> float | None:
    """The last logged training loss; None if the log is gone."""
    found = disk.lines(folder / "steps.jsonl")
    loss = found[-1].get("loss") if found else None
    return float(loss) if loss is not None and math.isfinite(loss) else None


def _reasons(run: RunFolder, then: Record, now: Record) -> Iterator[str]:
    from miras_search.runs import environment

    for name, digest in then.hashes.items():
        if now.hashes.get(name) != digest:
            yield f"data {name} is {now.hashes.get(name, 'gone')}, was {digest}"
    if then.path != now.path:
        yield f"ran on {now.path}, was {then.path}"
    old, new = run.environment, environment()
    for name in ("machine", "python"):
        if name in old and old[name] != new[name]:
            yield f"{name} is {new[name]}, was {old[name]}"
    for name in ("torch", "miras-search"):
        if (was := old.get("packages", {}).get(name)) != new["packages"][name]:
            yield f"{name} is {new['packages'][name]}, was {was}"
