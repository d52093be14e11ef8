"""One attempt at a trial, in slices: what a worker does, whichever executor it belongs to.

A trial's folder is its only memory. `status.jsonl` says what has happened:

    {"event": "start", "attempt": 1, "pid": 7, "host": "a", ...}  a worker has begun
    {"event": "resume", "step": 5}                               goes on from the checkpoint of an earlier attempt
    {"event": "rung", "rung": 0, "tokens": 9, "metrics": {}}     evaluated on the way; waits for a decision
    {"event": "go", "rung": 0}                                   goes on
    {"event": "end", "record": {}}                               over; only the commit of the record is left
    {"event": "lost", "status": "crashed", "cause": ""}          from the driver: the worker is gone, another will try
    {"event": "gone", "status": "timeout", "cause": ""}          from the driver: nobody shall try again

An attempt reads it first. So a trial that ended on a worker whose driver was killed is not run again, one that was
timed out is not tried again, and one that waits at a rung asks again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import time
from pathlib import Path
from typing import IO, Any

from miras_search import checkpoint, disk, op
from miras_search.candidate import Candidate
from miras_search.choice import variants
from miras_search.ledger import Rates, Record, Status, now
from miras_search.rates import RateSearch
from miras_search.runs import RunFolder
from miras_search.search import describe
from miras_search.sweep.job import NOTES, STATUS, Event, Job, outcome
from miras_search.tasks import Task
from miras_search.trial import Progress, Trainer, failed, finish

LOCK_SECONDS = 30.0
"""How long to wait for a worker that has lost its driver to end; Ray ends them within about 5 s."""


class TimedOut(TimeoutError):
    """The attempt has used its time."""


class Held(RuntimeError):
    """Another process works on this trial and does not end."""


class Attempt:
    """A worker's hold on a trial. What a trial can do wrong is in its record, not raised. `close` must follow.

    Args:
        job: which trial.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = Path(job.folder)
        self._deadline: float | None = None
        self._lock: IO[bytes] | None = None
        self._trainer: Trainer | None = None
        self._over: Record | None = None
        self._attempts = 0
        self._decided: set[int] = set()
        self._waits = False
        self._resumed = False
        self._search: RateSearch | None = None
        self._rates: Rates | None = None

    def step(self, seconds: float) -> Event:
        """Build the model; from the second call on, train for about that long, or to the next rung, or to the end.

        Called after a rung event it means: go on.

        Raises:
            Held: if another process has the trial for longer than `LOCK_SECONDS`.
        """
        if self._lock is None:
            self._over = self._take()
        try:
            if self._over is None:
                event = self._step(time.monotonic() + seconds)
                if event is not None:
                    return event
        except TimedOut as error:
            self._end(self._measured("timeout", str(error)))
        except Exception as error:
            self._end(failed(error, self._trainer, self.job.record, self.folder))
        assert self._over is not None
        return Event("end", self._progress, self._over)

    def close(self) -> None:
        """Let go of the trial; one that is not over leaves a checkpoint."""
        try:
            if self._trainer is not None and self._over is None and self._trainer.step and not self._waits:
                self._trainer.save()
            if self._search is not None and self._over is None:
                self._search.save()
        finally:
            self._trainer = self._search = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _take(self) -> Record | None:
        """Lock the folder and read what has happened; the record, if the trial is over."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("ab")
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    lock.close()
                    raise Held(f"trial {self.job.key} is held by another process") from None
                time.sleep(0.1)
        self._lock = lock
        for torn in self.folder.rglob(".*.tmp"):  # of a writer that was killed: nobody else writes here now
            torn.unlink(missing_ok=True)
        history = disk.lines(self.folder / STATUS)
        over = outcome(self.job.record, history)
        if over is not None and over.status != "ok":  # a worker that was killed may have left one
            checkpoint.remove(self.folder)
        if over is None:
            self._attempts = 1 + sum(line["event"] == "start" for line in history)
            self._decided = {line["rung"] for line in history if line["event"] == "go"}
            known = self.job.record
            what = {"design": describe(known), "task": known.task, "seed": known.seed, "budget": self.job.budget}
            who = {"pid": os.getpid(), "host": platform.node(), "time": now()}
            self._note(event="start", attempt=self._attempts, **who, **what)
        return over

    def _step(self, until: float) -> Event | None:
        """One slice; None if the trial is over."""
        if self.job.lr_search is not None and self._rates is None:
            if self._search is None:
                self._search = RateSearch(self.job.lr_search, self._build, self.folder)
                self._start_clock()
                return Event("progress", self._progress)
            self._rates = self._search.advance(lambda _: self._may_go_on(until))
            if self._rates is None:
                return Event("progress", self._progress)
            self._search = None
        if self._trainer is None:
            self._trainer = self._build(self._rates.best if self._rates is not None else None, self.folder)
            self._start_clock()
            rung = len(self._trainer.rungs) - 1
            waits = rung >= 0 and rung not in self._decided
            return self._ask() if waits else Event("progress", self._trainer.progress)
        if self._waits:
            self._waits = False
            self._note(event="go", rung=len(self._trainer.rungs) - 1)
        trainer = self._trainer
        while True:
            ahead = [rung for rung in self.job.rungs if rung < trainer.budget][len(trainer.rungs) :]
            target = ahead[0] if ahead else trainer.budget
            if trainer.tokens < target:
                trainer.advance(target, lambda _: self._may_go_on(until))
            if trainer.tokens < target:
                return Event("progress", trainer.progress)
            if not ahead:
                self._end(finish(trainer, test=self.job.test))
                return None
            trainer.rungs.append({"tokens": trainer.tokens, "metrics": trainer.evaluate(trainer.task.compared_on)})
            trainer.save()
            rung = len(trainer.rungs) - 1
            self._note(event="rung", rung=rung, **trainer.rungs[rung])
            if rung not in self._decided:
                return self._ask()

    def _start_clock(self) -> None:
        if self.job.timeout is not None and self._deadline is None:
            self._deadline = time.monotonic() + self.job.timeout

    def _may_go_on(self, until: float) -> bool:
        moment = time.monotonic()
        if self._deadline is not None and moment > self._deadline:
            raise TimedOut(f"not done after {self.job.timeout:g} s")
        return moment < until

    def _build(self, lr: float | None, folder: Path) -> Trainer:
        """The trainer of the job, at a learning rate or at its own, from the checkpoint in a folder if there is one."""
        job = self.job
        if job.plugins:
            from miras_search import plugin

            for path in job.plugins:
                plugin.load(path)
        candidate = Candidate.model_validate(job.record.candidate)
        if lr is not None:
            optimiser = candidate.optimiser.model_copy(update={"lr": lr})
            candidate = candidate.model_copy(update={"optimiser": optimiser})
        task = variants("task")[job.task["kind"]].model_validate(job.task)
        assert isinstance(task, Task)
        cache = Path(job.cache) if job.cache else None
        trainer = Trainer(candidate, task, job.budget, job.record.seed, folder, job.threads, cache=cache)
        if trainer.restore() and self._attempts > 1 and not self._resumed:
            self._resumed = True
            self._note(event="resume", step=trainer.step)
        for design in candidate.memories:
            RunFolder(self.folder.parent.parent).keep_source(design.fingerprint, op.source(design))
        return trainer

    def _ask(self) -> Event:
        assert self._trainer is not None
        self._waits = True
        metrics = self._trainer.rungs[-1]["metrics"]
        return Event("rung", self._progress, self._whole(self._trainer.record("pruned", metrics=metrics)))

    def _end(self, record: Record) -> None:
        self._over = self._whole(record)
        with contextlib.suppress(OSError):  # the row still goes to the ledger, which says what is wrong with the disk
            self._note(event="end", record=self._over.model_dump(mode="json"))
            if self._over.status != "ok":
                checkpoint.remove(self.folder)
                shutil.rmtree(self.folder / "rates", ignore_errors=True)

    def _measured(self, status: Status, cause: str) -> Record:
        if self._trainer is None:
            return self.job.record.model_copy(update={"status": status, "cause": cause})
        return self._trainer.record(status, cause)

    def _whole(self, record: Record) -> Record:
        """With what only the driver and the attempt know."""
        known = self.job.record
        mine = {name: getattr(known, name) for name in NOTES}
        mine |= {"key": known.key, "fingerprint": known.fingerprint, "rates": self._rates, "attempts": self._attempts}
        return record.model_copy(update=mine)

    @property
    def _progress(self) -> Progress:
        if self._trainer is not None:
            return self._trainer.progress
        if self._search is not None and (progress := self._search.progress) is not None:
            return progress
        over = self._over or self.job.record
        return Progress(over.tokens, self.job.budget, over.steps, over.steps, float("nan"), over.seconds)

    def _note(self, **line: Any) -> None:
        disk.append(self.folder / STATUS, line, sync=True)
