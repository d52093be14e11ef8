"""Compatibility, canonical form, identity."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from problems import gap, problem, ragged, slow
from pydantic import ValidationError
from ruamel.yaml import YAML
from strategies import PARTS, designs
from tolerances import tolerance

from miras_search import named, op
from miras_search.algorithm import GradientDescent, Implicit, Momentum, MultiStep, Muon, Newton, Nonparametric
from miras_search.bias import L1, L2, Dot, Huber, Lp
from miras_search.choice import variants
from miras_search.codegen.emit import emit
from miras_search.design import Block, Design
from miras_search.errors import DesignError
from miras_search.memory import Cache, Matrix, Mlp, Vector
from miras_search.named import NAMED
from miras_search.retention import Kl, L2Retention, Lq, NoRetention, Retention
from miras_search.rules import refusals

MANY = settings(
    max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
BLOCKS = [
    {"conv": 0},
    {"residual_conv": 4},
    {"qk_norm": False},
    {"rope": True},
    {"output_gate": False},
    {"output": "zeroed"},
    {"values": "shuffled"},
]

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # code: (four choices that are refused for it, the remedy applied)
    "cache-algorithm": (
        {"memory": Cache(), "bias": L2(), "retention": NoRetention(), "algorithm": GradientDescent()},
        {"algorithm": Nonparametric()},
    ),
    "cache-bias": (
        {"memory": Cache(), "bias": Huber(), "retention": NoRetention(), "algorithm": Nonparametric()},
        {"bias": L2()},
    ),
    "cache-retention": (
        {"memory": Cache(), "bias": L2(), "retention": L2Retention(), "algorithm": Nonparametric()},
        {"retention": NoRetention()},
    ),
    "nonparametric-memory": (
        {"memory": Mlp(), "bias": L2(), "retention": L2Retention(), "algorithm": Nonparametric()},
        {"algorithm": GradientDescent()},
    ),
    "online-needs-delta-rule": (
        {"memory": Mlp(), "bias": L2(), "retention": NoRetention(), "algorithm": GradientDescent(gradient="online")},
        {"algorithm": GradientDescent()},
    ),
    "channel-erase-needs-matrix": (
        {
            "memory": Vector(),
            "bias": L2(),
            "retention": NoRetention(),
            "algorithm": GradientDescent(gradient="online", strengths="channel"),
        },
        {"memory": Matrix()},
    ),
    "online-has-no-chunk": (
        {
            "memory": Matrix(),
            "bias": L2(),
            "retention": NoRetention(),
            "algorithm": GradientDescent(gradient="online", read="stale"),
        },
        {"algorithm": GradientDescent(read="stale")},
    ),
    "online-only": (
        {
            "memory": Matrix(),
            "bias": L2(),
            "retention": NoRetention(),
            "algorithm": GradientDescent(order="decay_first"),
        },
        {"algorithm": GradientDescent(gradient="online", order="decay_first")},
    ),
    "online-has-no-window": (
        {"memory": Matrix(), "bias": L2(window=2), "retention": NoRetention(), "algorithm": Newton()},
        {"bias": L2(window=1)},
    ),
    "window-needs-matrix": (
        {
            "memory": variants("memory")["vector"](kind="vector"),  # type: ignore[dict-item]
            "bias": L2(window=2),
            "retention": NoRetention(),
            "algorithm": GradientDescent(),
        },
        {"memory": Matrix()},
    ),
    "features-change-dimension": (
        {
            "memory": Mlp(),
            "bias": Dot(features="polynomial"),
            "retention": NoRetention(),
            "algorithm": GradientDescent(),
        },
        {"bias": Dot(features="elu")},
    ),
    "features-need-scalar-gate": (
        {
            "memory": Matrix(),
            "bias": L2(features="polynomial"),
            "retention": L2Retention(gate="channel"),
            "algorithm": GradientDescent(),
        },
        {"retention": L2Retention()},
    ),
    "newton-needs-scalar-gate": (
        {"memory": Matrix(), "bias": L2(), "retention": L2Retention(gate="channel"), "algorithm": Newton()},
        {"retention": L2Retention()},
    ),
    "tied-needs-gate": (
        {"memory": Matrix(), "bias": Dot(), "retention": NoRetention(), "algorithm": GradientDescent(step_gate="tied")},
        {"retention": L2Retention()},
    ),
    "lagged-needs-scale": (
        {"memory": Mlp(), "bias": L2(), "retention": Kl(), "algorithm": GradientDescent(read="lagged")},
        {"algorithm": GradientDescent()},
    ),
    "zero-start": (
        {"memory": Matrix(initial="zeros"), "bias": L2(), "retention": Lq(), "algorithm": GradientDescent()},
        {"memory": Matrix(initial="learned")},
    ),
    "channel-gate-shape": (
        {"memory": Mlp(layers=3), "bias": L2(), "retention": L2Retention(gate="channel"), "algorithm": Momentum()},
        {"retention": L2Retention()},
    ),
    "row-gate-shape": (
        {"memory": Mlp(), "bias": L2(), "retention": L2Retention(gate="row"), "algorithm": GradientDescent()},
        {"memory": Matrix()},
    ),
    "simplex-of-one": (
        {"memory": Vector(), "bias": L2(), "retention": Kl(axis="column"), "algorithm": GradientDescent()},
        {"retention": Kl(axis="row")},
    ),
    "closed-form-of-a-matrix": (
        {"memory": Vector(), "bias": L2(), "retention": NoRetention(), "algorithm": Implicit()},
        {"memory": Matrix()},
    ),
    "lp-runs-away": (
        {"memory": Matrix(), "bias": Lp(cap="none"), "retention": NoRetention(), "algorithm": GradientDescent()},
        {"bias": Lp(cap="norm")},
    ),
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_refusal_names_the_reason_and_a_way_out_that_works(code: str) -> None:
    four, remedy = REFUSED[code]
    found = refusals(**four)
    assert [r.code for r in found] == [code]
    with pytest.raises(ValidationError, match=re.escape(f"{code}: {found[0].message}; {found[0].remedy}")):
        Design(**four)
    assert found[0].remedy.startswith("use ")
    Design(**(four | remedy))


def test_every_refusal_is_tested() -> None:
    import inspect

    import miras_search.rules

    codes = set(re.findall(r'Refusal\(\s*"([a-z-]+)"', inspect.getsource(miras_search.rules)))
    assert codes == set(REFUSED)


def test_defaults_go_together_or_are_refused_for_one_reason_each() -> None:
    """All kinds with their defaults: what is refused is refused with a remedy that names a kind or a field."""
    for kinds in itertools.product(*(variants(role) for role in PARTS)):
        four = {role: variants(role)[kind](kind=kind) for role, kind in zip(PARTS, kinds, strict=True)}
        for refusal in refusals(**four):  # type: ignore[arg-type]
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", refusal.code)
            assert ": " in refusal.remedy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bias", {"kind": "lp", "p": 0.5}),
        ("bias", {"kind": "lp", "q": 3}),
        ("memory", {"kind": "mpl"}),
        ("memory", "mlpp"),
    ],
)
def test_values_out_of_range_and_unknown_words_are_errors(field: str, value: Any) -> None:
    given = {"memory": "matrix", "bias": "l2", "retention": "none", "algorithm": "gradient_descent"}
    with pytest.raises(ValidationError):
        Design.model_validate(given | {field: value})


def test_a_bare_name_is_short_for_its_kind() -> None:
    given = {"memory": "mlp", "bias": "l2", "retention": "l2", "algorithm": "momentum"}
    assert Design.model_validate(given) == Design(
        memory=Mlp(), bias=L2(), retention=L2Retention(), algorithm=Momentum()
    )


@MANY
@given(designs())
def test_canonical_is_a_fixed_point_and_valid(design: Design) -> None:
    canonical = design.canonical()
    assert canonical.canonical() == canonical
    assert canonical.fingerprint == design.fingerprint
    assert canonical.structure == design.structure
    assert "auto" not in str(canonical.model_dump())
    assert re.fullmatch(r"[0-9a-f]{12}", design.fingerprint)


@settings(MANY, max_examples=60, phases=[Phase.generate])
@given(designs(), st.integers(0, 2**20))
def test_canonical_is_the_same_function(design: Design, seed: int) -> None:
    """The reference on the description as it stands, and on its canonical form."""
    canonical = design.canonical()
    if "auto" in design.bias.model_dump().values():
        cap = getattr(canonical.bias, "cap", "none")
        design = design.model_copy(update={"bias": design.bias.model_copy(update={"cap": cap})})
    if design.algorithm.online:  # has no chunk whose scale could lag
        design = design.model_copy(update={"algorithm": design.algorithm.model_copy(update={"read": "exact"})})
    p = ragged(problem(canonical, 7, seed=seed), seed)
    raw = replace(p, design=design, state=None)
    expected, _ = slow(replace(p, state=None))
    if design.retention.gated not in ("none", "scalar") and canonical.retention.gated == "scalar":
        dims = {"channel": p.k.shape[-1], "row": p.v.shape[-1], "outer": p.k.shape[-1] + p.v.shape[-1]}
        wide = p.gates["log_alpha"][..., None].expand(*p.gates["log_alpha"].shape, dims[design.retention.gated])
        wide = wide / 2.0 if design.retention.gated == "outer" else wide
        raw = replace(raw, gates=p.gates | {"log_alpha": wide})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Design, "canonical", lambda self: self)
        patch.setattr(Retention, "scale", lambda self, xp, s: torch.ones_like(s[..., :1, :1]), raising=False)
        z, _ = slow(raw)
    assert gap(z, expected) <= tolerance("merge"), design.to_yaml()


MERGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "p = 2 is l2": ({"bias": Lp(p=2.0)}, {"bias": L2()}),
    "p = 1 is l1": ({"bias": Lp(p=1.0, form="surrogate", nu=3.0, factor="paper")}, {"bias": L1(nu=3.0)}),
    "eps of a tanh": ({"bias": L1(eps=0.5)}, {"bias": L1()}),
    "nu of a potential": ({"bias": Lp(nu=3.0), "memory": Mlp()}, {"bias": Lp(), "memory": Mlp()}),
    "nu of a norm": ({"bias": Huber(nu=3.0)}, {"bias": Huber()}),
    "q = 2 is the l2 gate": ({"retention": Lq(q=2.0, map="mirror")}, {"retention": L2Retention(bias=4.0)}),
    "schedule of a predicted decay": (
        {"retention": L2Retention(schedule="alibi")},
        {"retention": L2Retention()},
    ),
    "channels of a constant decay": (
        {"retention": L2Retention(gate="channel", decay="constant")},
        {"retention": L2Retention(decay="constant", bias=1.0)},
    ),
    "lagged under a linear gate": ({"algorithm": GradientDescent(read="lagged")}, {"algorithm": GradientDescent()}),
    "chunk of a Hebbian write": (
        {"bias": Dot(), "algorithm": GradientDescent(chunk=3)},
        {"bias": Dot(), "algorithm": GradientDescent()},
    ),
    "chunk of the online rule": (
        {"algorithm": GradientDescent(gradient="online", chunk=3)},
        {"algorithm": GradientDescent(gradient="online")},
    ),
    "chunk 1 is the online rule": (
        {"algorithm": GradientDescent(chunk=1)},
        {"algorithm": GradientDescent(gradient="online")},
    ),
    "order without a gate": (
        {"algorithm": GradientDescent(gradient="online", order="decay_first")},
        {"algorithm": GradientDescent(gradient="online")},
    ),
    "one bare layer is a matrix": (
        {"memory": Mlp(layers=1, residual=False, norm=False)},
        {"memory": Matrix(initial="learned")},
    ),
    "activation of one layer": ({"memory": Mlp(layers=1, activation="silu")}, {"memory": Mlp(layers=1)}),
    "expansion of one layer": ({"memory": Mlp(layers=1, expansion=2)}, {"memory": Mlp(layers=1)}),
    "one layer is the last layer": (
        {"algorithm": GradientDescent(updates="last_layer")},
        {"algorithm": GradientDescent()},
    ),
    "p = 2 is l2, window and features kept": (
        {"bias": Lp(p=2.0, window=3, features="elu")},
        {"bias": L2(window=3, features="elu")},
    ),
    "one step a token is the online rule": (
        {"algorithm": MultiStep(steps=1, step=0.5), "retention": L2Retention()},
        {
            "algorithm": GradientDescent(gradient="online", order="decay_first", step=0.5),
            "retention": L2Retention(),
        },
    ),
    "a constant step has no reach": (
        {"algorithm": GradientDescent(step_gate="constant", reach=4.0)},
        {"algorithm": GradientDescent(step_gate="constant")},
    ),
    "stale reads have no order": (
        {"algorithm": GradientDescent(read="stale", read_order="read_first")},
        {"algorithm": GradientDescent(read="stale")},
    ),
    "automatic start": ({"memory": Matrix()}, {"memory": Matrix(initial="zeros")}),
}
PLAIN: dict[str, Any] = {"memory": Matrix(), "bias": L2(), "retention": NoRetention(), "algorithm": GradientDescent()}


@pytest.mark.parametrize("case", MERGED)
def test_equal_functions_have_one_fingerprint(case: str) -> None:
    a, b = (Design(**(PLAIN | given)) for given in MERGED[case])
    assert a.fingerprint == b.fingerprint
    assert a.structure == b.structure


@pytest.mark.parametrize(
    "change",
    [
        {"memory": Mlp()},
        {"bias": Lp(p=2.0, factor="paper")},
        {"bias": Lp(p=2.5)},
        {"retention": L2Retention()},
        {"algorithm": GradientDescent(chunk=8)},
        {"algorithm": GradientDescent(step=2.0)},
        {"algorithm": GradientDescent(read="stale")},
        {"algorithm": GradientDescent(sign="ascent")},
        {"algorithm": GradientDescent(read_order="read_first")},
        {"algorithm": GradientDescent(reach=4.0)},
        {"bias": L2(window=2)},
        {"bias": L2(target="v-k")},
        {"bias": L2(features="elu")},
        {"algorithm": Implicit()},
        {"algorithm": MultiStep()},
        {"algorithm": MultiStep(steps=3)},
        {"algorithm": Newton()},
        {"algorithm": Muon()},
        *({"block": Block(**b)} for b in BLOCKS),
    ],
    ids=str,
)
def test_other_functions_have_another(change: dict[str, Any]) -> None:
    assert Design(**(PLAIN | change)).fingerprint != Design(**PLAIN).fingerprint


def test_a_copy_has_its_own_fingerprint() -> None:
    """Also when the original's has been asked for, and is cached."""
    a = Design(**PLAIN)
    assert a.fingerprint
    assert a.structure
    b = a.model_copy(update={"memory": Mlp()})
    assert b.fingerprint == Design(**(PLAIN | {"memory": Mlp()})).fingerprint != a.fingerprint
    assert b.structure != a.structure


@MANY
@given(designs())
def test_yaml_and_json_keep_a_design(design: Design) -> None:
    assert Design.model_validate(YAML(typ="safe").load(design.to_yaml())) == design
    assert Design.model_validate_json(design.model_dump_json()) == design
    assert next(iter(design.flat())) == "memory.kind"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Lp(p=2.5), Lp(p=3.5)),
        (Huber(delta=0.5), Huber(delta=2.0)),
        (Huber(form="mixture", nu=2.0), Huber(form="mixture", nu=5.0)),
    ],
    ids=["p", "delta", "nu"],
)
def test_numbers_do_not_change_the_code(a: Any, b: Any) -> None:
    """One structure, one code: only constants and the header differ."""
    texts = []
    for bias, retention, step in ((a, Lq(q=3.5, bias=1.0), 1.0), (b, Lq(q=4.5, bias=5.0, eps=1e-2), 0.3)):
        design = Design(memory=Mlp(), bias=bias, retention=retention, algorithm=GradientDescent(step=step))
        source = emit(design)
        texts.append(source[source.index("\n\n\n", source.index("\nDESIGN = ")) :])
        structure = design.structure
        assert structure == design.structure
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", NAMED)
def test_named_designs(name: str) -> None:
    entry = NAMED[name]
    assert named.get(name) == entry.design
    assert named.label(entry.design) == name
    assert named.label(entry.design.canonical()) == name
    assert entry.paper
    assert entry.fidelity.endswith(".")
    module = op.load(entry.design)
    assert (name, entry.design.fingerprint) == (module.NAME, module.FINGERPRINT)


def test_names_are_of_different_functions() -> None:
    assert len({e.design.fingerprint for e in NAMED.values()}) == len(NAMED)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(DesignError, match="no design is named 'monetta'") as caught:
        named.get("monetta")
    assert "did you mean 'moneta'?" in str(caught.value)
    with pytest.raises(DesignError) as caught:
        named.get("zzz")
    assert "miras-search designs" in str(caught.value)
