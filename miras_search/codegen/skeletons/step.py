"""One token of decoding, straight on the state: no grid, no masks, no sums over a chunk, nothing recorded.

Shape legend: B batch, H heads, G rows (B * H); weights `[G, out, in]`, tokens `[G, 1, dim]`, gates `[G, 1, 1]`, of channels `[G, 1, D]`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.chunk import open_chunk, orthogonalise, state_names
from miras_search.codegen.skeletons.dense import gradient, predict
from miras_search.codegen.skeletons.slots import (
    CHUNK,
    CHUNKED,
    DECAY_FIRST,
    DECOUPLED,
    ERASE_CHANNELS,
    FEEDBACK,
    GATE,
    INPUTS,
    LAST_ONLY,
    LAYERS,
    MIRROR,
    MOMENTUM,
    MULTIPLICATIVE,
    ONLINE,
    ORTHOGONAL,
    READ,
    READ_FIRST,
    THRESHOLDED,
    retention_feedback,
    retention_psi,
    retention_update,
)


def steps_alone(time: int, state: Mapping[str, Tensor] | None, reset: Tensor | None, valid: Tensor | None) -> bool:
    """Whether a call is one token in every row, each of a document that has begun, and no gradient is wanted."""
    if time > 1 or state is None or torch.is_grad_enabled():
        return False
    return (reset is None or not bool(reset.any())) and (valid is None or bool(valid.all()))


def rows(x: Tensor) -> Tensor:
    """A token of all rows, `[B, 1, H, dim]` -> `[G, 1, dim]`, or a gate, `[B, 1, H]` -> `[G, 1, 1]`."""
    return x.reshape(x.shape[0] * x.shape[2], 1, -1)


def rates(alpha: Tensor, columns: int, layer: int) -> Tensor:
    """alpha to be multiplied on weights whose inputs number `columns`."""
    if GATE == "channel":
        return alpha if layer < INPUTS else alpha.mT
    if GATE == "row":
        return alpha.mT
    if GATE == "outer":
        return alpha[..., columns:].mT * alpha[..., :columns]
    return alpha


def online_token(state: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, erase: Tensor) -> Tensor:
    """The delta rule: W_t = alpha_t W_{t-1} + (eta_t v_t - erase_t W~ k_t) k_t'."""
    if GATE != "none":
        kept = state * rates(alpha, k.shape[-1], 0)
    else:
        kept = state
    if DECAY_FIRST:
        held = torch.bmm(k, kept.mT)
    else:
        held = torch.bmm(k, state.mT)
    if ERASE_CHANNELS:
        return torch.addcmul(kept, (eta * v).mT, k).addcmul_(held.mT, erase * k, value=-1)
    return torch.addcmul(kept, (eta * v - erase * held).mT, k)


def next_weights(
    states: list[Tensor],
    momenta: list[Tensor],
    xs: list[Tensor],
    gs: list[Tensor],
    alpha: Tensor,
    eta: Tensor,
    mu: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """The states after the write of -eta g x', and the momenta."""
    new, new_momenta = [], []
    for i in range(LAYERS):
        if LAST_ONLY:
            still = i < LAYERS - 1
            if still:
                new.append(states[i])
                if MOMENTUM:
                    new_momenta.append(momenta[i])
                continue
        state, g, x = states[i], gs[i].mT, xs[i]
        if not ORTHOGONAL:
            g = g * eta
        if MOMENTUM:
            momentum = (momenta[i] * mu).addcmul_(g, x, value=-1)
            new_momenta.append(momentum)
            write = momentum
            if ORTHOGONAL:
                write = eta * orthogonalise(momentum)
        if MULTIPLICATIVE:
            if not MOMENTUM:
                write = -g * x
            new.append(retention_update(state, rates(alpha, x.shape[-1], i), -write))
            continue
        if FEEDBACK:
            state = retention_feedback(state)
        if GATE != "none":
            state = state * rates(alpha, x.shape[-1], i)
        if MOMENTUM:
            new.append(state + write)
        else:
            new.append(torch.addcmul(state, g, x, value=-1))
    return new, new_momenta


def one_token(
    carry: list[Tensor],
    tokens: list[Tensor],
    eta: Tensor,
    alpha: Tensor,
    erase: Tensor,
    mu: Tensor,
    delta: Tensor,
    norm: list[Tensor],
) -> list[Tensor]:
    """From the carry of an opened chunk, `[G, out, in]` each, to the answers, the states and the momenta."""
    q, k, v = tokens
    states = carry[:LAYERS]
    if ONLINE:
        new = [online_token(states[0], k, v, alpha, eta, erase)]
        if READ_FIRST:
            return [predict(states, q, norm), *new]
        return [predict(new, q, norm), *new]
    momenta: list[Tensor] = []
    if MOMENTUM:
        momenta = carry[LAYERS : 2 * LAYERS]
    if CHUNKED:
        frozen = carry[len(momenta) + LAYERS : len(momenta) + 2 * LAYERS]
    elif MIRROR:
        frozen = [retention_psi(s) for s in states]
    else:
        frozen = states
    xs, gs = gradient(frozen, k, v, delta, norm)
    new, momenta = next_weights(states, momenta, xs, gs, alpha, eta, mu)
    weights = new
    if READ_FIRST:
        weights = states
    if READ == "stale":
        weights = frozen
    elif READ == "lagged":
        weights = [w * c for w, c in zip(weights, carry[-LAYERS:], strict=True)]
    elif MIRROR:
        weights = [retention_psi(w) for w in weights]
    return [predict(weights, q, norm), *new, *momenta]


def begun(carry: list[Tensor], position: Tensor) -> list[Tensor]:
    """The carry of rows at these places `[B]` of a chunk, opened where that is its start."""
    places = position.tolist()
    if 0 in places:
        return open_chunk(carry, [], (position == 0) if any(places) else None, None)
    return carry


def memory_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """`memory` for one token in every row; `gates` as they are used.

    A state without `position` is one whose chunk has begun; what comes back has none either.
    """
    kind = torch.promote_types(torch.float32, q.dtype)
    names = state_names()
    carry = [state[name] for name in names]
    out = {}
    if CHUNKED:
        placed = "position" in state
        if placed:
            carry = begun(carry, state["position"])
            out["position"] = torch.remainder(state["position"] + 1, CHUNK)
    eta = rows(gates["eta"].to(kind))
    alpha = erase = mu = delta = eta
    if GATE != "none":
        alpha = rows(gates["log_alpha"].to(kind)).exp()
    if DECOUPLED:
        erase = rows(gates["erase"].to(kind))
    if MOMENTUM:
        mu = rows(gates["log_mu"].to(kind)).exp()
    if THRESHOLDED:
        delta = rows(gates["delta"].to(kind))
    norm = [initial[n].to(kind)[:, None] for n in ("norm_weight", "norm_bias") if n in initial]
    if q.shape[0] > 1:
        norm = [x.repeat(q.shape[0], 1, 1) for x in norm]
    with torch.autocast(q.device.type, enabled=False):
        tokens = [rows(x.to(kind)) for x in (q, k, v)]
        y, *new = one_token([x.flatten(0, 1) for x in carry], tokens, eta, alpha, erase, mu, delta, norm)
    moved = [x.view(s.shape) for x, s in zip(new, carry, strict=False)]
    out |= zip(names, moved + carry[len(moved) :], strict=True)
    return y.reshape(v.shape).to(v.dtype), out
