"""Where the forget gate starts decides whether a deep memory trains on long rows: `python benchmarks/gate_start.py`.

Bytes of Python's help texts, rows of 256, 8 a batch; two layers of width 64, two heads; 200 steps at lr 5e-3, seed 0. Prints
validation bits per byte by the gate's initial logit, beside the twin whose memory answers zero.
"""

from __future__ import annotations

import argparse

from miras_search import named
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.design import Design
from miras_search.tasks import Text
from miras_search.trial import Trainer


def bits(design: Design) -> str:
    block = design.block.model_copy(update={"residual_conv": 4})
    candidate = Candidate(
        design=design.model_copy(update={"block": block}),
        backbone=Backbone(width=64, layers=2, heads=2),
        optimiser=Optimiser(lr=5e-3),
    )
    task = Text(source="python-docs", context=256, batch=8)
    trainer = Trainer(candidate, task, 200 * task.tokens_per_step, 0, threads=1)
    try:
        trainer.advance(trainer.budget)
    except ArithmeticError as error:
        return str(error)
    return f"{trainer.evaluate('validation')['bits_per_byte']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--designs", nargs="+", default=["titans-lmm", "yaad", "gated-deltanet"])
    parser.add_argument("--logits", nargs="+", type=float, default=[4.0, 6.0, 8.0])
    given = parser.parse_args()
    print(f"{'design':18s} {'zeroed':>8s}" + "".join(f"{logit:>8g}" for logit in given.logits), flush=True)
    for name in given.designs:
        design = named.get(name)
        zeroed = design.model_copy(update={"block": design.block.model_copy(update={"output": "zeroed"})})
        row = [bits(zeroed)]
        for logit in given.logits:
            gate = design.retention.model_copy(update={"bias": logit})
            row.append(bits(design.model_copy(update={"retention": gate})))
        print(f"{name:18s}" + " ".join(f"{cell:>8s}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
