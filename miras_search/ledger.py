"""The truth of a run: `ledger.jsonl`, one line of JSON a trial, only ever appended to.

A line is committed when it is whole: written up to its line feed and synced to the disk. A kill while writing leaves a
last line without its end; readers ignore it, and the next writer cuts it off. A line that is whole and cannot be read
is damage, and an error. Readers take no lock and may read while a sweep writes. There is one writer at a time, the
driver that holds the lock of the run (`miras_search.runs`). A key that stands twice was run twice; tables show
the last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypedDict

from miras_search.candidate import Candidate
from miras_search.choice import Frozen
from miras_search.errors import RunError
from miras_search.match import Certificate
from miras_search.space.settings import LrSearch

LEDGER = "ledger.jsonl"
SCHEMA_VERSION = 1

Status = Literal["ok", "pruned", "invalid", "diverged", "error", "oom", "timeout", "crashed", "node_lost", "cancelled"]
"""How a trial ended. `cancelled` (stopped by the user) is no result: a resumed sweep runs the trial again."""


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Rung(TypedDict):
    """An evaluation on the way: tokens trained on by then, and the validation metrics."""

    tokens: int
    metrics: dict[str, float]


class Rates(Frozen):
    """What the search for the learning rate of a trial found (`lr_search`).

    `values`: loss of every rate at every rung, none where it had stopped or diverged. From `low` to `high` the rates
    work, `decades` wide; `edge`: the best one is an end of the grid. `tokens`: trained on at the rates that were dropped.
    """

    grid: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]
    best: float
    low: float
    high: float
    decades: float
    edge: bool
    tokens: int


class Record(Frozen):
    """One trial: what was trained, how it ended, what was measured."""

    schema_version: Literal[1] = 1
    key: str = Field(pattern="^[0-9a-f]{16}$", description="identity of candidate, task, budget and seed; 16 hex")
    n: int = Field(-1, ge=-1, description="number of the suggestion, from 0; -1: of no sweep")
    task: str = Field(description="name of the task")
    seed: int = Field(ge=0, description="seed of weights and data order")
    status: Status = Field(description="how the trial ended")
    cause: str = Field("", description="why it is not ok, one line; empty if it is")
    candidate: dict[str, Any] = Field(description="design, backbone and optimiser, after `match` was solved")
    assignment: dict[str, Any] = Field(default_factory=dict, description="parameter name of the space -> drawn value")
    fingerprint: str = Field(description="identity of the candidate; 12 hex digits")
    structure: str = Field(description="identity of the generated code; 12 hex digits")
    label: str = Field("", description="name of the published design; empty if it is none")
    match: dict[str, Certificate] = Field(
        default_factory=dict, description="sizes asked for, by cost, and what was reached"
    )
    rates: Rates | None = Field(None, description="search for the learning rate; none without `lr_search`")
    metrics: dict[str, float] = Field(default_factory=dict, description="validation metrics at the end of the budget")
    test: dict[str, float] = Field(default_factory=dict, description="metrics on the test split; of finalists alone")
    rungs: list[Rung] = Field(default_factory=list, description="evaluations on the way, by tokens")
    parameters: int = Field(0, ge=0, description="trained numbers of the model")
    state_bytes: int = Field(0, ge=0, description="recurrent state of one sequence over all layers, float32; bytes")
    flops_per_token: int = Field(0, ge=0, description="forward pass; FLOP/token")
    tokens: int = Field(0, ge=0, description="tokens trained on")
    steps: int = Field(0, ge=0, description="optimiser steps taken")
    seconds: float = Field(0.0, ge=0, description="time spent training; s")
    tokens_per_second: float = Field(0.0, ge=0, description="training speed; tokens/s")
    path: str = Field("", description="which implementation ran: torch or triton; empty if none did")
    path_reason: str = Field("", description="why that one")
    hashes: dict[str, str] = Field(default_factory=dict, description="digests of the data")
    attempts: int = Field(1, ge=0, description="how often the trial was started")
    time: str = Field(default_factory=now, description="when the row was made; UTC, ISO 8601")
    how: str = Field("", description="what drew the suggestion: a sampler, start_with, or enumerated; empty: unknown")
    stage: Literal["search", "final"] = Field("search", description="final: the best again, on seeds of their own")
    reused: str = Field("", description="run that the trial was trained in, if not in this one")
    rejected: dict[str, int] = Field(default_factory=dict, description="draws refused before this suggestion, by code")


def trial_key(
    candidate: Candidate, task: BaseModel, budget_tokens: int, seed: int, lr_search: LrSearch | None = None
) -> str:
    """16 hex digits: equal for trials that are the same computation, whatever space they come from.

    Args:
        candidate: with `match` solved; two descriptions of one function have one key.
        task: the spec, every field of it.
        budget_tokens: as asked for, before it is cut to whole batches.
        seed: of weights and data order.
        lr_search: of the trial; the candidate's own rate then does not count.
    """
    parts: dict[str, Any] = {
        "candidate": candidate.canonical().model_dump(mode="json"),
        "task": task.model_dump(mode="json"),
        "budget": budget_tokens,
        "seed": seed,
    }
    if lr_search is not None:
        parts["lr_search"] = lr_search.model_dump(mode="json")
        del parts["candidate"]["optimiser"]["lr"]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Ledger:
    """The ledger of the run in `folder`. Only `append` opens it for writing, so reading needs no right to write.

    >>> with Ledger(folder) as ledger:
    ...     ledger.append(record)

    Args:
        folder: of the run; need not hold a ledger yet.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / LEDGER
        self._fd: int | None = None
        self._rows: list[Record] = []
        self._read = 0
        self._file: tuple[int, int] | None = None

    def rows(self) -> list[Record]:
        """All committed rows, in the order of commitment; a second call reads only what is new.

        Raises:
            RunError: for a damaged line (`where` is file:line) or one of a newer version; if the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if (stat.st_dev, stat.st_ino) != self._file or stat.st_size < self._read:
                    self._rows, self._read, self._file = [], 0, (stat.st_dev, stat.st_ino)
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            self._rows, self._read, self._file = [], 0, None
            return []
        except OSError as error:
            where = str(self.path)
            raise RunError(f"cannot be read: {error.strerror}", where=where, hint="check its permissions") from None
        for line in data.split(b"\n")[:-1]:
            self._rows.append(parse(line, f"{self.path}:{len(self._rows) + 1}"))
            self._read += len(line) + 1
        return list(self._rows)

    def append(self, record: Record) -> None:
        """Commit a row: when this returns, it is on the disk.

        Raises:
            RunError: if it cannot be written (disk full, no right to); the file then ends with its last whole line.
        """
        line = record.model_dump_json().encode() + b"\n"
        end: int | None = None
        try:
            fd = self._open()
            end = os.fstat(fd).st_size
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        except OSError as error:
            self._cut(end)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise RunError(
                f"trial {record.key} was not recorded: {error.strerror}",
                where=str(self.path),
                hint=("free some space" if full else "make the folder writable") + ", then continue with --resume",
            ) from error

    def _open(self) -> int:
        """Open for writing, once; cuts off a torn last line."""
        if self._fd is None:
            new = not self.path.exists()
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self._fd = fd
            whole = _whole(fd)
            if whole < os.fstat(fd).st_size:
                os.ftruncate(fd, whole)
                os.fsync(fd)
            if new:  # the file's name must survive a power cut as well
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        return self._fd

    def _cut(self, end: int | None) -> None:
        """After a failed write: back to the last whole line. If even that fails, readers ignore the torn line."""
        if self._fd is not None and end is not None:
            try:
                os.ftruncate(self._fd, end)
            except OSError:
                self.close()  # the next append opens, and cuts, again

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def parse(line: bytes | str, where: str) -> Record:
    """The record in a line.

    Raises:
        RunError: if it is none, or of a newer version; `where` is file:line.
    """
    mend = "the file was changed or the disk damaged it: delete the line, and its trial is run again by --resume"
    try:
        data = json.loads(line)
    except ValueError as error:
        raise RunError(f"is no JSON ({error})", where=where, hint=mend) from None
    if not isinstance(data, dict):
        raise RunError(f"is no record but {type(data).__name__}", where=where, hint=mend)
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise RunError(
            f"was written by a newer miras-search (ledger schema {version}; this one reads {SCHEMA_VERSION})",
            where=where,
            hint="pip install -U miras-search",
        )
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise RunError(f"is no record: {field}: {first['msg']}", where=where, hint=mend) from None


def _whole(fd: int) -> int:
    """Size of the file up to its last line feed."""
    size = os.fstat(fd).st_size
    block = 1 << 16
    while size > 0:
        start = max(0, size - block)
        at = os.pread(fd, size - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        size = start
    return 0
