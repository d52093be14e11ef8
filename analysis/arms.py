"""Experiments of a few arms: trains what is missing, a row a trial, appended to a Parquet file; what is there is never trained again.

A trial is named by (arm, task, seed) and by `settings`, the digest of its candidate, task and steps; a row whose settings are no
longer those of the script is trained anew.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from miras_search import Candidate
from miras_search.errors import MirasError
from miras_search.ledger import trial_key
from miras_search.statistics import Interval, mean_interval, paired_difference
from miras_search.tasks import Task
from miras_search.trial import Diverged, Trainer

FOLDER = Path(__file__).resolve().parent.parent / "runs" / "reference"


@dataclass(frozen=True)
class Arm:
    """A candidate on a task. `about`: columns of its own; `before`: changes the fresh model; `after`: more columns."""

    name: str
    candidate: Candidate
    task: Task
    steps: int
    about: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[Trainer], None] | None = None
    after: Callable[[Trainer], Mapping[str, Any]] | None = None


def one(arm: Arm, seed: int) -> dict[str, Any]:
    """Train and test; what goes wrong is a row too."""
    budget = arm.steps * arm.task.tokens_per_step
    sizes = arm.task.trained(arm.candidate)
    row: dict[str, Any] = {"arm": arm.name, "task": arm.task.name, "seed": seed, **arm.about}
    row |= {"settings": trial_key(arm.candidate, arm.task, budget, seed), "steps": arm.steps, "tokens": budget}
    row |= {"lr": arm.candidate.optimiser.lr, "state_bytes": sizes.state_bytes(arm.task.context), "status": "ok"}
    start = time.monotonic()
    try:
        trainer = Trainer(arm.candidate, arm.task, budget, seed, threads=1)
        if arm.before is not None:
            arm.before(trainer)
        trainer.advance(trainer.budget)
        row |= {"parameters": trainer.parameters, **trainer.evaluate("test")}
        if arm.after is not None:
            row |= arm.after(trainer)
    except (Diverged, MirasError) as error:
        row["status"] = " ".join(str(error).split())
    return row | {"seconds": round(time.monotonic() - start, 1)}


def collect(name: str, arms: Iterable[Arm], about: str) -> tuple[pd.DataFrame, argparse.Namespace]:
    """The command line of an experiment: its trials as a table, those that were missing trained now.

    Seeds go round: every arm has its first seed before any has its second.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no trial after this many")
    parser.add_argument("--only", default="", help="arms whose name holds this")
    parser.add_argument("--figure", action="store_true", help="train nothing, draw what is there")
    given = parser.parse_args()
    path = FOLDER / f"{name}.parquet"
    rows = pd.read_parquet(path).to_dict("records") if path.exists() else []
    arms, begun = list(arms), time.monotonic()
    for seed in range(given.seeds):
        for arm in arms:
            key = trial_key(arm.candidate, arm.task, arm.steps * arm.task.tokens_per_step, seed)
            old = [r for r in rows if (r["arm"], r["task"], r["seed"]) == (arm.name, arm.task.name, seed)]
            skip = given.figure or given.only not in arm.name or time.monotonic() - begun > 60 * given.minutes
            if skip or any(r["settings"] == key for r in old):
                continue
            row = one(arm, seed)
            rows = [r for r in rows if not any(r is o for o in old)] + [row]
            print(
                {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "settings"}, flush=True
            )
            temporary = path.with_suffix(".tmp")
            pd.DataFrame(rows).to_parquet(temporary)
            temporary.replace(path)
    if not rows:
        raise SystemExit(f"{path} holds no trial yet: run without --figure")
    return pd.DataFrame(rows), given


def scale(frame: pd.DataFrame) -> str:
    """What a figure must say: parameters, tokens, seeds, hours."""
    ok = frame[frame["status"] == "ok"]
    sizes = f"{ok['parameters'].min():,.0f} to {ok['parameters'].max():,.0f} parameters"
    tokens = f"{ok['tokens'].min() / 1e6:.2f} to {ok['tokens'].max() / 1e6:.2f} M tokens"
    seeds = ok.groupby(["arm", "task"])["seed"].nunique()
    hours = frame["seconds"].sum() / 3600
    failed = f", {len(frame) - len(ok)} failed" if len(frame) > len(ok) else ""
    return f"{sizes}, {tokens}, {seeds.min()} to {seeds.max()} seeds, {hours:.1f} CPU hours{failed}"


def by_seed(frame: pd.DataFrame, arm: str, task: str, metric: str) -> dict[int, float]:
    """Values of an arm on a task."""
    rows = frame[(frame["arm"] == arm) & (frame["task"] == task) & (frame["status"] == "ok")]
    return dict(zip(rows["seed"].astype(int), rows[metric].astype(float), strict=True))


def mean(frame: pd.DataFrame, arm: str, task: str, metric: str) -> Interval:
    """Mean over seeds with its interval."""
    return mean_interval(list(by_seed(frame, arm, task, metric).values()))


def gain(frame: pd.DataFrame, arm: str, base: str, task: str, metric: str) -> Interval:
    """Arm less base, paired by seed."""
    return paired_difference(by_seed(frame, arm, task, metric), by_seed(frame, base, task, metric))
