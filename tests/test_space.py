"""Spaces: what YAML means, what a draw asks, how many points there are, and that all of it agrees."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miras_search import named
from miras_search.candidate import Candidate
from miras_search.design import Design
from miras_search.errors import DesignError, MatchError, SpaceError
from miras_search.space import Space, refusal_code
from miras_search.space.counting import cases
from miras_search.space.domain import Assignment, Axis, Grid, Middle
from miras_search.space.schema import json_schema
from miras_search.space.shipped import shipped

DESIGN = "design: {memory: [matrix, mlp], bias: [l2, lp], retention: [none, l2], algorithm: gradient_descent}\n"
REST = "tasks: [mqar]\nbudget: {tokens: 1e6}\n"


def space(text: str, *overrides: str) -> Space:
    return Space.from_text(text + REST, "s.yaml", overrides)


class Dice:
    """Draws at random, and keeps what it was asked."""

    def __init__(self, seed: int) -> None:
        self.random, self.asked = random.Random(seed), list[str]()

    def choice(self, path: str, options: Sequence[Any]) -> int:
        self.asked.append(path)
        return self.random.randrange(len(options))

    def int(self, path: str, low: int, high: int, step: int) -> int:
        self.asked.append(path)
        return self.random.randrange(low, high + 1, step)

    def float(self, path: str, low: float, high: float, log: bool, step: float | None) -> float:
        self.asked.append(path)
        assert not (log and step)
        if step is not None:
            return low + step * self.random.randrange(round((high - low) / step) + 1)
        return math.exp(self.random.uniform(math.log(low), math.log(high))) if log else self.random.uniform(low, high)


def points(on: Space) -> Iterator[Assignment]:
    """All points, every continuous parameter at its middle."""

    class Through(Grid):
        def float(self, path: str, low: float, high: float, log: bool, step: float | None) -> float:
            if step is None:
                return Middle().float(path, low, high, log, step)
            return super().float(path, low, high, log, step)

    grid = Through()
    while grid.more:
        yield on.draw(grid)
        grid.next()


def outcome(on: Space, assignment: Assignment) -> Candidate | str:
    """The candidate, or the code under which it is refused."""
    try:
        return on.candidate(assignment)
    except (DesignError, MatchError) as error:
        return refusal_code(error)


def outcomes(on: Space) -> list[Candidate | str]:
    return [outcome(on, assignment) for assignment in points(on)]


def counted(on: Space) -> Counter[str]:
    return Counter(found if isinstance(found, str) else "ok" for found in outcomes(on))


# ---- what YAML means ----


def test_a_list_means_alternatives_and_a_bare_name_is_short_for_kind() -> None:
    on = space(DESIGN)
    assert [(a.path, a.kind, a.values) for a in on.axes()] == [
        ("memory", "choice", ("matrix", "mlp")),
        ("bias", "choice", ("l2", "lp")),
        ("retention", "choice", ("none", "l2")),
    ]
    long = space(DESIGN.replace("[matrix, mlp]", "{choice: [{kind: matrix}, {kind: mlp}]}"))
    assert long.axes() == on.axes()
    assert long.digest == on.digest


def test_names_of_parameters() -> None:
    on = space(
        """\
design:
  memory: {kind: mlp, layers: [1, 2]}
  bias: [l2, {kind: lp, p: [2, {float: [2.5, 4]}]}, {kind: huber, form: [norm, mixture]}, {kind: huber, delta: 2}]
  retention: l2
  algorithm: {kind: gradient_descent, step: {log_float: [0.1, 10]}}
  block: {conv: {int: [2, 4]}}
backbone: [{width: 64}, {width: [96, 128], heads: 4}]
optimiser: {lr: {log_float: [1e-3, 1e-1], step: 10}, beta1: {float: [0.8, 0.9], step: 0.05}}
"""
    )
    assert list(map(str, on.axes())) == [
        "memory.mlp.layers: 1 | 2",
        "bias: l2 | lp | huber[2] | huber[3]",
        'bias[1].lp.p: 2.0 | {"float": [2.5, 4.0]}  if bias is lp',
        'bias[1].lp.p[1]: 2.5 to 4 (float)  if bias is lp and bias[1].lp.p is {"float": [2.5, 4.0]}',
        "bias[2].huber.form: norm | mixture  if bias is huber[2]",
        "algorithm.gradient_descent.step: 0.1 to 10 (log_float)",
        "block.conv: 2 to 4 (int)",
        "backbone: [0] | [1]",
        "backbone[1].width: 96 | 128  if backbone is [1]",
        "optimiser.lr: 0.001 | 0.01 | 0.1",
        "optimiser.beta1: 0.8 to 0.9 (float step 0.05)",
    ]
    assert [axis.count for axis in on.axes()] == [2, 4, 2, None, 2, None, 3, 2, 2, 3, 3]
    assert on.axes()[3].condition == (("bias", "lp"), ("bias[1].lp.p", '{"float": [2.5, 4.0]}'))
    assert on.size().total == 2 * (1 + 2 + 2 + 1) * 3 * (1 + 2) * 3 * 3
    assert on.size().continuous == ("bias[1].lp.p[1]", "algorithm.gradient_descent.step")


def test_numbers_are_yaml_1_2() -> None:
    on = space(DESIGN + "optimiser: {lr: 1e-3, weight_decay: 1_0}\nname: yes\n")
    candidate = on.candidate(on.draw(Middle()))
    assert (candidate.optimiser.lr, candidate.optimiser.weight_decay, on.name) == (0.001, 10.0, "yes")
    assert on.budget.of("mqar") == 1_000_000


def test_a_range_of_one_value_is_that_value() -> None:
    assert space(DESIGN + "optimiser: {lr: {float: [0.1, 0.1]}}\n").axes() == space(DESIGN).axes()


def test_defaults() -> None:
    on = space(DESIGN)
    assert on.name == "s"
    assert [(o.metric, o.goal) for o in on.objectives] == [("mqar.accuracy", "max")]
    assert (on.search.sampler, on.search.seed, on.search.parallel, on.search.trials) == ("tpe", 0, 2, 12)
    assert (on.seeds, on.halving, on.timeout_s, on.match, on.start_with, on.rows) == (1, None, None, (), (), 1)


def test_settings() -> None:
    on = Space.from_text(
        DESIGN
        + """\
tasks: [{kind: mqar, name: recall}, text]
budget: {tokens: {recall: 1e5, text: 2e5}}
seeds: 3
objectives: [recall.accuracy, {metric: text.bits_per_byte, goal: min}, parameters]
search: {sampler: random, seed: 7, parallel: 4, trials: 60}
halving: {rungs: [0.25, 0.5], keep: 0.5}
timeout_s: 90
description: what for
"""
    )
    assert [t.name for t in on.tasks] == ["recall", "text"]
    assert (on.budget.of("recall"), on.budget.of("text")) == (100_000, 200_000)
    assert [(o.task, o.name, o.goal) for o in on.objectives] == [
        ("recall", "accuracy", "max"),
        ("text", "bits_per_byte", "min"),
        ("", "parameters", "min"),
    ]
    assert (on.rows, on.context) == (6, min(t.context for t in on.tasks))
    assert on.halving is not None
    assert on.halving.rungs == (0.25, 0.5)


def test_one_task_needs_no_list() -> None:
    assert Space.from_text(DESIGN + "task: mqar\nbudget: {tokens: 10}\n").tasks == space(DESIGN).tasks
    assert Space.from_text(DESIGN + "tasks: {kind: mqar}\nbudget: {tokens: 10}\n").tasks == space(DESIGN).tasks


@pytest.mark.parametrize(
    ("override", "look"),
    [
        ("budget.tokens=1e5", lambda s: s.budget.of("mqar") == 100_000),
        ("tasks[0].pairs=4", lambda s: s.tasks[0].pairs == 4),
        ("task.pairs=4", lambda s: s.tasks[0].pairs == 4),
        ("task=text", lambda s: s.tasks[0].kind == "text"),
        ("design.bias=l2", lambda s: s.axes()[1].path == "retention"),
        ("bias=[l2, huber]", lambda s: s.axes()[1].values == ("l2", "huber")),
        ("bias[1].p=2.5", lambda s: s.design.plain()["bias"][1] == {"kind": "lp", "p": 2.5}),
        ("bias[1].lp.p=2.5", lambda s: s.design.plain()["bias"][1] == {"kind": "lp", "p": 2.5}),
        ("algorithm.gradient_descent.chunk=8", lambda s: s.candidate(s.draw(Middle())).design.algorithm.chunk == 8),
        ("backbone.width={int: [32, 64], step: 32}", lambda s: s.axes()[-1].step == 32),
        ("search.trials=3", lambda s: s.search.trials == 3),
        ("start_with=[yaad]", lambda s: s.start_with == ("yaad",)),
        ("description=a: b", None),
    ],
)
def test_overrides(override: str, look: Any) -> None:
    if look is None:
        with pytest.raises(SpaceError, match="description is not text"):
            space(DESIGN, override)
    else:
        assert look(space(DESIGN, override))


def test_overrides_apply_in_order() -> None:
    on = space(DESIGN, "bias=huber", "bias.delta=3", "bias.delta=4")
    assert on.design.plain()["bias"] == {"kind": "huber", "delta": 4.0}


def test_named_designs_as_the_design() -> None:
    on = space("start_with: [yaad, gated-deltanet]\noptimiser: {lr: [0.01, 0.02]}\n")
    assert [a.path for a in on.axes()] == ["design", "optimiser.lr"]
    assert (on.size().total, on.size().valid) == (4, 4)
    found = {outcome(on, a).design.fingerprint for a in points(on)}  # type: ignore[union-attr]
    assert found == {named.get(n).fingerprint for n in ("yaad", "gated-deltanet")}
    assert space("design: yaad\n").draw(Middle()) == {}
    assert space("design: yaad\n").candidate({}).design == named.get("yaad")
    again = Space.from_text(on.to_yaml())
    assert (again.digest, again.axes()) == (on.digest, on.axes())


# ---- draws and candidates ----


def test_a_draw_asks_only_for_what_it_has() -> None:
    on = space(DESIGN.replace(", lp]", ", {kind: lp, p: {float: [1.5, 3]}}]"))
    for seed in range(20):
        dice = Dice(seed)
        drawn = on.draw(dice)
        assert list(drawn) == dice.asked
        assert ("bias[1].lp.p" in drawn) == (drawn["bias"] == "lp")


def test_the_order_of_keys_in_the_file_does_not_matter() -> None:
    turned = "design: {algorithm: gradient_descent, retention: [none, l2], bias: [l2, lp], memory: [matrix, mlp]}\n"
    assert space(turned).axes() == space(DESIGN).axes()
    assert space(turned).draw(Dice(3)) == space(DESIGN).draw(Dice(3))


def test_starts_are_named_designs_at_the_first_alternative_or_the_middle() -> None:
    text = DESIGN + (
        "start_with: [yaad-r, softmax-attention]\n"
        "backbone: {width: [32, 64], layers: {int: [1, 4]}}\n"
        "optimiser:\n  {lr: {log_float: [1e-3, 1e-1]}, final: {float: [0, 0.2]}, "
        "beta2: {float: [0.9, 0.99], step: 3e-2}}\n"
    )
    on = space(text)
    first, second = on.starts()
    assert first == {
        "design": "yaad-r",
        "backbone.width": 32,
        "backbone.layers": 2,
        "optimiser.lr": 0.01,
        "optimiser.final": 0.1,
        "optimiser.beta2": 0.93,
    }
    assert on.candidate(first).design == named.get("yaad-r")
    assert on.candidate(second).design == named.get("softmax-attention")
    assert on.candidate(first).backbone.layers == 2
    with pytest.raises(DesignError, match="no design is named 'yad'"):
        on.assignment_of("yad")


def test_assignments_of_another_space_are_refused() -> None:
    on = space(DESIGN.replace(", lp]", ", {kind: lp, p: {float: [1.5, 3], step: 0.5}}]"))
    good: Assignment = {"memory": "mlp", "bias": "lp", "bias[1].lp.p": 3.0, "retention": "none"}
    assert on.candidate(good).design.bias.kind == "lp"
    for change, message in [
        ({"memory": "cache"}, "memory is 'cache', not one of matrix, mlp"),
        ({"bias[1].lp.p": 4.0}, "bias\\[1\\].lp.p is 4, outside 1.5 to 3"),
        ({"bias[1].lp.p": 2.2}, "not on the grid of step 0.5 from 1.5"),
        ({"bias[1].lp.p": "x"}, "not a number"),
        ({"optimiser.lr": 0.1}, "optimiser.lr is no parameter of this draw"),
        ({"bias": "l2"}, "bias\\[1\\].lp.p is no parameter of this draw"),
    ]:
        with pytest.raises(SpaceError, match=message):
            on.candidate(good | change)
    with pytest.raises(SpaceError, match="the assignment lacks memory"):
        on.candidate({})


def test_a_number_on_a_grid_loses_what_binary_addition_leaves() -> None:
    on = space(DESIGN + "optimiser: {lr: {float: [0.1, 0.7], step: 0.1}}\n")
    assert {on.draw(Dice(seed))["optimiser.lr"] for seed in range(60)} == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}


def test_match_brings_every_candidate_to_one_size() -> None:
    on = space(DESIGN + "backbone: {heads: [1, 3], layers: [1, 2]}\nmatch: {parameters: 200000, tolerance: 0.03}\n")
    sizes = [c.parameters(65) for c in outcomes(on) if isinstance(c, Candidate)]
    assert len(sizes) == on.size().valid
    assert all(abs(n - 200_000) <= 6_000 for n in sizes)
    far = space(DESIGN + "backbone: {layers: 2, width: 64}\nmatch: {parameters: 9, by: ffn}\n")
    with pytest.raises(MatchError) as caught:
        far.candidate(far.draw(Middle()))
    assert refusal_code(caught.value) == "match"


def test_a_chunk_longer_than_a_row_is_refused_and_counted() -> None:
    on = space(DESIGN.replace("[none, l2]", "none"), "algorithm.chunk=[16, 64]")
    assert on.context == 56
    assert counted(on) == {"ok": 4, "chunk-longer-than-row": 4}
    (exclusion,) = on.size().exclusions
    assert exclusion.code == "chunk-longer-than-row"
    assert exclusion.designs == 4
    assert "a row of the shortest task has 56 tokens, the design's chunk 64" in str(exclusion)


# ---- size ----


def test_size_and_exclusions() -> None:
    on = space(
        """\
design:
  memory: [matrix, cache]
  bias: [l2, {kind: lp, p: {float: [1.5, 3]}, cap: none}]
  retention: [none, l2]
  algorithm: [gradient_descent, nonparametric]
backbone: {width: [32, 48], heads: [1, 3]}
optimiser: {lr: {log_float: [1e-3, 1e-2]}}
"""
    )
    size = on.size()
    assert (size.designs, size.valid_designs, size.partial) == (16, 5, 2)
    assert (size.total, size.valid) == (16 * 4, 5 * 3)
    assert size.continuous == ("bias[1].lp.p", "optimiser.lr")
    assert {e.code: (e.designs, e.partial) for e in size.exclusions} == {
        "cache-algorithm": (4, 0),
        "nonparametric-memory": (4, 0),
        "cache-bias": (2, 0),
        "cache-retention": (1, 0),
        "lp-runs-away": (0, 2),
    }
    assert str(size) == "64 points, 15 valid, times 2 continuous: bias[1].lp.p, optimiser.lr"
    assert "lp-runs-away: 0 and 2 depending on a value; lp with p > 2" in str(size.exclusions[-1])


def test_alternatives_in_no_valid_design_are_named() -> None:
    size = space(DESIGN.replace("[matrix, mlp]", "[matrix, cache]")).size()
    assert size.unreachable == ("memory: cache",)


VALUES: dict[str, list[str]] = {
    "memory": [
        "matrix", "{kind: matrix, initial: [auto, zeros, learned]}", "mlp", "cache",
        "{kind: mlp, layers: {int: [1, 3]}, norm: [true, false], residual: [true, false], offset: [true, false]}",
    ],
    "bias": [
        "dot", "l2", "lp",
        "{kind: lp, p: [1.5, 2, 3], cap: [auto, none, norm]}", "{kind: huber, form: [norm, mixture]}",
        "{kind: lp, p: {float: [1, 3], step: 0.5}, cap: none, eps: [1e-6, 1e-5]}",
    ],
    "retention": [
        "none", "{kind: l2, gate: [scalar, channel], decay: [data, constant]}", "{kind: kl, signed: [true, false]}",
        "{kind: lq, map: [printed, mirror], q: {float: [2, 4], step: 1}}",
    ],
    "algorithm": [
        "nonparametric", "{kind: momentum, read: [exact, lagged, stale]}",
        "{kind: gradient_descent, chunk: [1, 16, 64]}",
        "{kind: gradient_descent, gradient: [chunk, online], order: [gradient_first, decay_first], "
        "strengths: [tied, decoupled], read: [exact, lagged, stale], chunk: {int: [8, 64], step: 56}}",
    ],
}  # fmt: skip


def some(values: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(lambda v: f"[{', '.join(v)}]")


def made(parts: dict[str, str], extra: str = "", *overrides: str) -> Space | None:
    """A space of these choices; none if nothing in it is valid, or two lists share a value."""
    try:
        return space("design:\n" + "".join(f"  {k}: {v}\n" for k, v in parts.items()) + extra, *overrides)
    except SpaceError as error:
        if "no design is left" in str(error) or "stands twice" in str(error):
            return None
        raise


DESIGNS = st.fixed_dictionaries({part: some(values) for part, values in VALUES.items()})


@settings(max_examples=40)
@given(DESIGNS)
def test_counting_agrees_with_trying_every_point(parts: dict[str, str]) -> None:
    on = made(parts)
    if on is None or (size := on.size()).designs > 600:
        return
    tried = counted(on)
    assert size.total == tried.total()
    assert size.valid == tried.pop("ok", 0)
    assert {e.code: e.designs for e in size.exclusions if e.designs} == dict(tried)


def test_counting_is_fast_and_exact_where_enumeration_is_hopeless() -> None:
    text = """\
design:
  memory: [matrix, {kind: mlp, layers: {int: [1, 4]}, expansion: {int: [1, 16]}, norm: [true, false]}, cache]
  bias: [dot, l2, {kind: lp, p: {float: [1, 8], step: 0.01}, cap: [auto, none], nu: {float: [1, 20], step: 0.5}}]
  retention: [none, l2, {kind: lq, q: {float: [2, 4], step: 0.1}}]
  algorithm: [{kind: gradient_descent, chunk: {int: [1, 32]}, gradient: [chunk, online]}, nonparametric]
"""
    start = time.perf_counter()
    size = space(text).size()
    assert time.perf_counter() - start < 2.0
    biases = 2 + 701 * 2 * 39
    assert size.total == (1 + 128 + 1) * biases * 23 * 65
    away = 600 * 39  # p > 2 without a cap, on a memory without LayerNorm
    # matrix and mlps without norm, frozen gradient; mlps with norm; online on matrix, l2, linear gates; the cache
    plain = 65 * (biases - away) * 23 * 32
    assert size.valid == plain + 64 * biases * 23 * 32 + 1 * 1 * 2 * 32 + 1


def test_too_many_cases_are_not_counted_but_told() -> None:
    on = space(DESIGN.replace(", lp]", ", {kind: lp, p: {float: [1, 8], step: 0.0001}}]"))
    assert on.size().valid is None
    assert str(on.size()).endswith("points, not counted")


def test_the_grid_has_every_point_once() -> None:
    on = space(DESIGN.replace(", lp]", ", {kind: lp, p: [1.5, 2]}]") + "backbone: {width: {int: [32, 64], step: 32}}\n")
    found = [json.dumps(a) for a in on.grid()]
    assert len(set(found)) == len(found) == on.size().total
    with pytest.raises(SpaceError, match=r"optimiser\.lr is continuous"):
        list(space(DESIGN + "optimiser: {lr: {float: [0.1, 1]}}\n").grid())


# ---- draws stay inside the axes; candidates build or say why not ----


def inside(axis: Axis, value: Any) -> bool:
    if axis.kind == "choice":
        return value in axis.values
    assert axis.low is not None
    assert axis.high is not None
    steps = 0.0 if axis.step is None else (value - axis.low) / axis.step
    return axis.low <= value <= axis.high and abs(steps - round(steps)) < 1e-6


@cache
def loaded(name: str) -> Space:
    """A shipped space, read and counted once."""
    return Space.load(name)


@pytest.mark.parametrize("name", sorted(shipped()))
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_every_draw_is_in_the_axes_and_builds_or_has_a_code(name: str, seed: int) -> None:
    on = loaded(name)
    drawn = on.draw(Dice(seed))
    axes = {axis.path: axis for axis in on.axes()}
    expected = {path for path, axis in axes.items() if all(drawn.get(p) == v for p, v in axis.condition)}
    assert set(drawn) == expected
    assert all(inside(axes[path], value) for path, value in drawn.items())
    assert json.loads(json.dumps(drawn)) == drawn
    found = outcome(on, drawn)
    assert isinstance(found, Candidate) or found in {e.code for e in on.size().exclusions} | {"match"}
    assert outcome(on, json.loads(json.dumps(drawn))) == found


@settings(max_examples=30)
@given(DESIGNS, st.integers(0, 2**32))
def test_to_yaml_reads_back_as_the_same_space(parts: dict[str, str], seed: int) -> None:
    extra = "backbone: {width: [32, {int: [48, 64], step: 8}]}\noptimiser: {lr: {log_float: [1e-5, 1e-2]}}\nseeds: 2\n"
    on = made(parts, extra, "tasks[0].pairs=4", "search.seed=3")
    if on is None:
        return
    again = Space.from_text(on.to_yaml(), "other.yaml")
    assert again.digest == on.digest
    assert again.axes() == on.axes()
    assert again.draw(Dice(seed)) == on.draw(Dice(seed))
    assert again.to_yaml() == on.to_yaml()


def test_digest_names_what_decides_the_trials() -> None:
    on = space(DESIGN)
    assert space(DESIGN, "search.trials=99", "name=x", "timeout_s=3").digest == on.digest
    changes = ("search.seed=1", "budget.tokens=5", "task.pairs=3", "seeds=2", "bias=[l2, dot]", "search.parallel=3")
    for change in changes:
        assert space(DESIGN, change).digest != on.digest


# ---- what is shipped ----


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_spaces(name: str) -> None:
    path = shipped()[name]
    first, text = path.read_text().splitlines()[0], path.read_text()
    assert first == "# yaml-language-server: $schema=./space.schema.json"
    assert (path.parent / "space.schema.json").is_file()
    assert not (path.parent / "__init__.py").exists()
    on = Space.load(name)
    assert on.name == name
    assert Space.from_text(text).digest == on.digest
    assert on.size().valid
    assert not on.size().unreachable
    assert [on.candidate(a).design for a in on.starts()] == [named.get(n) for n in on.start_with]
    assert on.search.trials >= len(on.start_with) * on.rows


def test_the_quickstart_has_what_it_promises() -> None:
    on = Space.load("quickstart")
    drawn = [Design.model_validate(on.candidate(a).design) for a in on.starts()]
    drawn += [c.design for a in points(on) if isinstance(c := outcome(on, a), Candidate)]
    for part in ("memory", "bias", "retention"):
        assert len({getattr(design, part).kind for design in drawn}) >= 3
    assert [t.kind for t in on.tasks] == ["mqar", "text"]
    assert on.search.trials >= 12
    assert on.search.trials // on.rows > len(on.start_with)


def test_paper_starts_with_every_named_design() -> None:
    assert set(Space.load("paper").start_with) == set(named.NAMED)


def test_the_schema_is_the_one_that_is_shipped() -> None:
    shipped_schema = next(iter(shipped().values())).parent / "space.schema.json"
    remedy = "run: miras-search schema > spaces/space.schema.json"
    assert json.loads(shipped_schema.read_text()) == json_schema(), remedy


def test_the_schema_accepts_what_the_reader_accepts() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from ruamel.yaml import YAML

    check = jsonschema.Draft202012Validator(json_schema())
    check.check_schema(json_schema())
    yaml = YAML(typ="safe", pure=True)
    for name, path in shipped().items():
        check.validate(yaml.load(path.read_text()))
        check.validate(yaml.load(Space.load(name).to_yaml()))
    good = DESIGN + REST
    check.validate(yaml.load(good))
    for old, new in [
        ("[l2, lp]", "[l2, lpp]"),
        ("[l2, lp]", "{kind: lp, p: 0.5}"),
        ("[l2, lp]", "{kind: lp, q: 3}"),
        ("[l2, lp]", "[]"),
        ("tokens", "token"),
        ("design:", "desing:"),
        ("[mqar]", "[{kind: mqar, pairs: 0}]"),
    ]:
        assert list(check.iter_errors(yaml.load(good.replace(old, new))))


def test_the_schema_tells_what_fields_mean() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["bias.huber"]["description"].startswith("Huber: quadratic near zero")
    assert definitions["task.mqar"]["properties"]["pairs"]["minimum"] == 1
    offset = definitions["memory.mlp"]["properties"]["offset"]
    assert offset["description"].startswith("an additive bias in every layer")


def test_spaces_and_schema_need_no_torch_and_little_time() -> None:
    code = (
        "import sys, time; start = time.process_time()\n"
        "import miras_search.space, miras_search.space.schema, miras_search.plugin\n"
        "took = time.process_time() - start\n"
        "miras_search.space.Space.load('quickstart').size(); miras_search.space.schema.json_schema()\n"
        "print([m for m in ('torch', 'numpy', 'ray', 'optuna', 'pandas') if m in sys.modules], took)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("[] ")
    assert float(out.split()[1]) < 1.0


def test_the_example_of_the_docs_is_what_the_docs_say() -> None:
    page = (Path(__file__).parent.parent / "docs" / "space.md").read_text()
    on = Space.from_text(page.split("```yaml\n")[1].split("```")[0])
    listed = page.split("Of the space above:\n\n")[1].split("\n\n")[0]
    names = [line.split()[0] for line in listed.splitlines()]
    assert set(names) <= {axis.path for axis in on.axes()}


def test_a_path_is_taken_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quickstart").write_text(DESIGN + REST)
    monkeypatch.chdir(tmp_path)
    assert Space.load("quickstart").search.trials == 12


def test_cases_of_a_continuous_range_cover_both_ends_and_whole_numbers() -> None:
    on = space(DESIGN.replace(", lp]", ", {kind: lp, p: {float: [1.5, 3.25]}}]"))
    ((values, count),) = cases(on.design.fields["bias"].options[1].fields["p"])  # type: ignore[union-attr]
    assert count == 1
    assert {1.5, 2.0, 3.0, 3.25} <= set(values)
