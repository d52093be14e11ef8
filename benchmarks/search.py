"""Which search finds the best designs soonest? Replayed on a table of trained trials, in minutes; nothing is trained.

    python benchmarks/search.py                                   the committed table, all samplers, with and without halving
    python benchmarks/search.py --figure analysis/search.svg      and draws the curves
    python benchmarks/search.py --table T.parquet --space S.yaml --trials 60 --repeats 20 --samplers random tpe
    python benchmarks/search.py --distinct                        how many of 200 proposals on 1,080 points are distinct

A repeat searches the table's points with one of its seeds; a point that the table lacks is refused, as one that is no model
would be. What it costs is counted in whole trials: one that halving stops at a quarter of the budget costs a quarter. A
search knows only what it has seen; it is judged by means over all seeds:

    regret        the best mean of the table less the mean of what the search holds for best, mean over repeats with its 95 %
                  interval, after so many trials' cost
    to top 1 %    cost until it has finished a candidate of the best hundredth (or as good within --tie); median and
                  quartiles over the repeats, `>` where it did not get there

`recommended` is by the same numbers: the sampler of the lowest regret, mean over all costs from 1 on. Differences of that mean are
paired by repeat: one repeat starts every sampler with the same seed, on the same seed's trials.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import pandas as pd

from miras_search.errors import DesignError
from miras_search.ledger import Status
from miras_search.search import Outcome, Search
from miras_search.search.halving import survives
from miras_search.search.samplers import SAMPLERS
from miras_search.space import Space
from miras_search.space.domain import Assignment
from miras_search.space.settings import Search as SearchSettings
from miras_search.statistics import Interval, mean_interval, paired_difference

ROOT = Path(__file__).parents[1]
TABLE, SPACE = ROOT / "runs" / "reference" / "replay.parquet", ROOT / "spaces" / "replay.yaml"
RUNGS, KEEP = (0.25, 0.5), 0.5
DEFAULT = SearchSettings().sampler

POINTS = """
name: points
design: {memory: matrix, bias: l2, retention: l2, algorithm: gradient_descent}
optimiser:
  lr: {log_float: [1e-3, 1e2], step: 10}
  weight_decay: [0, 0.1, 0.2, 0.3, 0.4, 0.5]
  clip: {float: [0.5, 3.0], step: 0.5}
  warmup: {float: [0.0, 0.4], step: 0.1}
task: mqar
budget: {tokens: 1e4}
objectives: [{metric: mqar.accuracy, goal: max}]
search: {sampler: random, parallel: 1, trials: 200}
"""
"""6 x 6 x 6 x 5 = 1,080 points, each another candidate."""


class Run(NamedTuple):
    """A trial of the table: its status, what it came to, and its values at the rungs."""

    status: Status
    value: float
    rungs: tuple[float, ...]


@dataclass(frozen=True)
class Replay:
    """A table: trials by candidate and seed, and the mean over seeds; more is better (signs are turned for `min`)."""

    space: Space
    runs: Mapping[str, Mapping[int, Run]]
    means: Mapping[str, float]

    @property
    def seeds(self) -> list[int]:
        """Seeds that every candidate has."""
        return sorted(set.intersection(*(set(runs) for runs in self.runs.values())))

    def top(self, share: float = 0.01) -> float:
        """The mean from which on a candidate is among the best share; at least one is."""
        ordered = sorted(self.means.values(), reverse=True)
        return ordered[max(1, math.floor(share * len(ordered) + 1e-9)) - 1]


def read(frame: pd.DataFrame, space: Space) -> Replay:
    """A table of benchmarks/replay.py, by the first objective of its space; candidates with a missing seed are left out."""
    objective = space.objectives[0]
    sign = 1.0 if objective.goal == "max" else -1.0
    rows = frame[frame["task"] == objective.task]
    runs: dict[str, dict[int, Run]] = {}
    for row in rows.to_dict("records"):
        rungs = tuple(sign * rung["metrics"][objective.name] for rung in json.loads(row["rungs"]))
        value = sign * row[objective.name] if row["status"] == "ok" else math.nan
        runs.setdefault(row["fingerprint"], {})[int(row["seed"])] = Run(row["status"], value, rungs)
    most = max(len(by_seed) for by_seed in runs.values())
    whole = {name: by_seed for name, by_seed in runs.items() if len(by_seed) == most}
    values = {name: [run.value for run in by_seed.values()] for name, by_seed in whole.items()}
    worst = min(v for of in values.values() for v in of if math.isfinite(v))
    means = {name: fmean(v if math.isfinite(v) else worst for v in of) for name, of in values.items()}
    return Replay(space, whole, means)


class Tabled(Search):
    """A search over the points of a table: what it lacks is refused."""

    def __init__(self, space: Space, known: Mapping[str, Any], memory: dict[str, str]) -> None:
        self.known = known
        super().__init__(space)
        self._known = memory

    def _fingerprint(self, assignment: Assignment) -> str:
        fingerprint = super()._fingerprint(assignment)
        if fingerprint not in self.known:
            raise DesignError("not-in-table: the table lacks this point")
        return fingerprint


class Step(NamedTuple):
    """After a suggestion: the cost so far, the candidate that the search holds for best, and whether this one finished."""

    cost: float
    best: str
    finished: str


def replayed(
    table: Replay, sampler: str, halving: bool, seed: int, budget: float, memory: dict[str, str]
) -> list[Step]:
    """One search until its trials have cost `budget`, or every point was tried."""
    search = table.space.search.model_copy(update={"sampler": sampler, "seed": seed, "parallel": 1})
    space = replace(table.space, search=search, start_with=(), halving=None)
    asked = Tabled(space, table.runs, memory)
    trial_seed = table.seeds[seed % len(table.seeds)]
    reached: list[list[tuple[float]]] = [[] for _ in RUNGS]
    done: list[Outcome] = []
    steps: list[Step] = []
    cost, best, best_value = 0.0, "", -math.inf
    while cost < budget:
        suggestion = asked.ask(len(done), done, [o.assignment for o in done])
        if suggestion is None:
            break
        name = memory[json.dumps(suggestion.assignment, sort_keys=True)]
        run = table.runs[name][trial_seed]
        status: Status = run.status
        spent = 1.0
        for rung, fraction in enumerate(RUNGS if halving else ()):
            if rung >= len(run.rungs):
                break
            own = (run.rungs[rung],)
            goes_on = survives(own, reached[rung], ["max"], KEEP)
            reached[rung].append(own)
            if not goes_on:
                status, spent = "pruned", fraction
                break
        cost += spent
        if status == "ok" and run.value > best_value:
            best, best_value = name, run.value
        done.append(Outcome(suggestion.n, suggestion.assignment, status, (run.value,) if status == "ok" else None))
        steps.append(Step(cost, best, name if status == "ok" else ""))
    return steps


@dataclass(frozen=True)
class Curve:
    """A sampler with or without halving: of each repeat the regret at the checkpoints, and the cost to the top 1 % (inf: never)."""

    sampler: str
    halving: bool
    regrets: tuple[tuple[float, ...], ...]
    to_top: tuple[float, ...]
    seconds: float

    @property
    def name(self) -> str:
        """`tpe`, or `tpe, halving`."""
        return f"{self.sampler}, halving" if self.halving else self.sampler

    @cached_property
    def regret(self) -> tuple[Interval, ...]:
        """At the checkpoints, mean over repeats."""
        return tuple(mean_interval(of) for of in zip(*self.regrets, strict=True))

    @property
    def means(self) -> dict[int, float]:
        """Over the checkpoints, by repeat."""
        return {repeat: fmean(of) for repeat, of in enumerate(self.regrets)}

    @property
    def mean_regret(self) -> float:
        """Over checkpoints and repeats."""
        return fmean(self.means.values())


def curve(
    table: Replay,
    sampler: str,
    halving: bool,
    checkpoints: Sequence[int],
    repeats: int,
    tie: float,
    memory: dict[str, str],
) -> Curve:
    """Repeat a search and sum up."""
    start = time.perf_counter()
    best, worst, wanted = max(table.means.values()), min(table.means.values()), table.top() - tie
    regrets: list[tuple[float, ...]] = []
    to_top = []
    for seed in range(repeats):
        steps = replayed(table, sampler, halving, seed, checkpoints[-1], memory)
        held = [[step.best for step in steps if step.cost <= c and step.best] for c in checkpoints]
        regrets.append(tuple(best - (table.means[names[-1]] if names else worst) for names in held))
        there = [step.cost for step in steps if step.finished and table.means[step.finished] >= wanted]
        to_top.append(there[0] if there else math.inf)
    return Curve(sampler, halving, tuple(regrets), tuple(to_top), time.perf_counter() - start)


def compare(
    table: Replay, samplers: Sequence[str], checkpoints: Sequence[int], repeats: int, tie: float
) -> list[Curve]:
    """All samplers, without halving and with it."""
    memory: dict[str, str] = {}
    return [curve(table, s, h, checkpoints, repeats, tie, memory) for s in samplers for h in (False, True)]


def show(curves: Sequence[Curve], checkpoints: Sequence[int], shown: Sequence[int] = ()) -> None:
    """Print the table (of `shown`, by default all checkpoints), what is best by it, and how the default stands to it."""
    shown = shown or checkpoints
    head = "".join(f"{f'regret at {c}':>26}" for c in shown)
    print(f"{'sampler':10s} {'halving':7s}{head}   mean regret   to top 1 % (quartiles)   seconds")
    last = checkpoints[-1]
    for c in curves:
        at = [c.regret[list(checkpoints).index(cost)] for cost in shown]
        cells = "".join(f"{i.estimate:12.4f} [{i.low:.3f}, {i.high:.3f}]".rjust(26) for i in at)
        low, high = (quantile(c.to_top, q) for q in (0.25, 0.75))
        costs = [f"{v:.0f}" if math.isfinite(v) else f">{last}" for v in (median(c.to_top), low, high)]
        print(
            f"{c.sampler:10s} {'yes' if c.halving else 'no':7s}{cells}   {c.mean_regret:11.4f}   "
            f"{costs[0]} ({costs[1]} to {costs[2]})   {c.seconds:.1f}"
        )
    best = min(curves, key=lambda c: c.mean_regret)
    print(f"recommended: {best.sampler} {'with' if best.halving else 'without'} halving")
    chance = next((c for c in curves if c.sampler == "random" and not c.halving), None)
    if chance is not None:
        print(f"  to the top 1 % in {median(best.to_top):.0f} trials; random in {median(chance.to_top):.0f}")
    for c in curves:
        if c.sampler == DEFAULT:
            for other in {best.name: best, "random": chance or best}.values():
                if other is not c:
                    gap = paired_difference(c.means, other.means)
                    print(
                        f"  {c.name}: mean regret {gap.estimate:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}) against {other.name}, "
                        f"top 1 % in {median(c.to_top) / median(other.to_top):.2f} of its trials"
                    )


def quantile(values: Sequence[float], q: float) -> float:
    """The nearest of the values."""
    ordered = sorted(values)
    return ordered[round(q * (len(ordered) - 1))]


def draw(curves: Sequence[Curve], checkpoints: Sequence[int], title: str, path: Path) -> None:
    """Regret curves with their intervals, without halving and with it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axis, halving in zip(axes, (False, True), strict=True):
        for n, c in enumerate(c for c in curves if c.halving == halving):
            axis.plot(checkpoints, [i.estimate for i in c.regret], color=f"C{n}", label=c.sampler)
            axis.fill_between(
                checkpoints,
                [i.low for i in c.regret],
                [i.high for i in c.regret],
                color=f"C{n}",
                alpha=0.12,
                linewidth=0,
            )
        axis.set_title("with halving" if halving else "without halving", fontsize=10)
        axis.set_xlabel("cost, in whole trials")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("regret: best mean accuracy less that held")
    axes[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "search"}
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def distinct(count: int = 200) -> None:
    """Distinct proposals on 1,080 points, for every sampler and for Optuna's own default."""
    import optuna

    print(f"{count} proposals on 1,080 points\nsampler      distinct  drawn again before")
    for name in SAMPLERS:
        space = Space.from_text(POINTS, overrides=[f"search.sampler={name}"])
        search, done, again = Search(space), list[Outcome](), 0
        for n in range(count):
            found = search.ask(n, done, [o.assignment for o in done])
            assert found is not None
            again += found.repeated
            done.append(Outcome(n, found.assignment, "ok", (_bowl(space, found.assignment),)))
        names = {space.candidate(o.assignment).fingerprint for o in done}
        print(f"{name:12s} {len(names) / count:8.0%}  {again:18d}", flush=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    points = set()
    for _ in range(count):
        trial = study.ask()
        point = tuple(trial.suggest_categorical(str(i), list(range(n))) for i, n in enumerate((6, 6, 6, 5)))
        points.add(point)
        study.tell(trial, -sum(abs(x - 2) for x in point))
    print(f"{'(optuna)':12s} {len(points) / count:8.0%}  its default, asked directly")


def _bowl(space: Space, assignment: Assignment) -> float:
    o = space.candidate(assignment).optimiser
    return -abs(math.log10(o.lr) + 1) - 5 * abs(o.weight_decay - 0.2) - abs(o.clip - 2.0) - 5 * abs(o.warmup - 0.1)


def main() -> None:
    """Read the table, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--space", default=str(SPACE))
    parser.add_argument("--samplers", nargs="+", default=[name for name in SAMPLERS if name != "grid"])
    parser.add_argument("--trials", type=int, default=80, help="cost of a search, in whole trials")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--tie", type=float, default=0.005, help="how much worse still counts as equal")
    parser.add_argument("--figure", type=Path, help="draw the regret curves there")
    parser.add_argument("--distinct", action="store_true")
    given = parser.parse_args()
    if given.distinct:
        distinct()
        return
    if not given.table.exists():
        raise SystemExit(f"{given.table}: there is no table yet\n  make it: python benchmarks/replay.py --trials 600")
    table = read(pd.read_parquet(given.table), Space.load(given.space))
    low, high = min(table.means.values()), max(table.means.values())
    print(
        f"{len(table.runs)} candidates, {len(table.seeds)} seeds; means from {low:.3f} to {high:.3f}, top 1 % from {table.top():.3f}"
    )
    checkpoints = range(1, given.trials + 1)
    curves = compare(table, given.samplers, checkpoints, given.repeats, given.tie)
    show(curves, checkpoints, sorted({max(1, given.trials // part) for part in (8, 4, 2, 1)}))
    if given.figure is not None:
        title = f"Searches replayed on {len(table.runs)} trained candidates, {given.repeats} repeats, mean and 95 % interval"
        draw(curves, checkpoints, title, given.figure)


if __name__ == "__main__":
    main()
