"""The driver of a sweep: deals trials to an executor, commits what comes back, shows it, and takes Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from miras_search import checkpoint, disk
from miras_search.ledger import Record, Status
from miras_search.results import load_results
from miras_search.runs import RunFolder
from miras_search.search import Leader, Outcome, Point, Rungs, Search, outcomes, reason, standing
from miras_search.search.halving import Evidence
from miras_search.search.nsga2 import ranked
from miras_search.space import Space
from miras_search.statistics.finals import Finalist, finalists
from miras_search.sweep.job import NOTES, STATUS, Event, Job, lost, outcome
from miras_search.sweep.loggers import Logs
from miras_search.sweep.progress import Monitor, duration, leading
from miras_search.sweep.reuse import Reuse
from miras_search.sweep.shelf import Shelf
from miras_search.tasks import Task
from miras_search.trial import Progress, blank

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


@dataclass(frozen=True)
class Summary:
    """What a sweep came to.

    `rows` of the run, `new` in this session; `counts` by status; `causes` of what is neither ok nor pruned, most
    frequent first; `exhausted`: every point of the space has been tried; `seconds` of this session; `rungs`: how well
    each foretells the end; `front`: of several objectives; `evicted`: trials whose weights were let go in this session;
    `finals`: objective and finalist, the best first.
    """

    name: str
    folder: Path
    rows: int
    new: int
    counts: dict[str, int]
    causes: dict[str, int]
    best: tuple[Leader, ...]
    exhausted: bool
    seconds: float
    rungs: tuple[Evidence, ...] = ()
    front: tuple[Point, ...] = ()
    evicted: int = 0
    finals: tuple[tuple[str, Finalist], ...] = ()

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        lines = [f"{self.name}: {self.rows} trials ({counts}), {self.new} new in {duration(self.seconds)}"]
        lines += [f"{leading(best)}, trial {best.key}" for best in self.best]
        lines += [f"{count} x {cause}" for cause, count in self.causes.items()]
        lines += [str(found) for found in self.rungs]
        if self.evicted:
            lines.append(f"weights of {self.evicted} trials were let go, the worst (checkpoints:)")
        lines += [f"final by {metric}, {finalist}" for metric, finalist in self.finals]
        if self.exhausted:
            lines.append("every point of the space has been tried")
        return "\n  ".join(lines)


class Driver:
    """The driver of one session: deals jobs to an executor, commits what comes back. The only writer of the ledger.

    Rows are dealt in the order suggestion, seed, task. A context manager, which shows progress and takes Ctrl-C while
    it is open. All calls come from one thread.
    """

    def __init__(
        self,
        run: RunFolder,
        space: Space,
        search: Search,
        total: int,
        console: Console,
        cache: Path | None,
        timeout: float | None,
        threads: int,
        plugins: tuple[str, ...],
        reuse: Reuse | None = None,
    ) -> None:
        self.run, self.space, self.search, self.total, self.cache = run, space, search, total, cache
        self.timeout, self.threads, self.plugins, self.reuse = timeout, threads, plugins, reuse
        self.parallel = space.search.parallel
        self.rows = run.ledger.rows()
        self.exhausted = False
        self.signals = 0
        self._rungs = Rungs(space)
        self._committed: list[Outcome] = outcomes(self.rows, space)
        self._places: dict[int, dict[tuple[str, int], Record]] = {}
        for row in self.rows:
            self._places.setdefault(row.n, {}).setdefault((row.task, row.seed), row)
        self._by_key = {row.key: row for row in self.rows}
        self._how: dict[int, str] = {}
        self._earlier: list[Mapping[str, Any]] = []
        self._queue: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._twins: dict[str, list[Record]] = {}
        self._finals = space.finalists is None
        self._seen: dict[str, Record] = {}
        self._before = len(self.rows)
        self._monitor = Monitor(console, run.path.name, total, self.rows)
        self._standing = standing(self._committed, self.rows, space)
        self._shelf = Shelf(run, space, self.rows, self._committed)
        self._monitor.standing = self._standing
        self._logs = Logs(run, space.loggers.to, self.rows, self._monitor.note)
        self._told = False

    @property
    def interrupted(self) -> bool:
        """Ctrl-C was pressed."""
        return self.signals > 0

    @property
    def complete(self) -> bool:
        """Nothing is left to do: all rows are dealt and committed."""
        return self.finished and not self._jobs

    @property
    def finished(self) -> bool:
        """All rows are dealt, those of the finalists too."""
        return not self._queue and self._searched and self._finals

    @property
    def _searched(self) -> bool:
        """All rows of the search are dealt, or no candidate is left."""
        return self.exhausted or len(self._earlier) * self.space.rows >= self.total

    def next_job(self) -> Job | None:
        """The next trial to run; None if all are dealt, or the next suggestion waits for results."""
        while not self._queue and not self.finished:
            if not self._deal():
                return None
        if not self._queue:
            return None
        job = self._queue.popleft()
        self._jobs[job.key] = job
        history = disk.lines(Path(job.folder) / STATUS)
        self._seen[job.key] = lost(job.record, "pruned", "", history)
        self._shelf.settle(job.record for job in self._jobs.values())
        self._monitor.started(job.record)
        return job

    def _deal(self) -> bool:
        """Queue the rows of the next suggestion that are not in the ledger; False if it waits for results."""
        if self._searched:
            return self._deal_finals()
        n = len(self._earlier)
        places = [(seed, task) for seed in range(self.space.seeds) for task in self.space.tasks]
        places = places[: self.total - n * self.space.rows]
        have = self._places.get(n, {})
        seed, task = places[0]
        rejected: dict[str, int] = {}
        if (task.name, seed) in have:  # the first row of a suggestion has its counts: nothing to be asked for
            assignment: Mapping[str, Any] = have[task.name, seed].assignment
            how = have[task.name, seed].how
        else:
            if len(self._committed) < self.search.needs(n):
                return False
            suggestion = self.search.ask(n, self._committed, self._earlier)
            if suggestion is None:
                self.exhausted = True
                return True
            assignment, how, rejected = suggestion.assignment, suggestion.how, dict(suggestion.rejected)
        self._earlier.append(assignment)
        self._how[n] = how
        missing = [(seed, task) for seed, task in places if (task.name, seed) not in have]
        if not missing:
            return True
        candidate = self.space.candidate(dict(assignment))
        certificates = self.space.certificates(candidate)
        for seed, task in missing:
            first = (seed, task) == places[0]
            record = blank(candidate, task, self.space.budget.of(task.name), seed, self.space.lr_search)
            notes = {"n": n, "assignment": dict(assignment), "how": how, "match": certificates}
            notes["rejected"] = rejected if first else {}
            self._put(record.model_copy(update=notes), task)
        return True

    def _deal_finals(self) -> bool:
        """Queue the rows of the finalists, once the search is over."""
        if self._jobs:
            return False
        assert self.space.finalists is not None
        self._finals = True
        done = [(o, o.values) for o in self._committed if o.values is not None]
        done.sort(key=lambda entry: -entry[0].n)  # of equal ones the earliest, whatever the order in which they ended
        order = ranked([values for _, values in done], [o.goal for o in self.space.objectives])
        best = [done[i][0] for i in order[: self.space.finalists.count]]
        seeds = range(self.space.seeds, self.space.seeds + self.space.finalists.seeds)
        self._monitor.total += len(best) * len(seeds) * len(self.space.tasks)
        for seed in seeds:
            for chosen in best:
                candidate = self.space.candidate(dict(chosen.assignment))
                notes = {"n": chosen.n, "assignment": dict(chosen.assignment), "stage": "final"}
                notes |= {"how": self._how[chosen.n], "match": self.space.certificates(candidate)}
                for task in self.space.tasks:
                    if (task.name, seed) not in self._places[chosen.n]:
                        record = blank(candidate, task, self.space.budget.of(task.name), seed, self.space.lr_search)
                        self._put(record.model_copy(update=notes), task)
        return True

    def _put(self, record: Record, task: Task) -> None:
        same = self._by_key.get(record.key)
        if same is not None:  # the same computation under another number: its result is taken over
            self._commit(_as(same, record))
            return
        if record.key in self._jobs or any(job.key == record.key for job in self._queue):
            self._twins.setdefault(record.key, []).append(record)
            return
        if self.reuse is not None and (kept := self.reuse.take(record, self.run.trial(record.key))) is not None:
            self._commit(_as(kept, record))
            return
        if (cause := self._shelf.refusal(record)) is not None:
            self._commit(record.model_copy(update={"status": "invalid", "cause": cause, "attempts": 0}))
            return
        final = record.stage == "final"
        self._queue.append(
            Job(
                record=record,
                task=task.model_dump(mode="json"),
                budget=self.space.budget.of(task.name),
                folder=str(self.run.trial(record.key).resolve()),
                cache=str(self.cache) if self.cache else None,
                rungs=() if final else self._rungs.tokens(task.name),
                test=final,
                lr_search=self.space.lr_search,
                timeout=self.timeout,
                threads=self.threads,
                plugins=self.plugins,
            )
        )

    def on_progress(self, key: str, progress: Progress) -> None:
        """A running trial has come this far."""
        self._monitor.advanced(key, progress)

    def on_rung(self, key: str, event: Event) -> bool:
        """Whether a trial goes on from its rung; if not, it is committed."""
        record = event.record
        assert record is not None
        self._monitor.advanced(key, event.progress)
        rung = len(record.rungs) - 1
        others = self._rungs.reached([r for r in (*self.rows, *self._seen.values()) if r.key != key], record.task, rung)
        own = self._rungs.values(record, rung)
        self._seen[key] = record
        trusted = self._rungs.evidence(record.task, rung, self.rows).stops
        if own is None or not trusted or self._rungs.survives(record.task, rung, own, others):
            return True
        cause = f"not among the best {self.space.halving.keep:.0%} at rung {rung + 1}" if self.space.halving else ""
        self._commit(record.model_copy(update={"cause": cause}))
        checkpoint.remove(self.run.trial(key))
        return False

    def on_end(self, key: str, event: Event) -> None:
        """Commit a trial that has ended."""
        assert event.record is not None
        self._commit(event.record)

    def on_lost(self, key: str, status: Status, cause: str) -> None:
        """A worker is gone and another will try."""
        if key in self._jobs:
            disk.append(self.run.trial(key) / STATUS, {"event": "lost", "status": status, "cause": cause}, sync=True)
            self._monitor.note(f"trial {key}: its worker was lost, trying again ({cause})")

    def on_crash(self, key: str, status: Status, cause: str) -> None:
        """Give a trial up: first in its own folder, so that nobody tries again, then in the ledger."""
        job = self._jobs.get(key)
        if job is None:
            return
        path = self.run.trial(key) / STATUS
        path.parent.mkdir(parents=True, exist_ok=True)
        over = outcome(job.record, disk.lines(path))
        if over is None:
            disk.append(path, {"event": "gone", "status": status, "cause": cause}, sync=True)
            over = lost(job.record, status, cause, disk.lines(path))
            checkpoint.remove(path.parent)
        self._commit(over)

    def on_tick(self) -> None:
        """Keep the display alive."""
        if self.interrupted and not self._told:
            self._told = True
            self._monitor.note("stopping: trials at work write their checkpoints; Ctrl-C again stops at once")
        self._monitor.tick()

    def _commit(self, record: Record) -> None:
        """Append a row, once a place."""
        place = self._places.setdefault(record.n, {})
        if (record.task, record.seed) in place:
            return
        self.run.ledger.append(record)
        self.rows.append(record)
        place[record.task, record.seed] = self._by_key[record.key] = record
        self._jobs.pop(record.key, None)
        self._seen.pop(record.key, None)
        self._shelf.put(record)
        if record.stage == "search":
            for outcome in outcomes(place.values(), self.space):
                self._committed.append(outcome)
                self._standing.add(outcome, place.values())
                self._shelf.ranked(outcome)
        self._shelf.settle(job.record for job in self._jobs.values())
        self._monitor.ended(record)
        self._logs.trial(record)
        for twin in self._twins.pop(record.key, ()):
            self._commit(_as(record, twin))

    def best(self) -> list[Leader]:
        """The best suggestion by each objective."""
        return self._standing.leaders

    def evidence(self) -> Iterator[Evidence]:
        """How well each rung of each task foretells the end."""
        for task in self.space.tasks:
            for rung in range(len(self._rungs.tokens(task.name))):
                yield self._rungs.evidence(task.name, rung, self.rows)

    def _finalists(self) -> Iterator[tuple[str, Finalist]]:
        if not any(row.stage == "final" for row in self.rows):
            return
        frame = load_results(self.run.path)
        for objective in self.space.objectives:
            if objective.task:
                for finalist in finalists(frame, objective.task, objective.name, objective.goal):
                    yield objective.metric, finalist

    def summary(self) -> Summary:
        """What the run has come to."""
        failed = Counter(reason(row) for row in self.rows if row.status not in ("ok", "pruned"))
        return Summary(
            name=self.run.path.name,
            folder=self.run.path,
            rows=len(self.rows),
            new=len(self.rows) - self._before,
            counts=dict(Counter(row.status for row in self.rows).most_common()),
            causes=dict(failed.most_common()),
            best=tuple(self.best()),
            exhausted=self.exhausted,
            rungs=tuple(self.evidence()),
            finals=tuple(self._finalists()),
            seconds=self._monitor.seconds,
            front=tuple(self._standing.front) if len(self.space.objectives) > 1 else (),
            evicted=self._shelf.evicted,
        )

    def __enter__(self) -> Self:
        self._open = contextlib.ExitStack()
        self._open.enter_context(self._monitor)
        self._open.enter_context(self._signals())
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._logs.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C asks to stop, the second ends the process. Only the main thread may have handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            self.signals += 1
            if self.signals > 1:
                self._monitor.console.show_cursor(True)
                os._exit(INTERRUPTED)

        old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _as(result: Record, known: Record) -> Record:
    """The result of an equal trial as the row of another place."""
    return result.model_copy(update={name: getattr(known, name) for name in NOTES})
