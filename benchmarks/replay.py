"""Trains every point of spaces/replay.yaml, and writes the table on which benchmarks/search.py compares searches.

    python benchmarks/replay.py --trials 300          on this machine, one trial after another; goes on where it stopped
    python benchmarks/replay.py --executor ray        as many at a time as --parallel says

Points come in random order, three seeds each, so that a part of the table is a fair sample of the whole. Every call goes on
with the run (runs/replay), whatever stopped the last one, and writes runs/reference/replay.parquet anew: a row a trial, with
`assignment` and `rungs` as JSON beside the columns of `load_results`. Prints the hash of what it wrote, timings left out:
trained again on the same machine and versions, it is the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

import pandas as pd

from miras_search.errors import MirasError
from miras_search.ledger import Ledger
from miras_search.results import load_results, write_parquet
from miras_search.space import Space
from miras_search.sweep import SweepInterrupted, run_sweep

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "runs" / "reference" / "replay.parquet"
TIMINGS = ["seconds", "tokens_per_second", "time", "attempts"]


def table(run: Path) -> pd.DataFrame:
    """The trials of a run, with what they were drawn as and how they stood at the rungs."""
    frame = load_results(run)
    rows = {record.key: record for record in Ledger(run).rows()}
    frame["assignment"] = [json.dumps(rows[key].assignment, sort_keys=True) for key in frame["key"]]
    frame["rungs"] = [json.dumps(rows[key].rungs) for key in frame["key"]]
    return frame


def digest(frame: pd.DataFrame) -> str:
    """16 hex digits of all that does not depend on the clock."""
    kept = frame.drop(columns=TIMINGS).sort_values("key").sort_index(axis=1)
    return hashlib.sha256(kept.to_json(orient="records").encode()).hexdigest()[:16]


def main() -> None:
    """Train on, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default=str(ROOT / "spaces" / "replay.yaml"))
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs")
    parser.add_argument("--trials", type=int, help="rows to reach; default: those of the space")
    parser.add_argument("--executor", choices=["inline", "ray"], default="inline")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--out", type=Path, default=TABLE)
    given = parser.parse_args()
    space = Space.load(given.space, [f"search.parallel={given.parallel}"])
    run = given.runs_dir / space.name
    resume = (run / "space.yaml").exists()
    if resume:  # another number at a time does not change what is drawn at random
        stored = Space.load(run / "space.yaml")
        space = dataclasses.replace(stored, search=stored.search.model_copy(update={"parallel": given.parallel}))
        if space.digest != stored.digest:
            space = stored
    try:
        print(
            run_sweep(
                space, space.name, runs_dir=given.runs_dir, trials=given.trials, executor=given.executor, resume=resume
            )
        )
    except SweepInterrupted as stop:
        print(stop)
    except MirasError as error:
        raise SystemExit(str(error)) from None
    frame = table(run)
    write_parquet(frame, given.out)
    print(
        f"{len(frame)} trials of {frame['fingerprint'].nunique()} candidates are in {given.out}, hash {digest(frame)}"
    )


if __name__ == "__main__":
    main()
