"""SIGKILL of driver, worker and node of sweeps at seeded random times, and what is left of them afterwards.

    python benchmarks/kills.py --times 20

A Ray cluster of three nodes on this machine (`ray.cluster_utils.Cluster`, one core each) runs sweeps of small trials
that checkpoint at every step: suggestions by `tpe`, three at a time. Killed are the driver, which is then started again
with `resume`; a worker that is training; or a node: its raylet and all its processes, after which another node joins.

Then every run is held against what was never killed:

- every row once, the rows committed before a kill unchanged;
- every suggestion as `Search` asks for it when given the ledger's rows in their order;
- every trial trained once more, here, without disturbance: loss curve, metrics and final weights bit for bit.

One line a kind. An `AssertionError` says what was not so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers are otherwise the last to be served on a busy machine
KINDS = ("driver", "worker", "node")
LOSSES = 2
"""Workers that a trial may lose; with the next one it is given up."""

SPACE = """
name: killed
design:
  memory: matrix
  bias: [dot, l2]
  retention: [none, l2]
  algorithm: {kind: gradient_descent, chunk: 8, step: {log_float: [0.1, 1.0]}}
start_with: [deltanet]
backbone: {width: 8, layers: 1, heads: 1, ffn: 0}
optimiser: {lr: {log_float: [3e-3, 3e-2]}}
task: {kind: unhurried, pairs: 2, rewrites: 2, keys: 8, values: 8, gap: 4, batch: 4, validation: 32, test: 32}
budget: {tokens: 2560}
objectives: [unhurried.nll]
search: {sampler: tpe, trials: 24, parallel: 3}
"""

TASK = '''
"""MQAR that takes its time in the workers of the cluster, so that a kill finds them training; a checkpoint every step."""

import os
import time
from typing import Literal

from miras_search import trial
from miras_search.choice import register
from miras_search.tasks import Mqar, Stream

trial.CHECKPOINT_SECONDS = 0.0


class Unhurried(Mqar):
    """MQAR, slowly where KILLS_SLEEP says so."""

    kind: Literal["unhurried"] = "unhurried"

    def prepare(self, cache=None):
        data = super().prepare(cache)
        plain = data.train

        def train(seed):
            def batch(step):
                time.sleep(float(os.environ.get("KILLS_SLEEP", "0")))
                stream = plain(seed)
                stream.seek({"step": step})
                return next(stream)

            return Stream(batch)

        data.train = train
        return data


VARIANTS = register(Unhurried)
'''


class Found(NamedTuple):
    """What a kind of kill came to.

    `resumed`, `restarted`: attempts after a loss, from a checkpoint or from the first step; `nodes`: losses that were laid to
    the node.
    """

    kind: str
    kills: int
    runs: int
    trials: int
    resumed: int
    restarted: int
    nodes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.kind:7s} {self.kills:3d} kills, {self.runs} runs, {self.trials} trials: none lost, none repeated, every "
            f"suggestion and curve as undisturbed; {self.resumed} attempts went on from a checkpoint, {self.restarted} "
            f"from the first step; {self.nodes} losses laid to the node; {self.seconds:.0f} s"
        )


def drive(folder: str, name: str, seed: int, trials: int, address: str) -> None:
    """A driver's process: start the run, or go on with it."""
    from rich.console import Console

    from miras_search import plugin
    from miras_search.space import Space
    from miras_search.sweep import run_sweep

    log = (Path(folder) / f"{name}.log").open("a")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    task = Path(folder) / "unhurried.py"
    plugin.load(task)
    space = Space.from_text(SPACE, overrides=[f"search.seed={seed}", f"search.trials={trials}"])
    resume = (Path(folder) / name / "space.yaml").exists()
    console = Console(file=log, width=200)
    run_sweep(space, name, runs_dir=Path(folder), resume=resume, address=address, plugins=[task], console=console)


class Campaign:
    """Kills of one kind, over as many runs as it takes."""

    def __init__(self, folder: Path, cluster: Any, kind: str, times: int, trials: int, seed: int) -> None:
        self.folder, self.cluster, self.kind, self.times, self.trials = folder, cluster, kind, times, trials
        self.rng = random.Random(f"{kind} {seed}")
        self.kills = 0
        self.nodes = [joins(cluster) for _ in range(2)]
        self.losses: Counter[str] = Counter()

    def go(self) -> Found:
        """Kill, resume, check."""
        start, runs, trials = time.monotonic(), 0, 0
        again: Counter[str] = Counter()
        while self.kills < self.times:
            run = self.folder / f"{self.kind}{runs}"
            self.losses.clear()
            before = [""]
            while self.disturb(run, runs, before):
                pass
            trials += check(run, again, self.folder / "whole")
            runs += 1
        for node in self.nodes:
            self.cluster.remove_node(node)
        spent = time.monotonic() - start
        return Found(
            self.kind, self.kills, runs, trials, again["resumed"], again["restarted"], again["node_lost"], spent
        )

    def disturb(self, run: Path, seed: int, before: list[str]) -> bool:
        """One driver, from its start to its end; False if the run is done."""
        process = SERVER.Process(
            target=drive, args=(str(self.folder), run.name, seed, self.trials, self.cluster.address)
        )
        process.start()
        if self.kind == "driver" and self.kills < self.times:
            if self.rng.random() < 0.7:  # else it may be killed before it has come to train anything
                while process.exitcode is None and not any(at_work(run)):
                    process.join(0.05)
            process.join(self.rng.uniform(0.0, 4.0))
            if process.exitcode is None:
                process.kill()
                self.kills += 1
        while process.exitcode is None:
            process.join(self.rng.uniform(0.3, 3.0))
            if process.exitcode is None and self.kills < self.times:
                self.kills += {"worker": self.worker, "node": self.node}[self.kind](run) if self.kind != "driver" else 0
        process.join()
        ledger = run / "ledger.jsonl"
        now = ledger.read_text() if ledger.exists() else ""
        whole = before[0][: before[0].rfind("\n") + 1]
        assert now.startswith(whole), f"{run.name}: rows that were committed have changed"
        before[0] = now
        killed = process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode == 0, (self.folder / f"{run.name}.log").read_text()[-4000:]
        return killed

    def worker(self, run: Path) -> bool:
        """SIGKILL of one that trains; False if none does."""
        found = [(key, pid) for key, pid in at_work(run) if self.losses[key] < LOSSES]
        if not found:
            return False
        key, pid = self.rng.choice(found)
        os.kill(pid, signal.SIGKILL)
        self.losses[key] += 1
        return True

    def node(self, run: Path) -> bool:
        """SIGKILL of all processes of a node on which a trial is trained; another node joins."""
        holders = {pid: key for key, pid in at_work(run)}
        found = []
        for node in self.nodes:
            raylet = node.all_processes["raylet"][0].process.pid
            mine = children(raylet)
            keys = [holders[pid] for pid in mine if pid in holders]
            if keys and all(self.losses[key] < LOSSES for key in keys):
                found.append((node, [raylet, *mine], keys))
        if not found:
            return False
        node, pids, keys = self.rng.choice(found)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.losses.update(keys)
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(joins(self.cluster))
        return True


def joins(cluster: Any, **more: Any) -> Any:
    """Another node of one core; what it trains takes its time."""
    os.environ["KILLS_SLEEP"] = "0.08"
    try:
        return cluster.add_node(num_cpus=1, object_store_memory=STORE, **more)
    finally:
        del os.environ["KILLS_SLEEP"]


def at_work(run: Path) -> Iterator[tuple[str, int]]:
    """Trials that have trained a step and are not over, and the processes that train them."""
    from miras_search import disk

    for path in run.glob("trials/*/status.jsonl"):
        events = disk.lines(path)
        start = next((line for line in reversed(events) if line["event"] == "start"), None)
        steps = path.parent / "steps.jsonl"
        if start is None or not steps.exists() or any(line["event"] in ("end", "gone") for line in events):
            continue
        trains = (
            steps.stat().st_mtime > datetime.fromisoformat(start["time"]).timestamp()
        )  # it may be an earlier attempt's
        if trains and Path(f"/proc/{start['pid']}").exists():
            yield path.parent.name, start["pid"]


def children(parent: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def check(run: Path, again: Counter[str], scratch: Path) -> int:
    """Hold a finished run against what was never killed; returns its trials, counts attempts in `again`."""
    from miras_search import checkpoint, disk, plugin, trial
    from miras_search.candidate import Candidate
    from miras_search.ledger import Ledger
    from miras_search.search import Search, outcomes
    from miras_search.space import Space

    plugin.load(run.parent / "unhurried.py")
    space = Space.from_text((run / "space.yaml").read_text())
    rows = Ledger(run).rows()
    assert sorted(row.n for row in rows) == list(range(space.search.trials)), f"{run.name}: lost or repeated"
    assert {row.status for row in rows} == {"ok"}, [(row.key, row.status, row.cause) for row in rows]
    search, committed = Search(space), outcomes(rows, space)
    earlier: list[Any] = []
    for row in sorted(rows, key=lambda row: row.n):
        asked = search.ask(row.n, committed, earlier)
        assert asked is not None
        assert asked.assignment == row.assignment, f"{run.name}: suggestion {row.n} is not that of an undisturbed run"
        earlier.append(row.assignment)
    for row in rows:
        killed, whole = run / "trials" / row.key, scratch / run.name / row.key
        record = trial.train(
            Candidate.model_validate(row.candidate),
            space.tasks[0],
            space.budget.of(row.task),
            row.seed,
            folder=whole,
            threads=1,
        )
        assert record.metrics == row.metrics, f"trial {row.key} of {run.name}: other metrics"
        curves = [
            [{k: v for k, v in line.items() if k != "seconds"} for line in disk.lines(place / "steps.jsonl")]
            for place in (killed, whole)
        ]
        assert len(curves[1]) == record.steps
        assert curves[0] == curves[1], f"trial {row.key} of {run.name}: another loss curve"
        weights = [checkpoint.read(place) for place in (killed, whole)]
        assert weights[0] is not None
        assert weights[1] is not None
        assert weights[0].tensors.keys() == weights[1].tensors.keys()
        for name, tensor in weights[0].tensors.items():
            assert tensor.equal(weights[1].tensors[name]), f"trial {row.key} of {run.name}: {name} differs"
        events = [line["event"] for line in disk.lines(killed / "status.jsonl")]
        assert events.count("end") == 1
        assert events[-1] == "end", "trained again after its end"
        assert events.count("start") == row.attempts
        lost = [line.get("status") for line in disk.lines(killed / "status.jsonl") if line["event"] == "lost"]
        again.update(lost)
        again["resumed"] += events.count("resume")
        again["restarted"] += row.attempts - 1 - events.count("resume")
        left = [path.name for path in killed.iterdir() if path.name.endswith(".tmp")]
        assert not left, f"trial {row.key} of {run.name}: {left} were left"
    return len(rows)


STORE = 80 * 2**20
"""Bytes of a node's object store: Ray's minimum, nearly."""
SERVER = multiprocessing.get_context("forkserver")
"""Drivers are forked from a process that has imported torch and Ray: seconds less a kill."""


def campaigns(folder: Path, times: int, kinds: tuple[str, ...], trials: int, seed: int) -> Iterator[Found]:
    """Kill so often, kind by kind."""
    from ray.cluster_utils import Cluster

    SERVER.set_forkserver_preload(["torch", "ray.tune", "optuna"])
    (folder / "unhurried.py").write_text(TASK)
    cluster = Cluster()
    joins(cluster, include_dashboard=False)
    try:
        for kind in kinds:
            yield Campaign(folder, cluster, kind, times, trials, seed).go()
    finally:
        cluster.shutdown()


def main() -> None:
    """Kill, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="kills of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--trials", type=int, default=24, help="trials of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="miras-search-kills-") as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for found in campaigns(folder, given.times, tuple(given.kinds), given.trials, given.seed):
            print(found, flush=True)


if __name__ == "__main__":
    main()
