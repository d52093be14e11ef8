"""What every variant promises, for all that are registered and all combinations of their options."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from strategies import grid, words
from tolerances import tolerance
from torch import Tensor

from miras_search import op
from miras_search.algorithm import GradientDescent
from miras_search.bias import Bias
from miras_search.choice import Choice, variants
from miras_search.codegen.dialect import TORCH
from miras_search.codegen.lower import Lowered, lower
from miras_search.design import Design
from miras_search.errors import DesignError
from miras_search.memory import GatedMlp, Memory, Mlp
from miras_search.reference import Xp
from miras_search.retention import Bregman, Chi2, ElasticNet, Kl, L2Retention, Lq, NoRetention, Retention, Sphere
from miras_search.rules import refusals


def every(role: str) -> list[Any]:
    """All variants of a role with all their options, `auto` resolved, equal ones once."""
    found: dict[str, Choice] = {}
    for cls in variants(role).values():
        for raw in grid(cls):
            resolved = [raw]
            if isinstance(raw, Bias):
                resolved = [raw.canonical(True), raw.canonical(False)]
            if isinstance(raw, Memory):
                resolved = [raw.canonical(True), raw.canonical(False)]
            found |= {words(c): c for c in resolved}
    return [pytest.param(c, id=name) for name, c in found.items()]


BIASES, RETENTIONS, MEMORIES = every("bias"), every("retention"), every("memory")
PARAMETRIC = [p for p in MEMORIES if p.values[0].parametric]


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers with a gradient."""
    source = torch.Generator().manual_seed(seed + sum(shape))
    return (scale * torch.randn(*shape, generator=source, dtype=torch.float64)).to(dtype).requires_grad_()


def near(a: Tensor, b: Tensor, name: str) -> None:
    """Equal up to a named tolerance, relative to the largest entry."""
    gap = float((a - b).detach().abs().max())
    assert gap <= tolerance(name) * max(1.0, float(b.detach().abs().max())), gap


def pulled(out: Tensor, leaves: list[Tensor], d: Tensor) -> list[Tensor]:
    """Autograd's pull-back, zeros where nothing depends."""
    if not out.requires_grad:
        return [torch.zeros_like(x) for x in leaves]
    grads = torch.autograd.grad(out, leaves, d, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]


# --- attentional biases


@pytest.mark.parametrize(
    "bias", [p for p in BIASES if p.values[0].has_loss]
)  # a surrogate's cotangent is its definition
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_phi_is_the_gradient_of_the_loss(bias: Bias, scale: float) -> None:
    r, v, delta = draw(20, 6, scale=scale), draw(20, 6, seed=1), draw(20, 1, seed=2).exp()
    (expected,) = pulled(bias.loss(Xp, r, v, delta), [r], torch.ones(20, 1, dtype=r.dtype))
    near(bias.phi(Xp, r, v, delta), expected, "formula")


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_phi_vjp_is_the_derivative_of_phi(bias: Bias, scale: float) -> None:
    r, v, delta, d = draw(20, 6, scale=scale), draw(20, 6, seed=1), draw(20, 1, seed=2), draw(20, 6, seed=3)
    delta = delta.exp().detach().requires_grad_()
    expected = pulled(bias.phi(Xp, r, v, delta), [r, v, delta], d)
    given = bias.phi_vjp(Xp, r, v, delta, d)
    for a, b in zip(given, expected, strict=True):
        assert a.shape == b.shape
        near(a, b, "formula")


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e3])
def test_finite_in_float32(bias: Bias, size: float) -> None:
    r = torch.full((2, 64), size, requires_grad=True)
    v, delta, d = torch.randn(2, 64, requires_grad=True), torch.ones(2, 1, requires_grad=True), torch.ones(2, 64)
    out = bias.phi(Xp, r, v, delta)
    found = [out, *bias.phi_vjp(Xp, r, v, delta, d), *pulled(out, [r, v, delta], d)]
    if bias.has_loss:
        found.append(bias.loss(Xp, r, v, delta))
    assert all(bool(x.isfinite().all()) for x in found)


@pytest.mark.parametrize("bias", BIASES)
def test_bias_flags_are_true(bias: Bias) -> None:
    r, v, delta = draw(8, 6), draw(8, 6, seed=1), draw(8, 1, seed=2).exp()
    out = bias.phi(Xp, r, v, delta)
    low, high = torch.full_like(delta, 0.1), torch.full_like(delta, 0.2)
    base = bias.phi(Xp, r, v, low)
    to_r = float((bias.phi(Xp, draw(8, 6, seed=4), v, low) - base).detach().abs().max())
    to_delta = float((bias.phi(Xp, r, v, high) - base).detach().abs().max())
    assert bias.state_free == (to_r == 0.0)
    assert bias.thresholded == (to_delta > 0.0)
    assert bias.quadratic == (bias.has_loss and torch.equal(out, r))
    if bias.quadratic:
        near(bias.loss(Xp, r, v, delta), 0.5 * (r * r).sum(-1, keepdim=True), "identity")
    far = [float(bias.phi(Xp, c * r, v, delta).detach().norm()) for c in (1e3, 1e5)]
    growth = math.log(far[1] / far[0]) / math.log(100.0)
    assert bias.superlinear == (growth > 1.0 + 1e-6), growth


# --- retention gates


@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 10.0])
def test_psi_vjp_is_the_derivative_of_psi(retention: Retention, scale: float) -> None:
    s, d = draw(2, 3, 5, 4, scale=scale), draw(2, 3, 5, 4, seed=1)
    (expected,) = pulled(retention.psi(Xp, s), [s], d)
    given = retention.psi_vjp(Xp, s, d)
    gap = float((given - expected).detach().abs().max() / expected.detach().abs().max().clamp_min(1e-30))
    assert gap <= tolerance("formula")


@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e3])
def test_psi_is_finite_in_float32(retention: Retention, size: float) -> None:
    s = (torch.randn(64, 64) * size).requires_grad_()
    w = retention.psi(Xp, s)
    found = [w, retention.psi_vjp(Xp, s, torch.ones_like(s)), *pulled(w, [s], torch.ones_like(s))]
    assert all(bool(x.isfinite().all()) for x in found)


@pytest.mark.parametrize("retention", RETENTIONS)
def test_retention_flags_are_true(retention: Retention) -> None:
    s = draw(2, 5, 4).detach()
    assert retention.linear == torch.equal(retention.psi(Xp, s), s) or retention.canonical().linear
    assert (retention.klass == "feedback") != torch.equal(retention.feedback(Xp, s), s)
    assert (retention.klass == "multiplicative") == (type(retention).update is not Retention.update)
    if retention.linear:
        assert retention.klass == "dual", "a chunk of an identity map is taken for dual"
    if retention.scaling:
        scale = retention.scale(Xp, s)  # type: ignore[attr-defined]
        assert scale.shape == (2, 1, 1)
        near(retention.psi(Xp, s), s * scale, "identity")
        leaf, d = s.clone().requires_grad_(), draw(2, 1, 1).detach()
        p = retention.power_sum(Xp, leaf)  # type: ignore[attr-defined]
        again = retention.scale_of(Xp, p)  # type: ignore[attr-defined]
        near(again, scale, "identity")
        (expected,) = pulled(again, [leaf], d)
        near(retention.scale_vjp(Xp, s, p.detach(), d), expected, "formula")  # type: ignore[attr-defined]
    if retention.sharing:
        leaf, d = s.clone().requires_grad_(), draw(2, 5, 4).detach()
        share = retention.share(Xp, leaf)  # type: ignore[attr-defined]
        near(retention.psi(Xp, s), retention.mass(Xp, s) * share, "identity")  # type: ignore[attr-defined]
        (expected,) = pulled(share, [leaf], d)
        near(retention.share_vjp(Xp, share.detach(), d), expected, "formula")  # type: ignore[attr-defined]
    if retention.gated == "none":
        assert "bias" not in type(retention).model_fields, "a gate's initial logit without a gate"


@pytest.mark.parametrize("retention", RETENTIONS)
def test_initial_state_is_random_and_of_fan_in_scale(retention: Retention) -> None:
    z = draw(64, 64)
    s = retention.initial(Xp, z)
    w = retention.psi(Xp, s).detach()
    assert bool(s.isfinite().all())
    assert float(w.std(0).min()) > 0.0, "all rows equal: hidden units would be identical"
    if isinstance(retention, (Kl, Chi2)) and not getattr(retention, "signed", False):
        dims = {"row": (-1,), "column": (-2,), "matrix": (-2, -1)}[retention.axis]
        size = 64 ** len(dims)
        sums = w.sum(dims)
        near(sums, torch.full_like(sums, retention.scale * size**retention.exponent), "identity")
        return
    if isinstance(retention, Kl) or (isinstance(retention, Lq) and retention.scaling and abs(retention.q - 3.0) < 0.5):
        return  # the scale of W is the map's own: c, or that of a map of degree near zero
    own = (
        isinstance(retention, Bregman) and retention.map == "sigmoid"
    )  # positive weights, log-normal at their small end
    assert float(w.std()) * 8.0 == pytest.approx(1.0, rel=0.1 if own else 0.05)


MIRRORS = [p for p in RETENTIONS if p.values[0].has_potential]


@pytest.mark.parametrize("retention", MIRRORS)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 10.0])
def test_psi_is_the_gradient_of_the_conjugate(retention: Retention, scale: float) -> None:
    """So that W = psi(S) is the argmin of F(W) - <S, W>, with F the conjugate of F*."""
    s = draw(3, 5, 4, scale=scale)
    (expected,) = pulled(retention.conjugate(Xp, s), [s], torch.ones(3, 1, 1, dtype=s.dtype))
    near(retention.psi(Xp, s), expected, "formula")


@pytest.mark.parametrize("retention", MIRRORS)
def test_the_local_gate_is_a_premetric(retention: Retention) -> None:
    """D_F(W, W') = F*(S') - F*(S) - <W, S' - S> is never negative, and zero just where W = W'."""
    s, far = draw(200, 5, 4).detach(), 2.0 * draw(200, 5, 4, seed=1).detach()
    for other in (far, s + 1e-2 * far, s + 0.5):  # the last moves no weight of a simplex
        w = retention.psi(Xp, s)
        moved = (retention.psi(Xp, other) - w).abs().amax((-2, -1))
        gap = (
            retention.conjugate(Xp, other) - retention.conjugate(Xp, s) - (w * (other - s)).sum((-2, -1), keepdim=True)
        )
        assert float(gap.min()) > -tolerance("identity")
        assert bool((gap.flatten() > 0.0)[moved > 1e-3].all())
        assert bool((gap.flatten().abs() < tolerance("identity"))[moved < 1e-14].all())


def _primal(retention: Retention, w: Tensor) -> Tensor:
    """F(W) as the docstrings give it, where it has a closed form: written anew, on the primal side."""
    if isinstance(retention, (Kl, Chi2)):
        return (w * w.log()).sum((-2, -1))
    if isinstance(retention, Bregman):
        u = w / retention.scale
        if retention.map == "sigmoid":
            return retention.scale * (u * u.log() + (1.0 - u) * (1.0 - u).log()).sum((-2, -1))
        return retention.scale * 0.5 * ((1.0 + u) * (1.0 + u).log() + (1.0 - u) * (1.0 - u).log()).sum((-2, -1))
    if isinstance(retention, ElasticNet):
        return (0.5 * w * w + retention.threshold * w.shape[-1] ** -0.5 * w.abs()).sum((-2, -1))
    if isinstance(retention, Sphere):
        return torch.zeros(w.shape[:-2], dtype=w.dtype)  # inside the ball of this radius
    return 0.5 * (w * w).sum((-2, -1))


@pytest.mark.parametrize(
    "retention", [p for p in MIRRORS if not isinstance(p.values[0], Lq) and not getattr(p.values[0], "signed", False)]
)
def test_a_mirror_map_solves_its_own_argmin(retention: Retention) -> None:
    """F(W) - <S, W> at W = psi(S) against 400 other points of the domain, far and near."""
    s = draw(5, 4).detach()
    others = s + torch.cat([draw(200, 5, 4, seed=1), 0.05 * draw(200, 5, 4, seed=2)]).detach()
    best, rest = (
        _primal(retention, w) - (s * w).sum((-2, -1)) for w in (retention.psi(Xp, s), retention.psi(Xp, others))
    )
    assert float((rest - best).min()) > (-1e-5 if isinstance(retention, Sphere) else 0.0)  # the norm has a floor


@pytest.mark.parametrize("axis", ["row", "column", "matrix"])
def test_a_step_of_chi2_solves_its_own_argmin(axis: Any) -> None:
    """<g, W> + D(W, W') / eta over the simplex, D = 1/2 sum (W - W')^2 / W', against other points of it."""
    retention, eta = Chi2(axis=axis, scale=3.0), 0.1
    s, g = draw(5, 4).detach(), draw(5, 4, seed=1).detach()
    before = retention.psi(Xp, s)
    step = retention.psi(Xp, retention.update(Xp, s, 1.0, eta * g))
    others = retention.psi(Xp, s + torch.cat([draw(300, 5, 4, seed=2), 0.05 * draw(300, 5, 4, seed=3)]).detach())

    def cost(w: Tensor) -> Tensor:
        return (g * w + 0.5 * (w - before).square() / before / eta).sum((-2, -1))

    assert float((cost(others) - cost(step)).min()) > 0.0
    assert float((step - before).abs().max()) > 0.01


def test_chi2_is_the_kl_gate_to_first_order_and_is_clipped() -> None:
    s, g = draw(5, 4).detach(), draw(5, 4, seed=1).detach()
    small = 1e-6
    moved = [gate.psi(Xp, x) for gate, x in ((Chi2(), Chi2().update(Xp, s, 1.0, small * g)), (Kl(), s - small * g))]
    near((moved[0] - moved[1]) / small, torch.zeros_like(s), "differences")
    share = Chi2(clip=0.1).psi(Xp, Chi2(clip=0.1).update(Xp, s, 1.0, 1e6 * g))
    assert bool(share.isfinite().all())
    assert bool((share > 0).all())


def test_elastic_net_in_its_two_forms() -> None:
    """Eq 22 as an argmin, of one step, and that it is not Eq 23."""
    local, ftrl = ElasticNet(form="local", threshold=0.4), ElasticNet(threshold=0.4)
    tau = 0.4 * 4**-0.5
    s, g = draw(5, 4).detach(), draw(5, 4, seed=1).detach()
    before = local.psi(Xp, s)
    after = local.psi(Xp, 0.9 * local.feedback(Xp, s) - 0.3 * g)
    others = after + 0.3 * draw(400, 5, 4, seed=2).detach()

    def cost(w: Tensor) -> Tensor:
        return (0.5 * (w - (0.9 * before - 0.3 * g)).square() + tau * w.abs()).sum((-2, -1))

    assert float((cost(others) - cost(after)).min()) > 0.0
    assert bool((after == 0.0).any())
    assert not torch.allclose(after, ftrl.psi(Xp, 0.9 * s - 0.3 * g))


def test_a_sphere_keeps_the_norm_of_its_rows() -> None:
    s = draw(3, 5, 4).detach()
    retention = Sphere(radius=2.0, eps=1e-9)
    near(retention.psi(Xp, s).norm(dim=-1), torch.full((3, 5), 2.0, dtype=s.dtype), "identity")


@pytest.mark.parametrize("norm", ["sum", "mean"])
@pytest.mark.parametrize("q", [2.5, 3.0, 4.0, 6.0])
def test_lq_mirror_solves_its_own_argmin(q: float, norm: Any) -> None:
    """W = argmin F(W) - <S, W> with F the conjugate of ||S||_q^2 / (2 (q - 1)): stationarity, grad F(W) = S."""
    retention = Lq(q=q, map="mirror", norm=norm, eps=1e-6)
    s = draw(5, 4).detach() + 0.5 * draw(5, 4).detach().sign()
    w = retention.psi(Xp, s).detach().requires_grad_()
    p = q / (q - 1.0)
    total = w.abs().pow(p).sum().pow(2.0 / p)
    size = s.numel() if norm == "mean" else 1
    potential = 0.5 * (q - 1.0) * total * size ** (-(q - 2.0) / q)
    (back,) = torch.autograd.grad(potential, w)
    near(back, s, "argmin")


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_kl_solves_its_own_argmin(exponent: float) -> None:
    """W = argmin sum W log W - <S, W> over rows of sum c: the gradient is constant along a row."""
    retention = Kl(scale=0.7, exponent=exponent)
    s = draw(5, 4)
    w = retention.psi(Xp, s).detach().requires_grad_()
    (slope,) = torch.autograd.grad((w * w.log() - s.detach() * w).sum(), w)
    assert bool((w > 0).all())
    near(w.sum(-1), torch.full((5,), 0.7 * 4**exponent, dtype=w.dtype), "identity")
    near(slope, slope.mean(-1, keepdim=True).expand_as(slope), "identity")


def test_kl_signed_is_odd_and_its_two_simplices_are_opposite() -> None:
    s = draw(5, 4)
    signed, plain = Kl(signed=True), Kl()
    near(signed.psi(Xp, -s), -signed.psi(Xp, s), "identity")
    near(signed.psi(Xp, s), plain.psi(Xp, s) - plain.psi(Xp, -s), "identity")


@pytest.mark.parametrize("norm", ["sum", "mean"])
@pytest.mark.parametrize("q", [2.0, 3.0, 4.0, 5.5])
def test_lq_degrees(q: float, norm: Any) -> None:
    """printed: degree 3 - q; mirror: degree 1; both the identity at q = 2."""
    s = draw(5, 4).detach()
    for form, degree in (("printed", 3.0 - q), ("mirror", 1.0)):
        retention = Lq(q=q, map=form, norm=norm, eps=1e-9)  # type: ignore[arg-type]
        near(retention.psi(Xp, 10.0 * s), 10.0**degree * retention.psi(Xp, s), "argmin")
        if q == 2.0:
            near(retention.psi(Xp, s), s, "identity")
            assert retention.canonical() == L2Retention(bias=retention.bias)


def test_lq_printed_is_equation_24() -> None:
    s = draw(5, 4).detach()
    w = Lq(q=4.0, map="printed", eps=1e-9).psi(Xp, s)
    near(w, s / s.abs().pow(4).sum().pow(0.25) ** 2, "identity")


# --- memories


# Hidden layers of 16 times the width share their code with those of one.
@pytest.mark.parametrize("memory", [p for p in PARAMETRIC if getattr(p.values[0], "expansion", 4) <= 4])
def test_predict_equals_the_skeleton(memory: Memory) -> None:
    dim, heads = 4, 2
    shapes = memory.weights(dim, dim)
    module = op.load(_around(memory))
    assert module.weight_shapes(dim) == shapes
    assert memory.depth_ == len(shapes) > 0
    # Of fan-in scale: standard normal ones would amplify rounding from layer to layer.
    weights = [draw(3, heads, *shape, seed=i, scale=shape[1] ** -0.5) for i, shape in enumerate(shapes)]
    x, scale, shift = draw(3, heads, dim), draw(heads, dim, seed=5), draw(heads, dim, seed=6)
    expected = memory.predict(Xp, weights, x, scale, shift)
    given = module.predict(weights, x[:, :, None], [scale[:, None], shift[:, None]])[:, :, 0]
    near(given, expected, "identity")


@pytest.mark.parametrize("memory", PARAMETRIC)
def test_memory_flags_are_true(memory: Memory) -> None:
    shapes = memory.weights(4, 4)
    weights = [draw(*shape, seed=i).detach() for i, shape in enumerate(shapes)]
    one, zero = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    x = draw(7, 4).detach()
    y = memory.predict(Xp, weights, x, one, zero)
    if memory.linear:
        near(y, x * weights[0][0] if memory.diagonal else x @ weights[0].mT, "identity")
    if memory.inputs_ > 1:  # a branch that answers zero silences the other
        near(
            memory.predict(Xp, [weights[0], 0.0 * weights[1], weights[2]], x, one, zero),
            memory.predict(Xp, [0.0 * weights[0], weights[1], weights[2]], x, one, zero),
            "identity",
        )
    louder = memory.predict(Xp, [*weights[:-1], 2.0 * weights[-1]], x, one, zero)
    skip = x if memory.residual_ else torch.zeros_like(x)
    grown = float((louder - skip).norm() / (y - skip).norm())
    assert grown == pytest.approx(1.0 if memory.normalised else 2.0, rel=1e-3)
    silent = memory.predict(Xp, [0.0 * w for w in weights], x, one, zero)
    near(silent, skip, "identity")
    at_zero = memory.predict(Xp, weights, torch.zeros_like(x), one, zero)
    assert memory.offset_ == bool(at_zero.abs().max() > 0)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_memory_has_weights_or_grows(memory: Memory) -> None:
    assert memory.parametric == bool(memory.weights(4, 4)) == (memory.depth_ > 0)
    if memory.residual_:
        assert memory.weights(4, 4)[-1][0] == 4


@pytest.mark.parametrize("memory", [Mlp(), Mlp(activation="silu"), GatedMlp()])
def test_activation_derivative(memory: Memory) -> None:
    z = draw(50, scale=3.0)
    (expected,) = pulled(memory.activate(Xp, z), [z], torch.ones_like(z))
    near(memory.activate_grad(Xp, z), expected, "formula")
    (curve,) = pulled(memory.activate_grad(Xp, z), [z], torch.ones_like(z))
    near(memory.activate_curve(Xp, z), curve, "formula")
    near(memory.activate(Xp, z), getattr(torch.nn.functional, memory.activation_)(z), "formula")


def _around(memory: Memory) -> Design:
    """Some valid design with this memory."""
    bias = variants("bias")["l2"](kind="l2")
    return Design(memory=memory, bias=bias, retention=NoRetention(), algorithm=GradientDescent(chunk=3))  # type: ignore[arg-type]


# --- the dialect


FORMULAS: dict[str, dict[str, Callable[[], list[Any]]]] = {
    "bias": {
        "loss": lambda: [draw(3, 4), draw(3, 4, seed=1), draw(3, 1, seed=2).exp()],
        "phi": lambda: [draw(3, 4), draw(3, 4, seed=1), draw(3, 1, seed=2).exp()],
        "phi_vjp": lambda: [draw(3, 4), draw(3, 4, seed=1), draw(3, 1, seed=2).exp(), draw(3, 4, seed=3)],
    },
    "retention": {
        "psi": lambda: [draw(2, 3, 4)],
        "psi_vjp": lambda: [draw(2, 3, 4), draw(2, 3, 4, seed=1)],
        "feedback": lambda: [draw(2, 3, 4)],
        "conjugate": lambda: [draw(2, 3, 4)],
        "update": lambda: [draw(2, 3, 4), draw(2, 1, 1, seed=2).exp(), draw(2, 3, 4, seed=1)],
        "initial": lambda: [draw(2, 3, 4)],
        "scale": lambda: [draw(2, 3, 4)],
    },
}


def _defined(choice: Any, method: str) -> bool:
    """Whether the variant has this formula."""
    if method == "update":
        return bool(choice.klass == "multiplicative")
    return method not in ("loss", "conjugate") or bool(choice.has_loss if method == "loss" else choice.has_potential)


@pytest.mark.parametrize(
    ("choice", "method"),
    [
        pytest.param(p.values[0], method, id=f"{p.id}-{method}")
        for p in [*BIASES, *RETENTIONS]
        for method in FORMULAS[p.values[0].role]
        if callable(getattr(p.values[0], method, None)) and _defined(p.values[0], method)
    ],
)
def test_lowered_formula_equals_the_method(choice: Choice, method: str) -> None:
    """Every formula keeps to the dialect, and its text in torch is the function that the reference runs."""
    lowered = lower(choice, method)
    assert list(lowered.functions)[-1] == f"{choice.role}_{method}"
    namespace: dict[str, Any] = {"torch": torch, **lowered.numbers}
    exec("\n\n".join(lowered.functions.values()), namespace)
    arguments = FORMULAS[choice.role][method]()
    given = namespace[f"{choice.role}_{method}"](*arguments)
    expected = getattr(choice, method)(Xp, *arguments)
    both = zip(given, expected, strict=True) if isinstance(given, tuple) else [(given, expected)]
    for a, b in both:
        near(a, b, "identity")


class _Foreign(Bias):
    """A formula outside the dialect."""

    kind: str = "foreign"

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return xp.log2(r)


def test_a_foreign_function_is_refused_by_name() -> None:
    with pytest.raises(DesignError, match=r"_Foreign calls xp\.log2, which is not in the dialect") as caught:
        lower(_Foreign(kind="foreign"), "phi", into=Lowered())
    assert "row_sum" in str(caught.value)


def test_the_reference_speaks_the_whole_dialect() -> None:
    assert all(hasattr(Xp, word) for word in TORCH)


@pytest.mark.parametrize("role", ["memory", "bias", "retention", "algorithm"])
def test_every_variant_says_what_it_is(role: str) -> None:
    assert variants(role)
    for kind, cls in variants(role).items():
        assert cls.variant() == kind
        assert cls.summary().endswith((".", ":")) or ":" in cls.summary(), f"{kind}: {cls.summary()}"
        assert "=" in (cls.__doc__ or "") or role == "algorithm", f"{kind} has no equation"


def test_grids_contain_valid_designs_only_by_refusal() -> None:
    """Nothing but `refusals` keeps four resolved choices apart."""
    for p in PARAMETRIC[:4]:
        assert refusals(p.values[0], variants("bias")["l2"](kind="l2"), NoRetention(), GradientDescent()) == []  # type: ignore[arg-type]
