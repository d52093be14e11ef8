"""E0: the forms of the paper's three models. Which form, inner step, read mode, chunk and gate bias train?

    python analysis/e0_forms.py --seeds 3             trains what is missing, draws analysis/e0_forms.svg
    python analysis/e0_forms.py --figure              draws alone

Each model as named and in our form (`-r`), at chunk 4, with the named inner step and 16 times that; then, at the step that was better on a
seed that is in no result, with the other read modes, with chunk 1 and 16, and with other starts of the forget gate. One layer of width 16,
lr 2e-2, recall with re-writes in 17 tokens; arms share seeds and data, and with E1 the trials that both need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from arms import SMALL, TUNING, Arm, arguments, by_seed, collect, fresh, mean, scale, tuned

from miras_search import Candidate, Design, named
from miras_search.candidate import Backbone, Optimiser
from miras_search.statistics import Interval, mean_interval

TASK, STEPS, CHUNK = SMALL, 300, 4
MODELS = ("moneta", "moneta-r", "yaad", "yaad-r", "memora", "memora-r")
FACTORS = (1.0, 16.0)
"""Of the named inner step."""
CHUNKS = (1, 4, 16)
ORDER = (
    *(f"step x{factor:g}" for factor in FACTORS),
    *(f"read {read}" for read in ("exact", "lagged", "stale")),
    *(f"chunk {chunk}" for chunk in CHUNKS),
    *(f"gate {bias}" for bias in (2, 4, 6)),
)
"""Of the rows."""


def changed(design: Design, part: str, **fields: Any) -> Design:
    """The same with other fields of one of its choices."""
    plain = design.model_dump()
    return Design.model_validate(plain | {part: plain[part] | fields})


def arm(model: str, design: Design, what: str) -> Arm:
    """One form of a model; `what` it is."""
    size = Backbone(width=16, layers=1, heads=1, ffn=0.0)
    candidate = Candidate(design=design, backbone=size, optimiser=Optimiser(lr=2e-2))
    return Arm(f"{model}, {what}", candidate, TASK, STEPS, {"model": model, "what": what})


def steps(model: str) -> Iterator[Arm]:
    """The model at chunk 4 and every inner step."""
    design = changed(named.get(model), "algorithm", chunk=CHUNK)
    for factor in FACTORS:
        step = design.algorithm.model_dump()["step"] * factor
        yield arm(model, changed(design, "algorithm", step=step), f"step x{factor:g}")


def variations(base: Arm) -> Iterator[Arm]:
    """What else is tried, at the base's step."""
    design, model = base.candidate.design, base.about["model"]
    for read in ("exact", "lagged", "stale"):
        try:
            other = changed(design, "algorithm", read=read)
        except ValueError:  # lagged is defined for maps that scale
            continue
        if other.fingerprint != design.fingerprint:
            yield arm(model, other, f"read {read}")
    for chunk in CHUNKS:
        if chunk != CHUNK:
            yield arm(model, changed(design, "algorithm", chunk=chunk), f"chunk {chunk}")
    for bias in (2.0, 4.0, 6.0):
        other = changed(design, "retention", bias=bias)
        if other.fingerprint != design.fingerprint:
            yield arm(model, other, f"gate {bias:g}")


def main() -> None:
    given = arguments(__doc__)
    frame = collect("e0", [a for model in MODELS for a in steps(model)], [TUNING], given)
    kept = tuned(frame, "model")
    bases = {m: a for m in MODELS for a in steps(m) if a.name == kept.get((m, TASK.name))}
    everything = [a for m, base in bases.items() for a in (*steps(m), *variations(base))]
    seeds = range(1, given.seeds + 1)
    for part in (list(bases.values()), everything):  # what matters most first
        frame = collect("e0", part, seeds, given)
    results = fresh(frame)

    def losses(model: str, what: str = "") -> dict[int, float]:
        """By seed, of one form; without `what`, of the model as the others are compared with it."""
        name = f"{model}, {what}" if what else bases[model].name
        return by_seed(results, name, TASK.name, "nll")

    def less(pairs: Iterable[tuple[dict[int, float], dict[int, float]]]) -> Interval:
        """How much lower the second is than the first: mean over pairs within a seed, then over seeds that all pairs have."""
        gaps = [{seed: a[seed] - b[seed] for seed in a.keys() & b} for a, b in pairs]
        return mean_interval([fmean(gap[seed] for gap in gaps) for seed in set.intersection(*map(set, gaps))])

    def said(gap: Interval) -> str:
        return f"{gap.estimate:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}){' *' if gap.excludes_zero else '  '}"

    what = [w for w in ORDER if any(a.about["what"] == w for a in everything)]
    print("loss higher than that of the base by, nats; base: the better step of the tuning seed, ringed in the figure")
    for w in what:
        having = [m for m in MODELS if losses(m, w) and f"{m}, {w}" != bases[m].name]
        for model in having:
            loss, accuracy = (mean(results, f"{model}, {w}", TASK.name, metric) for metric in ("nll", "accuracy"))
            gap = said(less([(losses(model, w), losses(model))]))
            print(f"  {w:12s} {model:9s} {gap} loss {loss.estimate:.3f}  accuracy {accuracy.estimate:.3f}  n {loss.n}")
        print(f"  {w:12s} {'all of it':9s} {said(less((losses(m, w), losses(m)) for m in having))}")
    print("loss of the named form less that of -r, each at its base")
    pairs = list(zip(MODELS[::2], MODELS[1::2], strict=True))
    for named_form, ours in pairs:
        n, r = (mean(results, bases[m].name, TASK.name, "nll") for m in (named_form, ours))
        gap = said(less([(losses(named_form), losses(ours))]))
        print(f"  {named_form:9s} {gap}  {n.estimate:.3f} against {r.estimate:.3f}")
    print(f"  {'all three':9s} {said(less((losses(n), losses(r)) for n, r in pairs))}")

    figure, axes = plt.subplots(1, 3, figsize=(12, 6), sharex=True, sharey=True)
    for axis, pair in zip(axes, pairs, strict=True):
        for n, model in enumerate(pair):
            for w in what:
                loss = mean(results, f"{model}, {w}", TASK.name, "nll")
                if not loss.n:
                    continue
                row, based = what.index(w) + 0.3 * n - 0.15, f"{model}, {w}" == bases[model].name
                axis.plot([max(0.0, loss.low), loss.high], [row, row], color=f"C{n}", alpha=0.5)
                best = {"markersize": 8, "markeredgecolor": "k"} if based else {"markersize": 5}
                axis.plot(loss.estimate, row, "so"[n], color=f"C{n}", label=model if based else None, **best)
        axis.axvline(math.log(TASK.values), color="grey", linestyle=":")
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("loss, nats (left is better; dotted: chance)", fontsize=9)
        axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    axes[0].set_yticks(range(len(what)), what, fontsize=8)
    axes[0].invert_yaxis()
    figure.suptitle(
        f"Forms of the paper's models, recall with re-writes; 95 % intervals; ringed: what the other rows change\n{scale(frame)}",
        fontsize=10,
    )
    figure.tight_layout()
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "e0"}
    figure.savefig(given.to / f"{Path(__file__).stem}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
