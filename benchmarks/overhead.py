"""What a trial costs beside its training: suggestion, ledger (synced), display; on Ray all that Tune and a worker do.

    python benchmarks/overhead.py --trials 2000 --samplers random survey evolution tpe
    python benchmarks/overhead.py --trials 2000 --ray

The first: trials that do nothing, in this process; milliseconds of processor a trial in every tenth of the run (flat if a
long run costs no more than a short one), by the clock over all, and how long it takes to read the run as a table. The
second: trials of one step of a tiny model on two warm workers; by the clock from one commit to the next.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console

from miras_search.ledger import Ledger
from miras_search.results import load_results
from miras_search.runs import RunFolder
from miras_search.search import Search
from miras_search.space import Space
from miras_search.sweep import run_sweep
from miras_search.sweep.driver import Driver
from miras_search.sweep.job import Event
from miras_search.trial import Progress

SPACE = """
name: noop
design:
  memory: [matrix, {kind: mlp, layers: [1, 2]}]
  bias: [dot, l2, {kind: lp, p: {float: [1.5, 4]}}, huber]
  retention: [none, l2, {kind: lq, q: {float: [2.5, 4]}}]
  algorithm: [{kind: gradient_descent, chunk: [8, 16], step: {log_float: [0.03, 10]}}, momentum]
optimiser: {lr: {log_float: [1e-4, 1e-1]}}
task: mqar
budget: {tokens: 1e4}
objectives: [mqar.accuracy]
search: {sampler: random, parallel: 2}
"""


ONE_STEP = """
name: one-step
design:
  memory: matrix
  bias: [dot, l2]
  retention: [none, l2]
  algorithm: {kind: gradient_descent, chunk: 8, step: {log_float: [0.1, 1.0]}}
backbone: {width: 8, layers: 1, heads: 1, ffn: 0}
optimiser: {lr: {log_float: [3e-3, 3e-2]}}
task: {kind: mqar, pairs: 2, rewrites: 2, keys: 8, values: 8, gap: 4, batch: 4, validation: 4, test: 4}
budget: {tokens: 64}
objectives: [mqar.nll]
search: {sampler: random, parallel: 2}
"""


def noop(space: Space, folder: Path, trials: int) -> list[float]:
    """Processor seconds of every trial of a run whose trials do nothing."""
    run = RunFolder.create(folder, space.to_yaml())
    spent = []
    with run.lock():
        console = Console(file=io.StringIO())
        with Driver(run, space, Search(space), trials, console, None, None, 1, ()) as driver:
            start = time.process_time()
            while (job := driver.next_job()) is not None:
                value = int(job.key[:6], 16) / 16**6
                record = job.record.model_copy(update={"metrics": {"accuracy": value}, "tokens": 10_000})
                driver.on_end(job.key, Event("end", Progress(10_000, 10_000, 1, 1, 0.0, 0.0), record))
                now = time.process_time()
                spent.append(now - start)
                start = now
    return spent


def tenths(spent: list[float]) -> str:
    """Means of every tenth, milliseconds."""
    part = max(1, len(spent) // 10)
    return " ".join(f"{sum(spent[i : i + part]) / part * 1e3:.1f}" for i in range(0, part * 10, part))


def on_ray(trials: int, folder: Path) -> None:
    """Trials of one step on two warm workers."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # else a busy machine serves them last, and others are measured
    space = Space.from_text(ONE_STEP)
    run_sweep(space, "run", runs_dir=folder, trials=trials, console=Console(file=io.StringIO()))
    rows = Ledger(folder / "run").rows()
    times = [datetime.fromisoformat(row.time).timestamp() for row in rows]
    warm = [later - before for before, later in itertools.pairwise(times[10:])]
    trained = sum(row.seconds for row in rows) / len(rows)
    print(
        f"ray        ms from commit to commit, two workers: {tenths(warm)}; in all "
        f"{sum(warm) / len(warm) * 1e3:.0f} a trial, {2e3 * sum(warm) / len(warm):.0f} of a worker's time, of which the step took "
        f"{trained * 1e3:.0f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--samplers", nargs="+", default=["random", "survey", "evolution"])
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    if given.ray:
        with tempfile.TemporaryDirectory() as place:
            on_ray(given.trials, Path(place))
        return
    for sampler in given.samplers:
        with tempfile.TemporaryDirectory() as place:
            space = Space.from_text(SPACE, overrides=[f"search.sampler={sampler}"])
            start = time.perf_counter()
            spent = noop(space, Path(place) / "run", given.trials)
            clock = (time.perf_counter() - start) / len(spent) * 1e3
            start = time.perf_counter()
            rows = len(load_results(Path(place) / "run"))
            read = time.perf_counter() - start
            print(
                f"{sampler:10s} ms a trial: {tenths(spent)}; by the clock {clock:.1f}; {rows} rows read in {read:.2f} s"
            )


if __name__ == "__main__":
    main()
