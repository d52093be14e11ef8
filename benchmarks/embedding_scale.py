"""Where should embeddings start? The gated delta rule on recall with re-writes, one layer of width 32.

    python benchmarks/embedding_scale.py

`small`: standard deviation .02 and logits as they come, as is common. `unit`: standard deviation 1 and logits times
width^-1/2, as `miras_search.model` has it. Prints the test accuracy after 600 steps, a column a seed.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from miras_search import named
from miras_search.candidate import Backbone, Candidate
from miras_search.tasks import Mqar
from miras_search.trial import Trainer

TASK = Mqar(pairs=8, rewrites=8, keys=32, values=32, batch=32)


class Louder(nn.Module):
    """Undoes the scale of the logits."""

    def __init__(self, norm: nn.Module, factor: float) -> None:
        super().__init__()
        self.norm, self.factor = norm, factor

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x) * self.factor
        return out


def accuracy(arm: str, seed: int, steps: int) -> float:
    """Test accuracy of one arm."""
    candidate = Candidate(design=named.get("gated-deltanet"), backbone=Backbone(width=32, layers=1, heads=1, ffn=0.0))
    trainer = Trainer(candidate, TASK, steps * TASK.tokens_per_step, seed, threads=1)
    if arm == "small":
        with torch.no_grad():
            trainer.model.embedding.weight.mul_(0.02)
        trainer.model.norm = Louder(trainer.model.norm, 32**0.5)  # type: ignore[assignment]
    trainer.advance(trainer.budget)
    return trainer.evaluate("test")["accuracy"]


def main() -> None:
    """Run both arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    print(f"accuracy after {given.steps} steps; chance {1 / 32:.2f}")
    for arm in ("small", "unit"):
        print(f"{arm:6s}", *(f"{accuracy(arm, seed, given.steps):6.3f}" for seed in range(given.seeds)), flush=True)


if __name__ == "__main__":
    main()
