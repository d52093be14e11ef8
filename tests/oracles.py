"""Implementations of the named designs that share no code with ours.

Where flash-linear-attention has a naive recurrence, it is that (differentiable, so that every gradient is compared). For the
others, a recurrence in numpy with derivatives by hand, from the papers' formulas; its gradients are central differences.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from problems import Problem, problem
from torch import Tensor
from torch.overrides import TorchFunctionMode

from miras_search.memory import Cache
from miras_search.named import NAMED

Array = NDArray[np.float64]
CHUNK = 16


class Float64(TorchFunctionMode):
    """Turns every cast to float32 into one to float64: the naive recurrences compute in float32 by their own casts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        if func is torch.zeros and "dtype" not in (kwargs or {}):
            return func(*args, **(kwargs or {}), dtype=torch.float64)
        wide = [torch.float64 if a is torch.float32 else a for a in args]
        return func(*wide, **{k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()})


@dataclass(frozen=True)
class Case:
    """A problem, what gradients are compared for, and the other implementation of its outputs."""

    problem: Problem
    leaves: dict[str, Tensor]
    other: Callable[[], Tensor]
    source: str


def fla(module: str, name: str) -> Callable[..., Any]:
    """A function of flash-linear-attention; its import warns where there is no GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(__import__(f"fla.ops.{module}.naive", fromlist=[name]), name)  # type: ignore[no-any-return]


def _heads_first(*tensors: Tensor) -> list[Tensor]:
    return [x.transpose(1, 2).clone() for x in tensors]


def linear_attention() -> Case:
    """fla.ops.linear_attn.naive.naive_recurrent_linear_attn; step 1 is theirs, so eta scales the values."""
    p = problem(NAMED["linear-attention"].design, 37)
    run = fla("linear_attn", "naive_recurrent_linear_attn")

    def other() -> Tensor:
        y, _ = run(p.q, p.k, p.v * p.gates["eta"][..., None], scale=1.0, initial_state=p.initial["state_0"].mT)
        return y  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, "fla linear_attn naive_recurrent")


def retnet() -> Case:
    """fla.ops.retention.naive.naive_retention: its decay 1 - 2^(-5 - head), no initial state."""
    p = problem(NAMED["retnet"].design, 37, heads=3)
    decay = torch.log1p(-(2.0 ** (-5.0 - torch.arange(3, dtype=torch.float64))))
    gates = p.gates | {"log_alpha": decay.expand(p.gates["eta"].shape)}
    p = replace(p, gates=gates, initial={"state_0": torch.zeros_like(p.initial["state_0"])})
    run = fla("retention", "naive_retention")

    def other() -> Tensor:
        q, k, v = _heads_first(p.q * p.q.shape[-1] ** 0.5, p.k, p.v * p.gates["eta"][..., None])
        return run(q, k, v).transpose(1, 2)  # type: ignore[no-any-return]

    return Case(p, {n: p.leaves[n] for n in ("q", "k", "v", "eta")}, other, "fla retention naive")


def lightning_attention() -> Case:
    """fla.ops.simple_gla.naive.naive_recurrent_simple_gla with the slopes of ALiBi, as the authors' code has them."""
    p = problem(NAMED["lightning-attention"].design, 37, heads=4)
    slopes = torch.tensor([2.0 ** (-2.0 * (head + 1)) for head in range(4)], dtype=torch.float64)
    p = replace(p, gates=p.gates | {"log_alpha": -slopes.expand(p.gates["eta"].shape)})
    run = fla("simple_gla", "naive_recurrent_simple_gla")

    def other() -> Tensor:
        x, start = p.v * p.gates["eta"][..., None], p.initial["state_0"].mT
        return run(p.q, p.k, x, p.gates["log_alpha"], scale=1.0, initial_state=start)[0]  # type: ignore[no-any-return]

    return Case(p, {n: x for n, x in p.leaves.items() if n != "log_alpha"}, other, "fla simple_gla naive_recurrent")


def mamba2() -> Case:
    """The torch path of transformers' Mamba2 (its decorated function goes to a GPU kernel): B is the key, C the query.

    dt scales the values and, times A, is the logarithm of the decay: with dt = eta, A_t = log alpha_t / eta_t.
    """
    from transformers.models.mamba2 import modeling_mamba2

    p = problem(NAMED["mamba2"].design, 37)
    scan = modeling_mamba2.mamba2_chunk_scan.__wrapped__

    def other() -> Tensor:
        dt, start = p.gates["eta"], p.initial["state_0"].expand(2, -1, -1, -1)
        a = p.gates["log_alpha"] / dt
        return scan(p.v, dt, a, p.k, p.q, 8, initial_states=start)  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, "transformers mamba2_chunk_scan (torch, chunk 8)")


def gla(name: str) -> Case:
    """fla.ops.gla.naive.naive_recurrent_gla; for hgrn2 with the key that it makes of the gate, 1 - alpha."""
    p = problem(NAMED[name].design, 37)
    if NAMED[name].design.algorithm.tied:
        p = replace(p, k=(1.0 - p.gates["log_alpha"].exp()).detach().requires_grad_())
    run = fla("gla", "naive_recurrent_gla")

    def other() -> Tensor:
        q, x, start = p.q * p.q.shape[-1] ** 0.5, p.v * p.gates["eta"][..., None], p.initial["state_0"].mT
        return run(q, p.k, x, p.gates["log_alpha"], initial_state=start)[0]  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, "fla gla naive_recurrent")


def deltanet() -> Case:
    """fla.ops.delta_rule.naive.delta_rule_recurrence."""
    p = problem(NAMED["deltanet"].design, 37)
    run = fla("delta_rule", "delta_rule_recurrence")

    def other() -> Tensor:
        q, k, v, beta = _heads_first(p.q * p.q.shape[-1] ** 0.5, p.k, p.v, p.gates["eta"])
        return run(q, k, v, beta, initial_state=p.initial["state_0"].mT)[0].transpose(1, 2)  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, "fla delta_rule recurrence")


def gated_deltanet() -> Case:
    """fla.ops.gated_delta_rule.naive.naive_recurrent_gated_delta_rule."""
    p = problem(NAMED["gated-deltanet"].design, 37)
    run = fla("gated_delta_rule", "naive_recurrent_gated_delta_rule")

    def other() -> Tensor:
        start = p.initial["state_0"].mT.expand(2, -1, -1, -1)
        y, _ = run(p.q, p.k, p.v, p.gates["eta"], p.gates["log_alpha"], scale=1.0, initial_state=start)
        return y  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, "fla gated_delta_rule naive_recurrent")


def ttt_linear() -> Case:
    """fla.ops.ttt.naive.ttt_linear, which scales q in place, takes the reader's step for the writer's, and adds W q, not q.

    So: clones, one step a mini-batch, and its state after every token (a mini-batch cut short), read with the paper's
    x + LN(W x + b).
    """
    p = problem(NAMED["ttt-linear"].design, 2 * CHUNK)
    step = p.gates["eta"].detach()[:, ::CHUNK].clone().requires_grad_()
    p = replace(p, gates={"eta": step.repeat_interleave(CHUNK, 1)})
    weight, bias = p.initial["norm_weight"], p.initial["norm_bias"]
    run = fla("ttt", "ttt_linear")

    def other() -> Tensor:
        start = p.initial["state_0"].mT
        w, b = (x.expand(2, *x.shape) for x in (start[:, :-1], start[:, -1:]))
        answers = []
        for first in range(0, 2 * CHUNK, CHUNK):
            for t in range(first + 1, first + CHUNK + 1):
                q, k, v, eta = _heads_first(*(x[:, first:t] for x in (p.q, p.k, p.v, p.gates["eta"][..., None])))
                _, now_w, now_b = run(q, k, v, weight, bias, eta, 1.0, 1e-6, t - first, w, b, True)
                x = p.q[:, t - 1, :, None]
                z = torch.nn.functional.layer_norm(x @ now_w + now_b, x.shape[-1:], eps=1e-6)
                answers.append((x + z * weight[:, None] + bias[:, None])[:, :, 0])
            w, b = now_w, now_b
        return torch.stack(answers, 1)

    return Case(p, p.leaves | {"eta": step}, other, "fla ttt naive (its writes; the paper's read)")


def rwkv7() -> Case:
    """fla.ops.generalized_delta_rule.dplr.naive.dplr_recurrence, S = S (Diag(w) + alpha beta') + v k': alpha the key, read."""
    p = problem(NAMED["rwkv7"].design, 37)
    run = fla("generalized_delta_rule.dplr", "dplr_recurrence")

    def other() -> Tensor:
        scaled, written = p.q * p.q.shape[-1] ** 0.5, p.v * p.gates["eta"][..., None]
        q, k, v, a, b, g = _heads_first(scaled, p.k, written, p.k, -p.gates["erase"] * p.k, p.gates["log_alpha"])
        return run(q, k, v, a, b, g, initial_state=p.initial["state_0"].mT)[0].transpose(1, 2)  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, "fla generalized_delta_rule dplr_recurrence")


def deltaproduct() -> Case:
    """fla.ops.gated_delta_product.naive.naive_recurrent_gated_delta_product."""
    p = problem(NAMED["deltaproduct"].design, 37)
    run = fla("gated_delta_product", "naive_recurrent_gated_delta_product")

    def flat(x: Tensor) -> Tensor:
        """`[B, T, H, n, ...]` -> `[B, T n, H, ...]`."""
        return x.transpose(2, 3).flatten(1, 2)

    def other() -> Tensor:
        k, v, beta = (flat(x) for x in (p.k, p.v, p.gates["eta"]))
        start = p.initial["state_0"].mT.expand(2, -1, -1, -1)
        y, _ = run(p.q, k, v, None, beta, 1.0, initial_state=start, num_householder=p.k.shape[3])
        return y  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, "fla gated_delta_product naive_recurrent")


def mesanet() -> Case:
    """fla.ops.mesa_net.naive.naive_mesa_net_exact, which needs values as wide as keys."""
    p = problem(NAMED["mesanet"].design, 37)
    dim = p.k.shape[-1]
    start = p.initial["state_0"][:, :dim].detach().requires_grad_()
    p = replace(p, v=p.v[..., :dim].detach().requires_grad_(), initial=p.initial | {"state_0": start})
    run = fla("mesa_net", "naive_mesa_net_exact")

    def other() -> Tensor:
        kv = p.initial["state_0"].mT.expand(2, -1, -1, -1)
        y, _, _ = run(p.q, p.k, p.v, p.gates["log_alpha"], p.initial["ridge"], p.gates["eta"], torch.zeros_like(kv), kv)
        return y  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, "fla mesa_net naive_exact")


def longhorn() -> Case:
    """arXiv 2407.14207, the minimiser itself: (W_{t-1} + eta v k') (I + eta k k')^-1, by numpy's solver."""
    p = problem(NAMED["longhorn"].design, 37)

    def forward(given: Mapping[str, Array]) -> Array:
        q, k, v, eta = (given[n].swapaxes(1, 2) for n in ("q", "k", "v", "eta"))
        w = np.broadcast_to(given["state_0"], (len(q), *given["state_0"].shape))
        answers = []
        for t in range(q.shape[2]):
            step = eta[:, :, t, None, None]
            target = w + step * v[:, :, t, :, None] * k[:, :, t, None, :]
            curvature = np.eye(k.shape[-1]) + step * k[:, :, t, :, None] * k[:, :, t, None, :]
            w = np.linalg.solve(curvature, target.swapaxes(-1, -2)).swapaxes(-1, -2)
            answers.append(np.einsum("bhvk,bhk->bhv", w, q[:, :, t]))
        return np.stack(answers, 1)

    return _numerical(p, forward, "numpy, arXiv 2407.14207: argmin eta ||W k - v||^2 + ||W - W'||^2, solved")


def decaying_fast_weights() -> Case:
    """arXiv 2210.04243: every entry of the matrix decays by the product of its row's and its column's gate."""
    p = problem(NAMED["decaying-fast-weights"].design, 37)

    def forward(given: Mapping[str, Array]) -> Array:
        dim = given["k"].shape[-1]
        gate = np.exp(given["log_alpha"])
        decay = np.einsum("bthv,bthk->bthvk", gate[..., dim:], gate[..., :dim])
        write = np.einsum("bth,bthv,bthk->bthvk", given["eta"], given["v"], given["k"])
        w = np.broadcast_to(given["state_0"], write[:, 0].shape)
        answers = []
        for t in range(write.shape[1]):
            w = decay[:, t] * w + write[:, t]
            answers.append((w * given["q"][:, t, :, None]).sum(-1))
        return np.stack(answers, 1)

    return _numerical(p, forward, "numpy, arXiv 2210.04243: W = (z f') * W + v k'")


def muon(n: Array) -> Array:
    """Newton-Schulz by what it does to singular values: the quintic, five times, of those of N over its norm."""
    left, s, right = np.linalg.svd(n / np.sqrt((n * n).sum((-2, -1), keepdims=True) + 1e-14), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return (left * s[..., None, :]) @ right  # type: ignore[no-any-return]


def omega(name: str) -> Case:
    """arXiv 2505.23735: the Omega rule at weights frozen for 16 tokens, on a linear memory; atlas orthogonalises its momentum."""
    design = NAMED[name].design
    p, span = problem(design, CHUNK + 5, batch=1), design.bias.window

    def forward(given: Mapping[str, Array]) -> Array:
        q, k, v = (np.swapaxes(given[n], 1, 2) for n in ("q", "k", "v"))
        eta, gamma, alpha = (np.swapaxes(x, 1, 2) for x in (given["eta"], given["gamma"], np.exp(given["log_alpha"])))
        w = np.broadcast_to(given["state_0"], (len(q), *given["state_0"].shape))
        n = np.zeros_like(w)
        answers = []
        for t in range(q.shape[2]):
            if t % CHUNK == 0:
                frozen = w
            i = slice(max(0, t - span + 1), t + 1)
            error = gamma[:, :, i, None] * (np.einsum("bhvk,bhik->bhiv", frozen, k[:, :, i]) - v[:, :, i])
            g = np.einsum("bhiv,bhik->bhvk", error, k[:, :, i])
            step, kept = eta[:, :, t, None, None], alpha[:, :, t, None, None]
            if "log_mu" in given:
                n = np.exp(given["log_mu"][:, t, :, None, None]) * n - g
                w = kept * w + step * muon(n)
            else:
                w = kept * w - step * g
            answers.append(np.einsum("bhvk,bhk->bhv", w, q[:, :, t]))
        return np.stack(answers, 1)

    rule = "S = mu S - g, W = alpha W + eta NS(S), NS by singular values" if name == "atlas" else "W = alpha W - eta g"
    return _numerical(p, forward, f"numpy, arXiv 2505.23735: g over a window of {span}, {rule}")


def softmax_attention(name: str) -> Case:
    """The formula, with numpy's exponentials and an explicit mask."""
    p = problem(NAMED[name].design, 37)
    memory = NAMED[name].design.memory
    assert isinstance(memory, Cache)
    if memory.window is not None:  # shorter than the sequence
        p = problem(NAMED[name].design.model_copy(update={"memory": Cache(window=8)}), 37)

    def seen(time: int) -> Array:
        return np.tri(time) - (np.tri(time, k=-8) if memory.window is not None else 0.0)

    def forward(given: Mapping[str, Array]) -> Array:
        q, k, v = given["q"], given["k"], given["v"]
        logits = np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
        weight = np.exp(logits - logits.max(-1, keepdims=True)) * seen(q.shape[1])
        return np.einsum("bhts,bshd->bthd", weight / weight.sum(-1, keepdims=True), v)

    window = ", of the last 8 tokens" if memory.window is not None else ""
    return _numerical(p, forward, f"numpy, softmax(q k' / sqrt(d)) v{window}")


# --- memories with layers, in numpy


def gelu(z: Array) -> tuple[Array, Array]:
    """Value and derivative."""
    normal = 0.5 * (1.0 + np.vectorize(math.erf)(z / math.sqrt(2.0)))
    return z * normal, normal + z * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


@dataclass(frozen=True)
class Rule:
    """What a published model writes and how it keeps: its formulas, as printed."""

    phi: Callable[[Array, float], Array]
    psi: Callable[[Array], Array] = lambda a: a
    scale: Callable[[Array], float] | None = None
    """For reads whose normaliser is that of the chunk's start."""
    source: str = ""


def _softmax(a: Array) -> Array:
    e = np.exp(a - a.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)  # type: ignore[no-any-return]


def _square(r: Array, delta: float) -> Array:
    return r


def _norm_huber(r: Array, delta: float) -> Array:
    size = float(np.linalg.norm(r))
    return r if size <= delta else delta * r / size


RULES = {
    "ttt-mlp": Rule(
        _square, source="numpy, arXiv 2407.04620: x + LN(W_2 gelu(W_1 x + b_1) + b_2), gradient at the mini-batch"
    ),
    "titans-lmm": Rule(_square, source="numpy, arXiv 2501.00663 Eq 9-14: S = mu S - eta g, W = alpha W + S"),
    "moneta": Rule(
        lambda r, delta: 3.0 * np.tanh(10.0 * r) * (r * r + 1e-6),
        lambda a: a / np.sqrt(np.sum((a * a + 1e-6) ** 2)),
        source="numpy, arXiv 2504.13173 Eq 24-25: p = 3, A / ||A||_4^2 (floor 1e-3)",
    ),
    "yaad": Rule(
        lambda r, delta: r if np.linalg.norm(r) <= delta else delta * np.tanh(r),
        source="numpy, arXiv 2504.13173 Eq 26, sign as tanh",
    ),
    "memora": Rule(_square, _softmax, source="numpy, arXiv 2504.13173 Eq 27: softmax of rows"),
    "moneta-r": Rule(
        lambda r, delta: r * np.sqrt(r * r + 1e-6),
        scale=lambda a: float(np.mean((a * a + 1e-6) ** 1.5) ** (-1.0 / 3.0)),
        source="numpy: p = 3 smooth, A / mean(|A|^3)^(1/3), lagged",
    ),
    "yaad-r": Rule(_norm_huber, source="numpy, arXiv 2504.13173 Eq 15"),
    "memora-r": Rule(
        _square,
        lambda a: 0.5 * math.sqrt(a.shape[1]) * (_softmax(a) - _softmax(-a)),
        source="numpy: signed simplex of rows",
    ),
}


def _recurrence(rule: Rule, given: Mapping[str, Array]) -> Array:
    """One row and head: q, k, v `[T, D]`, gates `[T]`, `state_i` `[out, in (+ 1)]`, affine `[D]`."""
    gamma, beta = given["norm_weight"], given["norm_bias"]
    dim = given["k"].shape[1]
    shift = given["state_0"].shape[1] - dim  # 1 with additive biases in the last column

    def layers(w: list[Array], x: Array) -> tuple[Array, Array, Array, Array, float]:
        one = np.ones(shift)
        z = w[0] @ np.concatenate([x, one])
        h = np.concatenate([gelu(z)[0], one])
        o = w[1] @ h
        spread = 1.0 / math.sqrt(float(np.var(o)) + 1e-6)
        unit = (o - o.mean()) * spread
        return x + unit * gamma + beta, z, h, unit, spread

    a = [given["state_0"], given["state_1"]]
    n = [np.zeros_like(x) for x in a]
    answers = []
    for t in range(len(given["k"])):
        if t % CHUNK == 0:
            scales = [rule.scale(x) for x in a] if rule.scale else [1.0, 1.0]
            w = [s * x for s, x in zip(scales, a, strict=True)] if rule.scale else [rule.psi(x) for x in a]
        k, v, eta = given["k"][t], given["v"][t], float(given["eta"][t])
        out, z, h, unit, spread = layers(w, k)
        e = rule.phi(out - v, float(given["delta"][t]) if "delta" in given else 0.0) * gamma
        e = spread * (e - e.mean() - unit * (e * unit).mean())
        back = (w[1].T @ e)[: len(z)] * gelu(z)[1]
        g = [np.outer(back, np.concatenate([k, np.ones(shift)])), np.outer(e, h)]
        alpha = math.exp(float(given["log_alpha"][t])) if "log_alpha" in given else 1.0
        if "log_mu" in given:
            n = [math.exp(float(given["log_mu"][t])) * m - eta * x for m, x in zip(n, g, strict=True)]
            a = [alpha * x + m for x, m in zip(a, n, strict=True)]
        else:
            a = [alpha * x - eta * d for x, d in zip(a, g, strict=True)]
        read = [s * x for s, x in zip(scales, a, strict=True)] if rule.scale else [rule.psi(x) for x in a]
        answers.append(layers(read, given["q"][t])[0])
    return np.stack(answers)


def deep(name: str) -> Case:
    """A two-layer memory."""
    rule = RULES[name]
    p = problem(NAMED[name].design, CHUNK + 5, batch=1, heads=2)

    def forward(given: Mapping[str, Array]) -> Array:
        tokens = {"q", "k", "v", *p.gates}
        heads = [
            _recurrence(rule, {n: x[0, :, h] if n in tokens else x[h] for n, x in given.items()})
            for h in range(p.q.shape[2])
        ]
        return np.stack(heads, 1)[None]

    return _numerical(p, forward, rule.source)


class _Numerical(torch.autograd.Function):
    """Makes a numpy function differentiable: its pull-back along one random direction a leaf, by central differences.

    The gradient returned for a leaf is d (d . grad), the projection on that direction; `projected` does the same to ours.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[[list[Array]], Array], *leaves: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*leaves)
        return torch.from_numpy(function([x.detach().numpy() for x in leaves]))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        values = [x.detach().numpy() for x in ctx.saved_tensors]
        found = []
        for i, x in enumerate(values):
            d = direction(x.shape).numpy()
            ends = []
            for step in (1e-6, -1e-6):
                moved = ctx.function([*values[:i], x + step * d, *values[i + 1 :]])
                ends.append(float((moved * dy.numpy()).sum()))
            found.append(torch.from_numpy(d * (ends[0] - ends[1]) / 2e-6))
        return (None, *found)


def direction(shape: Any) -> Tensor:
    """A unit vector."""
    d = torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return d / d.norm()


def projected(g: Tensor) -> Tensor:
    """The part of a gradient along `direction`."""
    d = direction(g.shape)
    return d * (d * g).sum()


def _numerical(p: Problem, forward: Callable[[Mapping[str, Array]], Array], source: str) -> Case:
    names = list(p.leaves)

    def function(values: list[Array]) -> Array:
        return forward(dict(zip(names, values, strict=True)))

    def other() -> Tensor:
        return _Numerical.apply(function, *p.leaves.values())  # type: ignore[no-any-return]

    return Case(p, p.leaves, other, source)


CASES: dict[str, Callable[[], Case]] = {
    "softmax-attention": lambda: softmax_attention("softmax-attention"),
    "transformer++": lambda: softmax_attention("transformer++"),
    "sliding-window-attention": lambda: softmax_attention("sliding-window-attention"),
    "linear-attention": linear_attention,
    "retnet": retnet,
    "lightning-attention": lightning_attention,
    "decaying-fast-weights": decaying_fast_weights,
    "gla": lambda: gla("gla"),
    "mamba2": mamba2,
    "hgrn2": lambda: gla("hgrn2"),
    "deltanet": deltanet,
    "gated-deltanet": gated_deltanet,
    "rwkv7": rwkv7,
    "longhorn": longhorn,
    "deltaproduct": deltaproduct,
    "mesanet": mesanet,
    "ttt-linear": ttt_linear,
    **{name: lambda name=name: deep(name) for name in ("ttt-mlp", "titans-lmm")},  # type: ignore[misc]
    "omeganet": lambda: omega("omeganet"),
    "atlas": lambda: omega("atlas"),
    **{name: lambda name=name: deep(name) for name in list(RULES)[2:]},  # type: ignore[misc]
}


@dataclass(frozen=True)
class Fidelity:
    """How far a named design is from an implementation that shares no code with it, relative to the largest entry."""

    source: str
    outputs: float
    gradients: float
    exact_gradients: bool
    """By the other's autograd; else central differences along one direction a leaf."""


def compare(case: Case, run: Callable[[Problem], tuple[Tensor, Any]]) -> Fidelity:
    """The largest deviation of outputs, and of the gradients of a random functional of them."""
    y, _ = run(case.problem)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    with Float64():
        z = case.other()
        assert z.dtype == torch.float64
        b = torch.autograd.grad((z * weight).sum(), list(case.leaves.values()))
    a: Any = torch.autograd.grad((y * weight).sum(), list(case.leaves.values()))
    exact = not case.source.startswith("numpy")
    if not exact:
        a = [projected(g) for g in a]
    top = 1e-3 * max(float(g.abs().max()) for g in b)
    worst = max(float((x - g).abs().max()) / max(top, float(g.abs().max())) for x, g in zip(a, b, strict=True))
    gap = float((y - z).detach().abs().max() / z.detach().abs().max())
    return Fidelity(case.source, gap, worst, exact)
