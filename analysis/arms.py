"""Experiments of a few arms: trains what is missing, a row a trial, appended to a Parquet file; what is there is never trained again.

A trial is named by (arm, task, seed) and by `settings`, the digest of its candidate, task and steps; a row whose settings are no
longer those of the script is trained anew. What another experiment has trained with the same settings is taken from there.

An arm that has an inner step (or another number) of its own is tuned fairly: all arms try the same few values on seed 0, the one with the
lowest loss on the validation split is kept, and what is reported is the test split of the seeds after it (`tuned`).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from miras_search import Candidate, Design
from miras_search.errors import MirasError
from miras_search.ledger import trial_key
from miras_search.statistics import Interval, mean_interval, paired_difference
from miras_search.tasks import Mqar, Task, Text
from miras_search.trial import Diverged, Trainer

FOLDER = Path(__file__).resolve().parent.parent / "runs" / "reference"
OVERWRITE = Mqar(
    name="overwrite",
    pairs=4,
    rewrites=4,
    keys=16,
    values=16,
    gap=4,
    query="dense",
    batch=16,
    validation=256,
    test=1024,
)
"""4 keys written, 4 more writes to them at random; a key's last value counts. 24 tokens."""
COMMON = ("task", "seed", "settings", "steps", "tokens", "lr", "state_bytes", "status", "parameters", "seconds")
SMALL = OVERWRITE.model_copy(update={"name": "small", "pairs": 3, "rewrites": 3, "keys": 8, "values": 8, "gap": 2})
"""The same with 3 keys of 8, 3 more writes and 8 values: 17 tokens."""
REWRITTEN = SMALL.model_copy(update={"name": "rewritten", "rewrites": 29})
"""The same with 29 more writes to the 3 keys: 69 tokens, of which the last writes to each count."""
BYTES = Text(source="python-docs", context=128, batch=8, eval_tokens=16384)
"""Python's help texts, a byte a token."""
TUNING = 0
"""The seed on which an arm's own number is chosen; it is in no result."""


@dataclass(frozen=True)
class Arm:
    """A candidate on a task. `about`: columns of its own. `also`: designs that the trained weights are tried under, by name."""

    name: str
    candidate: Candidate
    task: Task
    steps: int
    about: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, Design] = field(default_factory=dict)

    def key(self, seed: int) -> str:
        """Names candidate, task, steps and seed."""
        return trial_key(self.candidate, self.task, self.steps * self.task.tokens_per_step, seed)


def one(arm: Arm, seed: int) -> dict[str, Any]:
    """Train and test; what goes wrong is a row too."""
    budget = arm.steps * arm.task.tokens_per_step
    sizes = arm.task.trained(arm.candidate)
    row: dict[str, Any] = {"arm": arm.name, "task": arm.task.name, "seed": seed, **arm.about}
    row |= {"settings": arm.key(seed), "steps": arm.steps, "tokens": budget}
    row |= {"lr": arm.candidate.optimiser.lr, "state_bytes": sizes.state_bytes(arm.task.context), "status": "ok"}
    start = time.monotonic()
    try:
        trainer = Trainer(arm.candidate, arm.task, budget, seed, threads=1)
        trainer.advance(trainer.budget)
        row |= {f"validation_{name}": value for name, value in trainer.evaluate("validation").items()}
        row |= {"parameters": trainer.parameters, **trainer.evaluate("test")}
        for word, design in arm.also.items():
            other = Trainer(arm.candidate.model_copy(update={"design": design}), arm.task, budget, seed, threads=1)
            other.model.load_state_dict(trainer.model.state_dict())
            row |= {f"validation_{name} {word}": value for name, value in other.evaluate("validation").items()}
    except (Diverged, MirasError) as error:
        row["status"] = " ".join(str(error).split())
    return row | {"seconds": round(time.monotonic() - start, 1)}


def arguments(about: str | None) -> argparse.Namespace:
    """The command line of an experiment."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="besides the one that tunes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no trial after this many")
    parser.add_argument("--only", default="", help="arms whose name holds this")
    parser.add_argument("--figure", action="store_true", help="train nothing, draw what is there")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="folder of the figure")
    given = parser.parse_args()
    given.until = time.monotonic() + 60 * given.minutes
    return given


def collect(name: str, arms: Iterable[Arm], seeds: Iterable[int], given: argparse.Namespace) -> pd.DataFrame:
    """All trials of an experiment as a table, those of these arms that were missing trained now.

    Seeds go round: every arm has its first seed before any has its second.
    """
    path = FOLDER / f"{name}.parquet"
    rows = pd.read_parquet(path).to_dict("records") if path.exists() else []
    arms = list(arms)
    for seed in () if given.figure else seeds:
        for arm in arms:
            old = [r for r in rows if (r["arm"], r["task"], r["seed"]) == (arm.name, arm.task.name, seed)]
            late = time.monotonic() > given.until
            if late or given.only not in arm.name or any(r["settings"] == arm.key(seed) for r in old):
                continue
            row = elsewhere(arm, seed) or one(arm, seed)
            rows = [r for r in rows if not any(r is o for o in old)] + [row]
            print(
                {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "settings"}, flush=True
            )
            temporary = path.with_suffix(".tmp")
            pd.DataFrame(rows).to_parquet(temporary)
            temporary.replace(path)
    if not rows:
        raise SystemExit(f"{path} holds no trial yet: run without --figure")
    return pd.DataFrame(rows)


def elsewhere(arm: Arm, seed: int) -> dict[str, Any] | None:
    """The same trial as another experiment's row, if there is one."""
    for path in sorted(FOLDER.glob("e[0-9].parquet")):
        frame = pd.read_parquet(path)
        for row in frame[frame["settings"] == arm.key(seed)].to_dict("records"):
            mine = {name: value for name, value in row.items() if name in COMMON or name.startswith("validation_")}
            mine |= {metric.name: row.get(metric.name) for metric in arm.task.metrics}
            return mine | {"arm": arm.name, **arm.about}
    return None


def tuned(frame: pd.DataFrame, column: str) -> dict[tuple[str, str], str]:
    """(value of `column`, task) -> the arm of the lowest validation loss on the tuning seed, among those that ended well."""
    found = frame[(frame["seed"] == TUNING) & (frame["status"] == "ok")]
    loss = found["validation_nll"]
    if "validation_bits_per_byte" in found:
        loss = loss.fillna(found["validation_bits_per_byte"])
    found = found.assign(loss=loss).sort_values("loss", kind="stable")
    best = found.groupby([column, "task"], sort=False)["arm"].first()
    return {(str(name), str(task)): arm for (name, task), arm in best.items()}


def fresh(frame: pd.DataFrame) -> pd.DataFrame:
    """What may be reported: the seeds that tuned nothing."""
    return frame[frame["seed"] != TUNING]


def scale(frame: pd.DataFrame) -> str:
    """What a figure must say: parameters, tokens, seeds, hours."""
    ok = frame[frame["status"] == "ok"]
    low, high = ok["parameters"].min(), ok["parameters"].max()
    sizes = f"{low:,.0f} to {high:,.0f} parameters"
    few, many = ok["tokens"].min() / 1e6, ok["tokens"].max() / 1e6
    tokens = f"{few:.2f} M tokens" if few == many else f"{few:.2f} to {many:.2f} M tokens"
    counts = fresh(ok).groupby(["arm", "task"])["seed"].nunique()
    seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    hours = frame["seconds"].sum() / 3600
    failed = f", {len(frame) - len(ok)} failed" if len(frame) > len(ok) else ""
    return f"{sizes}, {tokens} a trial, {seeds} seeds, {len(frame)} trials, {hours:.1f} CPU hours{failed}"


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
