"""Each probe with variants of its choice, the rest held fixed: error beside the optimum or baseline.

    python benchmarks/probes.py --seeds 3

Bare memories (`miras_search.heads.BareMemory`), 60 steps of 32 rows, AdamW at 1e-1, one thread. Writes a line a trial to
runs/reference/probes.parquet; those that are there are not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from miras_search import named
from miras_search.algorithm import GradientDescent, Implicit, Momentum, Newton
from miras_search.bias import L2, Huber, Lp
from miras_search.candidate import Candidate, Optimiser
from miras_search.design import Design
from miras_search.memory import Matrix, Mlp
from miras_search.retention import NoRetention
from miras_search.tasks import Capacity, Drift, IllConditioned, Outliers
from miras_search.tasks.probes import Probe
from miras_search.trial import Trainer

OUT = Path(__file__).parent.parent / "runs" / "reference" / "probes.parquet"
STEPS = 60
ONE = GradientDescent(chunk=1)


def plain(**other: object) -> Design:
    """A matrix, l2, no retention, one gradient step a token, but for what is given."""
    fixed = {"memory": Matrix(), "bias": L2(), "retention": NoRetention(), "algorithm": ONE}
    return Design.model_validate(fixed | other)


ARMS: list[tuple[Probe, dict[str, Design]]] = [
    (
        Capacity(length=128),
        {
            "matrix": plain(),
            "mlp": plain(memory=Mlp(), algorithm=GradientDescent(chunk=8)),
            "cache": named.get("softmax-attention"),
        },
    ),
    (Outliers(), {"l2": plain(), "huber": plain(bias=Huber(form="norm")), "lp 1.5": plain(bias=Lp(p=1.5))}),
    (Drift(), {"none": named.get("deltanet"), "l2": named.get("gated-deltanet")}),
    (Drift(change="all", name="probe_overwrite"), {"none": named.get("deltanet"), "l2": named.get("gated-deltanet")}),
    (
        IllConditioned(),
        {
            "gradient": plain(),
            "momentum": plain(algorithm=Momentum(chunk=1)),
            "delta rule": named.get("deltanet"),
            "implicit": plain(algorithm=Implicit()),
            "newton": plain(algorithm=Newton()),
        },
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    rows = pd.read_parquet(OUT).to_dict("records") if OUT.exists() else []
    done = {(r["probe"], r["arm"], r["seed"]) for r in rows}
    for seed in range(given.seeds):
        for task, arms in ARMS:
            for arm, design in arms.items():
                if (task.name, arm, seed) in done:
                    continue
                candidate = Candidate(design=design, optimiser=Optimiser(lr=1e-1, weight_decay=0.0))
                trainer = Trainer(candidate, task, STEPS * task.tokens_per_step, seed, threads=1)
                trainer.advance(trainer.budget)
                found = trainer.evaluate("test")
                rows.append(
                    {"probe": task.name, "arm": arm, "seed": seed, "steps": STEPS, "error": found["error"]}
                    | {"baseline": found["error"] - found["excess"], "parameters": trainer.parameters}
                    | {"state_bytes": task.trained(candidate).state_bytes(task.context), "seconds": trainer.seconds}
                )
                print(rows[-1], flush=True)
                temporary = OUT.with_suffix(".tmp")
                pd.DataFrame(rows).to_parquet(temporary)
                temporary.replace(OUT)
    frame = pd.DataFrame(rows)
    print(
        frame.groupby(["probe", "arm"], sort=False)[["error", "baseline", "state_bytes", "seconds"]]
        .mean()
        .round(3)
        .to_string()
    )


if __name__ == "__main__":
    main()
