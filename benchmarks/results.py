"""How long does it take to read and ask 100,000 trials?

    python benchmarks/results.py [--rows 100000]

Rows are invented, in the shape of a run of two tasks and three seeds. Prints the best of three, in seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from miras_search import named
from miras_search.candidate import Candidate
from miras_search.ledger import LEDGER, Record
from miras_search.results import design_of, keep_results, load_results, query
from miras_search.runs import RunFolder
from miras_search.search.samplers import SAMPLERS

DESIGNS = ("deltanet", "gated-deltanet", "yaad", "moneta", "memora", "titans-lmm", "retnet", "softmax-attention")


def ledger(rows: int) -> str:
    """Lines as a sweep writes them."""
    rng, lines = random.Random(0), []
    templates = []
    for name in DESIGNS:
        candidate = Candidate(design=named.get(name))
        record = Record(
            key="0" * 16, n=0, task="mqar", seed=0, status="ok", candidate=candidate.model_dump(mode="json"),
            fingerprint=candidate.fingerprint, structure=candidate.design.structure, label=name, how=sorted(SAMPLERS)[0],
            assignment={"design": 0, "optimiser.lr": 1e-2}, metrics={"accuracy": 0.5, "nll": 1.0, "solved": 0.0},
            rungs=[{"tokens": 1000, "metrics": {"accuracy": 0.4}}], parameters=100_000, state_bytes=4096,
            flops_per_token=250_000, tokens=200_000, steps=390, seconds=21.5, tokens_per_second=9287.4, path="torch",
            path_reason="no CUDA device", hashes={"validation": "0f3a9c1be2d4"}, time="2026-11-22T20:00:00.123+00:00",
        )  # fmt: skip
        templates.append(json.loads(record.model_dump_json()))
    for i in range(rows):
        row = dict(templates[i // 6 % len(templates)])
        row["key"], row["n"], row["seed"] = f"{i:016x}", i // 6, i % 3
        row["task"] = "mqar" if i % 6 < 3 else "copying"
        row["fingerprint"] = f"{i // 6:012x}"
        row["metrics"] = {"accuracy": rng.random(), "nll": rng.random(), "solved": 0.0}
        lines.append(json.dumps(row, separators=(",", ":")) + "\n")
    return "".join(lines)


def best(what: Callable[[], Any]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        what()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Write a run, then time it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        RunFolder.create(run, "name: invented\n")
        text = ledger(rows)
        (run / LEDGER).write_text(text)
        print(f"{rows:,} rows, {len(text) / 1e6:.0f} MB of ledger")
        print(f"  ledger of a run that goes on   {best(lambda: load_results(run)):.2f} s")
        keep_results(run)
        print(f"  a run that has come to its end {best(lambda: load_results(run)):.2f} s")
        frame = load_results(run)
        expr = "bias == 'huber' and accuracy > 0.9 and optimiser.lr < 0.1"
        print(f"  query and sort                 {best(lambda: query(frame, expr, sort='-accuracy')):.2f} s")
        last = frame["fingerprint"].iloc[-1]
        print(f"  design of a fingerprint        {best(lambda: design_of(frame, last)):.2f} s")


if __name__ == "__main__":
    main()
