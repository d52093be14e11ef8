"""Trials that other runs have trained already: equal key, equal data, so equal result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from miras_search.ledger import Record
from miras_search.runs import RunFolder

OVER = ("ok", "diverged")
"""Ends that are the trial's own; what failed on another machine may not fail here."""


class Reuse:
    """Looks a trial up in other runs.

    Args:
        runs: in which to look; of several rows the one of the first run counts.
        hashes: digests of a task's data, by its name, as they are now.
    """

    def __init__(self, runs: Sequence[RunFolder], hashes: Callable[[str], Mapping[str, str]]) -> None:
        self.hashes = hashes
        self._found: dict[str, tuple[Record, RunFolder]] = {}
        for run in runs:
            for row in run.ledger.rows():
                if row.status in OVER:
                    self._found.setdefault(row.key, (row, run))

    def take(self, known: Record, folder: Path) -> Record | None:
        """The row of an equal trial, its files linked to `folder`; None if there is none.

        Args:
            known: the row as far as it is known. A finalist is only equal to a trial that has seen the test split.
            folder: of the trial in this run.
        """
        row, run = self._found.get(known.key, (None, None))
        if row is None or run is None or (known.stage == "final" and row.status == "ok" and not row.test):
            return None
        if row.hashes and dict(row.hashes) != dict(self.hashes(known.task)):  # the data have changed under one name
            return None
        there = run.trial(known.key)
        if there.is_dir() and not folder.exists():
            _link(there, folder)
        return row.model_copy(update={"reused": run.path.resolve().name})


def _link(source: Path, target: Path) -> None:
    """The files of a finished trial under another name; they are never written to again, so links will do."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.name != "lock":
            try:
                os.link(file, beside / file.name)
            except OSError:  # another file system
                shutil.copy2(file, beside / file.name)
    beside.rename(target)
