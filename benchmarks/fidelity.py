"""How far every named design is from an implementation that shares no code with it: `python benchmarks/fidelity.py`.

Prints a row a design: with what it was compared, and the largest deviation of outputs and of gradients in float64, relative to
the largest entry. `--write` keeps it in miras_search/verified.json, for `miras-search designs` and the table of the docs; `--markdown`
prints that table. Names of designs run those alone, and keep what is written of the others. Needs the extra `dev` (flash-linear-attention).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    from oracles import CASES, compare
    from problems import fast

    from miras_search.named import Verified, verified

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print a markdown table")
    parser.add_argument("--write", action="store_true", help="write miras_search/verified.json")
    parser.add_argument("designs", nargs="*", metavar="DESIGN", help="these alone; default: all")
    given = parser.parse_args()
    if unknown := set(given.designs) - CASES.keys():
        parser.error(f"no oracle of {', '.join(sorted(unknown))}")
    found: dict[str, Verified] = {}
    if given.markdown:
        print("| design | compared with | outputs | gradients |\n|---|---|---|---|")
    for name in given.designs or CASES:
        one = compare(CASES[name](), fast)
        entry = Verified(one.source, float(f"{one.outputs:.0e}"), float(f"{one.gradients:.0e}"), one.exact_gradients)
        gradients = f"{entry.gradients:.0e}" + ("" if entry.exact else " (differences)")
        if given.markdown:
            source = entry.source.replace("|", "\\|")
            print(f"| `{name}` | {source} | {entry.outputs:.0e} | {gradients} |", flush=True)
        else:
            print(f"{name:26s} {entry.outputs:.0e}  {gradients:20s} {entry.source}", flush=True)
        found[name] = entry
    if given.write:
        kept = verified() | found
        text = json.dumps({n: kept[n]._asdict() for n in CASES if n in kept}, indent=1, ensure_ascii=False)
        (ROOT / "miras_search" / "verified.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
