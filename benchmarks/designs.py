"""What every named design costs on a CPU: one layer with projections, forward + backward, beside softmax attention.

    python benchmarks/designs.py            prints the table
    python benchmarks/designs.py --write    and writes runs/reference/speed.parquet, from which the README's table takes its column

Width 256, 4 heads, batch 1, T = 2048, float32, one thread, each design at its defaults; interleaved rounds in one process, medians of processor
time. A ratio to attention holds at this length: attention's cost a token grows with it.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import pandas as pd
import torch
from cpu import HEADS, WIDTH, Ours, Row, race

from miras_search.named import NAMED

OUT = Path(__file__).parents[1] / "runs" / "reference" / "speed.parquet"
TIME = 2048


def row(name: str) -> Row:
    """A layer of the design, run once."""
    torch.manual_seed(0)
    layer = Ours(NAMED[name].design, WIDTH, HEADS)
    x, probe = torch.randn(1, TIME, WIDTH, requires_grad=True), torch.randn(1, TIME, WIDTH)

    def run() -> float:
        layer(x).backward(probe)
        layer.zero_grad()
        x.grad = None
        return 0.0

    return Row(name, run)


def main() -> None:
    """Time all, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = race([row(name) for name in NAMED], given.rounds)
    base = next(r.cpu for r in found if r.row.name == "softmax-attention")
    frame = pd.DataFrame(
        [{"design": r.row.name, "us_per_token": r.cpu * 1e3 / TIME, "ratio": r.cpu / base} for r in found]
    )
    print(frame.to_string(index=False, float_format="{:.1f}".format))
    if given.write:
        frame.to_parquet(OUT, index=False)


if __name__ == "__main__":
    main()
