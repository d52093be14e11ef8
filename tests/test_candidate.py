"""What a candidate says it costs is what the built model has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import designs

from miras_search import named
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.design import Block, Design
from miras_search.memory import Cache
from miras_search.model import build
from miras_search.named import HYBRIDS, NAMED, composition

SIZES = [
    Backbone(width=24, layers=1, heads=2, ffn=2.0),
    Backbone(width=24, layers=2, heads=3, ffn=0.0),
    Backbone(width=40, layers=1, heads=1, ffn=1.3),
]
DRAWS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CONTEXT = 19


def _agrees(candidate: Candidate) -> None:
    model = build(candidate, 13, seed=0)
    assert candidate.parameters(13) == sum(p.numel() for p in model.parameters()), candidate.design.to_yaml()
    with torch.no_grad():
        _, state = model.run(torch.randint(13, (1, CONTEXT)))
    recurrent = buffer = 0
    for name, x in ((n, x) for layer in state for n, x in layer.items() if x.is_floating_point()):
        if name.startswith(("state", "momentum")) or name in ("key", "value"):
            recurrent += x.numel() * 4
        else:
            buffer += x.numel() * 4
    assert candidate.state_bytes(CONTEXT) == recurrent, candidate.design.to_yaml()
    assert candidate.buffer_bytes() == buffer, candidate.design.to_yaml()


@pytest.mark.parametrize("name", NAMED)
def test_counts_of_named_designs(name: str) -> None:
    for size in SIZES:
        _agrees(Candidate(design=NAMED[name].design, backbone=size))


@DRAWS
@given(designs(blocks=True), st.sampled_from(SIZES))
def test_counts_of_drawn_designs(design: Design, size: Backbone) -> None:
    _agrees(Candidate(design=design, backbone=size))


@pytest.mark.slow
@settings(DRAWS, max_examples=300, derandomize=False)
@given(designs(blocks=True), st.sampled_from(SIZES))
def test_counts_of_many_drawn_designs(design: Design, size: Backbone) -> None:
    _agrees(Candidate(design=design, backbone=size))


@pytest.mark.parametrize("name", HYBRIDS)
def test_counts_of_hybrids(name: str) -> None:
    design, pattern = composition(name)
    _agrees(Candidate(design=design, backbone=Backbone(width=24, layers=3, heads=2, pattern=pattern)))
    block = design.block.model_copy(update={"residual_conv": 3, "output": "zeroed"})
    zeroed = design.model_copy(update={"block": block})
    _agrees(Candidate(design=zeroed, backbone=Backbone(width=24, layers=2, heads=2, pattern=pattern)))


def test_layers_follow_the_pattern() -> None:
    window = NAMED["sliding-window-attention"].design

    def candidate(layers: int, *pattern: Design | str) -> Candidate:
        return Candidate(design=NAMED["yaad"].design, backbone=Backbone(layers=layers, pattern=pattern))

    hybrid = candidate(4, "design", "sliding-window-attention")
    assert [named.label(layer) for layer in hybrid.layers] == 2 * ["yaad", "sliding-window-attention"]
    assert hybrid.label == "yaad-h"
    same = [
        candidate(4, "design", window),
        candidate(4, "yaad", "sliding-window-attention", "design", window),
        candidate(4, "design", window, "design", window, "softmax-attention"),
        hybrid.canonical(),
        Candidate.model_validate(hybrid.canonical().model_dump(mode="json")),
    ]
    assert {c.fingerprint for c in same} == {hybrid.fingerprint}
    plain = [candidate(1, "design", window), candidate(1, "design"), candidate(1, "design", "yaad")]
    assert len({c.fingerprint for c in plain}) == 1
    assert plain[0].label == "yaad"
    others = [candidate(4, "design"), candidate(4, window, "design"), candidate(4, "design", "design", window)]
    assert len({c.fingerprint for c in [hybrid, *others]}) == 4
    assert [c.label for c in others] == ["yaad", "", ""]


def test_a_pattern_needs_the_design_and_known_names() -> None:
    with pytest.raises(ValidationError, match="no layer of the pattern is `design`; put it among the first"):
        Backbone(layers=1, pattern=("sliding-window-attention", "design"))
    with pytest.raises(ValidationError, match="no design is named 'yad'; did you mean 'yaad'"):
        Backbone(pattern=("design", "yad"))
    with pytest.raises(ValidationError, match="yaad-h is a model of two designs in turn"):
        Backbone(pattern=("design", "yaad-h"))


@pytest.mark.parametrize("window", [1, 4, 19, 40, None])
def test_counts_of_a_cache(window: int | None) -> None:
    design = NAMED["softmax-attention"].design.model_copy(update={"memory": Cache(window=window)})
    _agrees(Candidate(design=design, backbone=SIZES[0]))


def test_a_cache_without_a_window_needs_a_context() -> None:
    with pytest.raises(ValueError, match="give the context"):
        Candidate(design=NAMED["softmax-attention"].design).state_bytes()


def test_operations_grow_with_what_costs() -> None:
    base = Candidate(design=NAMED["yaad"].design)

    def flops(**changes: Any) -> int:
        return base.model_copy(update={"backbone": Backbone(**changes)}).flops_per_token(128)

    assert flops() < flops(width=128) < flops(width=128, layers=4)
    assert flops(ffn=0.0) < flops()
    assert flops(layers=4) == 2 * flops(layers=2)
    cache = Candidate(design=NAMED["softmax-attention"].design)
    assert cache.flops_per_token(128) < cache.flops_per_token(4096)
    assert base.flops_per_token(128) == base.flops_per_token(4096)


def test_operations_of_linear_attention_by_hand() -> None:
    """Width 64, 2 heads, ffn 2, one layer: projections, gate, conv, SwiGLU; write and read 32 x 32 a head."""
    candidate = Candidate(design=NAMED["linear-attention"].design, backbone=Backbone(layers=1))
    products = 5 * 64 * 64 + 3 * 64 * 4 + 3 * 64 * 128
    assert candidate.flops_per_token(1) >= 2 * (products + 2 * 2 * 32 * 32)
    assert candidate.flops_per_token(1) <= 2 * (products + 4 * 2 * 32 * 32)


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValidationError, match="width 50 is not a multiple of heads 4; change one of them"):
        Backbone(width=50, heads=4)
    with pytest.raises(
        ValidationError, match="heads of dimension 1 have no LayerNorm: width 8 needs fewer heads than 8"
    ):
        Candidate(design=NAMED["yaad"].design, backbone=Backbone(width=8, heads=8))


def test_fingerprints_tell_candidates_apart() -> None:
    base = Candidate(design=NAMED["yaad"].design)
    assert base.fingerprint  # cached now; copies have their own
    same = Candidate(design=base.design.canonical())
    others = [
        base.model_copy(update={"backbone": Backbone(width=128)}),
        base.model_copy(update={"optimiser": Optimiser(lr=3e-3)}),
        base.model_copy(update={"design": NAMED["yaad-r"].design}),
        base.model_copy(update={"design": base.design.model_copy(update={"block": Block(conv=0)})}),
    ]
    assert same.fingerprint == base.fingerprint
    assert len({c.fingerprint for c in [base, *others]}) == 5
