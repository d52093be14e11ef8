"""What a table of trials says, as data: what won, by how much and how sure, what each choice did, what failed and why.

`findings(frame)` computes every number that a report shows; `miras_search.report` only sets them. Candidates are ranked
by the mean over seeds of trials that went the whole way (`ok`) on one task; differences are paired over common seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from miras_search.report.advice import advice
from miras_search.report.controls import drawn
from miras_search.report.numbers import plural
from miras_search.report.verdicts import Verdict, names_of, objectives, verdict
from miras_search.results import CHOICES, columns_of
from miras_search.statistics import balanced, failure_rates, unchosen
from miras_search.statistics.finals import finalists

HARMLESS = ("ok", "pruned", "cancelled")
"""Statuses that are no failure: finished, stopped early by the search, stopped by the user."""


class Failure(NamedTuple):
    """Trials that ended for the same reason; numbers in `cause` are those of the first."""

    status: str
    cause: str
    trials: int
    key: str


@dataclass(frozen=True)
class Findings:
    """All that a report shows, but for the curves."""

    runs: list[str]
    title: str
    description: str
    tasks: list[str]
    seeds: list[int]
    budgets: list[int]
    trials: int
    candidates: int
    statuses: dict[str, int]
    searched: dict[str, list[str]]
    verdicts: list[Verdict]
    balanced: bool
    failures: list[Failure]
    failure_rates: pd.DataFrame
    rejected: dict[str, int]
    attempts: int
    hours: float
    paths: dict[str, int]
    commands: list[str]
    environment: list[tuple[str, str]]
    hashes: dict[str, str]
    spaces: dict[str, str]
    sampler: str
    notes: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Trials that ended in a failure."""
        return sum(failure.trials for failure in self.failures)


def _tokens(budget: Mapping[str, Any]) -> list[int]:
    """The budgets of a space: one number, or one a task."""
    tokens = budget["tokens"]
    return [int(n) for n in (tokens.values() if isinstance(tokens, Mapping) else [tokens])]


def findings(frame: pd.DataFrame) -> Findings:
    """Everything of a table of `load_results`."""
    about: dict[str, Any] = frame.attrs.get("runs", {})
    whole_frame, frame = frame, frame[frame["stage"] == "search"]
    spaces = {run: facts["space"] for run, facts in about.items() if facts.get("space")}
    plain = [plain_space(text) for text in spaces.values()]
    notes: list[str] = []
    whole = _whole_budget(frame, notes)
    names = names_of(frame)
    for run, part in whole_frame.groupby("run"):
        for o in objectives(frame, plain):
            for found in finalists(part, o.task, o.metric, o.goal) if o.metric in part else ():
                notes.append(f"Finalist of {run} by {o.name}, {found}.")
    verdicts = [v for o in objectives(frame, plain) if (v := verdict(whole, o, names)) is not None]
    if chosen := len(whole) - len(unchosen(whole)):
        trials = plural(chosen, "trial")
        notes.append(
            f"{chosen} {trials} that an optimiser chose took no part in the means by choice: they show what is best, not "
            "what matters. A survey (search: {sampler: survey}) shows that."
        )
    even = balanced(drawn(whole)) if len(whole) else True
    runs = list(frame["run"].unique())
    titles = list(dict.fromkeys(str(p["name"]) for p in plain if p.get("name"))) or runs
    searches = list(
        dict.fromkeys(str(p["search"].get("sampler", "tpe")) for p in plain if isinstance(p.get("search"), dict))
    )
    seeds = sorted(int(s) for s in frame["seed"].dropna().unique())
    budgets = sorted({n for p in plain if isinstance(p.get("budget"), dict) for n in _tokens(p["budget"])})
    bad = frame[~frame["status"].isin(HARMLESS)]
    return Findings(
        runs=runs,
        title=", ".join(titles),
        description=" ".join(str(p["description"]) for p in plain if p.get("description")),
        tasks=sorted(frame["task"].dropna().unique()),
        seeds=seeds,
        budgets=budgets or sorted({int(t) for t in whole["tokens"].dropna().unique()}),
        trials=len(frame),
        candidates=int(frame["fingerprint"].nunique()),
        statuses={str(k): int(v) for k, v in frame["status"].value_counts().items()},
        searched={c: sorted(frame[c].dropna().unique()) for c in CHOICES},
        verdicts=verdicts,
        balanced=even,
        failures=_failures(bad),
        failure_rates=failure_rates(frame) if len(bad) else failure_rates(frame.head(0)),
        rejected={c.removeprefix("rejected."): n for c in columns_of(frame, "rejected") if (n := int(frame[c].sum()))},
        attempts=int(frame["attempts"].fillna(1).sum()),
        hours=float(frame["seconds"].sum()) / 3600,
        paths={str(k): int(v) for k, v in frame.loc[frame["path"].fillna("") != "", "path"].value_counts().items()},
        commands=[c for facts in about.values() for c in _commands(facts.get("environment"))],
        environment=_environment(about),
        hashes=_hashes(frame),
        spaces=spaces,
        sampler=", ".join(searches),
        notes=notes,
        next=advice(whole, verdicts, runs, int(bad["status"].size)),
    )


def _whole_budget(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Trials that are `ok`; of each task those of the largest budget, since less training is another experiment."""
    done = frame[frame["status"] == "ok"]
    most = done.groupby("task")["tokens"].transform("max")
    keep = (done["tokens"] >= 0.98 * most.astype("float64")).fillna(True)
    if left := int((~keep).sum()):
        notes.append(f"{left} finished {plural(left, 'trial')} of a smaller budget took no part in the ranking.")
    return done[keep]


def _hashes(frame: pd.DataFrame) -> dict[str, str]:
    """Data digests by `task: name`; where runs saw different data under one name, all of them."""
    found: dict[str, list[str]] = {}
    for column in columns_of(frame, "hashes"):
        for (task, value), _ in frame.dropna(subset=[column]).groupby(["task", column], sort=True):
            found.setdefault(f"{task}: {column.removeprefix('hashes.')}", []).append(str(value))
    return {name: ", ".join(values) for name, values in found.items()}


def _failures(bad: pd.DataFrame) -> list[Failure]:
    """Failed trials by status and cause, most frequent first; causes that differ in numbers alone are one."""
    if bad.empty:
        return []
    pattern = bad["cause"].str.split("\n").str[0].str.replace(r"-?\d[\d.e+-]*|\bnan\b|\binf\b", "#", regex=True)
    groups = [
        Failure(
            str(part["status"].iloc[0]), str(part["cause"].iloc[0]).split("\n")[0], len(part), str(part["key"].iloc[0])
        )
        for _, part in bad.groupby([bad["status"], pattern], sort=True)
    ]
    return sorted(groups, key=lambda f: (-f.trials, f.status, f.cause))


def plain_space(text: str) -> dict[str, Any]:
    """The settings of a space as plain data; none of a text that cannot be read: the report is about results."""
    try:
        found = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _commands(environment: Any) -> list[str]:
    """Command lines of the first and the later sessions."""
    if not isinstance(environment, dict):
        return []
    sessions = [environment, *environment.get("resumed", [])]
    given = [s.get("command") or s.get("argv") for s in sessions if isinstance(s, dict)]
    return [c if isinstance(c, str) else " ".join(map(str, c)) for c in given if c]


def _environment(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what the runs were made with; a run's name in front where there are several."""
    found: list[tuple[str, str]] = []
    for run, facts in about.items():
        prefix = f"{run}: " if len(about) > 1 else ""
        found += [(prefix + name, value) for name, value in environment_of(facts.get("environment"))]
    return found


def environment_of(environment: Any, without: Sequence[str] = ("command", "argv", "resumed")) -> list[tuple[str, str]]:
    """Name and value of what a run was made with; packages by their names."""
    leaves = _leaves(environment if isinstance(environment, dict) else {})
    return [(name, value) for name, value in leaves if name.split(".")[0] not in without]


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, "" if name == "packages" else f"{prefix}{name}.")
        elif item is not None:
            yield prefix + name, ", ".join(map(str, item)) if isinstance(item, list) else str(item)
