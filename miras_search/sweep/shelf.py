"""Which weights of a run stay on the disk (`checkpoints:` of a space), and what a trial at work may take.

What needs no weights keeps none: a trial that failed or was stopped. Of the others the candidates' are ranked, and the
worst go first, all trials of a candidate together:

- `keep`: more than so many candidates are there;
- `max_gb`: what is there and what the trials at work will need, of which each has its part, is more than that. A candidate
  that is not through yet goes after those that are, a finalist last.

What went is noted in the trial's status.jsonl; its row in the ledger stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from miras_search import checkpoint, disk
from miras_search.ledger import Record
from miras_search.runs import RunFolder
from miras_search.search import Outcome
from miras_search.search.nsga2 import ranked
from miras_search.space import Space
from miras_search.sweep.job import STATUS

GB = 10**9
MOMENTS = 2
"""Of AdamW: a checkpoint holds every number so many times more than weights alone."""
SPARE = 1 << 16
"""Bytes of a checkpoint beside its numbers: names, random states, its JSON."""


class Group(NamedTuple):
    """Trials whose weights stay or go together: a candidate's, or a finalist's."""

    n: int
    final: bool


class Shelf:
    """The weights of a run. All calls come from the driver.

    Args:
        run: whose trials.
        space: its `checkpoints`, and how many trials are at work at a time.
        rows: what is committed; weights that are there already are taken in.
        done: outcomes of `rows`.
    """

    def __init__(self, run: RunFolder, space: Space, rows: Iterable[Record], done: Iterable[Outcome]) -> None:
        self.run, self.space = run, space
        self.keep = space.checkpoints.keep
        self.limit = None if space.checkpoints.max_gb is None else int(space.checkpoints.max_gb * GB)
        self.evicted = 0
        self._bytes: dict[Group, dict[str, int]] = {}
        self._keys: set[str] = set()
        self._taken = 0
        self._values: dict[int, tuple[float, ...] | None] = {}
        if self.keep is not None or self.limit is not None:
            for row in rows:
                self.put(row)
            for outcome in done:
                self.ranked(outcome)

    def need(self, record: Record) -> int:
        """Bytes that a trial at work may take: one checkpoint, a rate that is tried, and another while it is replaced."""
        tried = len(self.space.lr_search.grid) if self.space.lr_search else 1
        return (tried + 1) * (4 * (1 + MOMENTS) * record.parameters + SPARE)

    def refusal(self, record: Record) -> str | None:
        """Why a trial may not be trained: it needs more than its part."""
        if self.limit is None:
            return None
        need, part = self.need(record), self.limit // self.space.search.parallel
        if need <= part:
            return None
        return f"checkpoints: it may take {need / GB:.3g} GB, its part of max_gb is {part / GB:.3g} GB"

    def put(self, record: Record) -> None:
        """A trial is committed; its weights are on the disk if it is ok."""
        if (self.keep is None and self.limit is None) or record.status != "ok" or record.key in self._keys:
            return
        folder = self.run.trial(record.key)
        sizes = [path.stat().st_size for name in checkpoint.FILES if (path := folder / name).exists()]
        if sizes:
            group = Group(record.n, record.stage == "final")
            self._bytes.setdefault(group, {})[record.key] = sum(sizes)
            self._keys.add(record.key)
            self._taken += sum(sizes)

    def ranked(self, outcome: Outcome) -> None:
        """A candidate is through."""
        if Group(outcome.n, False) in self._bytes:
            self._values[outcome.n] = outcome.values

    def settle(self, at_work: Iterable[Record]) -> None:
        """Let weights go until the rules hold."""
        if self.keep is not None and len(self._values) > self.keep:
            for group in self._worst()[: len(self._values) - self.keep]:
                self._evict(group, f"not among the best {self.keep}")
        if self.limit is not None:
            room = self.limit - sum(self.need(record) for record in at_work)
            if self._taken > room:
                rest = [group for group in self._bytes if group.final or group.n not in self._values]
                for group in [*self._worst(), *sorted(rest, key=lambda group: (group.final, group.n))]:
                    if self._taken <= room:
                        break
                    self._evict(group, f"max_gb {self.space.checkpoints.max_gb:g} is reached")

    def _worst(self) -> list[Group]:
        """Candidates that are through and have weights, the worst first; those without values before all others."""
        without = [n for n, values in self._values.items() if values is None]
        done = [(n, values) for n, values in self._values.items() if values is not None]
        done.sort(key=lambda entry: -entry[0])  # as finalists are chosen: of equal ones the earliest stays
        order = ranked([values for _, values in done], [o.goal for o in self.space.objectives])
        return [Group(n, False) for n in [*without, *(done[i][0] for i in reversed(order))]]

    def _evict(self, group: Group, why: str) -> None:
        sizes = self._bytes.pop(group)
        self._taken -= sum(sizes.values())
        if not group.final:
            self._values.pop(group.n, None)
        for key in sizes:
            folder = self.run.trial(key)
            line = json.dumps({"event": "evicted", "cause": f"checkpoints: {why}"}) + "\n"
            path = folder / STATUS  # replaced, not appended to: that of a reused trial is a link to another run's
            disk.replace(path, (path.read_text() if path.exists() else "") + line)
            checkpoint.remove(folder)
            self.evicted += 1
