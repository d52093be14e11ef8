"""What a sweep will take, before it is started: trials, time, memory, disk (`sweep --dry-run`).

Candidates are drawn as the sweep would draw them at random. A few of them, spread over their cost, are trained for two
steps on every task in this process; the others are taken to be as fast per FLOP as the probed one nearest in cost.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from miras_search.candidate import Candidate
from miras_search.errors import TaskError
from miras_search.search import Search
from miras_search.space import Space
from miras_search.tasks import Task
from miras_search.trial import Diverged, Trainer, refuse

DRAWN = 64
"""Candidates drawn."""
PROBES = 6
"""Candidates trained for a moment."""
STEPS = 2
"""Steps that are timed, after one that is not."""
PATIENCE = 30.0
"""Seconds after which no further probe is begun."""
RAY_BYTES = 533 * 2**20
"""Ray's own processes on one machine (measured: proportional set size, two idle workers)."""
LOG_BYTES = 40 * 2**10
"""Logs and row of a trial: 200 steps of about 130 bytes, status and record (measured)."""


@dataclass(frozen=True)
class Probe:
    """A candidate trained for a moment on a task; `build_seconds`: before its first step."""

    design: str
    task: str
    flops_per_token: int
    tokens_per_second: float
    build_seconds: float


@dataclass(frozen=True)
class Estimate:
    """What the rest of a sweep will take. `workers`: trials that really run at a time; `spread`: seconds of a trial."""

    trials: int
    done: int
    candidates: int
    exhausted: bool
    workers: int
    seconds: float
    spread: tuple[float, float]
    memory_bytes: int
    disk_bytes: int
    probes: tuple[Probe, ...]
    assumptions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def estimate(
    space: Space,
    *,
    trials: int | None = None,
    done: int = 0,
    executor: str = "ray",
    threads: int = 1,
    cache: Path | None = None,
    patience: float = PATIENCE,
) -> Estimate:
    """Estimate a sweep by a short probe.

    Args:
        space: what is searched.
        trials: rows to reach; default: what the space says.
        done: rows that are there already.
        executor: `inline` runs one trial at a time.
        threads: cores of a trial.
        cache: folder for prepared data.
        patience: seconds for the probes; one that would take longer, by its FLOPs, is left out.

    Raises:
        TaskError: if a task's data cannot be read, or no candidate fits a task or can be timed on it.
        DesignError, MatchError: if a design of `start_with` is no candidate.
    """
    wanted = trials if trials is not None else space.search.trials
    candidates, exhausted = _draw(space, -(-wanted // space.rows))
    if exhausted:
        wanted = min(wanted, len(candidates) * space.rows)
    left = max(0, wanted + space.final_rows - done)
    cores = _cores()
    workers = 1 if executor == "inline" else max(1, min(space.search.parallel, cores // threads, max(1, left)))
    probes, seconds = _probe(space, candidates, threads, cache, patience)
    mean = fmean(seconds)
    weights = 4 * fmean(c.parameters(t.vocab) for c in candidates for t in space.tasks)
    peak = _peak_bytes()
    return Estimate(
        trials=left,
        done=done,
        candidates=-(-left // space.rows),
        exhausted=exhausted,
        workers=workers,
        seconds=left * mean / workers,
        spread=(min(seconds), max(seconds)),
        memory_bytes=round(peak * workers + (RAY_BYTES if executor == "ray" else 0)),
        disk_bytes=round(_weights(space, left, workers, weights) + (left + 3 * workers) * LOG_BYTES),
        probes=tuple(probes),
        assumptions=_assumptions(space, executor, workers, cores, threads, len(candidates), len(probes)),
    )


def _assumptions(
    space: Space, executor: str, workers: int, cores: int, threads: int, drawn: int, probes: int
) -> tuple[str, ...]:
    at_a_time = f"{workers} of search.parallel {space.search.parallel}" if executor == "ray" else "one"
    halving = ", trials that halving stops early counted by the share it keeps" if space.halving else ""
    return (
        f"time: {drawn} random candidates, {probes} probes of {STEPS} steps here, the rest by FLOPs; {at_a_time} at a "
        f"time on {cores} cores of this machine, {threads} a trial{halving}; none fails or times out",
        "memory: the peak of this process a worker" + (", and 533 MiB for Ray itself" if executor == "ray" else ""),
        "disk: weights, as `checkpoints:` lets them stay, and logs of every trial; designs and reports come on top",
    )


def _weights(space: Space, trials: int, workers: int, size: float) -> float:
    """Bytes of checkpoints: those that stay by the space's rule, and those of trials at work."""
    keep, limit = space.checkpoints.keep, space.checkpoints.max_gb
    stay = trials if keep is None else min(trials, keep * space.rows + space.final_rows)
    total = (stay + 3 * workers) * size
    return total if limit is None else min(total, limit * 1e9)


def _draw(space: Space, count: int) -> tuple[list[Candidate], bool]:
    """Up to `DRAWN` candidates, those of `start_with` first; and whether the space has no more than these."""
    search = Search(replace(space, search=space.search.model_copy(update={"sampler": "random"})))
    found: list[Candidate] = []
    earlier: list[Mapping[str, object]] = []
    for n in range(min(count, max(DRAWN, len(search.starts)))):
        suggestion = search.ask(n, [], earlier)
        if suggestion is None:
            return found, True
        earlier.append(suggestion.assignment)
        found.append(space.candidate(suggestion.assignment))
    return found, False


def _probe(
    space: Space, candidates: Sequence[Candidate], threads: int, cache: Path | None, patience: float
) -> tuple[list[Probe], list[float]]:
    """The probes, and the seconds of every candidate's trial on every task."""
    until = time.monotonic() + patience
    probes: list[Probe] = []
    seconds: list[float] = []
    for task in space.tasks:
        data = task.prepare(cache)
        work = _work(space, task, sum(batch.inputs.numel() for batch in data.validation()))
        costs = sorted(((c.flops_per_token(task.context), i) for i, c in enumerate(candidates)))
        mine: list[Probe] = []
        diverged = False
        for cost, i in _spread(costs):
            expected = (1 + STEPS) * task.tokens_per_step * _pace(mine, cost) if mine else 0.0
            if mine and time.monotonic() + expected > until:
                continue
            try:
                probe = _time(candidates[i], task, space, threads, cache)
            except Diverged:
                diverged = True
                continue
            mine += [probe] if probe is not None else []
        if not mine and diverged:
            hint = "lower the learning rates or the inner steps"
            raise TaskError("every candidate that was probed diverges", where=f"task {task.name}", hint=hint)
        if not mine:
            raise TaskError("no drawn candidate fits its rows", where=f"task {task.name}", hint=f"{task.longer}")
        build = median(probe.build_seconds for probe in mine)  # the first of a process takes longer
        seconds += (build + work * _pace(mine, cost) for cost, _ in costs)
        probes += mine
    return probes, seconds


def _pace(probes: Sequence[Probe], cost: float) -> float:
    """Seconds a token at a cost in FLOPs, from the probe whose cost is nearest."""
    near = min(probes, key=lambda probe: abs(probe.flops_per_token - cost))
    return cost / near.flops_per_token / near.tokens_per_second


def _spread(costs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Costs and numbers of candidates, evenly over the costs: the median first, then the ends, then between."""
    count = min(PROBES, len(costs))
    places = [round(i * (len(costs) - 1) / max(1, count - 1)) for i in range(count)]
    middle = len(places) // 2
    order = [middle, 0, len(places) - 1, *range(len(places))]
    for place in dict.fromkeys(places[i] for i in order):
        yield costs[place]


def _work(space: Space, task: Task, scored: int) -> float:
    """Tokens of a trial, as many as training takes the time of: an evaluated one costs a third."""
    rungs = space.halving.rungs if space.halving else ()
    searched = space.lr_search.work - 1 if space.lr_search else 0.0
    share = searched + _share(rungs, space.halving.keep) if space.halving else searched + 1.0
    return share * space.budget.of(task.name) + (1 + len(rungs)) * scored / 3


def _time(candidate: Candidate, task: Task, space: Space, threads: int, cache: Path | None) -> Probe | None:
    """Train for a moment; None for a candidate that this task refuses."""
    try:
        refuse(candidate, task)
    except TaskError:
        return None
    start = time.monotonic()
    budget = max(space.budget.of(task.name), (1 + STEPS) * task.tokens_per_step)
    trainer = Trainer(candidate, task, budget, 0, threads=threads, cache=cache)
    built = time.monotonic() - start
    trainer.advance(trainer.tokens_per_step)
    before = trainer.seconds
    trainer.advance((1 + STEPS) * trainer.tokens_per_step)
    return Probe(
        design=candidate.label or candidate.design.fingerprint,
        task=task.name,
        flops_per_token=candidate.flops_per_token(task.context),
        tokens_per_second=STEPS * trainer.tokens_per_step / (trainer.seconds - before),
        build_seconds=built,
    )


def _share(rungs: Sequence[float], keep: float) -> float:
    """The part of the budget that a trial spends on average under successive halving."""
    ends = [*rungs, 1.0]
    return sum(keep**i * (end - start) for i, (start, end) in enumerate(zip([0.0, *rungs], ends, strict=True)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
