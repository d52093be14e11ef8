"""What a table of trials says, as data: what won, by how much and how sure, what each choice did, what failed and why.

`findings(frame)` computes every number that a report shows; `miras_search.report` only sets them. Candidates are ranked
by the mean over seeds of trials that went the whole way (`ok`) on one task; differences are paired over common seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from miras_search.choice import variants
from miras_search.named import NAMED
from miras_search.results import CHOICES, DATA_DICTIONARY, Column, columns_of, metrics_of
from miras_search.statistics import (
    Interval,
    balanced,
    choice_effects,
    failure_rates,
    mean_interval,
    paired_difference,
    pareto_front,
)

COSTS = ("parameters", "state_bytes", "flops_per_token", "tokens_per_second", "seconds")
"""Columns that may be an objective without belonging to a task."""
DOWN = ("nll", "bits_per_byte", "perplexity", "loss")
"""Metrics of which less is better, where no space says so."""
HARMLESS = ("ok", "pruned", "cancelled")
"""Statuses that are no failure: finished, stopped early by the search, stopped by the user."""


class Objective(NamedTuple):
    """A metric of one task and its direction."""

    task: str
    metric: str
    goal: Literal["max", "min"]

    @property
    def name(self) -> str:
        """`mqar.accuracy`, as spaces write it."""
        return f"{self.task}.{self.metric}"


@dataclass(frozen=True)
class Entry:
    """A candidate's result on one objective.

    `seeds`: value by seed (mean, where one was run twice). `published`: the design is one of the literature.
    `front`: no other candidate is as good with no more state.
    """

    rank: int
    fingerprint: str
    name: str
    memory: str
    settings: str
    published: bool
    seeds: dict[int, float]
    interval: Interval
    parameters: int
    state_bytes: int
    tokens_per_second: float
    key: str
    front: bool = False


@dataclass(frozen=True)
class Verdict:
    """What won on an objective. Differences are oriented so that positive means the winner is better.

    `published` is the best published design besides the winner; `unpublished`, where the winner is published, the
    best that is not.
    """

    objective: Objective
    ranked: list[Entry]
    runner_up: Entry | None
    ahead: Interval | None
    published: Entry | None
    ahead_of_published: Interval | None
    unpublished: Entry | None
    ahead_of_unpublished: Interval | None
    effects: pd.DataFrame

    @property
    def best(self) -> Entry:
        """The winner."""
        return self.ranked[0]


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
    spaces = {run: facts["space"] for run, facts in about.items() if facts.get("space")}
    plain = [_yaml(text) for text in spaces.values()]
    notes: list[str] = []
    whole = _whole_budget(frame, notes)
    names = _names(frame)
    verdicts = [v for o in _objectives(frame, plain) if (v := _verdict(whole, o, names)) is not None]
    even = balanced(whole) if len(whole) else True
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
    )


def _whole_budget(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Trials that are `ok`; of each task those of the largest budget, since less training is another experiment."""
    done = frame[frame["status"] == "ok"]
    most = done.groupby("task")["tokens"].transform("max")
    keep = (done["tokens"] >= 0.98 * most.astype("float64")).fillna(True)
    if left := int((~keep).sum()):
        notes.append(f"{left} finished {plural(left, 'trial')} of a smaller budget took no part in the ranking.")
    return done[keep]


def _objectives(frame: pd.DataFrame, spaces: list[dict[str, Any]]) -> list[Objective]:
    """The metric objectives that the spaces declare; without any, the first metric of every task."""
    found: dict[Objective, None] = {}
    tasks, metrics = sorted(frame["task"].dropna().unique()), metrics_of(frame)
    for space in spaces:
        for item in space.get("objectives") or []:
            task, _, metric = str(item.get("metric", "")).rpartition(".")
            goal: Literal["max", "min"] = "min" if item.get("goal") == "min" else "max"
            for each in [task] if task else tasks:
                if metric in metrics and each in tasks:
                    found[Objective(each, metric, goal)] = None
    for task in [] if found else tasks:
        for metric in metrics:
            if frame.loc[frame["task"] == task, metric].notna().any():
                found[Objective(task, metric, "min" if metric in DOWN else "max")] = None
                break
    return list(found)


def _verdict(done: pd.DataFrame, objective: Objective, names: pd.DataFrame) -> Verdict | None:
    rows = done[(done["task"] == objective.task) & done[objective.metric].notna()]
    if rows.empty:
        return None
    fraction = DATA_DICTIONARY.get(objective.metric, Column("")).unit == "fraction"
    bounds = (0.0, 1.0) if fraction else (-math.inf, math.inf)
    entries = []
    for fingerprint, part in rows.groupby("fingerprint", sort=True):
        by_seed = part.groupby("seed")[objective.metric].mean()
        at = names.loc[str(fingerprint)]
        entries.append(
            Entry(
                rank=0,
                fingerprint=str(fingerprint),
                name=str(at["name"]),
                memory=str(part["memory"].iloc[0]),
                settings=str(at["settings"]),
                published=bool(at["published"]),
                seeds={int(s): float(v) for s, v in by_seed.items()},  # type: ignore[call-overload]
                interval=mean_interval(by_seed.to_numpy(dtype="float64"), bounds=bounds),
                parameters=int(part["parameters"].fillna(0).iloc[0]),
                state_bytes=int(part["state_bytes"].fillna(0).iloc[0]),
                tokens_per_second=float(part["tokens_per_second"].median()),
                key=str(part["key"].iloc[0]),
            )
        )
    sign = 1.0 if objective.goal == "max" else -1.0
    entries.sort(key=lambda e: (-sign * e.interval.estimate, e.state_bytes, e.fingerprint))
    front = pareto_front([(e.interval.estimate, float(e.state_bytes)) for e in entries], (objective.goal, "min"))
    ranked = [replace(e, rank=i + 1, front=bool(front[i])) for i, e in enumerate(entries)]
    best, rest = ranked[0], ranked[1:]
    runner_up = rest[0] if rest else None
    published = next((e for e in rest if e.published), None)
    unpublished = next((e for e in rest if not e.published), None) if best.published else None
    return Verdict(
        objective=objective,
        ranked=ranked,
        runner_up=runner_up,
        ahead=ahead(best, runner_up, sign) if runner_up else None,
        published=published,
        ahead_of_published=ahead(best, published, sign) if published else None,
        unpublished=unpublished,
        ahead_of_unpublished=ahead(best, unpublished, sign) if unpublished else None,
        effects=choice_effects(rows, objective.metric),
    )


def ahead(best: Entry, other: Entry, sign: float = 1.0) -> Interval:
    """How far `best` is ahead: paired over common seeds; without any the plain difference and no interval."""
    found = paired_difference(
        {s: sign * v for s, v in best.seeds.items()}, {s: sign * v for s, v in other.seeds.items()}
    )
    if found.n:
        return found
    return Interval(sign * (best.interval.estimate - other.interval.estimate), math.nan, math.nan, 0)


def _hashes(frame: pd.DataFrame) -> dict[str, str]:
    """Data digests by `task: name`; where runs saw different data under one name, all of them."""
    found: dict[str, list[str]] = {}
    for column in columns_of(frame, "hashes"):
        for (task, value), _ in frame.dropna(subset=[column]).groupby(["task", column], sort=True):
            found.setdefault(f"{task}: {column.removeprefix('hashes.')}", []).append(str(value))
    return {name: ", ".join(values) for name, values in found.items()}


def _names(frame: pd.DataFrame) -> pd.DataFrame:
    """By fingerprint: `name` (published, or the four choices), `settings` that tell it from its likes, `published`.

    Settings are the numbers of a design that are not its variants' defaults, what differs between candidates of one
    name, and what differs of backbone and optimiser at all.
    """
    first = frame.drop_duplicates("fingerprint").set_index("fingerprint")
    kinds = first[list(CHOICES)].fillna("?").agg(" · ".join, axis=1)
    label = first["label"].fillna("")
    name = label.where(label != "", kinds)
    shown: dict[str, pd.Series[bool]] = {}
    for group in (*CHOICES, "block", "backbone", "optimiser"):
        for column in columns_of(frame, group):
            values = first[column]
            show = values.groupby(name).transform("nunique") > 1
            if group in ("backbone", "optimiser"):
                show |= values.nunique() > 1
            elif group != "block":
                show |= (label == "") & _unusual(group, column, first)
            if (show & values.notna()).any():
                shown[column] = show & values.notna()
    short = [c.split(".")[-1] for c in shown]
    words = {c: s if short.count(s) == 1 else c for c, s in zip(shown, short, strict=True)}
    settings = [
        ", ".join(f"{words[c]} {number(first.at[at, c])}" for c, show in shown.items() if show[at])
        for at in first.index
    ]
    published = [text in NAMED and not NAMED[text].paper.startswith("this project") for text in label]
    return pd.DataFrame({"name": name, "settings": settings, "published": published}, index=first.index)


def _unusual(role: str, column: str, first: pd.DataFrame) -> pd.Series[bool]:
    """Where a numeric parameter is not the default of its variant."""
    values = first[column]
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        return pd.Series(False, index=first.index)
    usual = {}
    for kind, cls in variants(role).items():
        info = cls.model_fields.get(column.removeprefix(f"{role}."))
        usual[kind] = info.default if info is not None and isinstance(info.default, (int, float)) else math.nan
    default = first[role].map(usual).astype("float64")
    return (values.astype("float64") != default) & values.notna() & default.notna()


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


def _yaml(text: str) -> dict[str, Any]:
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
        for name, value in _leaves(facts.get("environment") or {}):
            if name.split(".")[0] not in ("command", "argv", "resumed"):
                found.append((prefix + name, value))
    return found


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, "" if name == "packages" else f"{prefix}{name}.")
        elif item is not None:
            yield prefix + name, ", ".join(map(str, item)) if isinstance(item, list) else str(item)


def number(value: Any, digits: int = 3) -> str:
    """A number as people write it: 3 significant digits, thousands grouped, no trailing zeros; text as it is."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    x = float(value)
    if math.isnan(x) or math.isinf(x):
        return "–" if math.isnan(x) else str(x)
    if x == int(x) and abs(x) < 1e15:
        return f"{int(x):,}" if abs(x) >= 10_000 else str(int(x))
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    text = f"{x:.{digits}g}"
    return re.sub(r"e([+-])0*", lambda m: "e" + m[1].replace("+", ""), text)


def plural(count: int, word: str) -> str:
    """`trial` or `trials`."""
    return word if count == 1 else f"{word}s"
