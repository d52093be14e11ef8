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
from miras_search.tasks.niah import Niah
from miras_search.tasks.probes import Capacity, Drift, IllConditioned, Outliers
from miras_search.tasks.procedural import Procedural
from miras_search.tasks.state import ModularArithmetic, Parity, WordProblem
from miras_search.tasks.synthetic import Synthetic
from miras_search.tasks.text import Text
from miras_search.tasks.zoology import MqarZoology

from miras_search.tasks.suite import Suite  # isort: skip  (last: its field is any task registered before it)

__all__ = [
    "IGNORE",
    "Batch",
    "Capacity",
    "Copying",
    "Drift",
    "IllConditioned",
    "MadCompression",
    "MadCopying",
    "MadFuzzyRecall",
    "MadMemorization",
    "MadNoisyRecall",
    "MadRecall",
    "Metric",
    "ModularArithmetic",
    "Mqar",
    "MqarZoology",
    "Niah",
    "Outliers",
    "Parity",
    "Procedural",
    "Published",
    "Stream",
    "Suite",
    "Synthetic",
    "Task",
    "TaskData",
    "Text",
    "Totals",
    "WordProblem",
    "check_names",
]
