"""How fast batches are made: every drawn task, and three beside a loop that makes a row token by token, as the originals do.

    python benchmarks/tasks.py

The loops are ours, written after the description of the originals (one Python loop a row, numpy's Generator for each draw), and
make rows of the same distribution. Nothing is timed but the making of batches, one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import miras_search.tasks  # noqa: F401  (registers the tasks)
from miras_search.choice import variants
from miras_search.tasks import MadCopying, MadFuzzyRecall, MadRecall, MqarZoology, Synthetic
from miras_search.tasks.base import TRAIN, Draws

SECONDS = 0.5


def rate(make: Callable[[int], int]) -> float:
    """Rows a second; `make(step)` makes some and returns how many."""
    make(0)
    start, rows, step = time.perf_counter(), 0, 0
    while time.perf_counter() - start < SECONDS:
        step += 1
        rows += make(step)
    return rows / (time.perf_counter() - start)


def batches(task: Synthetic) -> Callable[[int], int]:
    def make(step: int) -> int:
        task.draw(Draws(0, TRAIN, step), task.batch)
        return task.batch

    return make


def recall_loop(step: int) -> int:
    """A row of MAD's in-context recall: 16 ids, 64 pairs."""
    rng = np.random.default_rng(step)
    memory: dict[int, int] = {}
    row = []
    for _ in range(63):
        key = int(rng.choice(np.arange(8)))
        if key not in memory:
            memory[key] = int(rng.choice(np.arange(8, 16)))
        row += [key, memory[key]]
    key = int(rng.choice(list(memory)))
    np.array([*row, key, memory[key]])
    return 1


def fuzzy_loop(step: int) -> int:
    """A row of MAD's fuzzy recall: 16 ids, length 128, motifs listed anew a row."""
    from itertools import permutations

    rng = np.random.default_rng(step)
    keys = {n: list(permutations(range(7), n)) for n in (1, 2, 3)}
    values = {n: list(permutations(range(7, 15), n)) for n in (1, 2, 3)}
    for table in (*keys.values(), *values.values()):
        rng.shuffle(table)
    memory: dict[tuple[int, ...], tuple[int, ...]] = {}
    row: list[int] = []
    while len(row) < 116:
        key = tuple(int(i) for i in rng.choice(keys[int(rng.choice([1, 2, 3]))]))
        if key not in memory:
            memory[key] = tuple(int(i) for i in rng.choice(values[int(rng.choice([1, 2, 3]))]))
        row += [*key, *memory[key]]
    np.array(row)
    return 1


def copying_loop(step: int) -> int:
    """A row of MAD's selective copying: 16 tokens in 256."""
    rng = np.random.default_rng(step)
    tokens = rng.choice(np.arange(14), size=16)
    places = rng.integers(0, 16, 223)
    row = np.insert(tokens, places, [14] * 223).tolist()
    np.array([*row, 15, *[14] * 16])
    return 1


def zoology_loop(step: int) -> int:
    """A row of Zoology's MQAR: 8192 ids, length 256, 64 pairs."""
    rng = np.random.default_rng(step)
    keys = rng.choice(np.arange(1, 4096), size=64, replace=False)
    values = rng.choice(np.arange(4096, 8192), size=64, replace=False)
    weights = 0.01 * np.arange(1, 65) ** -0.99
    gaps = rng.choice(64, size=64, replace=False, p=weights / weights.sum())
    row, labels = np.zeros(256, dtype=np.int64), np.full(256, -100)
    row[0:128:2], row[1:128:2] = keys, values
    row[128 + 2 * gaps], labels[128 + 2 * gaps] = keys, values
    return 1


LOOPS: list[tuple[Synthetic, Callable[[int], int]]] = [
    (MadRecall(), recall_loop),
    (MadFuzzyRecall(), fuzzy_loop),
    (MadCopying(), copying_loop),
    (MqarZoology(length=256, pairs=64), zoology_loop),
]


def main() -> None:
    print(f"{'task':24s} {'rows/s':>10s} {'tokens/s':>12s}")
    for kind, cls in variants("task").items():
        if issubclass(cls, Synthetic):
            task = cls()
            rows = rate(batches(task))
            print(f"{kind:24s} {rows:10,.0f} {rows * task.context:12,.0f}")
    print(f"\n{'beside a loop':24s} {'rows/s':>10s} {'loop rows/s':>12s} {'times':>8s}")
    for task, loop in LOOPS:
        rows, slow = rate(batches(task)), rate(loop)
        print(f"{task.kind:24s} {rows:10,.0f} {slow:12,.0f} {rows / slow:8.0f}")


if __name__ == "__main__":
    main()
