"""What differs: between two runs (space, environment, results by paired seeds), and between two designs (fields, costs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from miras_search.candidate import Backbone, Candidate
from miras_search.design import Design
from miras_search.report.findings import environment_of, plain_space
from miras_search.report.verdicts import names_of, objectives
from miras_search.statistics import Comparison, compare

PASSING = ("command", "argv", "resumed", "time", "pid", "host")
"""Of an environment: what differs between any two sessions."""


class Difference(NamedTuple):
    """A name and what it is on either side; None: there is no such thing."""

    name: str
    a: Any
    b: Any


class Pair(NamedTuple):
    """A candidate that both runs trained, on one objective. `found` is oriented so that positive means b is better."""

    task: str
    metric: str
    goal: str
    name: str
    settings: str
    fingerprint: str
    a: float
    b: float
    found: Comparison


@dataclass(frozen=True)
class RunDifference:
    """Two runs beside one another; `pairs` by the size of the difference. `only_a`, `only_b`: candidates of one run alone.

    `data`: digests of the data that differ: then equal seeds did not see equal data.
    """

    a: str
    b: str
    space: list[Difference]
    environment: list[Difference]
    data: list[Difference]
    pairs: list[Pair]
    only_a: int
    only_b: int

    @property
    def separated(self) -> int:
        """How many pairs differ beyond seed noise, each taken by itself."""
        return sum(pair.found.best.excludes_zero for pair in self.pairs)


def compare_runs(a: pd.DataFrame, b: pd.DataFrame) -> RunDifference:
    """Compare two tables of `load_results`, candidate by candidate, over the seeds both have.

    Trials that ended early or failed take no part. With many pairs some differ by chance: at a level of 95 % one in
    twenty.
    """
    spaces, environments, data = [], [], []
    for frame in (a, b):
        facts = list(frame.attrs.get("runs", {}).values())
        spaces.append([plain_space(f.get("space", "")) for f in facts])
        environments.append({k: v for f in facts for k, v in environment_of(f.get("environment"), PASSING)})
        data.append(
            {
                f"{task}: {column.removeprefix('hashes.')}": ", ".join(sorted(values.astype(str).unique()))
                for column in frame.columns
                if column.startswith("hashes.")
                for task, values in frame.dropna(subset=[column]).groupby("task")[column]
            }
        )
    shared = set(data[0]) & set(data[1])
    found_a, found_b = (set(frame["fingerprint"].dropna()) for frame in (a, b))
    return RunDifference(
        a=", ".join(map(str, a["run"].unique())),
        b=", ".join(map(str, b["run"].unique())),
        space=differences(*({k: v for s in side for k, v in _flat("", s)} for side in spaces)),
        environment=differences(*environments),
        data=differences(*({k: v for k, v in side.items() if k in shared} for side in data)),
        pairs=_pairs(a, b, [*spaces[0], *spaces[1]]),
        only_a=len(found_a - found_b),
        only_b=len(found_b - found_a),
    )


def _pairs(a: pd.DataFrame, b: pd.DataFrame, spaces: list[dict[str, Any]]) -> list[Pair]:
    done = [frame[frame["status"] == "ok"] for frame in (a, b)]
    both = set(done[0]["fingerprint"]) & set(done[1]["fingerprint"])
    names = names_of(pd.concat(done, ignore_index=True)) if both else pd.DataFrame()
    pairs = []
    for objective in objectives(pd.concat(done, ignore_index=True), spaces):
        sides: list[pd.Series[Any]] = []
        for frame in done:
            rows = frame[(frame["task"] == objective.task) & frame["fingerprint"].isin(both)]
            known = rows[rows[objective.metric].notna()] if objective.metric in rows else rows.head(0)
            if len(known):
                sides.append(known.groupby(["fingerprint", "seed"])[objective.metric].mean())
        if len(sides) < 2:
            continue
        sign = 1.0 if objective.goal == "max" else -1.0
        for fingerprint in sorted(both):
            left, right = (s.loc[fingerprint] if fingerprint in s.index else pd.Series(dtype=float) for s in sides)
            if not set(left.index) & set(right.index):
                continue
            name, settings = names.loc[fingerprint, ["name", "settings"]]
            found = compare(sign * right, sign * left)
            means = float(left.mean()), float(right.mean())
            pairs.append(Pair(*objective, str(name), str(settings), fingerprint, *means, found))
    return sorted(pairs, key=lambda p: (p.task, p.metric, -abs(p.found.difference.estimate), p.fingerprint))


@dataclass(frozen=True)
class DesignDifference:
    """Two designs beside one another.

    `fields`: as written. `canonical`: what is left of it once two descriptions of one function are one; empty means the
    same function. `costs`: of a model of this design, all of them, equal or not. `same_code`: one emitted module serves both.
    """

    a: str
    b: str
    fields: list[Difference]
    canonical: list[Difference]
    costs: list[Difference]
    same_code: bool

    @property
    def same(self) -> bool:
        """The two are one function."""
        return self.a == self.b


def compare_designs(
    a: Design, b: Design, backbone: Backbone | None = None, vocab: int = 256, context: int = 256
) -> DesignDifference:
    """Compare two designs, and what a model of each costs.

    Args:
        a: a design.
        b: another.
        backbone: of the models; None: the default one.
        vocab: of the models.
        context: tokens of a sequence, which state and FLOPs of a cache depend on.

    Raises:
        DesignError: if the backbone does not fit a design.
    """
    models = [Candidate(design=d, backbone=backbone or Backbone()) for d in (a, b)]
    costs = [
        {
            "parameters": m.parameters(vocab),
            "state_bytes": m.state_bytes(context),
            "buffer_bytes": m.buffer_bytes(),
            "flops_per_token": m.flops_per_token(context),
        }
        for m in models
    ]
    return DesignDifference(
        a=a.fingerprint,
        b=b.fingerprint,
        fields=differences(a.flat(), b.flat()),
        canonical=differences(a.canonical().flat(), b.canonical().flat()),
        costs=[Difference(name, value, costs[1][name]) for name, value in costs[0].items()],
        same_code=a.structure == b.structure,
    )


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Names of which the two do not hold the same, in the order of a, then of b."""
    names = dict.fromkeys([*a, *b])
    return [Difference(n, a.get(n), b.get(n)) for n in names if a.get(n) != b.get(n)]


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    """Leaves by path; a list is a leaf unless it holds mappings."""
    if isinstance(value, Mapping):
        return [leaf for name, item in value.items() for leaf in _flat(f"{prefix}.{name}" if prefix else name, item)]
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [leaf for i, item in enumerate(value) for leaf in _flat(f"{prefix}[{i}]", item)]
    return [(prefix, value)]
