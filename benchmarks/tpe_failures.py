"""What must the estimator be told of a trial that diverged? A toy space with a cliff before its best; trains nothing.

    python benchmarks/tpe_failures.py

Values rise with the rate up to 10^-2.3, above which everything diverges; the best that can be reached is -0.1.
`failed`: divergence is told to Optuna as FAIL, which its estimator ignores. `pruned`: told as PRUNED without a value,
worse than any that finished; this is what the search does. Prints, per arm: how many of the suggestions diverged, and
the best value found, means over the seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from miras_search.search import Outcome, Search
from miras_search.space import Space

SPACE = """
name: cliff
design:
  memory: [matrix, mlp]
  bias: [l2, dot, {kind: lp, p: {float: [1.5, 4.0]}}, huber]
  retention: [none, l2, kl, lq]
  algorithm: [{kind: gradient_descent, chunk: [8, 16]}, momentum]
optimiser: {lr: {log_float: [1e-4, 1e-1]}}
start_with: [yaad-r, deltanet]
task: mqar
budget: {tokens: 1e4}
objectives: [{metric: mqar.accuracy, goal: max}]
search: {sampler: tpe, parallel: 3, trials: 50}
"""
CLIFF, OPTIMUM = -2.3, -2.2


def judge(space: Space, n: int, assignment: dict[str, Any]) -> Outcome:
    """The toy's answer: best for l_p with p = 2.7 and the L2 gate."""
    candidate = space.candidate(assignment)
    bias, rate = candidate.design.bias, math.log10(candidate.optimiser.lr)
    if rate > CLIFF:
        return Outcome(n, assignment, "diverged", None)
    value = -abs(rate - OPTIMUM) - {"l2": 0.3, "dot": 0.6, "lp": 0.0, "huber": 0.2}[bias.kind]
    value -= (
        0.3 * abs(getattr(bias, "p", 2.7) - 2.7)
        + {"none": 0.2, "l2": 0.0, "kl": 0.5, "lq": 0.3}[candidate.design.retention.kind]
    )
    return Outcome(n, assignment, "ok", (value,))


def told_as_failed(sampler: Any) -> Any:
    """The sampler, but that it tells divergence as FAIL."""
    from optuna.trial import TrialState

    class Forgetful(type(sampler)):  # type: ignore[misc]
        def _told(self, ask: Any) -> Sequence[Any]:
            told = super()._told(ask)
            for trial in told:
                if trial.state == TrialState.PRUNED:
                    trial.state = TrialState.FAIL
            return told

    return Forgetful()


def run(arm: str, seed: int, count: int) -> tuple[int, float]:
    """Suggestions that diverged, and the best value."""
    space = Space.from_text(
        SPACE, overrides=[f"search.seed={seed}", f"search.sampler={'random' if arm == 'random' else 'tpe'}"]
    )
    search = Search(space)
    if arm == "failed":
        search.sampler = told_as_failed(search.sampler)
    done: list[Outcome] = []
    for n in range(count):
        suggestion = search.ask(n, done, [o.assignment for o in done])
        assert suggestion is not None
        done.append(judge(space, n, suggestion.assignment))
    values = [o.values[0] for o in done if o.values]
    return sum(o.status == "diverged" for o in done), max(values, default=-math.inf)


def main() -> None:
    """Run the three arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--suggestions", type=int, default=50)
    given = parser.parse_args()
    print(f"{given.suggestions} suggestions, {given.seeds} seeds\narm      diverged  best value")
    for arm in ("failed", "pruned", "random"):
        found = [run(arm, seed, given.suggestions) for seed in range(given.seeds)]
        print(f"{arm:8s} {fmean(d for d, _ in found):8.1f} {fmean(v for _, v in found):11.2f}", flush=True)


if __name__ == "__main__":
    main()
