"""E0: the forms of the paper's three models. Which form, read mode, chunk, step and gate bias train?

    python analysis/e0_forms.py --seeds 3             trains what is missing, draws analysis/e0_forms.png
    python analysis/e0_forms.py --figure              draws alone

Arms: each model as printed and in our form (`-r`), the baselines beside them; the same with other read modes, chunks (in training, and in
test alone), inner steps, and biases of the forget gate. On recall (MQAR without re-writes), overwrite (with them) and bytes (python-docs).
One layer of width 32, chunk 16, lr 1e-2; arms of a model share seeds and data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from arms import Arm, collect, mean, scale

from miras_search import Candidate, Design, heads, named
from miras_search.candidate import Backbone, Optimiser
from miras_search.tasks import Mqar, Task, Text
from miras_search.trial import Trainer

RECALL = Mqar(name="recall", pairs=8, rewrites=0, keys=32, values=32)
OVERWRITE = Mqar(name="overwrite", pairs=8, rewrites=8, keys=32, values=32)
BYTES = Text(name="bytes", context=128, batch=8)
STEPS = {"recall": 600, "overwrite": 600, "bytes": 300}
METRIC = {"recall": "accuracy", "overwrite": "accuracy", "bytes": "bits_per_byte"}
MODELS = ("moneta", "yaad", "memora")
BASES = ("softmax-attention", "gated-deltanet", "titans-lmm")


def candidate(design: Design) -> Candidate:
    backbone = Backbone(width=32, layers=1, heads=1, ffn=0.0)
    return Candidate(design=design, backbone=backbone, optimiser=Optimiser(lr=1e-2))


def changed(design: Design, **fields: Any) -> Design:
    """The same with other fields of its algorithm."""
    plain = design.model_dump()
    return Design.model_validate(plain | {"algorithm": plain["algorithm"] | fields})


def other_chunks(trainer: Trainer) -> Mapping[str, Any]:
    """The trained weights read with other chunks, no training: the metric at each."""
    found = {}
    for chunk in (1, 4, 16, 64):
        if chunk > trainer.task.context:
            continue
        design = changed(trainer.candidate.design, chunk=chunk)
        twin = heads.build(trainer.candidate.model_copy(update={"design": design}), trainer.task, seed=0)
        twin.load_state_dict(trainer.model.state_dict())
        own, trainer.model = trainer.model, twin
        found[f"test_chunk_{chunk}"] = trainer.evaluate("test")[METRIC[trainer.task.name]]
        trainer.model = own
    return found


def gate_bias(value: float) -> Any:
    """Start the forget gate at sigmoid(value)."""

    def change(trainer: Trainer) -> None:
        with torch.no_grad():
            for name, p in trainer.model.named_parameters():
                if "memory.alpha" in name and name.endswith("bias"):
                    p.fill_(value)

    return change


def arms() -> Iterator[Arm]:
    for task in (RECALL, OVERWRITE, BYTES):
        steps = STEPS[task.name]
        for name in BASES:
            yield Arm(name, candidate(named.get(name)), task, steps, {"form": "baseline"})
    for task in (RECALL, OVERWRITE, BYTES):
        for model in MODELS:
            for name in (model, f"{model}-r"):
                yield from variations(name, task)


def variations(name: str, task: Task) -> Iterator[Arm]:
    design, steps = named.get(name), STEPS[task.name]
    yield Arm(name, candidate(design), task, steps, {"form": "as named"}, after=other_chunks)
    if task.name == "bytes":
        return
    for read in ("exact", "lagged", "stale"):
        try:
            other = changed(design, read=read)
        except ValueError:  # lagged is defined for maps that scale
            continue
        if read != design.algorithm.read_:
            yield Arm(f"{name} read={read}", candidate(other), task, steps, {"form": "read"})
    for chunk in (1, 4, 32):
        yield Arm(f"{name} chunk={chunk}", candidate(changed(design, chunk=chunk)), task, steps, {"form": "chunk"})
    own = design.algorithm.model_dump()["step"]
    for factor in (0.1, 0.3, 3.0, 10.0):
        step = changed(design, step=own * factor)
        yield Arm(f"{name} step x{factor:g}", candidate(step), task, steps, {"form": "step"})
    for bias in (0.0, 2.0, 6.0):
        about = {"form": "gate bias"}
        yield Arm(f"{name} gate={bias:g}", candidate(design), task, steps, about, before=gate_bias(bias))


def main() -> None:
    frame, _ = collect("e0", arms(), __doc__ or "")
    figure, axes = plt.subplots(1, 3, figsize=(15, 9), sharey=True)
    names = list(dict.fromkeys(frame["arm"]))
    for axis, task in zip(axes, (RECALL, OVERWRITE, BYTES), strict=True):
        for row, name in enumerate(names):
            found = mean(frame, name, task.name, METRIC[task.name]) if METRIC[task.name] in frame else None
            if found is None or math.isnan(found.estimate):
                continue
            own = name.split(" ")[0]
            colour = f"C{[*MODELS, 'x'].index(own.removesuffix('-r')) if own.removesuffix('-r') in MODELS else 7}"
            axis.plot([found.low, found.high], [row, row], color=colour, alpha=0.5)
            axis.plot(found.estimate, row, "o" if own.endswith("-r") else "s", color=colour, markersize=4)
        if task.chance is not None:
            axis.axvline(task.chance, color="grey", linestyle=":")
        axis.set_title(f"{task.name}: {METRIC[task.name].replace('_', ' ')}")
    axes[0].set_yticks(range(len(names)), names, fontsize=6)
    axes[0].invert_yaxis()
    figure.suptitle(f"Forms of the paper's models, mean and 95 % interval over seeds\n{scale(frame)}", fontsize=10)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)
    columns = [c for c in frame if c.startswith("test_chunk_")]
    shown = ["accuracy", "bits_per_byte", *columns]
    print(frame.groupby(["task", "arm"], sort=False)[[c for c in shown if c in frame]].mean().round(3).to_string())


if __name__ == "__main__":
    main()
