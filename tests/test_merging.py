"""The number of different functions in a space, and how near a space is to the published designs."""

from __future__ import annotations

import pytest

from miras_search.choice import variants
from miras_search.design import Design
from miras_search.named import NAMED
from miras_search.space import Space
from miras_search.space.counting import PARTS
from miras_search.space.domain import Alternatives, Struct
from miras_search.space.merging import everything, merge, merged, model, stands_for_its_function
from miras_search.space.near import near, near_space, toward
from miras_search.space.shipped import shipped

SMALL = """
design:
  memory: [{kind: matrix, initial: [auto, zeros, learned]}, {kind: mlp, layers: [1, 2], residual: [true, false], norm: false}]
  bias: [dot, l2, {kind: lp, p: [2, 3], cap: [auto, norm, none]}]
  retention: [none, {kind: l2, decay: [data, constant], bias: [4, 5]}, {kind: lq, q: [2, 3]}]
  algorithm:
    - {kind: gradient_descent, chunk: [1, 4, 8], read: [exact, lagged]}
    - {kind: gradient_descent, gradient: online, chunk: [4, 8], order: [gradient_first, decay_first]}
tasks: [mqar]
budget: {tokens: 1e4}
"""
"""No point has the default chunk, to which canonical forms go."""


def small() -> Struct:
    design = Space.from_text(SMALL).design
    assert isinstance(design, Struct)
    return design


def test_one_description_of_each_function_stands_for_it() -> None:
    design = small()
    found = [d for d in map(model, everything(design)) if d is not None]
    assert len(found) == Space.from_text(SMALL).size().valid_designs
    functions = {d.fingerprint for d in found}
    assert len(functions) < 0.7 * len(found)
    assert sum(stands_for_its_function(design, d) for d in found) == len(functions)
    exact = merged(design, len(found), None)
    assert (exact.designs, exact.draws) == (len(functions), 0)


def test_the_estimate_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = merge(Space.from_text(SMALL))
    monkeypatch.setattr("miras_search.space.merging.EXACT", 0)
    monkeypatch.setattr("miras_search.space.merging.SAMPLE", 2000)
    estimate = merge(Space.from_text(SMALL))
    assert exact is not None
    assert estimate is not None
    assert 0 < estimate.error < 0.1 * exact.designs
    assert abs(estimate.designs - exact.designs) <= 4 * estimate.error
    assert "estimated from 2,000 draws, standard error" in str(estimate)


@pytest.mark.parametrize("name", shipped())
def test_a_space_is_not_larger_after_merging(name: str) -> None:
    space = Space.load(name)
    found, valid = merge(space), space.size().valid_designs
    assert found is not None
    assert valid is not None
    assert 0 < found.designs <= valid


CONTROLS = {"sign", "updates"}
"""Fields that exist to be compared with: not in the full space."""


def test_the_full_space_has_every_variant_and_word() -> None:
    """A new variant, and a new word of one, belongs into spaces/full.yaml."""
    design = Space.load("full").design
    assert isinstance(design, Struct)
    for part in PARTS:
        options = design.fields[part]
        assert isinstance(options, Alternatives)
        structs = {option.kind: option for option in options.options if isinstance(option, Struct)}
        assert structs.keys() == variants(part).keys()
        for kind, cls in variants(part).items():
            for name, schema in cls.model_json_schema()["properties"].items():
                if name == "kind" or name in CONTROLS:
                    continue
                assert name in structs[kind].fields or schema.get("type") in ("number", "integer"), f"{kind}.{name}"
                wanted = set(schema.get("enum", [True, False] if schema.get("type") == "boolean" else []))
                if wanted:
                    words = structs[kind].fields[name]
                    assert isinstance(words, Alternatives), f"{kind}.{name}"
                    assert wanted <= set(words.labels), f"{kind}.{name}"


def test_published_designs_of_the_full_space_are_points_of_it() -> None:
    """Up to numbers, which the space may leave at their defaults."""
    found = {entry.name: entry for entry in near_space(Space.load("full"))}
    assert found.keys() == NAMED.keys()
    words = {n: [d for d in e.differences if isinstance(d[2], str | bool)] for n, e in found.items()}
    assert not any(words.values()), words


def test_toward_goes_to_what_is_wanted() -> None:
    design = small()
    for name in ("linear-attention", "deltanet"):
        plain = NAMED[name].design.model_dump(mode="json")
        point = Design.model_validate(toward(design, plain)[0])
        assert near(point)[0].name == name
    value, missed = toward(design, NAMED["titans-lmm"].design.model_dump(mode="json"))
    assert value["algorithm"]["kind"] == "gradient_descent"
    assert missed >= 4
