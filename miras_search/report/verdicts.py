"""What won on an objective, by how much and how sure: candidates ranked, differences paired over common seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import pandas as pd

from miras_search.choice import variants
from miras_search.errors import RunError
from miras_search.named import MODELS
from miras_search.report.controls import Twin, drawn, is_control, twins
from miras_search.report.numbers import number
from miras_search.results import CHOICES, DATA_DICTIONARY, Column, columns_of, metrics_of
from miras_search.statistics import (
    Interval,
    Shares,
    Shrunk,
    choice_effects,
    compare,
    mean_interval,
    pareto_front,
    shapley,
    shares,
    unchosen,
    winners_shrinkage,
)

DOWN = ("nll", "bits_per_byte", "perplexity", "loss")
"""Metrics of which less is better, where no space says so."""


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
    best that is not. `fresh`: what to expect of the winner on seeds that took no part in the choice. `twins`: controls.
    `shares`: what the differences come from; where combinations are refused, `shapley`; `unsplit`: why there is neither.
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
    fresh: Shrunk | None
    twins: list[Twin]
    shares: Shares | None
    shapley: pd.DataFrame | None
    unsplit: str

    @property
    def best(self) -> Entry:
        """The winner."""
        return self.ranked[0]


def objectives(frame: pd.DataFrame, spaces: list[dict[str, Any]]) -> list[Objective]:
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


def verdict(done: pd.DataFrame, objective: Objective, names: pd.DataFrame) -> Verdict | None:
    """Rank the candidates of `done`, finished trials; None if none has the metric. `names`: of `names_of`."""
    everything = done[(done["task"] == objective.task) & done[objective.metric].notna()]
    rows = everything[~is_control(everything)]
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
    parts, kinds, unsplit = _split(rows, objective.metric)
    return Verdict(
        objective=objective,
        ranked=ranked,
        runner_up=runner_up,
        ahead=ahead(best, runner_up, sign) if runner_up else None,
        published=published,
        ahead_of_published=ahead(best, published, sign) if published else None,
        unpublished=unpublished,
        ahead_of_unpublished=ahead(best, unpublished, sign) if unpublished else None,
        effects=choice_effects(drawn(rows), objective.metric),
        fresh=_fresh(ranked, objective.goal),
        twins=twins(everything, objective.metric, objective.goal, names),
        shares=parts,
        shapley=kinds,
        unsplit=unsplit,
    )


def _split(rows: pd.DataFrame, metric: str) -> tuple[Shares | None, pd.DataFrame | None, str]:
    """Shares of variance of what was drawn without looking at results or at names; and why there are none."""
    left = len(rows) - len(unchosen(rows))
    chosen = f"{left} of {len(rows)} trials were chosen by an optimiser, and " if left else ""
    rows = drawn(rows)
    try:
        return shares(rows, metric), None, ""
    except RunError as error:
        why = chosen + error.message
    if "never meet" not in why:
        return None, None, why
    try:
        return None, shapley(rows, metric), why
    except RunError as error:
        return None, None, chosen + error.message


def _fresh(ranked: list[Entry], goal: str) -> Shrunk | None:
    """None where too few candidates have too few seeds."""
    seeds = sorted({s for e in ranked for s in e.seeds})
    try:
        return winners_shrinkage([[e.seeds.get(s, math.nan) for s in seeds] for e in ranked], goal)
    except ValueError:
        return None


def ahead(best: Entry, other: Entry, sign: float = 1.0) -> Interval:
    """How far `best` is ahead over common seeds; without any the plain difference and no interval.

    Of means; of solve rates where seeds are solved or not (its `method` is then `newcombe`).
    """
    if set(best.seeds) & set(other.seeds):
        mine, theirs = ({s: sign * v for s, v in e.seeds.items()} for e in (best, other))
        return compare(mine, theirs).best
    return Interval(sign * (best.interval.estimate - other.interval.estimate), math.nan, math.nan, 0)


def names_of(frame: pd.DataFrame) -> pd.DataFrame:
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
    published = [text in MODELS and not MODELS[text].paper.startswith("this project") for text in label]
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
