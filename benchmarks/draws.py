"""How fast a space answers: random draws, each built, put into canonical form and costed, or refused with a reason.

    python benchmarks/draws.py                  10,000 draws of spaces/full.yaml
    python benchmarks/draws.py quickstart -n 1000 --seed 1

Prints the seconds, how many different candidates there were, and the refusals by code. Exits 1 if a draw was neither.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter

from miras_search.errors import DesignError, MatchError
from miras_search.search.draws import Dice
from miras_search.space import Space
from miras_search.space.space import refusal_code


def main() -> None:
    """Draw, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", default="full")
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    space, source = Space.load(given.space), random.Random(given.seed)
    refused: Counter[str] = Counter()
    seen: set[str] = set()
    odd: list[str] = []
    start = time.perf_counter()
    for _ in range(given.n):
        assignment = space.draw(Dice(source))
        try:
            candidate = space.candidate(assignment).canonical()
            seen.add(candidate.fingerprint)
            task = space.tasks[0]
            costs = candidate.parameters(task.vocab), candidate.state_bytes(task.context)
            if min(costs[0], candidate.flops_per_token(task.context)) <= 0 or costs[1] < 0:
                odd.append(f"{costs} {assignment}")
        except (DesignError, MatchError) as error:
            code = refusal_code(error)
            if code in ("design", "match"):
                odd.append(f"{error} {assignment}")
            refused[code] += 1
    seconds = time.perf_counter() - start
    valid = given.n - sum(refused.values())
    print(
        f"{given.n:,} draws of {space.name} in {seconds:.1f} s: {valid:,} candidates, {len(seen):,} of them different"
    )
    for code, count in refused.most_common():
        print(f"{count:8,}  {code}")
    print("\n".join(odd[:10]), end="")
    raise SystemExit(1 if odd else 0)


if __name__ == "__main__":
    main()
