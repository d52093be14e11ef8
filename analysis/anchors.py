"""What a memory is worth: recall against state, and every design beside its twin whose memory answers zero.

    python analysis/anchors.py      draws analysis/anchors.svg from runs/reference/anchors-*.parquet, and prints its numbers

The tables come from `benchmarks/anchors.py`. A bar is an interval over seeds (Student's t); where a design has one seed there is
none, and its difference from a neighbour may be chance. State is of one sequence, float32; a cache has its length.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from arms import arguments

from miras_search.statistics import Interval, mean_interval, paired_difference

ROOT = Path(__file__).resolve().parent.parent
METRIC = {"recall": ("accuracy", 1.0), "text": ("bits_per_byte", -1.0)}
"""Task -> metric, and the sign that makes more better."""


def load(task: str) -> pd.DataFrame:
    frame = pd.read_parquet(ROOT / "runs" / "reference" / f"anchors-{task}.parquet")
    return frame[frame["status"] == "ok"]


def worth(frame: pd.DataFrame, metric: str, sign: float) -> dict[str, Interval]:
    """By design, how much better than its zeroed twin, paired over seeds."""
    by = {key: part.set_index("seed")[metric] * sign for key, part in frame.groupby(["design", "arm"])}
    designs = [d for d in frame["design"].unique() if (d, "zeroed") in by and (d, "memory") in by]
    found = {d: paired_difference(by[d, "memory"], by[d, "zeroed"]) for d in designs}
    return dict(sorted(found.items(), key=lambda item: item[1].estimate))


def bar(low: float, high: float, interval: Interval) -> list[list[float]] | None:
    return [[interval.estimate - low], [high - interval.estimate]] if interval.known else None


def main() -> None:
    given = arguments(__doc__)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.6))
    recall = load("recall")
    trained = recall[recall["arm"] == "memory"]
    means = {str(name): mean_interval(part["accuracy"], bounds=(0.0, 1.0)) for name, part in trained.groupby("design")}
    sizes = trained.groupby("design")["state_bytes"].first().astype(float)
    highest: dict[int, float] = {}  # where names end, by power of two of the state: they stand above one another
    for name, mean in sorted(means.items(), key=lambda item: item[1].estimate):
        size, power = sizes[name], round(math.log2(sizes[name]))
        left.errorbar(size, mean.estimate, bar(mean.low, mean.high, mean), fmt="o", color="C0", markersize=5)
        highest[power] = max(mean.estimate, highest.get(power, 0.0) + 0.04)
        left.text(size * 1.12, highest[power], name, fontsize=7, va="center")
    left.set_xscale("log", base=2)
    left.set_xlim(sizes.min() / 1.3, sizes.max() * 4)
    left.set(xlabel="bytes of state", ylabel="accuracy", ylim=(0, 1.05), title="Recall with re-writes")
    for axis, (task, (metric, sign)) in zip((middle, right), METRIC.items(), strict=True):
        frame = load(task)
        found = worth(frame, metric, sign)
        for y, gain in enumerate(found.values()):
            axis.errorbar(gain.estimate, y, xerr=bar(gain.low, gain.high, gain), fmt="o", color="C1", markersize=5)
        axis.set_yticks(range(len(found)), list(found), fontsize=8)
        axis.axvline(0, color="0.6", linewidth=1)
        axis.set(
            xlabel=f"{metric.replace('_', ' ')}: better than the zeroed twin by",
            title=f"What the memory is worth: {task}",
        )
        seeds, steps = frame["seed"].nunique(), frame["steps"].max()
        print(f"{task}: {metric}, {steps} steps, {seeds} seed(s); better than the zeroed twin by")
        for name, gain in reversed(found.items()):
            interval = f"{gain.low:+.3f} to {gain.high:+.3f}" if gain.known else "one seed: no interval"
            print(f"  {name:24s} {gain.estimate:+.3f}  ({interval})")
    seeds = ", ".join(
        f"{task} {load(task)['seed'].nunique()} seed(s), {load(task)['steps'].max()} steps" for task in METRIC
    )
    figure.suptitle(f"{seeds}; models of thousands of parameters, not matched in state", fontsize=9)
    figure.tight_layout()
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "anchors"}
    figure.savefig(given.to / f"{Path(__file__).stem}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
