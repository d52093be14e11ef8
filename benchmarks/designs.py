"""What every named design costs on a CPU: one layer with projections, forward + backward, beside softmax attention.

    python benchmarks/designs.py            prints the table
    python benchmarks/designs.py --write    and writes runs/reference/speed.parquet, from which the README's table takes its column

Width 256, 4 heads, batch 1, T = 2048, float32, one thread, each design at its defaults; interleaved rounds in one process, medians of processor
time. A design that takes more than 3 ms a token is timed on 64 tokens; what a token costs does not depend on length, but for
attention, whose ratio holds at 2048.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from cpu import Ours, Row, both_ways, race

from miras_search.named import NAMED

OUT = Path(__file__).parents[1] / "runs" / "reference" / "speed.parquet"
LONG, SHORT, SLOW = 2048, 64, 3e-3


def row(name: str, tokens: int) -> Row:
    """A layer of the design, forward and backward."""
    return Row(name, both_ways(lambda width, heads: Ours(NAMED[name].design, width, heads), 1, tokens))


def tokens_of(name: str) -> int:
    """How many tokens it is timed on."""
    trial = row(name, SHORT)
    trial.run()
    start = time.process_time()
    trial.run()
    return SHORT if time.process_time() - start > SLOW * SHORT else LONG


def main() -> None:
    """Time all, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tokens = {name: tokens_of(name) for name in NAMED}
    cost = {
        r.row.name: 1e3 * r.cpu / tokens[r.row.name] for r in race([row(n, tokens[n]) for n in NAMED], given.rounds)
    }
    frame = pd.DataFrame(
        [
            {"design": n, "us_per_token": us, "ratio": us / cost["softmax-attention"], "tokens": tokens[n]}
            for n, us in cost.items()
        ]
    )
    print(frame.to_string(index=False, float_format="{:.1f}".format))
    if given.write:
        frame.to_parquet(OUT, index=False)


if __name__ == "__main__":
    main()
