"""The running of trials: suggestions become trials, trials become rows of the ledger.

`sweep` is the whole; its `driver` deals `job`s to an executor, `inline` (this process) or `ray_tune` (any cluster; the
only module that imports ray). Both run the same `attempt.Attempt`s, so they give the same records. `estimate` says what
a sweep would cost, `single` runs one trial without one, `progress` shows what is at work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miras_search.sweep.sweep import Executor, Summary, SweepInterrupted, run_sweep

__all__ = ["Executor", "Summary", "SweepInterrupted", "run_sweep"]


def __getattr__(name: str) -> Any:
    """Imported on first use: `progress` is needed where torch is not."""
    if name in __all__:
        return getattr(import_module("miras_search.sweep.sweep"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
