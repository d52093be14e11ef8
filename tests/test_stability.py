"""Every published model trains 200 steps at its defaults, on recall and on text, and its memory is used.

`benchmarks/anchors.py` has longer runs, and docs/fidelity.md their numbers.
"""

import math

import pytest

from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.design import Design
from miras_search.named import MODELS, composition
from miras_search.tasks import Mqar, Task, Text
from miras_search.trial import Trainer

RECALL = Mqar(pairs=8, rewrites=8, keys=32, values=32, batch=32)
TEXT = Text(source="python-docs", context=128, batch=8)
STEPS = 200


def losses(design: Design, backbone: Backbone, task: Task, lr: float) -> list[float]:
    """Training loss of every step; `Trainer` raises where one is not finite."""
    candidate = Candidate(design=design, backbone=backbone, optimiser=Optimiser(lr=lr))
    trainer = Trainer(candidate, task, STEPS * task.tokens_per_step, 0)
    found: list[float] = []

    def keep(progress: object) -> bool:
        found.append(trainer.loss)
        return True

    trainer.advance(trainer.budget, keep)
    assert all(map(math.isfinite, trainer.evaluate("validation").values()))
    return found


def size(design: Design, pattern: tuple[str, ...], width: int) -> Backbone:
    """One head, but four where features lift the keys, whose dimension grows with the square of a head's."""
    return Backbone(width=width, layers=len(pattern), heads=4 if design.bias.lifting else 1, ffn=0.0, pattern=pattern)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_recall(name: str) -> None:
    """Both twins have a convolution outside the memory, which alone stays at chance."""
    design, pattern = composition(name)
    block = design.block.model_copy(update={"residual_conv": 4})
    arms = {
        output: design.model_copy(update={"block": block.model_copy(update={"output": output})})
        for output in ("memory", "zeroed")
    }
    end = {n: sum(losses(d, size(design, pattern, 32), RECALL, 2e-2)[-20:]) / 20 for n, d in arms.items()}
    if "-h" not in name:
        assert end["memory"] < end["zeroed"], end


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_text(name: str) -> None:
    design, pattern = composition(name)
    found = losses(design, size(design, pattern, 32), TEXT, 5e-3)
    assert sum(found[-20:]) / 20 < 0.8 * found[0]
