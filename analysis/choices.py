"""Which of the four choices matters: for recall, for text, for stability. Every number with its interval over candidates.

    python analysis/choices.py --figure      draws analysis/choices.svg from runs/reference/, and prints its numbers

Recall is the replay table, text and stability are surveys (`analysis/README.md` has their commands). Bars are the Shapley shares of the
variance between candidates; the rest is parameters within a kind: step, rate, order.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from arms import arguments

from miras_search.statistics import choice_effects, failure_rates, shapley

TABLES = Path(__file__).resolve().parent.parent / "runs" / "reference"
SURVEYS = {"recall": ("replay", "nll"), "text": ("survey-text", "bits_per_byte")}
"""What is asked -> table and metric, of which less is better."""
STABILITY = "survey-full"


def span(row: pd.Series, what: str) -> str:
    return f"{row[what]:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def main() -> None:
    given = arguments(__doc__)
    figure, axes = plt.subplots(1, len(SURVEYS), figsize=(9, 2.6), sharey=True)
    for axis, (asked, (table, metric)) in zip(axes, SURVEYS.items(), strict=True):
        frame = pd.read_parquet(TABLES / f"{table}.parquet")
        parts = shapley(frame, metric)
        candidates, tokens = frame["fingerprint"].nunique(), int(frame["tokens"].max())
        print(f"{asked}: {metric}, {candidates} designs, {len(frame)} trials of {tokens:,} tokens; shares of variance")
        for _, row in parts.iterrows():
            print(f"  {row['choice']:12s} {span(row, 'share')}")
        print(f"  mean {metric} by kind, less is better")
        for _, row in choice_effects(frame, metric).iterrows():
            print(f"  {row['choice']:12s} {row['value']:18s} {span(row, 'mean')}")
        order = range(len(parts) - 1, -1, -1)
        bars = [parts["share"] - parts["low"], parts["high"] - parts["share"]]
        axis.errorbar(parts["share"], order, xerr=bars, fmt="o", color="C0", markersize=5)
        axis.set_yticks(order, [name if name != "rest" else "within a kind" for name in parts["choice"]])
        axis.axvline(0, color="0.6", linewidth=1)
        axis.set(xlabel=f"share of the variance of {metric}", xlim=(-0.2, 1.1))
        axis.set_title(f"{asked}: {candidates} designs, {tokens:,} tokens a trial", fontsize=9)
    frame = pd.read_parquet(TABLES / f"{STABILITY}.parquet")
    rates = failure_rates(frame)
    print(
        f"stability: {rates[rates['choice'] == 'memory']['failed'].sum()} of {len(frame)} trials failed; share by kind"
    )
    for _, row in rates.iterrows():
        print(f"  {row['choice']:12s} {row['value']:18s} {span(row, 'rate')}")
    figure.tight_layout()
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "choices"}
    figure.savefig(given.to / "choices.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
