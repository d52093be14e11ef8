"""E1: accuracy against bytes of state on MQAR, with the published curves in grey.

    python analysis/e1_state.py --seeds 3             trains what is missing, draws analysis/e1_state.png
    python analysis/e1_state.py --figure              draws alone

The published curves (Zoology, `mqar_zoology` with mix: original, 22.5k steps of 256 rows, two layers, best of four learning rates,
digitised to +-.005) need a GPU to repeat. Here: the same generator with one setting a trial, 16 pairs of 64 ids in 128 tokens, one
layer, so ours can be compared among themselves and with the order of the grey curves, not with their heights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from arms import Arm, collect, mean, scale

from miras_search import Candidate, named
from miras_search.candidate import Backbone, Optimiser
from miras_search.tasks import MqarZoology

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
TASK = MqarZoology(
    name="mqar", length=128, pairs=16, vocabulary=64, power=1.0, batch=32, train=0, validation=256, test=512
)
STEPS = 800
WIDTHS = (8, 16, 32, 64)
RATES = (5e-3, 2e-2)


def arms() -> Iterator[Arm]:
    for width in WIDTHS:
        for name in (*CALIBRATION, *NEW):
            for lr in RATES:
                size = Backbone(width=width, layers=1, heads=1, ffn=0.0)
                candidate = Candidate(design=named.get(name), backbone=size, optimiser=Optimiser(lr=lr))
                about = {"design": name, "width": width}
                yield Arm(f"{name} {width} lr={lr:g}", candidate, TASK, STEPS, about)


def main() -> None:
    frame, _ = collect("e1", arms(), __doc__ or "")
    figure, axis = plt.subplots(figsize=(9, 6))
    for name, points in PUBLISHED.items():
        axis.plot(*zip(*points, strict=True), color="0.8", marker=".", zorder=0)
        axis.annotate(name, points[-1], color="0.6", fontsize=7)
    for n, name in enumerate([*CALIBRATION, *NEW]):
        rows = frame[frame["design"] == name]
        points = []
        for width in sorted(rows["width"].unique()):
            means = {arm: mean(frame, arm, "mqar", "accuracy") for arm in rows[rows["width"] == width]["arm"].unique()}
            known = {arm: m for arm, m in means.items() if not math.isnan(m.estimate)}
            if known:  # the best learning rate, chosen on the mean over seeds
                best = max(known, key=lambda arm: known[arm].estimate)
                size = float(rows[rows["arm"] == best]["state_bytes"].iloc[0])
                points.append((size, known[best]))
        if points:
            x, y = [p[0] for p in points], [p[1].estimate for p in points]
            low = [m.estimate - m.low if m.known else 0.0 for _, m in points]
            high = [m.high - m.estimate if m.known else 0.0 for _, m in points]
            style = "-" if name in CALIBRATION else "--" if name.endswith("-r") else "-."
            axis.errorbar(x, y, [low, high], label=name, linestyle=style, marker="o", markersize=3, color=f"C{n % 10}")
    axis.set_xscale("log")
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("bytes of state, one sequence, all layers, float32")
    axis.set_ylabel("accuracy")
    axis.set_title(f"MQAR; grey: published, on a harder mixture, not comparable in height\n{scale(frame)}", fontsize=9)
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)
    print(
        frame.groupby(["design", "width", "lr"])["accuracy"].agg(["mean", "min", "max", "count"]).round(3).to_string()
    )


if __name__ == "__main__":
    main()
