"""Tasks: what a trial trains on. One file a task or family, its classes listed in the `VARIANTS` at the foot."""

from miras_search.tasks.base import (
    IGNORE,
    Batch,
    Metric,
    Published,
    Stream,
    Task,
    TaskData,
    Totals,
    check_names,
)
from miras_search.tasks.copying import Copying
from miras_search.tasks.mad import (
    MadCompression,
    MadCopying,
    MadFuzzyRecall,
    MadMemorization,
    MadNoisyRecall,
    MadRecall,
)
from miras_search.tasks.mqar import Mqar
from miras_search.tasks.state import ModularArithmetic, Parity, WordProblem
from miras_search.tasks.synthetic import Synthetic
from miras_search.tasks.text import Text

__all__ = [
    "IGNORE",
    "Batch",
    "Copying",
    "MadCompression",
    "MadCopying",
    "MadFuzzyRecall",
    "MadMemorization",
    "MadNoisyRecall",
    "MadRecall",
    "Metric",
    "ModularArithmetic",
    "Mqar",
    "Parity",
    "Published",
    "Stream",
    "Synthetic",
    "Task",
    "TaskData",
    "Text",
    "Totals",
    "WordProblem",
    "check_names",
]
