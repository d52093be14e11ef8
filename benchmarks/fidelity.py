"""How far every named design is from an implementation that shares no code with it: `python benchmarks/fidelity.py`.

Prints a row a design: with what it was compared, and the largest deviation of outputs and of gradients in float64, relative to
the largest entry. `--markdown` prints the table of the docs. Needs the extra `dev` (flash-linear-attention).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def main() -> None:
    from oracles import CASES, compare
    from problems import fast

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print a markdown table")
    markdown = parser.parse_args().markdown
    if markdown:
        print("| design | compared with | outputs | gradients |\n| --- | --- | --- | --- |")
    for name, case in CASES.items():
        found = compare(case(), fast)
        gradients = f"{found.gradients:.0e}" + ("" if found.exact_gradients else " (differences)")
        if markdown:
            source = found.source.replace("|", "\\|")
            print(f"| `{name}` | {source} | {found.outputs:.0e} | {gradients} |")
        else:
            print(f"{name:18s} {found.outputs:.0e}  {gradients:20s} {found.source}")


if __name__ == "__main__":
    main()
