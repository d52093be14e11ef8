"""What to try next and what to stop early: pure functions of the space and of the rows so far.

`outcomes` is what a search sees of a ledger, `leaders` says what is best in it; `samplers` draw, `halving` decides at rungs,
`search` asks.
"""

from miras_search.search.halving import Rungs
from miras_search.search.leaders import Leader, Point, Standing, describe, reason, standing
from miras_search.search.outcomes import Outcome, outcomes
from miras_search.search.search import Search, Suggestion

__all__ = [
    "Leader",
    "Outcome",
    "Point",
    "Rungs",
    "Search",
    "Standing",
    "Suggestion",
    "describe",
    "outcomes",
    "reason",
    "standing",
]
