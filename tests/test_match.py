"""Sizes asked for are reached, certified, or refused with the nearest; constraints refuse before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from miras_search.candidate import Backbone, Candidate
from miras_search.errors import DesignError, MatchError, SpaceError
from miras_search.match import KNOBS, Bounds, Constraints, Match, cost, match
from miras_search.named import NAMED
from miras_search.space import Space, refusal_code

TARGETS: dict[str, int] = {"parameters": 400_000, "state_bytes": 98_304, "flops_per_token": 1_500_000}
COARSE = {
    ("atlas", "state_bytes", "width"),
    ("atlas", "flops_per_token", "width"),
    ("atlas", "flops_per_token", "ffn"),
    ("omeganet", "flops_per_token", "ffn"),
}
"""Lifted keys have the square of a head's dimension: sizes are far apart, or too large whatever the feed-forward has."""
PAIRS = [(name, by) for name in TARGETS for by in KNOBS[name] if by in ("width", "ffn")]  # type: ignore[index]


@pytest.mark.parametrize(("what", "by"), PAIRS)
@pytest.mark.parametrize("name", NAMED)
def test_match_solves_within_its_tolerance(name: str, what: Any, by: Any) -> None:
    candidate = Candidate(design=NAMED[name].design, backbone=Backbone(width=96, layers=2, heads=2))
    target = Match.model_validate({what: TARGETS[what], "by": by, "tolerance": 0.02 if what == "parameters" else 0.05})
    if (name, what, by) in COARSE:
        with pytest.raises(MatchError, match="the nearest is"):
            match(candidate, target, 256, 64)
        return
    solved, certificates = match(candidate, target, 256, 64)
    found = certificates[what]
    assert cost(solved, what, 256, 64) == found.reached
    assert found.relative_error == pytest.approx(found.reached / TARGETS[what] - 1.0)
    assert abs(found.relative_error) <= target.tolerance
    assert solved.design == candidate.design
    Candidate.model_validate(solved.model_dump())
    assert match(solved, target, 256, 64)[0] == solved


def test_match_finds_the_nearest_of_all_sizes() -> None:
    candidate = Candidate(design=NAMED["deltanet"].design)
    target = Match(parameters=60_000, tolerance=0.5)
    solved, found = match(candidate, target, 64, 64)
    counts = [candidate.model_copy(update={"backbone": Backbone(width=2 * n)}).parameters(64) for n in range(2, 200)]
    assert abs(found["parameters"].reached - 60_000) == min(abs(c - 60_000) for c in counts)
    assert solved.backbone.width % solved.backbone.heads == 0


def test_state_is_matched_by_heads_or_expansion() -> None:
    """A matrix of 96 x 96 numbers a layer, cut into h heads, holds 96^2 / h; an MLP of expansion e, 2 e times as many."""
    matrix = Candidate(design=NAMED["retnet"].design, backbone=Backbone(width=96, layers=1, heads=1))
    solved, found = match(matrix, Match(state_bytes=4 * 96 * 96 // 6, by="heads"), 64, 64)
    assert solved.backbone.heads == 6
    assert found["state_bytes"].relative_error == 0
    mlp = Candidate(design=NAMED["yaad"].design, backbone=Backbone(width=96, layers=1, heads=6))
    solved, _ = match(mlp, Match(state_bytes=2 * 3 * 4 * 96 * 96 // 6, by="expansion"), 64, 64)
    assert solved.design.memory.model_dump()["expansion"] == 3
    with pytest.raises(
        MatchError, match=r"no expansion gives 6000 bytes of state within 2%; the nearest is 6144 \(\+2"
    ):
        match(
            solved := matrix.model_copy(update={"backbone": Backbone(width=96, layers=1, heads=6)}),
            Match(state_bytes=6000, by="expansion"),
            64,
            64,
        )


def test_state_first_then_parameters() -> None:
    both = [Match(state_bytes=65_536, by="width"), Match(parameters=190_000, by="ffn")]
    for name in ("deltanet", "retnet", "yaad", "memora"):
        candidate = Candidate(design=NAMED[name].design)
        solved, found = match(candidate, [both[0].model_copy(update={"tolerance": 0.1}), both[1]], 64, 64)
        assert {k: abs(c.relative_error) <= 0.1 for k, c in found.items()} == {"state_bytes": True, "parameters": True}
        assert abs(solved.parameters(64) / 190_000 - 1) <= 0.02
    wrong = [
        Match(state_bytes=32_768, by="width", tolerance=0.1),
        Match(flops_per_token=400_000, by="heads", tolerance=0.5),
    ]
    with pytest.raises(MatchError, match="32768 bytes of state were matched by width, and are"):
        match(Candidate(design=NAMED["deltanet"].design), wrong, 64, 64)


def test_an_impossible_match_names_the_nearest() -> None:
    candidate = Candidate(design=NAMED["yaad"].design, backbone=Backbone(heads=16, width=64))
    with pytest.raises(
        MatchError, match=r"no width gives 2000 parameters within 2%; the nearest is \d+ \(\+"
    ) as caught:
        match(candidate, Match(parameters=2000), 512, 64)
    assert "match by ffn" in str(caught.value)


def test_a_match_has_one_target_and_something_that_moves_it() -> None:
    with pytest.raises(ValidationError, match="no target; give one of parameters, state_bytes, flops_per_token"):
        Match()
    with pytest.raises(ValidationError, match="ffn does not move state_bytes; match it by width or heads or expansion"):
        Match(state_bytes=1000, by="ffn")
    with pytest.raises(ValidationError, match="min 3 is above max 2"):
        Bounds(min=3, max=2)


SPACE = """
name: fair
design:
  memory: [matrix, {kind: mlp, layers: [1, 2], expansion: 1}]
  bias: l2
  retention: [none, l2]
  algorithm: {kind: gradient_descent, chunk: 8}
backbone: {layers: 1, heads: 1, width: [32, 64]}
task: mqar
budget: {tokens: 1e4}
search: {sampler: grid}
"""


def test_a_space_matches_two_costs_and_refuses_by_reason() -> None:
    lines = SPACE.replace(", width: [32, 64]", "")
    on = Space.from_text(lines + "match: [{state_bytes: 16384, tolerance: 0.1}, {parameters: 60000, by: ffn}]\n")
    assert Space.from_text(on.to_yaml()).digest == on.digest
    widths = set()
    for assignment in on.grid():
        candidate = on.candidate(assignment)
        widths.add(candidate.backbone.width)
        assert candidate.state_bytes(64) == pytest.approx(16384, rel=0.1)
        assert candidate.parameters(on.tasks[0].vocab) == pytest.approx(60000, rel=0.02)
        assert set(on.certificates(candidate)) == {"state_bytes", "parameters"}
    assert len(widths) > 1
    limited = Space.from_text(SPACE + "constraints: {state_bytes: {max: 2e4}, parameters: {min: 1e3, max: 6e5}}\n")
    assert Space.from_text(limited.to_yaml()).digest == limited.digest
    codes = []
    for assignment in limited.grid():
        try:
            limited.candidate(assignment)
            codes.append("")
        except DesignError as error:
            codes.append(refusal_code(error))
    assert set(codes) == {"", "constraint-state-bytes"}
    found = Constraints(parameters=Bounds(min=10**9))
    with pytest.raises(DesignError, match=r"constraint-parameters: [\d,]+ parameters, at least 1,000,000,000"):
        found.check(Candidate(design=NAMED["yaad"].design), 64, 64)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("match: [{parameters: 1e5, by: ffn}, {parameters: 2e5}]", "12:37", "parameters is matched twice"),
        ("match: [{parameters: 1e5, by: ffn}, {flops_per_token: 2e5, by: ffn}]", "12:37", "ffn is solved twice"),
        (
            "match: {state_bytes: 1e5, by: fnf}",
            "12:31",
            'by of match is "fnf", not one of width, ffn, heads, expansion',
        ),
        ("match: {state_bytes: 1e5, by: ffn}", "12:8", "ffn does not move state_bytes"),
        ("constraints: {parameters: {maxx: 1}}", "12:28", "unknown field maxx"),
        ("constraints: {size: {max: 1}}", "12:15", "unknown field size of constraints"),
        ("constraints: {parameters: {min: 3, max: 1}}", "12:27", "min 3 is above max 1"),
    ],
)
def test_errors_have_their_place(text: str, where: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Space.from_text(SPACE + text + "\n", "s.yaml")
    assert f"s.yaml:{where}: " in str(caught.value)
    assert message in str(caught.value)
