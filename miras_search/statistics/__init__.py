"""What tables of trials show, with intervals; one function each, and its reference.

`intervals`: means over seeds, paired differences, rates. `effects`: marginal means of the choices, failure rates.
`shares`: which inputs the differences come from, on a conditional space; `shapley`: the same of kinds, where combinations are
refused. `paired`: two designs by seed, bimodal or not. `fronts`: who is on them, and the volume they dominate. `ranks`: does a
cheap test order as an expensive one. `winners`: what of a lead is luck; `finals`: what fresh
seeds say of it.
"""

from miras_search.statistics.effects import balanced, choice_effects, failure_rates, unchosen
from miras_search.statistics.finals import Finalist, finalists
from miras_search.statistics.fronts import Front, front, hypervolume, pareto_front
from miras_search.statistics.intervals import (
    Interval,
    mean_interval,
    paired_difference,
    probability_ahead,
    solve_rate,
    t_quantile,
    wilson_interval,
)
from miras_search.statistics.paired import Comparison, bimodal, compare, paired_rates, sign_flip
from miras_search.statistics.ranks import Agreement, rank_agreement
from miras_search.statistics.shapley import shapley
from miras_search.statistics.shares import Shares, shares
from miras_search.statistics.winners import Shrunk, winners_shrinkage

__all__ = [
    "Agreement",
    "Comparison",
    "Finalist",
    "Front",
    "Interval",
    "Shares",
    "Shrunk",
    "balanced",
    "bimodal",
    "choice_effects",
    "compare",
    "failure_rates",
    "finalists",
    "front",
    "hypervolume",
    "mean_interval",
    "paired_difference",
    "paired_rates",
    "pareto_front",
    "probability_ahead",
    "rank_agreement",
    "shapley",
    "shares",
    "sign_flip",
    "solve_rate",
    "t_quantile",
    "unchosen",
    "wilson_interval",
    "winners_shrinkage",
]
