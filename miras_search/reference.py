"""The definition of every design: a plain loop over time, slow and exact.

The inner gradient comes from autograd of the bias's loss (of its declared cotangent where a surrogate has no loss), so nothing
here shares a derivative with the fast paths, which are tested against it. Differentiable: every gradient of the outer loop,
through the inner one, is autograd's.

Shape legend: B batch, T time, H heads, K key dim, V value dim; weights `[B, H, out, in]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from miras_search.design import Design
from miras_search.memory import Memory

State = dict[str, Tensor]


def _pair(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Two operands of which one may be a number, as tensors of one type."""
    like = a if isinstance(a, Tensor) else b
    return torch.as_tensor(a, dtype=like.dtype, device=like.device), torch.as_tensor(
        b, dtype=like.dtype, device=like.device
    )


class Xp:
    """The dialect of the formulas, as torch functions of any dtype."""

    exp, log, sqrt, abs = torch.exp, torch.log, torch.sqrt, torch.abs
    tanh, sigmoid, erf = torch.tanh, torch.sigmoid, torch.erf
    where, zeros_like = torch.where, torch.zeros_like

    @staticmethod
    def power(x: Any, p: float) -> Any:
        return x**p

    @staticmethod
    def minimum(a: Any, b: Any) -> Tensor:
        return torch.minimum(*_pair(a, b))

    @staticmethod
    def maximum(a: Any, b: Any) -> Tensor:
        return torch.maximum(*_pair(a, b))

    @staticmethod
    def row_sum(x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True)

    @staticmethod
    def row_mean(x: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True)

    @staticmethod
    def row_max(x: Tensor) -> Tensor:
        return x.amax(-1, keepdim=True)

    @staticmethod
    def row_softmax(x: Tensor) -> Tensor:
        return x.softmax(-1)

    @staticmethod
    def row_softmax_vjp(p: Tensor, d: Tensor) -> Tensor:
        return p * (d - (p * d).sum(-1, keepdim=True))

    @staticmethod
    def row_size(x: Tensor) -> int:
        return x.shape[-1]

    @staticmethod
    def transpose(x: Tensor) -> Tensor:
        return x.mT

    @staticmethod
    def total(x: Tensor) -> Tensor:
        return x.sum((-2, -1), keepdim=True)

    @staticmethod
    def total_size(x: Tensor) -> int:
        return x.shape[-2] * x.shape[-1]

    @staticmethod
    def matvec(w: Tensor, x: Tensor) -> Tensor:
        return (w @ x.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def diagonal(w: Tensor, x: Tensor) -> Tensor:
        return w[..., 0, :] * x

    @staticmethod
    def append_one(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def run(
    design: Design,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    state: State | None = None,
    *,
    initial: Mapping[str, Tensor] | None = None,
    reset: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run a memory over a sequence, token by token.

    Args:
        design: the memory; its canonical form is what runs.
        q: queries `[B, T, H, K]`, after the bias's features, as the keys.
        k: keys `[B, T, H, K]`.
        v: values `[B, T, H, V]`.
        gates: per token, as far as the design has them: `log_alpha` (`[B, T, H]`; with a last axis K for a channel gate, V for a row
            gate, K + V for an outer one), `eta` (inner step `[B, T, H]`), `log_mu` (momentum), `delta` (threshold of the bias),
            `erase` (decoupled strengths). With a window `gamma`. With n steps a token `eta` is `[B, T, H, n]`, k and v
            `[B, T, H, n, dim]`.
        state: what an earlier call returned; none starts a document.
        initial: the memory's learned values: `state_0`, `state_1`, ... `[H, out, in]` (dual state at the start of a document; zeros
            if absent), `norm_weight` and `norm_bias` `[H, V]`; `ridge` `[H, K]` for least squares.
        reset: `[B, T]` bool, true at the first token of a new document inside a row.
        valid: `[B, T]` bool, false for padding, which is skipped; its output is zero.

    Returns:
        y `[B, T, H, V]` and the state, a dict with batch first: `state_i` (dual state), `momentum_i`, `frozen_i` (the chunk's
        weights), `scale_i` (lagged reads) and `position` (tokens into the chunk, per row), as far as the design has them; for a
        cache `key`, `value` and `mask` of the stored tokens.
    """
    design = design.canonical()
    if design.bias.target == "v-k":
        v = v - k
    steps = (
        _Cache(design, q, v, state) if not design.memory.parametric else _Weights(design, q, v, initial or {}, state)
    )
    outputs = []
    for t in range(q.shape[1]):
        live = torch.ones_like(q[:, t, 0, 0], dtype=torch.bool) if valid is None else valid[:, t]
        if reset is not None:
            steps.reset(reset[:, t] & live)
        y = steps.token(q[:, t], k[:, t], v[:, t], {name: gate[:, t] for name, gate in gates.items()}, live)
        outputs.append(torch.where(_rows(live, y), y, torch.zeros_like(y)))
    return torch.stack(outputs, 1), steps.state()


def _rows(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))


class _Weights:
    """A memory with weights: S_t = alpha_t S_{t-1} - eta_t g_t at the weights frozen at the chunk's start."""

    def __init__(
        self, design: Design, q: Tensor, v: Tensor, initial: Mapping[str, Tensor], state: State | None
    ) -> None:
        self.design = design
        batch, heads = q.shape[0], q.shape[2]
        shapes = design.memory.weights(q.shape[-1], v.shape[-1])
        self.start = [
            initial[f"state_{i}"].expand(batch, -1, -1, -1)
            if f"state_{i}" in initial
            else q.new_zeros(batch, heads, *shape)
            for i, shape in enumerate(shapes)
        ]
        self.norm = [
            initial.get("norm_weight", v.new_ones(heads, v.shape[-1])),
            initial.get("norm_bias", v.new_zeros(())),
        ]
        layers = range(len(shapes))
        self.lagged = design.algorithm.read_ == "lagged"
        given = state or {}
        self.s = [given.get(f"state_{i}", self.start[i]) for i in layers]
        self.m = [given.get(f"momentum_{i}", torch.zeros_like(self.start[i])) for i in layers]
        self.w = [given.get(f"frozen_{i}", self.start[i]) for i in layers]
        self.scale = [given.get(f"scale_{i}", q.new_zeros(batch, heads, 1, 1)) for i in layers]
        if design.algorithm.least_squares:
            self.ridge = initial["ridge"]
            self.gram = given.get("state_gram", q.new_zeros(batch, heads, q.shape[-1], q.shape[-1]))
        self.past = {}
        if design.bias.window > 1:
            sizes = {"k": q.shape[-1:], "v": v.shape[-1:], "gamma": ()}
            sizes |= {"delta": ()} if design.bias.thresholded else {}
            span = design.bias.window - 1
            self.past = {n: given.get(f"window_{n}", q.new_zeros(batch, heads, span, *s)) for n, s in sizes.items()}
        self.position = given.get("position", torch.zeros(batch, dtype=torch.long, device=q.device))

    def reset(self, rows: Tensor) -> None:
        self.s = [torch.where(_rows(rows, s), a, s) for s, a in zip(self.s, self.start, strict=True)]
        self.m = [torch.where(_rows(rows, m), torch.zeros_like(m), m) for m in self.m]
        self.position = torch.where(rows, 0, self.position)
        self.past = {n: torch.where(_rows(rows, x), torch.zeros_like(x), x) for n, x in self.past.items()}
        if self.design.algorithm.least_squares:
            self.gram = torch.where(_rows(rows, self.gram), torch.zeros_like(self.gram), self.gram)

    def token(self, q: Tensor, k: Tensor, v: Tensor, gate: dict[str, Tensor], live: Tensor) -> Tensor:
        retention, algorithm = self.design.retention, self.design.algorithm
        alpha = [torch.ones_like(s[..., :1, :1]) for s in self.s]
        if retention.gated != "none":
            alpha = _kept(gate["log_alpha"].exp(), retention.gated, self.design.memory, q.shape[-1])
        if algorithm.least_squares:
            return self.solve(alpha[0], q, k, v, gate["eta"], live)
        if algorithm.steps_ > 1:
            return self.several(alpha, q, k, v, gate, live)
        if algorithm.online:
            self.w = [a * s for a, s in zip(alpha, self.s, strict=True)] if algorithm.decay_first else self.s
        else:
            opens = (self.position == 0) & live
            self.w = [
                torch.where(_rows(opens, s), retention.psi(Xp, s), w) for s, w in zip(self.s, self.w, strict=True)
            ]
            if self.lagged:
                self.scale = [
                    torch.where(_rows(opens, c), retention.scale(Xp, s), c)  # type: ignore[attr-defined]
                    for s, c in zip(self.s, self.scale, strict=True)
                ]
        if algorithm.read_first:
            y = self.answer(q)
            self.write(alpha, k, v, gate, live)
        else:
            self.write(alpha, k, v, gate, live)
            y = self.answer(q)
        return y

    def several(
        self, alpha: list[Tensor], q: Tensor, k: Tensor, v: Tensor, gate: dict[str, Tensor], live: Tensor
    ) -> Tensor:
        """Online steps with keys and values `[B, H, n, dim]`, one after another, after one decay."""
        before = self.answer(q)
        for j in range(self.design.algorithm.steps_):
            self.w = [a * s for a, s in zip(alpha, self.s, strict=True)]
            self.write(alpha, k[:, :, j], v[:, :, j], gate | {"eta": gate["eta"][..., j]}, live)
            alpha = [torch.ones_like(a) for a in alpha]
        return before if self.design.algorithm.read_first else self.answer(q)

    def solve(self, alpha: Tensor, q: Tensor, k: Tensor, v: Tensor, eta: Tensor, live: Tensor) -> Tensor:
        """The statistics with this token, and the answer of the memory that they determine."""
        weighted = _column(eta) * k.unsqueeze(-2)
        moment = alpha * self.s[0] + v.unsqueeze(-1) * weighted
        gram = alpha * self.gram + k.unsqueeze(-1) * weighted
        self.s = [torch.where(_rows(live, moment), moment, self.s[0])]
        self.gram = torch.where(_rows(live, gram), gram, self.gram)
        symmetric = 0.5 * (self.gram + self.gram.mT)  # so that its derivative is, too
        return Xp.matvec(self.s[0], torch.linalg.solve(symmetric + torch.diag_embed(self.ridge), q))

    def write(self, alpha: list[Tensor], k: Tensor, v: Tensor, gate: dict[str, Tensor], live: Tensor) -> None:
        """S_{t-1} becomes S_t in the rows that have a token."""
        retention, algorithm = self.design.retention, self.design.algorithm
        written = self.windowed(k, v, gate, live) if self.past else self.gradient(k, v, gate)
        s, m = [], []
        for i, g in enumerate(written):
            if algorithm.last_only and i + 1 < len(written):
                s.append(self.s[i])
                m.append(self.m[i])
                continue
            m.append(self.m[i] * _column(gate["log_mu"].exp()) - g if algorithm.momentum else self.m[i])
            move = m[i] if algorithm.momentum else -g
            if algorithm.orthogonal:
                move = (-1.0 if algorithm.ascent else 1.0) * _column(gate["eta"]) * newton_schulz(m[i])
            if retention.klass == "multiplicative":
                s.append(retention.update(Xp, self.s[i], alpha[i], -move))
            else:
                s.append(alpha[i] * retention.feedback(Xp, self.s[i]) + move)
        self.s = [torch.where(_rows(live, new), new, old) for new, old in zip(s, self.s, strict=True)]
        self.m = [torch.where(_rows(live, new), new, old) for new, old in zip(m, self.m, strict=True)]
        self.position = torch.where(live, (self.position + 1) % algorithm.chunk_, self.position)

    def windowed(self, k: Tensor, v: Tensor, gate: dict[str, Tensor], live: Tensor) -> list[Tensor]:
        """The sum over the window, and the window moved on."""
        token = {"k": k, "v": v} | {n: gate[n] for n in self.past if n in gate}
        joined = {n: torch.cat([x, token[n].unsqueeze(2)], 2) for n, x in self.past.items()}
        total: list[Tensor] = []
        for j in range(self.design.bias.window):
            each = {n: x[:, :, j] for n, x in joined.items()}
            grads = self.gradient(each["k"], each["v"], gate | each)
            weighed = [_column(each["gamma"]) * g for g in grads]
            total = [a + b for a, b in zip(total, weighed, strict=True)] if total else weighed
        self.past = {n: torch.where(_rows(live, x), joined[n][:, :, 1:], x) for n, x in self.past.items()}
        return total

    def answer(self, q: Tensor) -> Tensor:
        """M(W, q) at the weights that the design reads."""
        memory, retention, algorithm = self.design.memory, self.design.retention, self.design.algorithm
        if algorithm.read_ == "stale":
            weights = self.w
        elif self.lagged:
            weights = [s * c for s, c in zip(self.s, self.scale, strict=True)]
        else:
            weights = [retention.psi(Xp, s) for s in self.s]
        y: Tensor = memory.predict(Xp, weights, q, *self.norm)
        return y

    def gradient(self, k: Tensor, v: Tensor, gate: dict[str, Tensor]) -> list[Tensor]:
        """eta_t dl/dW at the frozen weights, by autograd."""
        bias, algorithm = self.design.bias, self.design.algorithm
        eta = gate["eta"].unsqueeze(-1)
        if algorithm.implicit:
            eta = eta / (1.0 + eta * k.square().sum(-1, keepdim=True))
        if algorithm.ascent:
            eta = -eta
        delta = gate["delta"].unsqueeze(-1) if bias.thresholded else torch.zeros_like(eta)
        # Without gradients a view of a leaf still says that it requires one, but is not connected to what uses it.
        tracked = torch.is_grad_enabled()
        with torch.enable_grad():
            w = [x if tracked and x.requires_grad else x.detach().requires_grad_() for x in self.w]
            prediction = self.design.memory.predict(Xp, w, k, *self.norm)
            if algorithm.erases_channels:
                erased = gate["erase"] * k * (-1.0 if algorithm.ascent else 1.0)
                return [prediction.unsqueeze(-1) * erased.unsqueeze(-2) - (eta * v).unsqueeze(-1) * k.unsqueeze(-2)]
            if algorithm.decoupled:
                erase = gate["erase"].unsqueeze(-1) * (-1.0 if algorithm.ascent else 1.0)
                strength = 0.5 * erase * prediction.square() - eta * prediction * v
                return list(torch.autograd.grad(strength.sum(), w, create_graph=True))
            r = prediction - v
            if bias.has_loss:
                grads = torch.autograd.grad(bias.loss(Xp, r, v, delta).sum(), w, create_graph=True)
            else:
                grads = torch.autograd.grad(prediction, w, bias.phi(Xp, r, v, delta), create_graph=True)
        return list(grads) if algorithm.orthogonal else [eta.unsqueeze(-1) * g for g in grads]

    def state(self) -> State:
        algorithm = self.design.algorithm
        out = {f"state_{i}": s for i, s in enumerate(self.s)}
        if algorithm.momentum:
            out |= {f"momentum_{i}": m for i, m in enumerate(self.m)}
        if algorithm.least_squares:
            out["state_gram"] = self.gram
        out |= {f"window_{n}": x for n, x in self.past.items()}
        if self.design.chunked:
            out |= {f"frozen_{i}": w for i, w in enumerate(self.w)} | {"position": self.position}
            if self.lagged:
                out |= {f"scale_{i}": c for i, c in enumerate(self.scale)}
        return out


def newton_schulz(m: Tensor) -> Tensor:
    """Muon's five iterations, by which the singular values of `[..., out, in]` come near 1."""
    x = m * torch.rsqrt(m.square().sum((-2, -1), keepdim=True) + 1e-14)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x - 4.775 * square @ x + 2.0315 * square @ square @ x
    return x


def _column(gate: Tensor) -> Tensor:
    return gate[..., None, None]


def _kept(alpha: Tensor, gated: str, memory: Memory, keys: int) -> list[Tensor]:
    """alpha for every weight matrix: a number, its input channels (where the key comes in), its output channels, or both."""
    if gated == "scalar":
        return [_column(alpha)] * memory.depth_
    if gated == "outer":
        return [alpha[..., keys:].unsqueeze(-1) * alpha[..., :keys].unsqueeze(-2)]
    rows, columns = alpha.unsqueeze(-1), alpha.unsqueeze(-2)
    return [columns if gated == "channel" and i < memory.inputs_ else rows for i in range(memory.depth_)]


class _Cache:
    """Softmax attention over the tokens of the document so far, or the last `window` of them."""

    def __init__(self, design: Design, q: Tensor, v: Tensor, state: State | None) -> None:
        self.window: Callable[[Tensor], Tensor] = lambda order: order >= 0
        size = getattr(design.memory, "window", None)
        if size is not None:
            self.window = lambda order: order < size
        given = state or {}
        batch, _, heads, dim = q.shape
        self.key = given.get("key", q.new_zeros(batch, 0, heads, dim))
        self.value = given.get("value", v.new_zeros(batch, 0, heads, v.shape[-1]))
        self.mask = given.get("mask", torch.zeros(batch, 0, dtype=torch.bool, device=q.device))

    def reset(self, rows: Tensor) -> None:
        self.mask = self.mask & ~rows[:, None]

    def token(self, q: Tensor, k: Tensor, v: Tensor, gate: dict[str, Tensor], live: Tensor) -> Tensor:
        self.key = torch.cat([self.key, k[:, None]], 1)
        self.value = torch.cat([self.value, v[:, None]], 1)
        self.mask = torch.cat([self.mask, live[:, None]], 1)
        behind = self.mask.flip(1).cumsum(1).flip(1) - 1
        seen = self.mask & self.window(behind)
        logits = torch.einsum("bhd,bshd->bsh", q, self.key) * q.shape[-1] ** -0.5
        logits = logits.masked_fill(~(seen | ~live[:, None])[..., None], float("-inf"))
        return torch.einsum("bsh,bshd->bhd", logits.softmax(1), self.value)

    def state(self) -> State:
        return {"key": self.key, "value": self.value, "mask": self.mask}
