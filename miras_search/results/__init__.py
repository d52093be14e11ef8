"""Runs as tables: `columns` (what each means), `filter` (queries), `frames` (reading and writing).

frame = load_results("quickstart")          # runs/quickstart, a folder, or a Parquet file; or several
query(frame, "bias == 'huber' and accuracy > 0.9", sort="-accuracy", columns=["label", "bias", "accuracy"])
design_of(frame, "3f2a")
"""

from miras_search.results.columns import CHOICES, DATA_DICTIONARY, Column, columns_of, metrics_of
from miras_search.results.filter import query
from miras_search.results.frames import RunLike, design_of, keep_results, load_results, load_steps, write_parquet

__all__ = [
    "CHOICES",
    "DATA_DICTIONARY",
    "Column",
    "RunLike",
    "columns_of",
    "design_of",
    "keep_results",
    "load_results",
    "load_steps",
    "metrics_of",
    "query",
    "write_parquet",
]
