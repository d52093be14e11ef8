"""A sweep: suggestions become trials, trials become rows of the ledger, and the rows decide the next suggestions.

    summary = run_sweep(Space.load("quickstart"), "first")

The ledger is the truth. What is in it is never run again; everything else (suggestions, outcomes, what is next) is
computed from it. So a sweep that was killed at any moment goes on with `resume=True` as if nothing had happened: rows
are dealt in a fixed order, suggestion n from what was committed before it, and a trial at work goes on from its own
checkpoint.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from miras_search import op, plugin
from miras_search.errors import RunError
from miras_search.results import keep_results
from miras_search.runs import RunFolder
from miras_search.search import Search
from miras_search.space import OPERATION, Space
from miras_search.sweep import loggers
from miras_search.sweep.driver import INTERRUPTED, Driver, Summary
from miras_search.sweep.reuse import Reuse

__all__ = ["Executor", "Summary", "SweepInterrupted", "run_sweep"]

Executor = Literal["ray", "inline"]
_QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else Ray leaves a token in the home folder
    "RAY_AIR_NEW_OUTPUT": "0",  # the new reporter prints even when told to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a space are relative to the user's folder
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
}
"""Read by Ray when it is imported and when it starts; what the user has set stays."""


class SweepInterrupted(KeyboardInterrupt):
    """The user stopped a sweep. Everything finished is in the ledger; the command line exits with 130."""

    exit_code = INTERRUPTED

    def __init__(self, folder: Path, done: int, total: int) -> None:
        self.folder, self.done, self.total = folder, done, total
        super().__init__(
            f"interrupted: {done} of {total} trials are in {folder}\n"
            f"  continue with --name {folder.name} --resume; trials at work go on from their checkpoints"
        )


def run_sweep(
    space: Space | None,
    name: str,
    *,
    runs_dir: Path = Path("runs"),
    trials: int | None = None,
    executor: Executor = "ray",
    resume: bool = False,
    address: str | None = None,
    timeout: float | None = None,
    threads: int = 1,
    console: Console | None = None,
    plugins: Sequence[str | Path] = (),
    command: str | None = None,
    reuse: Sequence[str | Path] = (),
) -> Summary:
    """Run a sweep, or continue one.

    Args:
        space: what is searched; to resume, None takes the space of the run. Its `timeout_s`, `checkpoints` and
            `loggers` may differ from those of earlier sessions.
        name: of the run; its folder is `runs_dir / name`.
        runs_dir: on a cluster, a folder that all nodes share.
        trials: rows of the ledger to reach; default: what the space says. A larger number extends a finished run.
        executor: `ray` or `inline` (this process; needs no ray).
        resume: continue an existing run.
        address: of a Ray cluster; None: this machine.
        timeout: seconds that an attempt at a trial may take; default: what the space says.
        threads: cores of a trial.
        console: for progress; default: standard error.
        plugins: files with variants and tasks of the user.
        command: line to be noted in the run's environment.
        reuse: runs (folders, or names under `runs_dir`) whose equal trials are taken over instead of being trained.

    Raises:
        RunError: if a logger's package is not installed; if the run exists and `resume` is not given, does not exist and
            it is, was made from another space, is driven by another process, or cannot be written (its ledger is whole
            then); for `executor="ray"` without ray.
        TaskError: if a task's data cannot be read; nothing is written then.
        SpaceError: if the space cannot be searched as it says.
        SweepInterrupted: after Ctrl-C.
    """
    console = console or Console(stderr=True)
    if Path(name).name != name or name.startswith("."):
        raise RunError(f"{name!r} cannot be the name of a run", hint="use a plain word; it becomes a folder")
    if executor == "ray":
        _ready_ray()
    files = [str(Path(path).resolve()) for path in plugins]
    for path in files:
        plugin.load(path)
    run = RunFolder.open(runs_dir / name) if resume else None
    if run is not None:
        space = _same(Space.from_text(run.space_yaml, str(run.path / "space.yaml")), space, run.path)
    if space is None:
        raise RunError("a new run needs a space", hint="give one, or continue a run with --resume")
    loggers.check(space.loggers.to)
    total = trials if trials is not None else space.search.trials
    cache = op.cache_folder() / "data"
    data = {task.name: task.prepare(cache) for task in space.tasks}
    others = [RunFolder.open(one if Path(one).is_dir() else runs_dir / one) for one in reuse]
    known = Reuse(others, lambda task: data[task].hashes) if others else None
    search = Search(space)
    about = {"command": command, "executor": executor, "address": address, "plugins": files, "trials": total}
    about["reuse"] = [str(other.path) for other in others]
    extended = space
    if run is None or total > space.search.trials:
        extended = dataclasses.replace(space, search=space.search.model_copy(update={"trials": total}))
    if run is None:
        run = RunFolder.create(runs_dir / name, extended.to_yaml(), about=about)
    with run.lock():
        if resume:
            run.resumed(about=about)
            if extended.to_yaml() != run.space_yaml:
                run.write("space.yaml", extended.to_yaml())
        limit = timeout if timeout is not None else space.timeout_s
        with Driver(run, space, search, total, console, cache, limit, threads, tuple(files), known) as driver:
            if executor == "ray":
                from miras_search.sweep import ray_tune

                ray_tune.run(driver, threads=threads, address=address)
            else:
                from miras_search.sweep import inline

                inline.run(driver)
        if driver.interrupted and not driver.complete:
            raise SweepInterrupted(run.path, len(driver.rows), total)
        keep_results(run.path)
        return driver.summary()


def _same(stored: Space, given: Space | None, folder: Path) -> Space:
    """The space of a run, if the one given is no other; what only says how it is operated is taken from that one."""
    if given is None:
        return stored
    if given.digest != stored.digest:
        mine, theirs = stored.plain(), given.plain()
        mine["search"], theirs["search"] = ({**p["search"], "trials": None} for p in (mine, theirs))
        keys = [key for key in {**mine, **theirs} if key not in ("name", "description", *OPERATION)]
        differ = [key for key in keys if mine.get(key) != theirs.get(key)]
        raise RunError(
            f"was made from another space: {', '.join(differ)} differ",
            where=str(folder),
            hint="resume with the space it has (space.yaml in that folder), or give the new one another --name",
        )
    return dataclasses.replace(stored, **{name: getattr(given, name) for name in OPERATION})


def _ready_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise RunError("ray is not installed", hint="pip install 'ray[tune]', or use --executor inline")
    for name, value in _QUIET_RAY.items():
        os.environ.setdefault(name, value)
