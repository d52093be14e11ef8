"""The harness tells memories apart, or it is wrong: MQAR with re-writes, one layer of width 32.

Bounds are wider than anything seen; `benchmarks/anchors.py` prints the numbers of every named design.
"""

import pytest

from miras_search import named
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.tasks import Mqar
from miras_search.trial import Trainer

TASK = Mqar(pairs=8, rewrites=8, keys=32, values=32, batch=32)


def accuracy(name: str, seed: int, steps: int, *, zeroed: bool = False) -> float:
    design = named.get(name)
    if zeroed:
        block = design.block.model_copy(update={"output": "zeroed", "residual_conv": 4})
        design = design.model_copy(update={"block": block})
    candidate = Candidate(
        design=design, backbone=Backbone(width=32, layers=1, heads=1, ffn=0.0), optimiser=Optimiser(lr=2e-2)
    )
    trainer = Trainer(candidate, TASK, steps * TASK.tokens_per_step, seed)
    trainer.advance(trainer.budget)
    return trainer.evaluate("test")["accuracy"]


SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seed", SEEDS)
def test_softmax_attention_solves_recall(seed: int) -> None:
    assert accuracy("softmax-attention", seed, 300) >= 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gated_delta_rule_overwrites_and_linear_attention_does_not(seed: int) -> None:
    delta = accuracy("gated-deltanet", seed, 400)
    linear = accuracy("linear-attention", seed, 400)
    assert delta >= 0.95
    assert linear <= 0.85
    assert delta - linear >= 0.15


@pytest.mark.parametrize("seed", SEEDS)
def test_a_zeroed_memory_stays_at_chance(seed: int) -> None:
    assert accuracy("gated-deltanet", seed, 200, zeroed=True) <= 0.06  # chance is 1/32
