"""The memory layer: projections, short convolution, gates, the memory, normalisation and output gate.

Shape legend: B batch, T time, E width, H heads, D = E / H.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from miras_search.codegen.skeletons.cache import memory_cache
from miras_search.codegen.skeletons.convolution import short_convolution
from miras_search.codegen.skeletons.dense import predict
from miras_search.codegen.skeletons.recurrence import memory
from miras_search.codegen.skeletons.slots import (
    ALPHA_START,
    CACHE,
    CONV,
    DECAY,
    DECOUPLED,
    DELTA_NORM,
    DELTA_START,
    DIAGONAL,
    ERASE_CHANNELS,
    EXPANSION,
    FEATURES,
    GATE,
    INPUTS,
    KEY_TIED,
    LAST_ONLY,
    LAYERS,
    LEARNED_START,
    LEAST_SQUARES,
    MIRROR,
    MOMENTUM,
    MU_START,
    NORM,
    OFFSET,
    ORTHOGONAL,
    OUTPUT_GATE,
    QK_NORM,
    REACH,
    RIDGE_START,
    ROPE,
    SCHEDULE,
    SHUFFLED,
    SPAN,
    STATE_FREE,
    STEP,
    STEP_GATED,
    STEP_TIED,
    STEPS,
    THRESHOLD,
    THRESHOLDED,
    ZEROED,
    bias_phi,
    retention_initial,
    retention_psi,
)


def document_age(time: int, start: Tensor, reset: Tensor | None) -> Tensor:
    """`[B, T]` tokens before this one in its document; `start` [B]: those before the first."""
    if reset is None and time == 1:
        return start[:, None]
    t = torch.arange(time, device=start.device)
    base = -start[:, None].expand(-1, time)
    if reset is not None:
        base = torch.where(reset, t, base).cummax(1).values
    return t - base


def next_history(past: Tensor, reach: int, age: Tensor | None, length: Tensor | None) -> Tensor:
    """The last `reach` inputs before the call that follows, `[B, reach, F]`; `past`: those before this call, and its own."""
    if length is None:
        kept = past[:, past.shape[1] - reach :]
    else:
        index = length[:, None] + torch.arange(reach, device=past.device)
        kept = past.gather(1, index[..., None].expand(-1, -1, past.shape[2]))
    if age is not None:
        last = age[:, -1] if length is None else age.gather(1, (length - 1).clamp_min(0)[:, None])[:, 0]
        behind = torch.arange(reach - 1, -1, -1, device=past.device)
        kept = kept * (behind <= last[:, None])[..., None]
    return kept


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary position embedding on `[B, T, H, D]`, base 10000."""
    half = x.shape[-1] // 2
    rate = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = (position[..., None] * rate)[:, :, None].to(x.dtype)
    a, b = x[..., :half], x[..., half : 2 * half]
    turned = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
    return torch.cat([*turned, x[..., 2 * half :]], -1)


def earlier_values(past: Tensor, age: Tensor) -> Tensor:
    """Control: the values `[B, T, F]` of the token d before, d in 1 to 16 fixed pseudo-randomly by the place in the document.

    `past` [B, 16 + T, F]: the values, behind those before the first. A document's first token, with none before it, takes zero.
    """
    mixed = age * 2654435761 % 4294967296
    mixed = (mixed ^ (mixed >> 15)) * 1540483477 % 4294967296
    back = 1 + (mixed >> 15) % age.clamp(1, 16)
    index = torch.arange(age.shape[1], device=past.device) + 16 - back
    taken = past.gather(1, index[..., None].expand(-1, -1, past.shape[2]))
    return taken * (age > 0)[..., None]


def pack_order(valid: Tensor) -> Tensor:
    """`[B, T]`: times of the valid tokens first, in order."""
    return torch.argsort((~valid).to(torch.int8), dim=1, stable=True)


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """Take times in this order."""
    return x.gather(1, order.view(*order.shape, *[1] * (x.ndim - 2)).expand(*order.shape, *x.shape[2:]))


def inner_step(start: list[Tensor], dim: int) -> float:
    """The step at which a fresh memory just corrects its worst direction: STEP / (curvature * slope).

    curvature: norm of J_S J_W', J_S and J_W the derivatives of the prediction by the dual state and by the weights: a write
    -eta J_W' phi of the state moves the prediction by -eta J_S J_W' phi. slope: the norm of the bias's cotangent by that of the
    error, at errors of 1.2 a coordinate of a memory that answers zero. Both are 1 for an l2 bias on a matrix.
    """
    if ORTHOGONAL:
        return STEP
    if LAYERS > 1 or NORM or MIRROR or not STATE_FREE:
        cpu: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}  # whatever the default device is
    curvature = 1.0
    slope = 1.0
    if LAYERS > 1 or NORM or MIRROR:
        draw = torch.Generator("cpu").manual_seed(0)
        leaves = [s.detach().to("cpu", torch.float64).requires_grad_() for s in start]
        total = 0.0
        with torch.enable_grad():
            for _ in range(4):
                key = torch.nn.functional.normalize(torch.randn(1, key_size(dim), generator=draw, **cpu), dim=-1)
                if MIRROR:
                    weights = [retention_psi(s) for s in leaves]
                else:
                    weights = leaves
                one = torch.ones(dim, **cpu)
                answer = predict(weights, key, [one, 0.0 * one])[0]
                rows = torch.eye(dim, **cpu)
                found = torch.autograd.grad(answer, [*leaves, *weights], rows, is_grads_batched=True)
                by_state, by_weight = found[:LAYERS], found[LAYERS:]
                if LAST_ONLY:
                    by_state, by_weight = by_state[-1:], by_weight[-1:]
                moved = (
                    torch.cat([j.flatten(1) for j in by_state], 1) @ torch.cat([j.flatten(1) for j in by_weight], 1).mT
                )
                total += float(torch.linalg.matrix_norm(moved, 2))
        curvature = total / 4
    if not STATE_FREE:
        draw = torch.Generator("cpu").manual_seed(1)
        r = 1.2 * torch.randn(256, dim, generator=draw, **cpu)
        g = bias_phi(r, -r, torch.full((256, 1), threshold_start(dim), **cpu))
        slope = float(g.norm() / r.norm())
    return STEP / (curvature * slope)


def threshold_start(dim: int) -> float:
    """The bias's threshold at initialisation."""
    if DELTA_NORM:
        return DELTA_START * math.sqrt(dim)
    return DELTA_START


def key_size(dim: int) -> int:
    """The dimension of keys and queries in the memory."""
    if FEATURES == "polynomial":
        return dim + dim * (dim + 1) // 2
    return dim


def lift(x: Tensor, scale: Tensor) -> Tensor:
    """`[..., H, D]` to x and its products by twos, so that y'x becomes scale_1^2 y'x + scale_2^2 (y'x)^2; `scale` [H, 2]."""
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    twice = torch.where(i == j, 1.0, math.sqrt(2.0)).to(x.dtype)
    return torch.cat([scale[:, :1] * x, scale[:, 1:] * twice * x[..., i] * x[..., j]], -1)


def weight_shapes(dim: int) -> list[tuple[int, int]]:
    """`(out, in)` of the memory's weights for keys and values of this size."""
    if DIAGONAL:
        return [(1, dim)]
    keys = key_size(dim)
    if INPUTS == 2:
        return [(EXPANSION * keys, keys), (EXPANSION * keys, keys), (dim, EXPANSION * keys)]
    sizes = [keys, *[EXPANSION * keys] * (LAYERS - 1), dim]
    extra = 1 if OFFSET else 0
    return [(o, i + extra) for i, o in pairwise(sizes)]


class Layer(nn.Module):
    """A causal sequence layer, `[B, T, E] -> [B, T, E]`, with the memory of this file.

    Args:
        width: E.
        heads: memories side by side; each has dimension E / heads. Default: dimension 64, or one head.
    """

    step: Tensor
    log_decay: Tensor

    def __init__(self, width: int, heads: int | None = None) -> None:
        super().__init__()
        heads = max(1, width // 64) if heads is None else heads
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        dim = width // heads
        if NORM and dim == 1:
            raise ValueError(f"heads of dimension 1 have no LayerNorm: width {width} needs fewer heads than {heads}")
        self.width, self.heads, self.dim = width, heads, dim
        if KEY_TIED:
            mixed = 2 * width  # q and v
        else:
            mixed = (1 + 2 * STEPS) * width
        self.qkv = nn.Linear(width, mixed, bias=False)
        if CONV > 0:
            self.conv = nn.Parameter(torch.rand(CONV, mixed) * 2.0 / math.sqrt(CONV) - 1.0 / math.sqrt(CONV))
        if not CACHE:
            if STEP_GATED:
                self.eta = nn.Linear(width, heads * STEPS)
            if ERASE_CHANNELS:
                self.erase: nn.Module = nn.Sequential(
                    nn.Linear(width, min(32, width), bias=False), nn.Linear(min(32, width), width)
                )
            elif DECOUPLED:
                self.erase = nn.Linear(width, heads)
            if GATE == "scalar" and DECAY == "data":
                self.alpha: nn.Module = nn.Linear(width, heads)
            if GATE not in ("none", "scalar"):
                channels = dim
                if GATE == "outer":
                    channels = 2 * dim
            if GATE not in ("none", "scalar") and DECAY == "data":
                self.alpha = nn.Sequential(
                    nn.Linear(width, min(32, width), bias=False), nn.Linear(min(32, width), heads * channels)
                )
            if DECAY == "learned":
                self.alpha_logit = nn.Parameter(torch.empty(*((heads,) if GATE == "scalar" else (heads, channels))))
            if MOMENTUM:
                self.mu = nn.Linear(width, heads)
            if THRESHOLD == "data":
                self.delta = nn.Linear(width, heads)
            if THRESHOLD == "learned":
                self.delta_logit = nn.Parameter(torch.empty(heads))
            if LEARNED_START:
                draws = [torch.randn(heads, *shape) for shape in weight_shapes(dim)]
                self.start = nn.ParameterList(retention_initial(z) for z in draws)
            if LEAST_SQUARES:
                self.ridge = nn.Parameter(torch.empty(heads, key_size(dim)))
            if SPAN > 1:
                self.gamma = nn.Linear(width, heads)
            if FEATURES == "polynomial":
                self.degrees = nn.Parameter(torch.empty(heads, 2))
            if NORM:
                self.norm_weight = nn.Parameter(torch.ones(heads, dim))
                self.norm_bias = nn.Parameter(torch.zeros(heads, dim))
            self.register_buffer("step", torch.ones(()))
            if DECAY == "constant":
                if SCHEDULE == "retnet":
                    constant = torch.log1p(-(2.0 ** (-5.0 - torch.arange(heads))))
                else:
                    constant = -(2.0 ** (-8.0 * (torch.arange(heads) + 1.0) / heads))
                self.register_buffer("log_decay", constant)
        self.read_norm = nn.RMSNorm(dim, eps=1e-6)
        if OUTPUT_GATE:
            self.gate = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gates start at their documented values; the step is measured on the initial memory."""
        if CACHE:
            return
        if GATE != "none" and DECAY == "data":
            last = list(self.alpha.modules())[-1]
            nn.init.constant_(last.get_parameter("bias"), ALPHA_START)
        if DECAY == "learned":
            nn.init.constant_(self.alpha_logit, ALPHA_START)
        if STEP_GATED:
            nn.init.constant_(self.eta.bias, -math.log(REACH - 1.0))
        if DECOUPLED:
            last = list(self.erase.modules())[-1]
            nn.init.constant_(last.get_parameter("bias"), -math.log(REACH - 1.0))
        if MOMENTUM:
            nn.init.constant_(self.mu.bias, MU_START)
        if SPAN > 1:
            nn.init.zeros_(self.gamma.bias)
        if FEATURES == "polynomial":
            nn.init.constant_(self.degrees, 1.0)
            with torch.no_grad():
                self.degrees[:, 1] = math.sqrt(0.5)
        if LEAST_SQUARES:
            nn.init.constant_(self.ridge, math.log(math.expm1(RIDGE_START - 0.25)))
        if THRESHOLD == "data":
            nn.init.constant_(self.delta.bias, math.log(math.e - 1.0))
        if THRESHOLD == "learned":
            nn.init.constant_(self.delta_logit, math.log(math.e - 1.0))
        if not self.out.weight.is_meta:
            if LEARNED_START:
                self.step.fill_(inner_step([s[0] for s in self.start], self.dim))
            else:
                self.step.fill_(inner_step([], self.dim))

    def initial(self) -> dict[str, Tensor]:
        """The memory's learned values: state of a new document, affine of its LayerNorm."""
        found = {}
        if LEARNED_START:
            found = {f"state_{i}": s for i, s in enumerate(self.start)}
        else:
            found = {
                f"state_{i}": self.out.weight.new_zeros(self.heads, *s) for i, s in enumerate(weight_shapes(self.dim))
            }
        if LEAST_SQUARES:
            found["ridge"] = 0.25 + torch.nn.functional.softplus(self.ridge)
        if NORM:
            found["norm_weight"], found["norm_bias"] = self.norm_weight, self.norm_bias
        return found

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The gates of every token, `[B, T, H]` (a channel or row gate `[B, T, H, D]`, an outer one `[B, T, H, 2 D]`)."""
        eta = self.step.expand(*x.shape[:2], self.heads * STEPS)
        if STEP_GATED:
            eta = eta * REACH * torch.sigmoid(self.eta(x))
        found = {}
        if DECOUPLED:
            erase = self.step * REACH * torch.sigmoid(self.erase(x))
            if ERASE_CHANNELS:
                erase = erase.view(*x.shape[:2], self.heads, self.dim)
            found["erase"] = erase
        if GATE != "none":
            if DECAY == "constant":
                log_alpha = self.log_decay.expand(*x.shape[:2], -1)
            elif DECAY == "learned":
                log_alpha = torch.nn.functional.logsigmoid(self.alpha_logit)
                log_alpha = log_alpha.expand(*x.shape[:2], *log_alpha.shape)
            else:
                log_alpha = torch.nn.functional.logsigmoid(self.alpha(x))
            if GATE != "scalar":
                log_alpha = log_alpha.view(*x.shape[:2], self.heads, -1)
            found["log_alpha"] = log_alpha
            if STEP_TIED:
                eta = -eta * log_alpha
        if MOMENTUM:
            mu = self.mu(x)
            found["log_mu"] = torch.nn.functional.logsigmoid(mu)
            if not ORTHOGONAL:
                eta = eta * torch.sigmoid(-mu)
        if STEPS > 1:
            eta = eta.view(*x.shape[:2], self.heads, STEPS)
        if SPAN > 1:
            found["gamma"] = 2.0 / SPAN * torch.sigmoid(self.gamma(x))
        if THRESHOLDED:
            if THRESHOLD == "fixed":
                found["delta"] = torch.full_like(eta, threshold_start(self.dim))
            elif THRESHOLD == "learned":
                learned = torch.nn.functional.softplus(self.delta_logit)
                found["delta"] = threshold_start(self.dim) * learned.expand_as(eta)
            else:
                found["delta"] = threshold_start(self.dim) * torch.nn.functional.softplus(self.delta(x))
        found["eta"] = eta
        return found

    def forward(
        self,
        x: Tensor,
        state: dict[str, Tensor] | None = None,
        reset: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over a sequence, or go on from a state.

        Args:
            x: `[B, T, E]`.
            state: what an earlier call returned; a dict of tensors with batch first.
            reset: `[B, T]` bool, true at the first token of a new document.
            valid: `[B, T]` bool, false for padding, which nothing sees.

        Returns:
            `[B, T, E]` and the state.
        """
        order = length = None
        if valid is not None:
            order, length = pack_order(valid), valid.sum(1)
            x, valid = reorder(x, order), reorder(valid, order)
            reset = None if reset is None else reorder(reset, order) & valid
        batch, time, _ = x.shape
        start = x.new_zeros(batch, dtype=torch.long) if state is None else state["age"]
        age = document_age(time, start, reset)
        out_state = {}
        u = self.qkv(x)
        if CONV > 0:
            history = u.new_zeros(batch, CONV - 1, u.shape[2]) if state is None else state["conv"]
            taps = None if reset is None else age
            past = torch.cat([history, u], 1)
            out_state["conv"] = next_history(past, CONV - 1, taps, length)
            u = short_convolution(past, self.conv, taps)
        if KEY_TIED:
            q, v = u.view(batch, time, 2, self.heads, self.dim).unbind(2)
            gates = self.gates(x)
            k = -torch.expm1(gates["log_alpha"])
        elif STEPS > 1:
            q, k, v = (
                x.unflatten(2, (-1, self.dim)) for x in u.split([self.width, STEPS * self.width, STEPS * self.width], 2)
            )
        else:
            q, k, v = u.view(batch, time, 3, self.heads, self.dim).unbind(2)
        if SHUFFLED:
            history = u.new_zeros(batch, 16, STEPS * self.width) if state is None else state["values"]
            past = torch.cat([history, v.flatten(2)], 1)
            out_state["values"] = next_history(past, 16, None, length)
            v = earlier_values(past, age).view_as(v)
        if QK_NORM and FEATURES != "elu":
            q = torch.nn.functional.normalize(q, dim=-1, eps=1e-6)
            k = torch.nn.functional.normalize(k, dim=-1, eps=1e-6)
        if ROPE:
            q, k = rotate(q, age), rotate(k, age)
        if FEATURES == "elu":
            q, k = torch.nn.functional.elu(q) + 1.0, torch.nn.functional.elu(k) + 1.0
        if FEATURES == "polynomial":
            q, k = lift(q, self.degrees), lift(k, self.degrees.repeat(STEPS, 1))
        if QK_NORM and FEATURES != "identity":
            q = torch.nn.functional.normalize(q, dim=-1, eps=1e-6)
            k = torch.nn.functional.normalize(k, dim=-1, eps=1e-6)
        if STEPS > 1:
            k, v = (x.unflatten(2, (STEPS, self.heads)).transpose(2, 3) for x in (k, v))
        if ZEROED:
            y = q.new_zeros(batch, time, self.heads, self.dim)
        elif CACHE:
            if QK_NORM:
                q = q * self.dim  # logits of sqrt(dim) times the cosine
            y, stored = memory_cache(q, k, v, {}, {}, state, reset, valid)
            out_state |= stored
        else:
            if not KEY_TIED:
                gates = self.gates(x)
            y, stored = memory(q, k, v, gates, self.initial(), state, reset, valid)
            out_state |= stored
        last = age[:, -1] + 1 if length is None else age.gather(1, (length - 1).clamp_min(0)[:, None])[:, 0] + 1
        out_state["age"] = last if length is None else torch.where(length > 0, last, start)
        y = self.read_norm(y.to(self.read_norm.weight.dtype)).flatten(2)  # autocast hands over half precision
        if OUTPUT_GATE:
            y = y * torch.nn.functional.silu(self.gate(x))
        y = self.out(y)
        if valid is not None:
            y = y * valid[..., None]
        if order is not None:
            y = reorder(y, torch.argsort(order, dim=1))
        return y, out_state
