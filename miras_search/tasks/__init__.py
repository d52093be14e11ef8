"""Tasks: what a trial trains on. One file a task, its class listed in the `VARIANTS` at the foot."""

from miras_search.tasks.base import (
    IGNORE,
    Batch,
    Metric,
    Stream,
    Task,
    TaskData,
    Totals,
    check_names,
)
from miras_search.tasks.mqar import Mqar
from miras_search.tasks.text import Text

__all__ = [
    "IGNORE",
    "Batch",
    "Metric",
    "Mqar",
    "Stream",
    "Task",
    "TaskData",
    "Text",
    "Totals",
    "check_names",
]
