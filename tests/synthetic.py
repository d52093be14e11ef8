"""Runs with known numbers, written through the real RunFolder and Ledger: no training."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from miras_search import named
from miras_search.candidate import Candidate, Optimiser
from miras_search.choice import Frozen
from miras_search.design import Design
from miras_search.ledger import Record, trial_key
from miras_search.runs import RunFolder

SPACE = """name: recall-survey
description: Which bias and retention keep keys apart under re-writes.
objectives:
- {metric: mqar.accuracy, goal: max}
- {metric: state_bytes, goal: min}
tasks: [{kind: mqar, keys: 8}]
budget: {tokens: 200000}
seeds: 3
search: {sampler: random, seed: 0, parallel: 2, trials: 60}
"""


class Spec(Frozen):
    """Stands for a task's spec in trial keys."""

    kind: str = "mqar"


def record(design: Design, n: int, seed: int, accuracy: float | None, **changes: Any) -> Record:
    """A row of a design; without an accuracy it is one that diverged."""
    candidate = Candidate(design=design, optimiser=Optimiser(lr=changes.pop("lr", 1e-2)))
    task = changes.pop("task", "mqar")
    metrics = (
        {}
        if accuracy is None
        else {"accuracy": accuracy, "nll": 2.5 * (1 - accuracy), "solved": float(accuracy > 0.95)}
    )
    row: dict[str, Any] = {
        "key": trial_key(candidate, Spec(kind=task), 200_000, seed),
        "n": n,
        "task": task,
        "seed": seed,
        "status": "ok" if accuracy is not None else "diverged",
        "cause": "" if accuracy is not None else f"loss is nan at step {7 + seed} of 390 ({512 * (7 + seed)} tokens)",
        "candidate": candidate.model_dump(mode="json"),
        "assignment": {"bias": design.bias.kind, "optimiser.lr": candidate.optimiser.lr},
        "fingerprint": candidate.fingerprint,
        "structure": design.structure,
        "label": named.label(design),
        "metrics": metrics,
        "rungs": [{"tokens": 100_000, "metrics": metrics}] if metrics else [],
        "parameters": 101_344,
        "state_bytes": 32_768 if design.memory.kind == "mlp" else 8_192 if design.memory.kind == "matrix" else 65_536,
        "flops_per_token": 250_000,
        "tokens": 199_680 if accuracy is not None else 512 * (7 + seed),
        "steps": 390 if accuracy is not None else 7 + seed,
        "seconds": 21.5,
        "tokens_per_second": 9_287.4,
        "path": "torch",
        "path_reason": "no CUDA device",
        "hashes": {"validation": "0f3a9c1be2d4"},
        "time": "2026-11-22T20:00:00.123+00:00",
    }
    return Record.model_validate(row | changes)


def write_run(folder: Path, records: list[Record], *, space: str = SPACE, steps: bool = False) -> Path:
    """A run folder that holds these rows."""
    about = {"command": "miras-search sweep recall-survey --name first --trials 60 --executor inline"}
    run = RunFolder.create(folder, space, about=about)
    with run.lock():
        for row in records:
            run.ledger.append(row)
    if steps:
        for i, row in enumerate(records):
            trial = run.trial(row.key)
            trial.mkdir(parents=True, exist_ok=True)
            rng = random.Random(i)
            level = 4.5 * (1 - row.metrics.get("accuracy", 0.0) * 0.9)
            lines = []
            for step in range(2, row.steps + 1, 2):
                loss = level + (5.5 - level) * 0.98**step + rng.gauss(0, 0.05)
                lines.append(
                    {"step": step, "tokens": step * 512, "loss": max(loss, 0.01), "lr": 1e-2, "grad_norm": 1.0}
                )
            (trial / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


PUBLISHED = (
    "softmax-attention", "linear-attention", "retnet", "deltanet", "gated-deltanet", "ttt-linear", "ttt-mlp", "titans-lmm",
    "moneta", "yaad", "memora", "moneta-r", "yaad-r", "memora-r",
)  # fmt: skip


def survey(seeds: int = 3) -> list[Record]:
    """Named designs and a crossing of biases and retentions with invented, reproducible accuracies; some diverge."""
    rng = random.Random(0)
    level = {
        "softmax-attention": 0.99,
        "gated-deltanet": 0.94,
        "deltanet": 0.9,
        "retnet": 0.42,
        "linear-attention": 0.35,
    }
    rows, n = [], 0
    for name in PUBLISHED:
        base = level.get(name, 0.6 + 0.02 * len(name))
        for seed in range(seeds):
            rows.append(record(named.get(name), n, seed, min(1.0, max(0.0, base + rng.gauss(0, 0.02)))))
        n += 1
    effect = {"l2": 0.0, "lp": 0.05, "huber": 0.09, "dot": -0.3, "none": 0.0, "kl": -0.15, "lq": 0.03}
    for bias in ("l2", "lp", "huber", "dot"):
        for retention in ("none", "l2", "kl", "lq"):
            raw = {"memory": "mlp", "bias": bias, "retention": retention, "algorithm": "gradient_descent"}
            try:
                design = Design.model_validate(raw)
            except ValidationError:
                continue
            for lr in (3e-3, 1e-2):
                base = 0.8 + effect[bias] + effect[retention] + (0.02 if lr < 5e-3 else 0.0)
                bad = bias == "lp" and retention in ("none", "kl") and lr > 5e-3
                for seed in range(seeds):
                    value = None if bad else min(0.999, max(0.05, base + rng.gauss(0, 0.025)))
                    rejected = {"online-needs-delta-rule": 2} if seed == 0 and n % 5 == 0 else {}
                    rows.append(record(design, n, seed, value, lr=lr, rejected=rejected))
                n += 1
    return list({row.key: row for row in rows}.values())


def drawn_survey(candidates: int = 120, seeds: int = 2) -> list[Record]:
    """Independent draws with known effects (bias most, then memory; retention none), a start and its zeroed control."""
    rng, rows = random.Random(1), []
    effect = {"l2": 0.0, "lp": 0.04, "huber": 0.07, "dot": -0.25, "matrix": 0.0, "mlp": 0.05}
    for n in range(candidates):
        p = rng.uniform(1.5, 4)
        kind, memory = rng.choice(["l2", "dot", "huber", "lp"]), rng.choice(["matrix", "mlp"])
        raw = {
            "memory": memory,
            "bias": {"kind": "lp", "p": p} if kind == "lp" else kind,
            "retention": rng.choice(["none", "l2"]),
            "algorithm": rng.choice(["gradient_descent", "momentum"]),
        }
        base = 0.72 + effect[kind] + effect[memory] + (0.06 * (p - 2.75) if kind == "lp" else 0.0) + rng.gauss(0, 0.02)
        lr = 10 ** rng.uniform(-2.5, -1.5)
        for seed in range(seeds):
            value = min(0.999, max(0.03, base + rng.gauss(0, 0.02)))
            rows.append(record(Design.model_validate(raw), n, seed, value, lr=lr, how="survey"))
    own = named.get("deltanet")
    zeroed = own.model_copy(update={"block": own.block.model_copy(update={"output": "zeroed"})})
    for seed in range(seeds):
        rows.append(record(own, candidates, seed, 0.9 + 0.01 * seed, how="start_with"))
        rows.append(record(zeroed, candidates + 1, seed, 0.05 + 0.02 * seed, how="start_with"))
    return list({row.key: row for row in rows}.values())
