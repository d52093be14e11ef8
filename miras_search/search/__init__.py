"""What to try next and what to stop early: pure functions of the space and of the rows so far.

`outcomes` is what a search sees of a ledger, `leaders` are the best in it; `samplers` draw, `halving` decides at rungs,
`search` asks.
"""

from miras_search.search.halving import Rungs
from miras_search.search.leaders import Leader, describe, leaders
from miras_search.search.outcomes import Outcome, outcomes
from miras_search.search.search import Search, Suggestion

__all__ = ["Leader", "Outcome", "Rungs", "Search", "Suggestion", "describe", "leaders", "outcomes"]
