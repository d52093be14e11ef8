"""The replay benchmark on an invented table: costs, regrets and tops are what they are by hand; searches are told apart."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from miras_search.space import Space

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_search", ROOT / "benchmarks" / "search.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_search"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(bench: ModuleType) -> Any:
    """Most of the 1,080 points, a bowl with seed noise; what is far off diverges; rungs show half of the way."""
    space = Space.from_text(bench.POINTS)
    rng = random.Random(0)
    rows = []
    for i, assignment in enumerate(space.grid()):
        if i % 7 == 3:
            continue
        fingerprint, value = space.candidate(assignment).fingerprint, bench._bowl(space, assignment)
        for seed in range(3):
            noisy = value + rng.gauss(0, 0.05)
            ok = value > -6
            rungs = [{"tokens": 1, "metrics": {"accuracy": noisy * f - (1 - f) * 5}} for f in (0.5, 0.8)] if ok else []
            row = {"task": "mqar", "seed": seed, "fingerprint": fingerprint, "rungs": json.dumps(rungs)}
            rows.append(row | {"status": "ok" if ok else "diverged", "accuracy": noisy if ok else math.nan})
    return bench.read(pd.DataFrame(rows), space)


def test_the_table_is_read(table: Any) -> None:
    assert len(table.runs) == 926
    assert table.seeds == [0, 1, 2]
    assert sum(mean >= table.top() for mean in table.means.values()) == 9
    one = next(iter(table.runs.values()))
    assert one[0].status in ("ok", "diverged")


def test_costs_and_what_a_search_holds(bench: ModuleType, table: Any) -> None:
    memory: dict[str, str] = {}
    plain = bench.replayed(table, "random", False, 0, 30, memory)
    assert [step.cost for step in plain] == [float(i) for i in range(1, 31)]
    held = [step.best for step in plain if step.best]
    values = [table.runs[name][0].value for name in held]
    assert values == sorted(values)
    halved = bench.replayed(table, "random", True, 0, 30, memory)
    assert len(halved) > 36, "those that are stopped leave room for others"
    spent = {round(b.cost - a.cost, 2) for a, b in pairwise(halved)}
    assert spent == {0.25, 0.5, 1.0}
    assert len(set(memory.values()) & set(table.runs)) >= len(halved)
    assert bench.replayed(table, "random", True, 0, 30, {}) == halved, "a function of its seed"


def test_evolution_is_told_from_chance(bench: ModuleType, table: Any, capsys: pytest.CaptureFixture[str]) -> None:
    curves = bench.compare(table, ["random", "evolution"], [20, 60], 6, 0.01)
    by = {(c.sampler, c.halving): c for c in curves}
    assert len(by) == 4
    assert by["evolution", False].regret[-1].high < by["random", False].regret[-1].estimate
    assert by["random", True].regret[-1].estimate < by["random", False].regret[-1].estimate, "here rungs are honest"
    assert all(i.estimate >= 0 for c in curves for i in c.regret)
    bench.show(curves, [20, 60])
    out = capsys.readouterr().out
    assert "recommended: evolution" in out
    assert "random in" in out


def test_the_space_of_the_table_is_searched_whole() -> None:
    """Every valid point has the size asked for; the table's rungs stop nobody."""
    space = Space.load(ROOT / "spaces" / "replay.yaml")
    size = space.size()
    assert size.valid is not None
    assert not size.continuous
    assert size.valid * space.seeds <= space.search.trials
    assert space.halving is not None
    assert space.halving.trust == 1


def test_the_committed_table_is_of_the_committed_space(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Candidates have all seeds and today's fingerprints, and searches can be replayed on them."""
    space, frame = Space.load(bench.SPACE), pd.read_parquet(bench.TABLE)
    table = bench.read(frame, space)
    assert len(table.runs) >= 100
    assert table.seeds == list(range(space.seeds))
    for row in frame.drop_duplicates("fingerprint").iloc[::9].to_dict("records"):
        assert space.candidate(json.loads(row["assignment"])).fingerprint == row["fingerprint"]
    curves = bench.compare(table, ["random", "evolution"], [4, 16], 3, 0.005)
    bench.show(curves, [4, 16])
    widest = max(table.means.values()) - min(table.means.values())
    assert all(0 <= regret <= widest for c in curves for of in c.regrets for regret in of)
    assert "recommended: " in capsys.readouterr().out
