"""One chunk: the gradients at its frozen weights, the writes, and the reads.

Shape legend: B batch, H heads, C tokens; weights `[B, H, out, in]`, activations `[B, H, C, dim]`, gates `[B, H, C]`.
"""

import torch
from torch import Tensor

from miras_search.codegen.skeletons.decay import lower_decay, reads_by_channels, writes_by_channels
from miras_search.codegen.skeletons.dense import apply, feed, gradient, head, predict
from miras_search.codegen.skeletons.slots import (
    CHUNKED,
    DIAGONAL,
    FEEDBACK,
    GATE,
    INPUTS,
    LAST_ONLY,
    LAYERS,
    LEAST_SQUARES,
    MIRROR,
    MOMENTUM,
    MULTIPLICATIVE,
    OFFSET,
    ORTHOGONAL,
    READ,
    READ_FIRST,
    SCAN,
    SPAN,
    THRESHOLDED,
    retention_feedback,
    retention_psi,
    retention_scale,
    retention_update,
)


def chunk_least_squares(
    moment: Tensor, gram: Tensor, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, eta: Tensor, ridge: Tensor
) -> list[Tensor]:
    """The exact solution at every token of a tile: y_t = C_t (H_t + Lambda)^-1 q_t, by Cholesky.

    Returns:
        y, and C `[B, H, V, K]` and H `[B, H, K, K]` after the tile.
    """
    l = log_alpha.cumsum(-1)
    strength = lower_decay(l, l) * eta[..., None, :]
    held = l.exp()[..., None, None]
    squares = strength @ (k[..., :, None] * k[..., None, :]).flatten(-2)
    grams = held * gram[:, :, None] + squares.view(*k.shape, -1)
    factor = torch.linalg.cholesky(grams + torch.diag_embed(ridge)[..., None, :, :])
    x = torch.cholesky_solve(q[..., None], factor)[..., 0]
    y = held[..., 0] * (x @ moment.mT) + ((x @ k.mT) * strength) @ v
    last = (strength[..., -1, :, None] * v).mT @ k
    return [y, held[..., -1, :, :] * moment + last, grams[..., -1, :, :]]


def orthogonalise(m: Tensor) -> Tensor:
    """Five Newton-Schulz iterations (Muon's): the singular values of `[..., out, in]` go to about 1.

    X <- (a + b X X' + c (X X')^2) X multiplies X by polynomials of the first X X'. Where X is wide they are formed on its
    shorter side, for a part of the operations; elsewhere X itself is carried along, which loses fewer digits.
    """
    x = m * torch.rsqrt(m.square().sum((-2, -1), keepdim=True) + 1e-14)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    if x.shape[-1] > 4 * x.shape[-2]:
        square = x @ x.mT
        one = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        factors = one
        for _ in range(5):
            factor = 3.4445 * one + 2.0315 * square @ square - 4.775 * square
            factors, square = factor @ factors, factor @ square @ factor
        x = factors @ x
    else:
        for _ in range(5):
            square = x @ x.mT
            x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x.mT if tall else x


def join_window(
    past: list[Tensor], tokens: list[Tensor], filled: Tensor | None
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """The tokens of a chunk behind those before it that its first tokens still sum over.

    Args:
        past: k, v, gamma and, with a threshold, delta of the last SPAN - 1 tokens, zero where there was none.
        tokens: the same of the chunk.
        filled: `[B, C]`, false where no token sits.

    Returns:
        both together, `[B, H, SPAN - 1 + C, ...]`; gamma_i where the loss of token i is in that of token t, `[B, H, C, ...]`,
        else 0; and the `past` of the next chunk.
    """
    joined = [torch.cat([a, b], 2) for a, b in zip(past, tokens, strict=True)]
    size = tokens[0].shape[2]
    gamma = joined[2]
    before = torch.arange(2 - SPAN, 1, device=gamma.device)
    if filled is None:
        place = torch.arange(1, size + 1, device=gamma.device)
        gap = place[:, None] - torch.cat([before, place])
        seen = (gap >= 0) & (gap < SPAN)
        return joined, gamma[..., None, :] * seen, [x[:, :, -(SPAN - 1) :] for x in joined]
    # Where slots are empty, tokens are counted: the past ends at 0.
    place = filled.cumsum(1)
    every = torch.cat([before.expand(place.shape[0], -1), place], 1)
    there = torch.cat([torch.ones_like(every[:, : SPAN - 1], dtype=torch.bool), filled], 1)
    gap = place[:, :, None] - every[:, None, :]
    seen = (gap >= 0) & (gap < SPAN) & there[:, None, :] & filled[:, :, None]
    wanted = place[:, -1:] + before
    taken = ((wanted[:, :, None] == every[:, None, :]) & there[:, None, :]).to(gamma.dtype)[:, None]
    left = [taken @ x if x.ndim == 4 else (taken @ x[..., None])[..., 0] for x in joined]
    return joined, gamma[..., None, :] * seen[:, None], left


def write_strengths(
    log_alpha: Tensor, eta: Tensor, log_mu: Tensor | None, filled: Tensor | None, window: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """How much of the write of token i is in the state at token t.

    Returns:
        strength `[B, H, C, C]`, with a window `[B, H, C, SPAN - 1 + C]`; and with momentum: what of the momentum at the chunk's
        start is in the state at t `[B, H, C]`, and both for the momentum itself at the chunk's end, `[B, H, C]` and
        `[B, H, 1]`.
    """
    l = log_alpha.cumsum(-1)
    decay = lower_decay(l, l)
    if MOMENTUM:
        assert log_mu is not None
        m = log_mu.cumsum(-1)
        if SPAN > 1:
            assert window is not None
            written = lower_decay(m, m) @ (eta[..., None] * window)
        else:
            written = lower_decay(m, m) * eta[..., None, :]
        if filled is not None:
            decay = decay * filled[:, None, None, :]
        return decay @ written, (decay @ m.exp()[..., None])[..., 0], written[..., -1, :], m[..., -1:].exp()
    if SPAN > 1:
        assert window is not None
        return decay @ (eta[..., None] * window), None, None, None
    return decay * eta[..., None, :], None, None, None


def chunk_dual(
    states: list[Tensor],
    frozen: list[Tensor],
    scales: list[Tensor],
    momenta: list[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    eta: Tensor,
    delta: Tensor,
    norm: list[Tensor],
    log_mu: Tensor | None,
    filled: Tensor | None,
    window: Tensor | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A chunk in its dual, attention-like form: no weights are formed inside it."""
    xs, gs = gradient(frozen, k, v, delta, norm)
    if GATE in ("channel", "row", "outer"):
        write, l = gs[0] * -eta[..., None], log_alpha.cumsum(-2)
        total, added = writes_by_channels(xs[0], write, l)
        z, state = reads_by_channels(states[0], q, xs[0], write, l, log_alpha), states[0] * total + added
        if READ == "stale":
            return predict(frozen, q, norm), [state], momenta
        return head(z, q, norm), [state], momenta
    strength, carried, impulse, kept = write_strengths(log_alpha, eta, log_mu, filled, window)
    total = log_alpha.sum(-1)[..., None, None].exp()
    new, new_momenta = [], []
    if READ != "stale":
        held = log_alpha.cumsum(-1).exp()[..., None]
        seen = strength
        if MOMENTUM:
            assert carried is not None
            lent = carried[..., None]
        if READ_FIRST:
            held, seen = before_write(held, 1.0), before_write(strength, 0.0)
            if MOMENTUM:
                lent = before_write(lent, 0.0)
        outs: list[Tensor] = []
    for i in range(LAYERS):
        if LAST_ONLY:
            still = i < LAYERS - 1
            if still:
                if READ != "stale":
                    z = apply(states[i], feed(q, outs))
                    if READ == "lagged":
                        z = z * scales[i]
                    outs.append(z)
                new.append(states[i])
                if MOMENTUM:
                    new_momenta.append(momenta[i])
                continue
        if READ != "stale":
            x = feed(q, outs)
            if DIAGONAL:
                z = held * (x * states[i]) - x * (seen @ xs[i])
            else:
                z = held * (x @ states[i].mT) - ((x @ xs[i].mT) * seen) @ gs[i]
            if MOMENTUM:
                z = z + lent * apply(momenta[i], x)
            if READ == "lagged":
                z = z * scales[i]
            outs.append(z)
        state = total * states[i] - (strength[..., -1, :, None] * gs[i]).mT @ xs[i]
        if MOMENTUM:
            assert carried is not None
            assert impulse is not None
            assert kept is not None
            state = state + carried[..., -1:, None] * momenta[i]
            new_momenta.append(kept[..., None] * momenta[i] - (impulse[..., None] * gs[i]).mT @ xs[i])
        new.append(state)
    if READ == "stale":
        return predict(frozen, q, norm), new, new_momenta
    return head(outs[-1], q, norm), new, new_momenta


def before_write(x: Tensor, first: float) -> Tensor:
    """What was so after the token before, `[B, H, C, ...]`; at the chunk's start: `first`."""
    return torch.cat([torch.full_like(x[..., :1, :], first), x[..., :-1, :]], -2)


def chunk_scan(
    states: list[Tensor],
    frozen: list[Tensor],
    scales: list[Tensor],
    momenta: list[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    eta: Tensor,
    delta: Tensor,
    norm: list[Tensor],
    log_mu: Tensor | None,
    filled: Tensor | None,
    window: Tensor | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A chunk token by token: the writes are linear, the mirror map and the reads run on all tokens at once."""
    xs, gs = gradient(frozen, k, v, delta, norm)
    alpha = log_alpha.exp()
    new, new_momenta = [], []
    if READ != "stale":
        query = q.unsqueeze(-2)
        outs: list[Tensor] = []
    for i in range(LAYERS):
        if LAST_ONLY:
            still = i < LAYERS - 1
            if still:
                if READ != "stale":
                    weights = states[i].unsqueeze(2)
                    if READ == "lagged":
                        weights = weights * scales[i].unsqueeze(2)
                    elif MIRROR:
                        weights = retention_psi(weights)
                    outs.append(apply(weights, feed(query, outs)))
                new.append(states[i])
                if MOMENTUM:
                    new_momenta.append(momenta[i])
                continue
        state = states[i]
        if GATE == "channel":
            kept = alpha[..., None, :] if i < INPUTS else alpha[..., :, None]
        elif GATE == "row":
            kept = alpha[..., :, None]
        elif GATE == "outer":
            columns = q.shape[-1]
            kept = alpha[..., columns:, None] * alpha[..., None, :columns]
        else:
            kept = alpha[..., None, None]
        if SPAN > 1:
            assert window is not None
            if ORTHOGONAL:
                weight = window
            else:
                weight = eta[..., None] * window
        elif ORTHOGONAL:
            g = gs[i]
            if filled is not None:
                g = g * filled[:, None, :, None]
        else:
            g = gs[i] * eta[..., None]
        if MOMENTUM:
            momentum = momenta[i]
        if ORTHOGONAL:
            assert log_mu is not None
            steps = []
            for t in range(q.shape[-2]):
                if SPAN > 1:
                    write = -(weight[..., t, :, None] * gs[i]).mT @ xs[i]
                else:
                    write = -g[..., t, :, None] * xs[i][..., t, None, :]
                momentum = log_mu[..., t, None, None].exp() * momentum + write
                steps.append(momentum)
            writes = eta[..., None, None] * orthogonalise(torch.stack(steps, 2))
        if READ != "stale":
            path = []
        for t in range(q.shape[-2]):
            if READ_FIRST and READ != "stale":
                path.append(state)
            if ORTHOGONAL:
                write = writes[:, :, t]
            elif SPAN > 1:
                write = -(weight[..., t, :, None] * gs[i]).mT @ xs[i]
            else:
                write = -g[..., t, :, None] * xs[i][..., t, None, :]
            if MOMENTUM and not ORTHOGONAL:
                assert log_mu is not None
                momentum = log_mu[..., t, None, None].exp() * momentum + write
                write = momentum
                if filled is not None:
                    write = write * filled[:, t, None, None, None]
            if MULTIPLICATIVE:
                after = retention_update(state, kept[..., t, :, :], -write)
                if filled is not None:
                    after = torch.where(filled[:, t, None, None, None], after, state)
                state = after
            elif FEEDBACK:
                before = retention_feedback(state)
                if filled is not None:
                    before = torch.where(filled[:, t, None, None, None], before, state)
                state = kept[..., t, :, :] * before + write
            else:
                state = kept[..., t, :, :] * state + write
            if READ != "stale" and not READ_FIRST:
                path.append(state)
        new.append(state)
        if MOMENTUM:
            new_momenta.append(momentum)
        if READ != "stale":
            weights = torch.stack(path, 2)
            if READ == "lagged":
                weights = weights * scales[i].unsqueeze(2)
            elif MIRROR:
                weights = retention_psi(weights)
            outs.append(apply(weights, feed(query, outs)))
    if READ == "stale":
        return predict(frozen, q, norm), new, new_momenta
    return head(outs[-1].squeeze(-2), q, norm), new, new_momenta


def state_names() -> list[str]:
    """Names of the carry, in its order."""
    layers = range(LAYERS)
    names = [f"state_{i}" for i in layers]
    if LEAST_SQUARES:
        names.append("state_gram")
    if MOMENTUM:
        names += [f"momentum_{i}" for i in layers]
    if CHUNKED:
        names += [f"frozen_{i}" for i in layers]
        if READ == "lagged":
            names += [f"scale_{i}" for i in layers]
    if SPAN > 1:
        names += ["window_k", "window_v", "window_gamma"]
        if THRESHOLDED:
            names.append("window_delta")
    return names


def empty_carry(initial: list[Tensor]) -> list[Tensor]:
    """The carry before the first token; what an opening chunk overwrites is zero."""
    carry = list(initial)
    if LEAST_SQUARES:
        keys = initial[0].shape[-1]
        carry.append(initial[0].new_zeros(*initial[0].shape[:2], keys, keys))
    if MOMENTUM:
        carry += [torch.zeros_like(s) for s in initial]
    if CHUNKED:
        carry += [torch.zeros_like(s) for s in initial]
        if READ == "lagged":
            carry += [torch.zeros_like(s[..., :1, :1]) for s in initial]
    if SPAN > 1:
        keys = initial[0].shape[-1]
        if OFFSET:
            keys = keys - 1
        shape = (*initial[0].shape[:2], SPAN - 1)
        carry += [initial[0].new_zeros(*shape, size) for size in (keys, initial[-1].shape[-2])]
        carry.append(initial[0].new_zeros(shape))
        if THRESHOLDED:
            carry.append(initial[0].new_zeros(shape))
    return carry


def open_chunk(carry: list[Tensor], initial: list[Tensor], opens: Tensor | None, fresh: Tensor | None) -> list[Tensor]:
    """Start a chunk: documents that begin take the initial state, chunks that begin freeze the weights.

    The carry is flat: states, then momenta, frozen weights and scales, as far as the design has them; `LAYERS` of each.
    """
    states = carry[:LAYERS]
    if fresh is not None:
        mask = fresh[:, None, None, None]
        states = [torch.where(mask, a, s) for s, a in zip(states, initial, strict=True)]
    out = list(states)
    if LEAST_SQUARES:
        gram = carry[LAYERS]
        if fresh is not None:
            gram = torch.where(fresh[:, None, None, None], 0.0, gram)
        out.append(gram)
    if MOMENTUM:
        momenta = carry[LAYERS : 2 * LAYERS]
        if fresh is not None:
            momenta = [torch.where(fresh[:, None, None, None], 0.0, m) for m in momenta]
        out += momenta
    if CHUNKED:
        rest = carry[len(out) :]
        if MIRROR:
            frozen = [retention_psi(s) for s in states]
        else:
            frozen = list(states)
        if opens is not None:
            frozen = [torch.where(opens[:, None, None, None], w, o) for w, o in zip(frozen, rest, strict=False)]
        out += frozen
        if READ == "lagged":
            scales = [retention_scale(s) for s in states]
            if opens is not None:
                scales = [
                    torch.where(opens[:, None, None, None], c, o) for c, o in zip(scales, rest[LAYERS:], strict=False)
                ]
            out += scales
    if SPAN > 1:
        past = carry[len(out) :]
        if fresh is not None:
            past = [torch.where(fresh.view(-1, *[1] * (x.ndim - 1)), 0.0, x) for x in past]
        out += past
    return out


def run_chunk(carry: list[Tensor], tokens: list[Tensor], norm: list[Tensor], filled: Tensor | None) -> list[Tensor]:
    """An opened chunk, from carry to `[y, *carry]`.

    `tokens`: q, k, v `[B, H, C, dim]`, log_alpha, eta, delta, and log_mu or erase `[B, H, C]`, in this order.
    """
    q, k, v, log_alpha, eta, delta = tokens[:6]
    if LEAST_SQUARES:
        return chunk_least_squares(carry[0], carry[1], q, k, v, log_alpha, eta, norm[0][..., 0, :])
    states, rest = carry[:LAYERS], carry[LAYERS:]
    momenta: list[Tensor] = []
    log_mu = None
    if MOMENTUM:
        momenta, rest = rest[:LAYERS], rest[LAYERS:]
        log_mu = tokens[6]
    window: Tensor | None = None
    if SPAN > 1:
        own = [k, v, tokens[-1]]
        if THRESHOLDED:
            own.append(delta)
        past, rest = rest[-len(own) :], rest[: -len(own)]
        joined, window, past = join_window(past, own, filled)
        k, v = joined[:2]
        if THRESHOLDED:
            delta = joined[3]
        else:
            delta = torch.ones_like(joined[2])
    if CHUNKED:
        frozen = rest[:LAYERS]
    elif MIRROR:
        frozen = [retention_psi(s) for s in states]
    else:
        frozen = states
    own_form = chunk_scan if SCAN else chunk_dual
    y, states, momenta = own_form(
        states, frozen, rest[LAYERS:], momenta, q, k, v, log_alpha, eta, delta[..., None], norm, log_mu, filled, window
    )
    if SPAN > 1:
        rest = [*rest, *past]
    return [y, *states, *momenta, *rest]
