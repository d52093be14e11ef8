"""E1: accuracy against bytes of state on MQAR, with the published curves in grey.

    python analysis/e1_state.py --seeds 3             trains what is missing, draws analysis/e1_state.svg
    python analysis/e1_state.py --figure              draws alone

The published curves (Zoology, `mqar_zoology` with mix: original, 22.5k steps of 256 rows, two layers, best of four learning rates,
digitised to +-.005) need a GPU to repeat. Here: recall with re-writes in 17 tokens, one layer, 300 steps of 16 rows, lr 2e-2, so ours
can be compared among themselves and with the order of the grey curves, not with their heights. Every design is as named but for its chunk,
which is 4, and the inner step of those that take chunked steps: the named one or 16 times that, whichever had the lower validation loss at
width 16 on a seed that is in no result.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from arms import SMALL, TUNING, Arm, arguments, collect, fresh, mean, scale, tuned

from miras_search import Candidate, Design, named
from miras_search.candidate import Backbone, Optimiser
from miras_search.statistics import Interval

PUBLISHED: dict[str, list[tuple[float, float]]] = {
    "DeltaNet": [(8.9e3, 0.793), (34.2e3, 0.963), (133.6e3, 0.995)],
    "Gated DeltaNet": [(17.1e3, 0.890), (66.8e3, 0.988), (257e3, 0.993)],
    "RWKV-7": [(17.1e3, 0.816), (131.8e3, 0.914), (1.04e6, 0.980)],
    "GLA": [(4.8e3, 0.532), (17.9e3, 0.771), (68.3e3, 0.950)],
    "Mamba-2": [(8.2e3, 0.520), (16.3e3, 0.689), (24.5e3, 0.727), (32.6e3, 0.784), (48.9e3, 0.796), (97.9e3, 0.844)],
    "Based": [(9.4e3, 0.667), (24.7e3, 0.840), (40.4e3, 0.913), (79.4e3, 0.985), (168e3, 0.991)],
    "SWA": [(9.7e3, 0.081), (34.2e3, 0.310), (132e3, 0.656), (523e3, 0.936)],
    "attention": [(524e3, 0.999)],
}
CALIBRATION = ("softmax-attention", "deltanet", "gated-deltanet")
NEW = ("ttt-linear", "ttt-mlp", "titans-lmm", "moneta", "yaad", "memora", "moneta-r", "yaad-r", "memora-r")
TASK, STEPS, CHUNK, RATE = SMALL, 300, 4, 2e-2
WIDTHS, TUNED_AT = (16, 32, 8), 16
FACTORS = (1.0, 16.0)
"""Of the inner step."""


def arms(name: str, width: int) -> Iterator[Arm]:
    """A design of a size, with each inner step that it may have."""
    size, design = Backbone(width=width, layers=1, heads=1, ffn=0.0), named.get(name)
    for factor in FACTORS if design.chunked else FACTORS[:1]:
        own = design
        if design.chunked:
            plain = design.model_dump()
            step = plain["algorithm"]["step"] * factor
            own = Design.model_validate(plain | {"algorithm": plain["algorithm"] | {"chunk": CHUNK, "step": step}})
        candidate = Candidate(design=own, backbone=size, optimiser=Optimiser(lr=RATE))
        about = {"design": name, "width": width, "factor": factor}
        yield Arm(f"{name} {width}, step x{factor:g}", candidate, TASK, STEPS, about)


def main() -> None:
    given = arguments(__doc__)
    names = (*CALIBRATION, *NEW)
    frame = collect("e1", [arm for name in names for arm in arms(name, TUNED_AT)], [TUNING], given)
    kept = tuned(frame, "design")
    value = {name: kept[name, TASK.name].rsplit(", ")[-1] for name in names if (name, TASK.name) in kept}
    for width in WIDTHS:  # all seeds of a size before the next
        chosen = [arm for name in value for arm in arms(name, width) if arm.name.endswith(", " + value[name])]
        frame = collect("e1", chosen, range(1, given.seeds + 1), given)
    results = fresh(frame)

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.6), sharey=True)
    for name, points in PUBLISHED.items():
        right.plot(*zip(*points, strict=True), color="0.6", marker=".")
        last = len(points) == 1 or points[-1][1] < 0.985  # where lines end at the top, their names stand at their start
        (at, offset, side) = (points[-1], (5, -3), "left") if last else (points[0], (-4, 4), "right")
        right.annotate(name, at, offset, textcoords="offset points", ha=side, color="0.25", fontsize=7)
    for n, name in enumerate(names):
        rows = results[results["design"] == name].sort_values("width")
        points: list[tuple[float, Interval]] = []
        for arm in dict.fromkeys(rows["arm"]):
            found = mean(rows, arm, TASK.name, "accuracy")
            points.append((float(rows[rows["arm"] == arm]["state_bytes"].iloc[0]), found))
            loss = mean(rows, arm, TASK.name, "nll")
            print(
                f"{arm:32s} {points[-1][0]:8.0f} bytes  accuracy {found.estimate:.3f} "
                f"({max(0.0, found.low):.3f} to {min(1.0, found.high):.3f})  nll {loss.estimate:.3f}  n {found.n}"
            )
        x, y = [size for size, _ in points], [found.estimate for _, found in points]
        model = name.removesuffix("-r")
        style = "-" if name in CALIBRATION else "--" if name != model else ":"
        colour = (
            "k" if name in CALIBRATION else f"C{list(dict.fromkeys(m.removesuffix('-r') for m in NEW)).index(model)}"
        )
        marker = "osD"[CALIBRATION.index(name)] if name in CALIBRATION else "o" if name != model else "s"
        beside = [
            size * 1.035 ** (n - len(names) / 2) for size in x
        ]  # many have one state: they stand beside one another
        for (_, found), at in zip(points, beside, strict=True):
            left.plot([at, at], [max(0.0, found.low), min(1.0, found.high)], color=colour, alpha=0.4, linewidth=1)
        left.plot(beside, y, label=name, linestyle=style, marker=marker, markersize=4, color=colour)
        right.plot(x, y, linestyle=style, marker=marker, markersize=3, linewidth=1, color=colour, alpha=0.6)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlabel("bytes of state, one sequence, all layers, float32")
    left.axhline(TASK.chance, color="grey", linewidth=0.8)
    left.set_ylim(0, 1.03)
    left.set_ylabel("accuracy")
    left.set_title("ours: mean and 95 % interval over seeds", fontsize=9)
    right.set_title("grey: published (Zoology), a harder mixture: heights do not compare", fontsize=9)
    right.set_xlim(right=8e6)
    left.legend(fontsize=7, ncols=2, loc="lower right")
    figure.suptitle(f"Recall with re-writes against state\n{scale(frame)}", fontsize=10)
    figure.tight_layout()
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "e1"}
    figure.savefig(given.to / f"{Path(__file__).stem}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
