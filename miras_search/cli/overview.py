"""How a run stands: what is done, what is at work, what is best so far. Reads only, so it may look at a live run."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from miras_search import checkpoint, disk
from miras_search.ledger import Record
from miras_search.runs import RunFolder
from miras_search.search import Leader, Point, outcomes, reason, standing
from miras_search.space import Space


class AtWork(NamedTuple):
    """A trial that has begun and is in no row: by its logs, `tokens` of `budget` trained on so far."""

    key: str
    design: str
    task: str
    seed: int
    tokens: int
    budget: int
    loss: float | None


@dataclass(frozen=True)
class Overview:
    """A run. `total` rows wanted; `driver`: who drives it now; `seconds` of training in all rows; `front`: the candidates that
    none is better than in all `objectives`; `left`: seconds to go at the pace of the session that drives it, None if unknown;
    `evicted`: finished trials whose weights were let go.

    `resume`: the command that goes on with it from the current folder; empty if it lies elsewhere.
    """

    name: str
    folder: str
    rows: int
    total: int
    counts: Mapping[str, int]
    causes: Mapping[str, int]
    best: Sequence[Leader]
    objectives: Sequence[str]
    front: Sequence[Point]
    left: float | None
    evicted: int
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
    failed = Counter(reason(row) for row in rows if row.status not in ("ok", "pruned"))
    stands = standing(outcomes(rows, space), rows, space)
    total, driver = space.search.trials + space.final_rows, run.driver()
    at_work = _at_work(run, {row.key for row in rows})
    return Overview(
        name=run.path.resolve().name,
        folder=str(run.path),
        rows=len(rows),
        total=total,
        counts=dict(Counter(row.status for row in rows).most_common()),
        causes=dict(failed.most_common()),
        best=stands.leaders,
        objectives=[objective.metric for objective in space.objectives],
        front=stands.front if len(space.objectives) > 1 else [],
        left=_left(rows, total, at_work, driver),
        evicted=sum(row.status == "ok" and not (run.trial(row.key) / checkpoint.WEIGHTS).exists() for row in rows),
        at_work=at_work,
        driver=driver,
        seconds=sum(row.seconds for row in rows),
        started=str(about.get("time", "")),
        last=rows[-1].time if rows else "",
        resume=_resume(run, about),
    )


def _left(
    rows: Sequence[Record], total: int, at_work: Sequence[AtWork], driver: Mapping[str, Any] | None
) -> float | None:
    """Seconds to go at the pace of this session, trials at work counted by tokens."""
    since = driver.get("since") if driver else None
    if since is None:
        return None
    parts = sum(trial.tokens / trial.budget for trial in at_work if trial.budget)
    paced = sum(row.time >= since for row in rows) + parts
    spent = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
    return max(0.0, total - len(rows) - parts) * spent / paced if paced > 0.02 and spent > 0 else None


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
        began: dict[str, Any] = next((event for event in reversed(events) if event["event"] == "start"), {})
        design, task = str(began.get("design", "")), str(began.get("task", ""))
        seed, budget = int(began.get("seed", 0)), int(began.get("budget", 0))
        found.append(AtWork(folder.name, design, task, seed, int(last.get("tokens", 0)), budget, last.get("loss")))
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
    out["front"] = [point._asdict() for point in overview.front]
    out["at_work"] = [trial._asdict() for trial in overview.at_work]
    return {"state": overview.state, **out}
