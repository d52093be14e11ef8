"""E0: the forms of the paper's three models. Which form, inner step, read mode, chunk and gate bias train?

    python analysis/e0_forms.py --seeds 6             trains what is missing, draws analysis/e0_forms.svg
    python analysis/e0_forms.py --figure              draws alone

Each model as named and in our form (`-r`) with the named inner step and 16 times that; then, at the step that was better on a seed that
is in no result, with other chunks, read modes, starts of the forget gate and maps. Four tasks: recall with re-writes in 17 tokens
(chunk 4), with more pairs and at twice the width in 24 (chunk 4), in 69 with 29 more writes to the same keys (chunk 16), and bytes of
text (128 tokens, chunk 16). On the latter three only the `-r` forms are varied in everything, and models trained at one chunk are also
tried, with the same weights, at the others. One layer of width 16 (wider recall and bytes: 32), lr 2e-2;
arms share seeds and data, and with E1 the trials that both need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from arms import BYTES, OVERWRITE, REWRITTEN, SMALL, TUNING, Arm, arguments, by_seed, collect, fresh, mean, scale, tuned

from miras_search import Candidate, Design, named
from miras_search.candidate import Backbone, Optimiser
from miras_search.statistics import Interval, mean_interval
from miras_search.tasks import Task

MODELS = ("moneta", "moneta-r", "yaad", "yaad-r", "memora", "memora-r")
FACTORS = (1.0, 16.0)
"""Of the named inner step."""
UNWRITTEN = 1e-6
"""Of the named inner step, for a memory that stays what it was at the start."""
READS = ("exact", "lagged", "stale")
ORDER = (
    *(f"step x{factor:g}" for factor in FACTORS),
    "no writes",
    *(f"read {read}" for read in READS),
    *(f"chunk {chunk}" for chunk in (1, 4, 16, 64)),
    *(f"gate {bias}" for bias in (2, 4, 6)),
    *("the other's map", "the other's bias", "bias capped", "L2 gate"),
)
"""Of the rows."""


@dataclass(frozen=True)
class Setting:
    """A task and the size of what is trained on it. `metric`: its loss; `chunk`: of the base; `all`: every form of every model is tried."""

    task: Task
    title: str
    steps: int
    width: int
    chunk: int
    chunks: tuple[int, ...]
    metric: str = "nll"
    all: bool = False
    chance: float | None = None


SETTINGS = (
    Setting(SMALL, "recall", 300, 16, 4, (1, 16), all=True, chance=math.log(SMALL.values)),
    Setting(OVERWRITE, "wider recall", 500, 32, 4, (16,), chance=math.log(OVERWRITE.values)),
    Setting(REWRITTEN, "overwriting", 300, 16, 16, (64, 1), chance=math.log(REWRITTEN.values)),
    Setting(BYTES, "bytes", 150, 32, 16, (64, 1), metric="bits_per_byte"),
)


def changed(design: Design, part: str, **fields: Any) -> Design:
    """The same with other fields of one of its choices."""
    plain = design.model_dump()
    return Design.model_validate(plain | {part: plain[part] | fields})


def arm(model: str, design: Design, what: str, setting: Setting) -> Arm:
    """One form of a model; `what` it is."""
    size = Backbone(width=setting.width, layers=1, heads=1, ffn=0.0)
    candidate = Candidate(design=design, backbone=size, optimiser=Optimiser(lr=2e-2))
    return Arm(f"{model}, {what}", candidate, setting.task, setting.steps, {"model": model, "what": what})


def tried(base: Arm, setting: Setting) -> Arm:
    """The same, its weights tried at the setting's other chunks too."""
    design = base.candidate.design
    chunks = sorted({setting.chunk, *setting.chunks} - {design.algorithm.chunk_})
    return replace(base, also={f"at chunk {c}": changed(design, "algorithm", chunk=c) for c in chunks})


def stepped(model: str, factor: float, what: str, setting: Setting) -> Arm:
    """The model with its inner step times a factor."""
    design = changed(named.get(model), "algorithm", chunk=setting.chunk)
    step = design.algorithm.model_dump()["step"] * factor
    return arm(model, changed(design, "algorithm", step=step), what, setting)


def steps(model: str, setting: Setting) -> list[Arm]:
    """The model at every inner step."""
    return [stepped(model, factor, f"step x{factor:g}", setting) for factor in FACTORS]


def maps(base: Arm, setting: Setting) -> Iterator[Arm]:
    """What moneta and moneta-r differ in, one at a time: the map of the gate and the bias; then a capped bias and a plain gate."""
    design, model = base.candidate.design, base.about["model"]
    theirs = named.get({"moneta": "moneta-r", "moneta-r": "moneta"}[model]).model_dump()
    yield arm(model, changed(design, "retention", **theirs["retention"]), "the other's map", setting)
    yield arm(model, changed(design, "bias", **theirs["bias"]), "the other's bias", setting)
    if model == "moneta-r":
        yield arm(model, changed(design, "bias", cap="norm"), "bias capped", setting)
        plain = changed(design, "algorithm", read="exact").model_dump()
        yield arm(model, Design.model_validate(plain | {"retention": {"kind": "l2", "bias": 4.0}}), "L2 gate", setting)


def variations(base: Arm, setting: Setting) -> Iterator[Arm]:
    """What else is tried, at the base's step."""
    design, model = base.candidate.design, base.about["model"]
    thorough = setting.all or model.endswith("-r")
    for chunk in setting.chunks:
        if thorough or chunk > setting.chunk:
            other = arm(model, changed(design, "algorithm", chunk=chunk), f"chunk {chunk}", setting)
            yield other if setting.all else tried(other, setting)
    for read in READS if thorough else ():
        try:
            other_read = changed(design, "algorithm", read=read)
        except ValueError:  # lagged is defined for maps that scale
            continue
        if other_read.fingerprint != design.fingerprint:
            yield arm(model, other_read, f"read {read}", setting)
    for bias in (2.0, 4.0, 6.0) if thorough else ():
        other_gate = changed(design, "retention", bias=bias)
        if other_gate.fingerprint != design.fingerprint:
            yield arm(model, other_gate, f"gate {bias:g}", setting)


def main() -> None:
    given = arguments(__doc__)
    frame = collect("e0", [a for s in SETTINGS for model in MODELS for a in steps(model, s)], [TUNING], given)
    kept = tuned(frame, "model")
    bases: dict[tuple[str, str], Arm] = {}  # by model and task
    first: list[Arm] = []
    second: list[Arm] = []
    last: list[Arm] = []
    for setting in SETTINGS:
        for model in MODELS:
            both = steps(model, setting)
            base = next(a for a in both if a.name == kept[model, setting.task.name])
            bases[model, setting.task.name] = tried(base, setting) if not setting.all else base
            first += [bases[model, setting.task.name], *(a for a in both if a is not base)]
            if setting.all and model.startswith("moneta"):
                first += maps(base, setting)
            if setting.metric == "bits_per_byte":
                first.append(stepped(model, UNWRITTEN, "no writes", setting))
            for other in variations(base, setting):
                (last if other.about["what"] == "chunk 1" else second).append(other)
    for part in (first, second, last):  # what matters most first
        frame = collect("e0", part, range(1, given.seeds + 1), given)
    results = fresh(frame)
    for setting in SETTINGS:
        say(Losses(results, bases, setting))
    draw([Losses(results, bases, setting) for setting in SETTINGS], scale(frame), given.to)


@dataclass(frozen=True)
class Losses:
    """Of one setting."""

    results: pd.DataFrame
    bases: dict[tuple[str, str], Arm]
    setting: Setting

    def base(self, model: str) -> str:
        """The arm that the model's others are compared with."""
        return self.bases[model, self.setting.task.name].name

    def of(self, model: str, what: str = "") -> dict[int, float]:
        """By seed; without `what`, of the base."""
        name = f"{model}, {what}" if what else self.base(model)
        return by_seed(self.results, name, self.setting.task.name, self.setting.metric)

    def tried(self, arm: str, chunk: int) -> dict[int, float]:
        """By seed, on the validation split, of weights trained as the arm is and read with another chunk."""
        column = f"validation_{self.setting.metric}"
        found = by_seed(self.results, arm, self.setting.task.name, f"{column} at chunk {chunk}")
        return {seed: value for seed, value in found.items() if value == value}

    def validation(self, arm: str) -> dict[int, float]:
        """The same with the chunk it was trained with."""
        return by_seed(self.results, arm, self.setting.task.name, f"validation_{self.setting.metric}")

    @property
    def forms(self) -> list[str]:
        """What was tried on this task, in order."""
        here = self.results[self.results["task"] == self.setting.task.name]
        return [what for what in ORDER if what in set(here["what"])]


def less(pairs: Iterable[tuple[dict[int, float], dict[int, float]]]) -> Interval:
    """How much lower the second is than the first: mean over pairs within a seed, then over seeds that all pairs have."""
    gaps = [{seed: a[seed] - b[seed] for seed in a.keys() & b} for a, b in pairs]
    return mean_interval([fmean(gap[seed] for gap in gaps) for seed in set.intersection(*map(set, gaps))])


def said(gap: Interval) -> str:
    """With a star where it excludes zero."""
    return f"{gap.estimate:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}){' *' if gap.excludes_zero else '  '} n {gap.n}"


def say(losses: Losses) -> None:
    """The numbers of a setting."""
    setting = losses.setting
    print(
        f"\n{setting.title}: {setting.metric} higher than that of the base by; base: the better step of the tuning seed, ringed"
    )
    for what in losses.forms:
        having = [m for m in MODELS if losses.of(m, what) and f"{m}, {what}" != losses.base(m)]
        for model in having:
            loss = mean(losses.results, f"{model}, {what}", setting.task.name, setting.metric)
            print(
                f"  {what:16s} {model:9s} {said(less([(losses.of(model, what), losses.of(model))]))}  {loss.estimate:.3f}"
            )
        if having:
            print(f"  {what:16s} {'all of it':9s} {said(less((losses.of(m, what), losses.of(m)) for m in having))}")
    print("  named less -r, each at its base")
    pairs = list(zip(MODELS[::2], MODELS[1::2], strict=True))
    for named_form, ours in pairs:
        a, b = (mean(losses.results, losses.base(m), setting.task.name, setting.metric) for m in (named_form, ours))
        gap = said(less([(losses.of(named_form), losses.of(ours))]))
        print(f"  {'':16s} {named_form:9s} {gap}  {a.estimate:.3f} against {b.estimate:.3f}")
    print(f"  {'':16s} {'all three':9s} {said(less((losses.of(n), losses.of(r)) for n, r in pairs))}")
    for trained in (1, 16, 64):
        for chunk in (1, 16, 64):
            arms = [losses.base(m) if trained == setting.chunk else f"{m}, chunk {trained}" for m in MODELS]
            found = [(losses.tried(a, chunk), losses.validation(a)) for a in arms]
            having = [pair for pair in found if pair[0]]
            if having and not setting.all:
                print(f"  trained at chunk {trained}, read at {chunk}: {len(having)} models {said(less(having))}")


def draw(every: list[Losses], title: str, folder: Path) -> None:
    """A row a task, a column a pair of forms."""
    pairs = list(zip(MODELS[::2], MODELS[1::2], strict=True))
    heights = [len(losses.forms) for losses in every]
    figure, grid = plt.subplots(
        len(every), 3, figsize=(12, 17), sharex="row", sharey="row", gridspec_kw={"height_ratios": heights}
    )
    for axes, losses in zip(grid, every, strict=True):
        setting, forms = losses.setting, losses.forms
        for axis, pair in zip(axes, pairs, strict=True):
            for n, model in enumerate(pair):
                for what in forms:
                    name = f"{model}, {what}"
                    loss = mean(losses.results, name, setting.task.name, setting.metric)
                    if loss.n < 2:
                        continue
                    row, based = forms.index(what) + 0.3 * n - 0.15, name == losses.base(model)
                    axis.plot([max(0.0, loss.low), loss.high], [row, row], color=f"C{n}", alpha=0.5)
                    best = {"markersize": 8, "markeredgecolor": "k"} if based else {"markersize": 5}
                    axis.plot(loss.estimate, row, "so"[n], color=f"C{n}", label=model if based else None, **best)
            if setting.chance is not None:
                axis.axvline(setting.chance, color="grey", linestyle=":")
            axis.grid(axis="x", alpha=0.3)
            axis.set_xlabel("bits per byte" if setting.chance is None else "loss, nats (dotted: chance)", fontsize=9)
            axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        axes[0].set_yticks(range(len(forms)), forms, fontsize=8)
        axes[0].set_ylabel(f"{setting.title}, {setting.task.context} tokens", fontsize=9)
        axes[0].invert_yaxis()
    heading = "Forms of the paper's models; left is better; 95 % intervals; ringed: what the other rows change"
    figure.suptitle(f"{heading}\n{title}", fontsize=10)
    figure.tight_layout()
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "e0"}
    figure.savefig(folder / f"{Path(__file__).stem}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
