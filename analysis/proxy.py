"""Does a cheap measurement order designs as the expensive one does? On the replay table, by Kendall's tau with its interval.

    python analysis/proxy.py --figure      draws analysis/proxy.svg from runs/reference/replay.parquet, and prints its numbers

Proxies: a part of the budget, or one seed, or both, against the mean loss over seeds at the full budget (one seed against the mean of the
others); and, over the named designs of the anchors, accuracy on recall against bits per byte of text.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from arms import arguments

from miras_search.statistics import Agreement, rank_agreement

TABLES = Path(__file__).resolve().parent.parent / "runs" / "reference"
METRIC, GOAL = "nll", "min"


def scores(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A table by budget, candidates by seeds; of candidates whose every seed ran to the end."""
    rungs = [
        {
            f"{100 * rung['tokens'] / row.tokens:.0f} % of the budget": rung["metrics"][METRIC]
            for rung in json.loads(row.rungs)
        }
        | {"the whole budget": getattr(row, METRIC)}
        for row in frame.itertuples()
    ]
    long = pd.concat([frame[["fingerprint", "assignment", "seed"]].reset_index(drop=True), pd.DataFrame(rungs)], axis=1)
    found = {
        name: long.pivot_table(index="assignment", columns="seed", values=name)
        for name in long.columns.difference(["fingerprint", "assignment", "seed"], sort=False)
    }
    whole = found["the whole budget"].dropna().index
    return {name: table.loc[table.index.intersection(whole)] for name, table in found.items()}


def agreements(by: dict[str, pd.DataFrame]) -> dict[str, Agreement]:
    """Every proxy against the mean of the seeds that it has not seen, at the full budget."""
    whole = by["the whole budget"]
    found = {}
    for name, table in by.items():
        first, others = table.columns[0], whole.columns[1:]
        found[f"one seed, {name}"] = rank_agreement(table[first], whole[others].mean(axis=1), (GOAL, GOAL))
        if name != "the whole budget":
            found[f"all seeds, {name}"] = rank_agreement(table.mean(axis=1), whole.mean(axis=1), (GOAL, GOAL))
    return found


def recall_for_text() -> Agreement:
    """The anchors of both tasks, memory at work, means over seeds."""
    found = []
    for task, metric in (("recall", "accuracy"), ("text", "bits_per_byte")):
        frame = pd.read_parquet(TABLES / f"anchors-{task}.parquet")
        found.append(frame[(frame["status"] == "ok") & (frame["arm"] == "memory")].groupby("design")[metric].mean())
    return rank_agreement(*found, ("max", "min"))


def main() -> None:
    given = arguments(__doc__)
    frame = pd.read_parquet(TABLES / "replay.parquet")
    frame = frame[frame["status"] == "ok"]
    by = scores(frame)
    found = agreements(by) | {"recall for text, named designs": recall_for_text()}
    found = dict(sorted(found.items(), key=lambda item: item[1].kendall.estimate))
    seeds, steps = by["the whole budget"].shape[1], int(frame["tokens"].max())
    figure, axis = plt.subplots(figsize=(7.5, 2.9))
    for y, agreement in enumerate(found.values()):
        tau = agreement.kendall
        axis.errorbar(
            tau.estimate,
            y,
            xerr=[[tau.estimate - tau.low], [tau.high - tau.estimate]],
            fmt="o",
            color="C0",
            markersize=5,
        )
    axis.set_yticks(range(len(found)), list(found), fontsize=8)
    axis.axvline(0, color="0.6", linewidth=1)
    axis.set(xlabel="Kendall's tau with the order of the target", xlim=(-1.02, 1.02))
    designs = max(agreement.designs for agreement in found.values())
    axis.set_title(
        f"Cheap measurements against the whole: {designs} candidates, {seeds} seeds, {steps:,} tokens a trial",
        fontsize=9,
    )
    figure.tight_layout()
    for name, agreement in reversed(found.items()):
        tau = agreement.kendall
        print(
            f"{name:40s} tau {tau.estimate:.2f} ({tau.low:.2f} to {tau.high:.2f});"
            f" its best is number {agreement.best} of {agreement.designs}"
        )
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "proxy"}
    figure.savefig(given.to / "proxy.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
