"""How a run stands: what is done, what is at work, what is best so far. Reads only, so it may look at a live run."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from miras_search import disk
from miras_search.runs import RunFolder
from miras_search.search import Leader, leaders, outcomes
from miras_search.space import Space


class AtWork(NamedTuple):
    """A trial that has begun and is in no row: by its log, `tokens` of training so far."""

    key: str
    tokens: int
    loss: float | None


@dataclass(frozen=True)
class Overview:
    """A run. `total` rows wanted; `driver`: who drives it now; `seconds` of training in all rows.

    `resume`: the command that goes on with it from the current folder; empty if it lies elsewhere.
    """

    name: str
    folder: str
    rows: int
    total: int
    counts: Mapping[str, int]
    causes: Mapping[str, int]
    best: Sequence[Leader]
    at_work: Sequence[AtWork]
    driver: Mapping[str, Any] | None
    seconds: float
    started: str
    last: str
    resume: str

    @property
    def state(self) -> str:
        """`running`, `finished` or `stopped` (before its end; it can be resumed)."""
        if self.driver is not None:
            return "running"
        return "finished" if self.rows >= self.total else "stopped"


def overview(run: RunFolder) -> Overview:
    """Look at a run.

    Raises:
        RunError: if its ledger is damaged.
        SpaceError: if its space cannot be read.
    """
    space = Space.from_text(run.space_yaml, str(run.path / "space.yaml"))
    rows = [row for row in run.ledger.rows() if row.status != "cancelled"]
    about = run.environment
    failed = Counter(
        f"{r.status}: {r.cause}" if r.cause else r.status for r in rows if r.status not in ("ok", "pruned")
    )
    return Overview(
        name=run.path.resolve().name,
        folder=str(run.path),
        rows=len(rows),
        total=space.search.trials + space.final_rows,
        counts=dict(Counter(row.status for row in rows).most_common()),
        causes=dict(failed.most_common()),
        best=leaders(outcomes(rows, space), rows, space),
        at_work=_at_work(run, {row.key for row in rows}),
        driver=run.driver(),
        seconds=sum(row.seconds for row in rows),
        started=str(about.get("time", "")),
        last=rows[-1].time if rows else "",
        resume=_resume(run, about),
    )


def _resume(run: RunFolder, about: Mapping[str, Any]) -> str:
    if run.path.resolve().parent != Path("runs").resolve():
        return ""
    if about.get("executor") == "train":
        return str(about.get("command") or "")
    return resume_command(run.path.resolve().name, str(about.get("executor", "ray")), about.get("plugins") or ())


def resume_command(name: str, executor: str, plugins: Sequence[str | Path]) -> str:
    """The command line that goes on with a run, as it was run before."""
    words = ["miras-search", "sweep", "--name", name, "--resume"]
    words += ["--executor", executor] if executor != "ray" else []
    return shlex.join([*words, *(word for file in plugins for word in ("--plugin", _near(file)))])


def _near(file: str | Path) -> str:
    path = Path(file).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _at_work(run: RunFolder, ended: set[str]) -> list[AtWork]:
    found = []
    for folder in sorted((run.path / "trials").glob("*")):
        events = disk.lines(folder / "status.jsonl") if folder.name not in ended else []
        if not events or events[-1]["event"] in ("end", "gone"):
            continue
        last = _last_line(folder / "steps.jsonl")
        found.append(AtWork(folder.name, int(last.get("tokens", 0)), last.get("loss")))
    return found


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a log of JSON lines; empty if there is none."""
    for line in reversed(disk.lines(path)):
        return dict(line)
    return {}


def as_json(overview: Overview) -> dict[str, Any]:
    """Plain data, for `--json`."""
    out: dict[str, Any] = json.loads(json.dumps(overview.__dict__, default=str))
    out["best"] = [leader._asdict() for leader in overview.best]
    out["at_work"] = [trial._asdict() for trial in overview.at_work]
    return {"state": overview.state, **out}
