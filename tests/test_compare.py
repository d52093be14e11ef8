"""`compare` and `diff`: what they find, and what they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import SPACE, record, write_run

from miras_search import cli, named
from miras_search.candidate import Candidate
from miras_search.cli import terminal
from miras_search.compare import Difference, compare_designs, compare_runs
from miras_search.results import load_results

LEVEL = {"deltanet": 0.80, "retnet": 0.40}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The second run moves one design by a known amount, leaves one as it was, and lacks a third."""
    folder = tmp_path_factory.mktemp("compare")
    first, second = [], []
    for n, (name, level) in enumerate(LEVEL.items()):
        for seed in range(4):
            value = level + 0.01 * seed
            first.append(record(named.get(name), n, seed, value))
            moved = value + (0.1 + 0.001 * seed if name == "deltanet" else 0.002 * (-1) ** seed)
            second.append(record(named.get(name), n, seed, moved))
    first.append(record(named.get("yaad-r"), 9, 0, 0.5))
    second.append(record(named.get("deltanet"), 0, 7, 0.1))  # a seed that the first has not
    space = SPACE.replace("seeds: 3", "seeds: 4  # comments do not count")
    return write_run(folder / "first", first), write_run(folder / "second", second, space=space)


def test_runs_are_compared_by_candidate_and_seed(runs: tuple[Path, Path]) -> None:
    found = compare_runs(*map(load_results, runs))
    assert found.space == [Difference("seeds", 3, 4)]
    assert found.environment == []
    assert (found.only_a, found.only_b) == (1, 0)
    assert [p.name for p in found.pairs] == ["deltanet", "retnet"]
    moved, same = found.pairs
    # Student's t of .1, .101, .102, .103: 3.18245 x .00129099 / 2 on either side
    assert moved.found.difference[:4] == pytest.approx((0.1015, 0.0994457, 0.1035543, 4), abs=1e-7)
    assert (moved.found.best.excludes_zero, same.found.best.excludes_zero) == (True, False)
    assert found.separated == 1


def test_less_may_be_better(runs: tuple[Path, Path], tmp_path: Path) -> None:
    space = SPACE.replace("mqar.accuracy, goal: max", "mqar.nll, goal: min")
    copies = []
    for i, run in enumerate(runs):
        level = 0.5 + 0.1 * i
        rows = [record(named.get("retnet"), 0, s, level) for s in range(2)]
        copies.append(load_results(write_run(tmp_path / run.name, rows, space=space)))
    pair = compare_runs(*copies).pairs[0]
    assert pair.goal == "min"
    assert (pair.a, pair.b) == (pytest.approx(1.25), pytest.approx(1.0))
    assert pair.found.difference.estimate == pytest.approx(0.25)


def test_data_that_differ_are_said(tmp_path: Path) -> None:
    frames = []
    for digest in ("aa", "bb"):
        row = record(named.get("retnet"), 0, 0, 0.4, hashes={"validation": digest})
        frames.append(load_results(write_run(tmp_path / digest, [row])))
    assert compare_runs(*frames).data == [Difference("mqar: validation", "aa", "bb")]


def test_designs_are_compared_by_field_function_and_cost() -> None:
    found = compare_designs(named.get("moneta"), named.get("moneta-r"), context=512)
    assert Difference("retention.q", 4.0, 3.0) in found.fields
    assert not found.same
    cost = Candidate(design=named.get("moneta"))
    assert Difference("state_bytes", cost.state_bytes(512), cost.state_bytes(512)) in found.costs
    attention = compare_designs(named.get("deltanet"), named.get("softmax-attention"), context=1024)
    assert next(d for d in attention.costs if d.name == "state_bytes").b == 4 * 262_144


def test_fields_may_differ_where_the_function_does_not() -> None:
    design = named.get("deltanet")
    other = design.model_copy(update={"algorithm": design.algorithm.model_copy(update={"chunk": 64})})
    found = compare_designs(design, other)
    assert [d.name for d in found.fields] == ["algorithm.chunk"]
    assert found.canonical == []
    assert found.same
    faster = design.model_copy(update={"algorithm": design.algorithm.model_copy(update={"step": 0.7})})
    assert compare_designs(design, faster).same_code


def test_the_verbs_print_the_same(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    def say(*args: str) -> str:
        assert terminal.run(cli.app, args) == 0
        return capsys.readouterr().out

    first, second = map(str, runs)
    said = json.loads(say("compare", first, second, "--json"))
    assert said["pairs"][0]["found"]["difference"]["estimate"] == pytest.approx(0.1015)
    assert said["pairs"][0]["found"]["solved"]["high"] is not None
    text = say("compare", first, second)
    assert "mqar.accuracy, 2 candidates of both" in text
    assert "0.099 to 0.104" in text
    assert "2 pairs, 1 of which differ beyond seed noise" in text
    fingerprint = load_results(first)["fingerprint"].iloc[0]
    assert json.loads(say("diff", "deltanet", f"{first}:{fingerprint}", "--json"))["same"]
    assert "different functions" in say("diff", "deltanet", "retnet")
    assert "the same function" in say("diff", "deltanet", "deltanet")
