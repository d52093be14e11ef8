"""The emitted torch path against the reference, outputs and every gradient, and what both must not do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from problems import Problem, check, deviations, fast, gap, gradients, problem, ragged, slow
from strategies import designs
from tolerances import tolerance
from torch import Tensor

from miras_search.codegen.emit import tile
from miras_search.codegen.skeletons.chunk import orthogonalise
from miras_search.design import Design
from miras_search.memory import Cache
from miras_search.named import NAMED
from miras_search.reference import newton_schulz

# Not shrunk: a failure prints its design, and every smaller one would have to be emitted first.
GENERATE = settings(
    deadline=None, database=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
FEW = settings(GENERATE, max_examples=40, derandomize=True)
MANY = settings(GENERATE, max_examples=300)
SEEDS = st.integers(0, 2**20)


@pytest.mark.parametrize("name", NAMED)
def test_named_equals_the_reference(name: str) -> None:
    """Two tiles and a ragged one."""
    design = NAMED[name].design
    check(problem(design, 2 * max(16, tile(design.canonical())) + 5, batch=1), tolerance("path"))


@pytest.mark.parametrize("name", NAMED)
def test_named_equals_the_reference_on_packed_and_padded_rows(name: str) -> None:
    """An incoming state, left padding, holes, resets."""
    check(ragged(problem(NAMED[name].design, 21, batch=3, heads=1)), tolerance("path"))


def _drawn(design: Design, time: int, seed: int) -> None:
    plain = problem(design, time, seed=seed)
    check(plain, tolerance("path"), time=time, seed=seed)
    check(ragged(plain, seed), tolerance("path"), time=time, seed=seed, ragged=True)


@pytest.mark.parametrize("gate", [None, "scalar", "channel", "row", "outer"])
@pytest.mark.parametrize("kind", ["gradient_descent", "multi_step", "dot"])
def test_many_tiles_equal_the_reference(gate: str | None, kind: str) -> None:
    """Designs whose tiles are taken together, over documents, holes, a tile of odd length, and decays of up to e^-60 a token."""
    retention = {"kind": "none"} if gate is None else {"kind": "l2", "gate": gate}
    bias, algorithm = ("dot", "gradient_descent") if kind == "dot" else ("l2", kind)
    chosen = {"kind": algorithm} | ({"gradient": "online"} if kind == "gradient_descent" else {})
    design = Design.model_validate({"memory": "matrix", "bias": bias, "retention": retention, "algorithm": chosen})
    p = problem(design, 75, batch=2, heads=1)
    if "log_alpha" in p.gates:
        factor = torch.where(torch.arange(75) % 3 == 0, 60.0, 1.0).to(torch.float64)
        decay = p.gates["log_alpha"]
        steep = (decay * factor.view(1, 75, *[1] * (decay.ndim - 2))).detach().requires_grad_()
        p = replace(p, gates={**p.gates, "log_alpha": steep})
    check(p, tolerance("path"))
    check(ragged(p), tolerance("path"))


@FEW
@given(designs(lambda cls: cls.parametric), st.integers(1, 11), SEEDS)
def test_drawn_equals_the_reference(design: Design, time: int, seed: int) -> None:
    _drawn(design, time, seed)


@settings(FEW, max_examples=12)
@given(designs(lambda cls: not cls.parametric), st.integers(1, 11), SEEDS)
def test_drawn_cache_equals_the_reference(design: Design, time: int, seed: int) -> None:
    _drawn(design, time, seed)


@pytest.mark.slow
@MANY
@given(designs(), st.integers(1, 19), SEEDS)
def test_many_drawn_equal_the_reference(design: Design, time: int, seed: int) -> None:
    _drawn(design, time, seed)


def _split(p: Problem, cuts: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """The fast path in several calls."""
    ys, state = [], p.state
    for start, stop in zip([0, *cuts], [*cuts, p.q.shape[1]], strict=True):
        y, state = fast(p.part(start, stop, state))
        ys.append(y)
    assert state is not None
    return torch.cat(ys, 1), state


def _check_split(p: Problem, cuts: list[int]) -> None:
    wrong = {n: v for n, v in deviations(p, lambda x: _split(x, cuts)).items() if not v <= tolerance("path")}
    assert not wrong, f"{wrong} cut at {cuts} for\n{p.design.to_yaml()}"


@pytest.mark.parametrize("name", NAMED)
def test_named_step_by_step_is_the_whole(name: str) -> None:
    """Prefill and steps over a chunk's end, with gradients through the states between the calls."""
    _check_split(ragged(problem(NAMED[name].design, 19, heads=1)), [13, *range(14, 19)])


@pytest.mark.parametrize("name", NAMED)
def test_named_decodes_what_it_trains(name: str) -> None:
    """Steps without gradients, over padding, resets and two chunk ends, are the whole; a state that was given is not changed."""
    p = ragged(problem(NAMED[name].design, 35, heads=1))
    with torch.no_grad():
        given = {n: x.clone() for n, x in (p.state or {}).items()}
        (y, state), (z, whole) = _split(p, list(range(1, 35))), slow(p)
    assert gap(y, z) <= tolerance("path")
    for key in (n for n in whole if n.startswith(("state", "momentum"))):
        assert gap(state[key], whole[key]) <= tolerance("path")
    assert all(torch.equal(x, given[n]) for n, x in (p.state or {}).items())


@settings(FEW, max_examples=15)
@given(designs(), st.lists(st.integers(1, 9), max_size=4, unique=True), SEEDS)
def test_drawn_in_pieces_is_the_whole(design: Design, cuts: list[int], seed: int) -> None:
    _check_split(ragged(problem(design, 10, seed=seed), seed), sorted(cuts))


@pytest.mark.slow
@MANY
@given(designs(), st.lists(st.integers(1, 13), max_size=6, unique=True), SEEDS)
def test_many_drawn_in_pieces_are_the_whole(design: Design, cuts: list[int], seed: int) -> None:
    _check_split(ragged(problem(design, 14, seed=seed), seed), sorted(cuts))


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (4, 5)])
def test_orthogonalising_a_wide_matrix_is_the_iteration(shape: tuple[int, int]) -> None:
    """The shapes above are too narrow for the form that lifted keys take; one of three matrices has rank one."""
    source = torch.Generator().manual_seed(0)
    m = torch.randn(3, *shape, generator=source, dtype=torch.float64)
    m[0] = m[0, :, :1] * m[0, :1]
    m.requires_grad_()
    weight = torch.randn(m.shape, generator=source, dtype=torch.float64)
    y, z = orthogonalise(m), newton_schulz(m)
    assert gap(y, z) <= tolerance("path")
    a, b = (torch.autograd.grad((x * weight).sum(), m)[0] for x in (y, z))
    assert gap(a, b) <= tolerance("path")


@pytest.mark.parametrize("name", NAMED)
def test_named_is_causal(name: str) -> None:
    """Outputs before a changed token are the same bits, wherever the change falls in a chunk."""
    p = problem(NAMED[name].design, 24, heads=1)
    y, _ = fast(p)
    for t in (1, 9, 16, 23):
        later = torch.arange(24)[None, :, None] >= t

        def shake(x: Tensor, later: Tensor = later) -> Tensor:
            return torch.where(later.view(*later.shape, *[1] * (x.ndim - 3)), 1.7 * x, x)

        changed = replace(p, q=shake(p.q), k=shake(p.k), v=shake(p.v), gates={n: shake(g) for n, g in p.gates.items()})
        z, _ = fast(changed)
        assert gap(z[:, :t], y[:, :t]) <= tolerance("causal")
        assert not torch.equal(z[:, t:], y[:, t:])


@pytest.mark.parametrize("name", NAMED)
def test_padding_and_holes_change_nothing(name: str) -> None:
    """Valid tokens give what they give without the padding, which answers zero and takes no gradient."""
    p = problem(NAMED[name].design, 21, batch=1, heads=1)
    valid = torch.ones(1, 21, dtype=torch.bool)
    valid[0, [0, 1, 5, 11, 12, 20]] = False
    padded = replace(p, valid=valid)

    def keep(x: Tensor) -> Tensor:
        return x[:, valid[0]]

    dense = replace(p, q=keep(p.q), k=keep(p.k), v=keep(p.v), gates={n: keep(g) for n, g in p.gates.items()})
    y, state = fast(padded)
    z, short = fast(dense)
    assert gap(keep(y), z) <= tolerance("path")
    assert not bool(y[:, ~valid[0]].any())
    for key in (n for n in short if n.startswith(("state", "momentum"))):
        assert gap(state[key], short[key]) <= tolerance("path")
    assert not bool(gradients(padded, y, state)["k"][:, ~valid[0]].any())


@pytest.mark.parametrize("name", NAMED)
def test_packed_documents_are_separate_documents(name: str) -> None:
    p = problem(NAMED[name].design, 23, batch=1, heads=1)
    reset = torch.zeros(1, 23, dtype=torch.bool)
    reset[0, [5, 6, 17]] = True
    packed, _ = fast(replace(p, reset=reset))
    alone = [fast(p.part(a, b, None))[0] for a, b in ((0, 5), (5, 6), (6, 17), (17, 23))]
    assert gap(packed, torch.cat(alone, 1)) <= tolerance("path")


def test_a_row_without_a_valid_token_keeps_its_state() -> None:
    for name in ("yaad", "moneta-r", "titans-lmm", "gated-deltanet", "softmax-attention"):
        p = ragged(problem(NAMED[name].design, 6))
        assert p.valid is not None
        assert p.state is not None
        valid = p.valid.clone()
        valid[0] = False
        silent = replace(p, valid=valid)
        check(silent, tolerance("path"))
        y, state = fast(silent)
        assert not bool(y[0].any())
        for key in (n for n in state if n.startswith(("state", "momentum", "frozen"))):
            assert torch.equal(state[key][0], p.state[key][0])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["yaad", "gated-deltanet", "memora-r"])
def test_low_precision(name: str, kind: torch.dtype) -> None:
    """The path computes in at least float32, whatever the inputs, against the reference on the same rounded inputs."""
    p = problem(NAMED[name].design, 21)

    def cast(x: Tensor, to: torch.dtype) -> Tensor:
        return x.detach().to(kind).to(to)

    def at(to: torch.dtype, own: torch.dtype) -> Problem:
        gates = {n: cast(g, own) for n, g in p.gates.items()}
        initial = {n: cast(x, own) for n, x in p.initial.items()}
        return replace(p, q=cast(p.q, to), k=cast(p.k, to), v=cast(p.v, to), gates=gates, initial=initial)

    with torch.no_grad():
        y, state = fast(at(kind, torch.float32))
        expected, _ = slow(at(torch.float64, torch.float64))
    assert y.dtype == kind
    assert state["state_0"].dtype == torch.float32
    assert gap(y.double(), expected) <= tolerance(str(kind).removeprefix("torch."))


def test_second_derivatives_are_refused_not_wrong() -> None:
    p = problem(NAMED["yaad"].design, 5)
    y, _ = fast(p)
    (g,) = torch.autograd.grad(y.square().sum(), p.k, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.square().sum().backward()


def test_inputs_are_not_changed() -> None:
    for name in NAMED:
        p = ragged(problem(NAMED[name].design, 9))
        before = {n: x.detach().clone() for n, x in p.leaves.items()}
        for run in (fast, slow):
            run(p)
            assert all(torch.equal(x, before[n]) for n, x in p.leaves.items())


@pytest.mark.parametrize("name", ["yaad-r", "memora", "gated-deltanet", "mesanet"])
def test_autocast_changes_nothing_inside_the_memory(name: str) -> None:
    """The same bits, forward, backward called inside autocast, and a step of decoding."""
    exact = ragged(problem(NAMED[name].design, 21, batch=2, heads=1))
    state = (
        None if exact.state is None else {n: s.float() if s.is_floating_point() else s for n, s in exact.state.items()}
    )
    gates, initial = ({n: x.detach().float() for n, x in group.items()} for group in (exact.gates, exact.initial))
    q, k, v = (x.detach().float().requires_grad_() for x in (exact.q, exact.k, exact.v))
    p = replace(exact, q=q, k=k, v=v, gates=gates, initial=initial, state=state)

    def run(half: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y, after = fast(p)
            found = [y, *torch.autograd.grad(y.square().sum(), [q, k, v])]
            with torch.no_grad():
                found.append(fast(p.part(20, 21, after))[0])
        return found

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


@pytest.mark.parametrize("time", [33, 48, 50])
def test_a_window_in_blocks_is_the_window(time: int) -> None:
    """Rows longer than two windows take another way, which must be the reference's too."""
    design = NAMED["sliding-window-attention"].design.model_copy(update={"memory": Cache(window=16)})
    check(problem(design, time, batch=2), tolerance("path"))
