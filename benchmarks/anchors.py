"""Does each named design learn, and does its memory do it? Every design beside its twin whose memory answers zero.

    python benchmarks/anchors.py recall                                   MQAR with re-writes, 600 steps
    python benchmarks/anchors.py text --train valid.txt --test test.txt   bytes, 200 steps

Both twins have a convolution outside the memory, so that the zeroed one still mixes neighbouring tokens, and see the same tokens in
the same order. Writes a line a trial to runs/reference/anchors-TASK.parquet and prints the table of docs/fidelity.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from miras_search import named
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.design import Design
from miras_search.tasks import Mqar, Task, Text
from miras_search.trial import Trainer


def twins(design: Design) -> dict[str, Design]:
    """The design and its control, both with a convolution outside the memory."""
    block = design.block.model_copy(update={"residual_conv": 4})
    zeroed = block.model_copy(update={"output": "zeroed"})
    return {"memory": design.model_copy(update={"block": block}), "zeroed": design.model_copy(update={"block": zeroed})}


def train(
    name: str, arm: str, design: Design, task: Task, backbone: Backbone, lr: float, steps: int, seed: int
) -> dict[str, object]:
    """One trial, as a row."""
    candidate = Candidate(design=design, backbone=backbone, optimiser=Optimiser(lr=lr))
    trainer = Trainer(candidate, task, steps * task.tokens_per_step, seed, threads=1)
    row: dict[str, object] = {"design": name, "arm": arm, "seed": seed, "steps": steps, "lr": lr, "status": "ok"}
    try:
        trainer.advance(trainer.budget)
        row |= trainer.evaluate("test")
    except ArithmeticError as error:
        row |= {"status": str(error)}
    return row | {
        "parameters": trainer.parameters,
        "state_bytes": candidate.state_bytes(task.context),
        "seconds": round(trainer.seconds, 1),
    }


def main() -> None:
    """Run the arms that are missing from the table, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["recall", "text"])
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--designs", nargs="*", default=list(named.NAMED))
    parser.add_argument("-o", type=Path)
    given = parser.parse_args()
    out = given.o or Path(__file__).parent.parent / "runs" / "reference" / f"anchors-{given.task}.parquet"
    if given.task == "recall":
        task: Task = Mqar(pairs=8, rewrites=8, keys=32, values=32, batch=32)
        backbone, lr, steps, metric, better = Backbone(width=32, layers=1, heads=1, ffn=0.0), 2e-2, 600, "accuracy", 1
    else:
        task = Text(source=str(given.train), test=str(given.test), context=256, batch=8)
        backbone, lr, steps, metric, better = Backbone(width=64, layers=2, heads=2), 5e-3, 200, "bits_per_byte", -1
    rows = pd.read_parquet(out).to_dict("records") if out.exists() else []
    done = {(r["design"], r["arm"], r["seed"]) for r in rows}
    for seed in range(given.seeds):
        for name in given.designs:
            for arm, design in twins(named.get(name)).items():
                if (name, arm, seed) in done:
                    continue
                rows.append(train(name, arm, design, task, backbone, lr, steps, seed))
                print(rows[-1], flush=True)
                temporary = out.with_suffix(".tmp")
                pd.DataFrame(rows).to_parquet(temporary)
                temporary.replace(out)
    table = pd.DataFrame(rows).pivot_table(index="design", columns="arm", values=metric, sort=False)
    table["gain"] = better * (table["memory"] - table["zeroed"])
    print(f"{metric}, {steps} steps, mean over {given.seeds} seed(s)\n{table.round(3).to_string()}")


if __name__ == "__main__":
    main()
