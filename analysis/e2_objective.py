"""E2: does the inner objective matter? A small survey over the four choices, and controls that break the objective.

    python analysis/e2_objective.py --seeds 4         trains what is missing, draws analysis/e2_objective.png
    python analysis/e2_objective.py --figure          draws alone

Around one base (two-layer memory, l2, forget gate, one gradient step a token in chunks of 8), one choice is changed at a time. Controls:
`ascent` (the step goes up the loss), `last layer` (only it is written), `shuffled values` (what is written is not what belongs to
the key), `zeroed` (the memory answers nothing). All have a convolution outside the memory, so that the zeroed one still mixes tokens, and
equal tokens. Effects are differences from the base, paired by seed, with 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from arms import Arm, collect, gain, mean, scale

from miras_search import Candidate, Design
from miras_search.candidate import Backbone, Optimiser
from miras_search.tasks import Mqar, Text

TASKS = (
    Mqar(name="overwrite", pairs=8, rewrites=8, keys=32, values=32),
    Text(name="bytes", context=128, batch=8),
)
STEPS = {"overwrite": 600, "bytes": 300}
METRIC = {"overwrite": "accuracy", "bytes": "bits_per_byte"}
BASE: dict[str, Any] = {
    "memory": {"kind": "mlp"},
    "bias": {"kind": "l2"},
    "retention": {"kind": "l2"},
    "algorithm": {"kind": "gradient_descent", "chunk": 8},
    "block": {"residual_conv": 4},
}
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "memory: matrix": ("memory", {"memory": {"kind": "matrix"}}),
    "memory: mlp, one layer": ("memory", {"memory": {"kind": "mlp", "layers": 1}}),
    "bias: dot": ("bias", {"bias": {"kind": "dot"}}),
    "bias: lp 1.5": ("bias", {"bias": {"kind": "lp", "p": 1.5}}),
    "bias: lp 3": ("bias", {"bias": {"kind": "lp", "p": 3.0, "cap": "none"}}),
    "bias: huber": ("bias", {"bias": {"kind": "huber", "form": "norm"}}),
    "retention: none": ("retention", {"retention": {"kind": "none"}}),
    "retention: kl": ("retention", {"retention": {"kind": "kl", "scale": 0.5, "exponent": 0.5, "signed": True}}),
    "retention: lq": ("retention", {"retention": {"kind": "lq", "q": 3.0, "norm": "mean"}}),
    "algorithm: momentum": ("algorithm", {"algorithm": {"kind": "momentum", "chunk": 8}}),
    "algorithm: chunk 1": ("algorithm", {"algorithm": {"kind": "gradient_descent", "chunk": 1}}),
    "algorithm: chunk 32": ("algorithm", {"algorithm": {"kind": "gradient_descent", "chunk": 32}}),
    "control: ascent": ("control", {"algorithm": {"kind": "gradient_descent", "chunk": 8, "sign": "ascent"}}),
    "control: last layer": (
        "control",
        {"algorithm": {"kind": "gradient_descent", "chunk": 8, "updates": "last_layer"}},
    ),
    "control: shuffled values": ("control", {"block": {"residual_conv": 4, "values": "shuffled"}}),
    "control: zeroed": ("control", {"block": {"residual_conv": 4, "output": "zeroed"}}),
}


def arms() -> Iterator[Arm]:
    size = Backbone(width=32, layers=1, heads=1, ffn=0.0)
    for task in TASKS:
        for name, (group, change) in {"base": ("base", {}), **CHANGES}.items():
            candidate = Candidate(
                design=Design.model_validate(BASE | change), backbone=size, optimiser=Optimiser(lr=1e-2)
            )
            yield Arm(name, candidate, task, STEPS[task.name], {"group": group})


def main() -> None:
    frame, _ = collect("e2", arms(), __doc__ or "")
    figure, axes = plt.subplots(1, len(TASKS), figsize=(12, 6), sharey=True)
    groups = ["memory", "bias", "retention", "algorithm", "control"]
    for axis, task in zip(axes, TASKS, strict=True):
        metric = METRIC[task.name]
        if metric not in frame:
            continue
        sign = -1.0 if metric == "bits_per_byte" else 1.0
        for row, (name, (group, _)) in enumerate(CHANGES.items()):
            found = gain(frame, name, "base", task.name, metric)
            low, high = sorted((sign * found.low, sign * found.high))
            colour = f"C{groups.index(group)}"
            axis.plot([low, high], [row, row], color=colour, alpha=0.6)
            axis.plot(sign * found.estimate, row, "o", color=colour)
        axis.axvline(0.0, color="grey", linewidth=0.8)
        base = mean(frame, "base", task.name, metric)
        axis.set_title(
            f"{task.name}: gain over base ({metric.replace('_', ' ')} {base.estimate:.3f}); right is better", fontsize=9
        )
    axes[0].set_yticks(range(len(CHANGES)), list(CHANGES), fontsize=8)
    axes[0].invert_yaxis()
    figure.suptitle(f"What changing one choice does, paired by seed, 95 % intervals\n{scale(frame)}", fontsize=10)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)
    shown = [c for c in ("accuracy", "bits_per_byte") if c in frame]
    print(
        frame.groupby(["task", "group", "arm"], sort=False)[shown]
        .agg(["mean", "min", "max", "count"])
        .round(3)
        .to_string()
    )


if __name__ == "__main__":
    main()
