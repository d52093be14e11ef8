"""Conditional toy spaces with scores of a closed form: tables as `load_results` gives, and the shares that are true."""

from __future__ import annotations

import numpy as np
import pandas as pd

MEMORY = {"cache": 1.0, "matrix": 0.0, "mlp": -1.0}
BIAS = {"huber": 0.5, "l2": 0.0, "lp": -0.5}
MEET = {("cache", "lp"): 0.8, ("matrix", "lp"): -0.8, ("cache", "l2"): -0.8, ("matrix", "l2"): 0.8}
"""An interaction: every row and column of it adds to zero."""
SLOPE, SHARED, RATE = 2.0, 1.5, 0.7


def toy(n: int, seed: int, seeds: int = 2, noise: float = 0.3) -> pd.DataFrame:
    """A balanced survey: three memories, three biases of which `lp` has a `p`, a rate; `p` and the rate interact."""
    rng = np.random.default_rng(seed)
    memory, bias = (np.resize(list(kinds), n)[rng.permutation(n)] for kinds in (MEMORY, BIAS))
    p, rate = rng.uniform(1, 4, n), 10 ** rng.uniform(-3, -1, n)
    a, b = (p - 2.5) / 1.5, np.log10(rate) + 2  # uniform on -1..1
    lp = bias == "lp"
    score = np.array([MEMORY[m] + BIAS[k] + MEET.get((m, k), 0.0) for m, k in zip(memory, bias, strict=True)])
    score = score + lp * (SLOPE * a + SHARED * a * b) + RATE * b
    frame = pd.DataFrame(
        {
            "fingerprint": [f"{i:05d}" for i in range(n)],
            "memory": memory,
            "bias": bias,
            "retention": "none",
            "algorithm": "gradient_descent",
            "bias.p": np.where(lp, p, np.nan),
            "optimiser.lr": rate,
            "score": score,
        }
    )
    frame = frame.loc[frame.index.repeat(seeds)].assign(seed=np.tile(np.arange(seeds), n), status="ok")
    frame["score"] += rng.normal(0, noise, len(frame)) if noise else 0.0
    return frame.reset_index(drop=True)


def truth() -> dict[str, float]:
    """By hand: a uniform number on -1..1 has variance 1/3, the product of two such 1/9; `p` exists in a third."""
    memory = float(np.var(list(MEMORY.values())))
    kind = float(np.var(list(BIAS.values())))
    meet = sum(v * v for v in MEET.values()) / 9
    p, shared, rate = SLOPE**2 / 9, SHARED**2 / 27, RATE**2 / 3
    whole = memory + kind + meet + p + shared + rate
    parts = {
        "memory": memory,
        "memory total": memory + meet,
        "bias": kind,
        "bias total": kind + meet,
        "bias.p": p,
        "bias.p total": p + shared,
        "optimiser.lr": rate,
        "optimiser.lr total": rate + shared,
        "group bias": kind + p,
        "group bias total": kind + p + meet + shared,
        "pair memory bias": meet,
        "pair bias optimiser.lr": shared,
        "pair memory optimiser.lr": 0.0,
        "beyond": 0.0,
    }
    return {name: part / whole for name, part in parts.items()}
