"""What a trial costs beside its training: suggestion, ledger (synced), display. Nothing is trained.

    python benchmarks/overhead.py --trials 2000 --samplers random survey

Prints, for each sampler, milliseconds a trial in every tenth of the run: flat if a long run costs no more than a short one,
and how long it takes to read the finished run as a table.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

from rich.console import Console

from miras_search.results import load_results
from miras_search.runs import RunFolder
from miras_search.search import Search
from miras_search.space import Space
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


def noop(space: Space, folder: Path, trials: int) -> list[float]:
    """Seconds of every trial of a run whose trials do nothing."""
    run = RunFolder.create(folder, space.to_yaml())
    spent = []
    with run.lock():
        console = Console(file=io.StringIO())
        with Driver(run, space, Search(space), trials, console, None, None, 1, ()) as driver:
            start = time.perf_counter()
            while (job := driver.next_job()) is not None:
                value = int(job.key[:6], 16) / 16**6
                record = job.record.model_copy(update={"metrics": {"accuracy": value}, "tokens": 10_000})
                driver.on_end(job.key, Event("end", Progress(10_000, 10_000, 1, 1, 0.0, 0.0), record))
                now = time.perf_counter()
                spent.append(now - start)
                start = now
    return spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--samplers", nargs="+", default=["random", "survey", "evolution"])
    given = parser.parse_args()
    for sampler in given.samplers:
        with tempfile.TemporaryDirectory() as place:
            space = Space.from_text(SPACE, overrides=[f"search.sampler={sampler}"])
            spent = noop(space, Path(place) / "run", given.trials)
            part = max(1, len(spent) // 10)
            tenths = [sum(spent[i : i + part]) / part * 1e3 for i in range(0, part * 10, part)]
            start = time.perf_counter()
            rows = len(load_results(Path(place) / "run"))
            print(
                f"{sampler:10s} ms a trial: {' '.join(f'{t:.1f}' for t in tenths)}; {rows} rows read in {time.perf_counter() - start:.2f} s"
            )


if __name__ == "__main__":
    main()
