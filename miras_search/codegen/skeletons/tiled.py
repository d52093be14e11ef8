"""A matrix whose writes of a tile are affine in the state at its start: the online delta rule in its WY form, and gradients that do
not see the state under gates of channels. All but the walk over the states is done for many tiles at once.

Shape legend: N tiles, G rows (batch times heads), C tokens a tile; tokens `[N, G, C, dim]`, states `[G, V, K]`. Gated by value
channels, the online rule has a row of the state for every head: `[N, G, V, C, dim]` and `[G, V, 1, K]`.
"""

from typing import Any

import torch
from torch import Tensor

from miras_search.codegen.skeletons.decay import decayed_products, per_channel, reads_by_channels, writes_by_channels
from miras_search.codegen.skeletons.dense import gradient
from miras_search.codegen.skeletons.layout import Span, blocks
from miras_search.codegen.skeletons.slots import (
    DECAY_FIRST,
    DECOUPLED,
    DIAGONAL,
    ERASE_CHANNELS,
    GATE,
    ONLINE,
    READ_FIRST,
    STEPS,
)


class Affine(torch.autograd.Function):
    """The walk over the states of N tiles: u = base - seen S',  S_next = total * S + added + u' keys.

    Forward keeps the states at tile starts, backward walks from the last to the first with one product more than it writes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        start: Tensor,
        first: Tensor,
        fresh: Tensor | None,
        total: Tensor,
        added: Tensor | None,
        *online: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Args: start and first `[G, V, K]`; fresh `[N, G]`, a document starts; online: base, seen, keys `[N, G, C, dim]`.

        Returns:
            the states at tile starts, the writes u (empty without them), and the state at the end.
        """
        tiles = total.shape[0]
        states = start.new_empty(tiles, *start.shape)
        writes = start.new_empty(0)
        if ONLINE:
            base, seen, keys = online
            writes = torch.empty_like(base)
        state = start
        for n in range(tiles):
            if fresh is not None:
                state = torch.where(fresh[n].view(-1, *[1] * (start.ndim - 1)), first, state)
            states[n] = state
            after = state * total[n]
            if added is not None:
                after += added[n]
            if ONLINE:
                u = torch.sub(base[n], seen[n] @ state.mT, out=writes[n])
                after += u.mT @ keys[n]
            state = after
        ctx.fresh, ctx.added = fresh, added is not None
        ctx.save_for_backward(states, writes, total, *online)
        return states, writes, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dstates: Tensor, dwrites: Tensor, dend: Tensor) -> tuple[Any, ...]:
        """`d` is the gradient of the state after the tile; what it says to each input is made for all tiles at once."""
        states, writes, total, *online = ctx.saved_tensors
        d, dfirst, after = dend, torch.zeros_like(dend), torch.empty_like(states)
        if ONLINE:
            _, seen, keys = online
            dbase = dwrites.clone()
        for n in range(states.shape[0] - 1, -1, -1):
            after[n] = d
            before = dstates[n] + d * total[n]
            if ONLINE:
                dbase[n] += keys[n] @ d.mT
                before -= dbase[n].mT @ seen[n]
            d = before
            if ctx.fresh is not None:
                mask = ctx.fresh[n].view(-1, *[1] * (d.ndim - 1))
                dfirst = dfirst + torch.where(mask, d, 0.0)
                d = torch.where(mask, 0.0, d)
        dtotal = (states * after).sum_to_size(total.shape)
        dadded = after if ctx.added else None
        if ONLINE:
            return d, dfirst, None, dtotal, dadded, dbase, -(dbase @ states), writes @ after
        return d, dfirst, None, dtotal, dadded


def by_steps(log_alpha: Tensor) -> Tensor:
    """The decay of a token comes with the first of its steps: `[N, G, C, ...]` -> `[N, G, C * STEPS, ...]`."""
    wide = torch.zeros_like(log_alpha).repeat_interleave(STEPS, 2)
    wide[:, :, ::STEPS] = log_alpha
    return wide


def run_tiles(
    span: Span, state: Tensor, initial: Tensor, fresh: Tensor | None, tokens: list[Tensor], norm: list[Tensor]
) -> list[Tensor]:
    """Some tiles, from the state `[B, H, V, K]` and their tokens to `[y, state]`; `fresh`: `[B, N]`, a document starts."""
    heads = state.shape[1]
    q, k, v, log_alpha, eta, delta = (blocks(x, span) for x in tokens[:6])
    if STEPS > 1:
        k, v, eta = k.flatten(2, 3), v.flatten(2, 3), eta.flatten(2, 3)
        q, log_alpha = q.repeat_interleave(STEPS, 2), by_steps(log_alpha)
    start, first = state.flatten(0, 1), initial.flatten(0, 1)
    marks = None if fresh is None else fresh.mT.repeat_interleave(heads, 1)
    if ONLINE:
        erase = eta
        if DECOUPLED:
            erase = blocks(tokens[6], span)
        if DIAGONAL:
            if marks is not None:
                start = torch.where(marks[0, :, None, None], first, start)
            y, after = diagonal_online(start, q[0], k[0], v[0], log_alpha[0], eta[0], erase[0])
            y = y[None]
        else:
            y, after = online_tiles(start, first, marks, q, k, v, log_alpha, eta, erase)
    else:
        xs, gs = gradient([start], k, v, delta[..., None], norm)
        y, after = free_tiles(start, first, marks, q, xs[0], gs[0] * -eta[..., None], log_alpha)
    if STEPS > 1:
        if READ_FIRST:
            y = y[:, :, ::STEPS]
        else:
            y = y[:, :, STEPS - 1 :: STEPS]
    y = y.view(y.shape[0], *state.shape[:2], *y.shape[2:]).movedim(0, 2).flatten(2, 3)
    return [y, after.view_as(state)]


def online_tiles(
    start: Tensor,
    first: Tensor,
    marks: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    eta: Tensor,
    erase: Tensor,
) -> tuple[Tensor, Tensor]:
    """The exact delta rule.

    W_t = alpha_t W_{t-1} + u_t k_t',  u_t = eta_t v_t - erase_t (W~ k_t), with W~ the memory that the error is read from:
    W_{t-1}, or alpha_t W_{t-1} where the decay comes first. With s_t the decay that W~ has seen, the u of a tile solve
    (1 + erase k k' exp(s_t - l_i)) u = eta v - erase exp(s) k S', unit lower triangular: u = base - seen S'. Where every
    channel has an erase strength, W_t = alpha_t W_{t-1} + eta_t v_t k_t' + u_t (erase_t * k_t)', and u_t = -W~ k_t solve one.
    """
    if GATE in ("row", "outer"):
        # As if every value channel were a head, with a decay of its own.
        if GATE == "row":
            log_alpha = log_alpha.mT
        else:
            keys = k.shape[-1]
            log_alpha = log_alpha[..., :keys].unsqueeze(2) + log_alpha[..., keys:].mT.unsqueeze(-1)
        start, first = start.unsqueeze(-2), first.unsqueeze(-2)
        q, k, v, eta, erase = q.unsqueeze(2), k.unsqueeze(2), v.mT.unsqueeze(-1), eta.unsqueeze(2), erase.unsqueeze(2)
    time = -2 if GATE in ("channel", "outer") else -1
    l = log_alpha.cumsum(time)
    if DECAY_FIRST:
        seen = l
    else:
        seen = l - log_alpha
    late, gone = l, 0
    if READ_FIRST:
        late, gone = l - log_alpha, 1
    end = l.narrow(time, l.shape[time] - 1, 1)
    fade = per_channel(end - l).exp()
    held = k * per_channel(seen).exp()
    added: Tensor | None = None
    if ERASE_CHANNELS:
        written, erased = eta[..., None] * v, erase * k
        system = decayed_products(k, erased, seen, l, strict=1)
        right = -(decayed_products(k, k, seen, l, strict=1) @ written)
        added = written.mT @ (k * fade)
    else:
        erased = k
        system = erase[..., None] * decayed_products(k, k, seen, l, strict=1)
        right, held = eta[..., None] * v, erase[..., None] * held
    one = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device).expand_as(system)
    solve = torch.linalg.solve_triangular(system, one, upper=False, unitriangular=True)
    total = per_channel(end).exp()
    affine = (total, added, solve @ right, solve @ held, erased * fade)
    states, u, after = Affine.apply(start, first, marks, *affine)  # type: ignore[no-untyped-call]
    y = (q * per_channel(late).exp()) @ states.mT + decayed_products(q, erased, late, l, gone) @ u
    if ERASE_CHANNELS:
        y = y + decayed_products(q, k, late, l, gone) @ written
    if GATE in ("row", "outer"):
        y = y.squeeze(-1).mT
    return y, after


def free_tiles(
    start: Tensor, first: Tensor, marks: Tensor | None, q: Tensor, x: Tensor, write: Tensor, log_alpha: Tensor
) -> tuple[Tensor, Tensor]:
    """Writes that do not see the state, decayed by channels."""
    l = log_alpha.cumsum(-2)
    affine = writes_by_channels(x, write, l)
    states, _, after = Affine.apply(start, first, marks, *affine)  # type: ignore[no-untyped-call]
    return reads_by_channels(states, q, x, write, l, log_alpha), after


def diagonal_online(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, eta: Tensor, erase: Tensor
) -> tuple[Tensor, Tensor]:
    """The exact delta rule of a diagonal memory: a recurrence of one number a channel, token by token; one tile, `[G, C, dim]`."""
    alpha = per_channel(log_alpha).exp()
    answers = []
    for t in range(q.shape[-2]):
        now = slice(t, t + 1)
        if READ_FIRST:
            answers.append(q[..., now, :] * state)
        kept, key = alpha[..., now, :] * state, k[..., now, :]
        if DECAY_FIRST:
            seen = kept
        else:
            seen = state
        state = kept + (eta[..., now, None] * v[..., now, :] - erase[..., now, None] * seen * key) * key
        if not READ_FIRST:
            answers.append(q[..., now, :] * state)
    return torch.cat(answers, -2), state
