"""Decays between the tokens of a tile: one number a token, or one for every key channel, value channel, or both.

Shape legend: C tokens; tokens `[..., C, dim]`, states `[..., V, K]`, cumulated log decays `[..., C]`, by channels `[..., C, K]`,
`[..., C, V]`, or one behind the other. `late`: what has decayed when token t reads; `early`: when token i was written.
"""

import torch
from torch import Tensor

from miras_search.codegen.skeletons.slots import GATE, READ_FIRST


def lower_decay(late: Tensor, early: Tensor, strict: int = 0) -> Tensor:
    """exp(late_t - early_i) for i <= t (i < t if `strict`), else 0; masked before the exponential, which would overflow."""
    gap = late[..., :, None] - early[..., None, :]
    return gap.masked_fill(~torch.ones_like(gap, dtype=torch.bool).tril(-strict), float("-inf")).exp()


def even_halves(*parts: Tensor) -> list[Tensor]:
    """Tiles whose length is a power of two, so that they can be halved: the last cumulated decay goes on, all else is zero."""
    short = -parts[0].shape[-2] % (1 << (parts[0].shape[-2] - 1).bit_length())
    if not short:
        return list(parts)
    *plain, late, early = parts
    last = early[..., -1:, :].expand(*early.shape[:-2], short, early.shape[-1])
    padded = [torch.cat([x, x.new_zeros(*x.shape[:-2], short, x.shape[-1])], -2) for x in plain]
    return [*padded, torch.cat([late, last], -2), torch.cat([early, last], -2)]


def halved(x: Tensor, size: int) -> Tensor:
    """`[..., C, dim]` -> `[..., C / 2 size, 2, size, dim]`."""
    return x.reshape(*x.shape[:-2], -1, 2, size, x.shape[-1])


def decayed_products(x: Tensor, y: Tensor, late: Tensor, early: Tensor, strict: int = 0) -> Tensor:
    """x_t . y_i times the decay between them, `[..., C, C]`; with a gate of key channels every channel decays by its own.

    Then tiles are halved: between the halves the decay goes over the end b of the early one, exp(late_t - b) exp(b - early_i), of
    which neither exceeds one; what lies within a half is halved again.
    """
    if GATE in ("channel", "outer"):
        count = x.shape[-2]
        x, y, late, early = even_halves(x, y, late, early)
        found = (x * y).sum(-1).expand(late.shape[:-1])[..., None, None]
        if strict:
            found = torch.zeros_like(found)
        size = 1
        while size < count:
            xs, ys, ts, es = (halved(z, size) for z in (x, y, late, early))
            end = es[..., 0, -1:, :]
            cross = (xs[..., 1, :, :] * (ts[..., 1, :, :] - end).exp()) @ (
                ys[..., 0, :, :] * (end - es[..., 0, :, :]).exp()
            ).mT
            pairs = found.reshape(*found.shape[:-3], -1, 2, size, size)
            first, second = pairs[..., 0, :, :], pairs[..., 1, :, :]
            found = torch.cat([torch.cat([first, torch.zeros_like(cross)], -1), torch.cat([cross, second], -1)], -2)
            size *= 2
        return found[..., 0, :count, :count]
    if GATE == "none":
        return (x @ y.mT).tril(-strict)
    return (x @ y.mT) * lower_decay(late, early, strict)


def decayed_reads(products: Tensor, g: Tensor, late: Tensor, early: Tensor) -> Tensor:
    """sum over i of products_ti g_i times the decay between them, every value channel by its own, `[..., C, V]`; in halves."""
    count = g.shape[-2]
    g, late, early = even_halves(g, late, early)
    short = g.shape[-2] - count
    products = torch.nn.functional.pad(products, (0, short, 0, short))
    y = products.diagonal(dim1=-2, dim2=-1)[..., None] * g
    size = 1
    while size < count:
        gs, ts, es, into = (halved(z, size) for z in (g, late, early, y))
        end = es[..., 0, -1:, :]
        square = products.view(*products.shape[:-2], -1, 2, size, g.shape[-2] // (2 * size), 2, size)
        own = torch.diagonal(square[..., 1, :, :, 0, :], dim1=-4, dim2=-2).movedim(-1, -3)
        cross = (ts[..., 1, :, :] - end).exp() * (own @ (gs[..., 0, :, :] * (end - es[..., 0, :, :]).exp()))
        y = torch.stack([into[..., 0, :, :], into[..., 1, :, :] + cross], -3).flatten(-4, -2)
        size *= 2
    return y[..., :count, :]


def per_channel(l: Tensor) -> Tensor:
    """A cumulated log decay, to be multiplied on keys: one number a token, or one a channel."""
    if GATE not in ("channel", "outer"):
        l = l[..., None]
    return l


def writes_by_channels(x: Tensor, write: Tensor, l: Tensor) -> tuple[Tensor, Tensor]:
    """A tile of S_t = Diag(rows_t) S_{t-1} Diag(columns_t) + write_t x_t': what the state is multiplied by, and what is added."""
    end = l[..., -1:, :]
    fade = (end - l).exp()
    if GATE == "channel":
        return end.exp(), write.mT @ (x * fade)
    if GATE == "row":
        return end.exp().mT, (write * fade).mT @ x
    keys = x.shape[-1]
    total = end[..., keys:].exp().mT * end[..., :keys].exp()
    return total, (write * fade[..., keys:]).mT @ (x * fade[..., :keys])


def reads_by_channels(state: Tensor, q: Tensor, x: Tensor, write: Tensor, l: Tensor, log_alpha: Tensor) -> Tensor:
    """The answers of that tile from the state at its start."""
    late, gone = l, 0
    if READ_FIRST:
        late, gone = l - log_alpha, 1
    if GATE == "channel":
        return (q * late.exp()) @ state.mT + decayed_products(q, x, late, l, gone) @ write
    if GATE == "row":
        return late.exp() * (q @ state.mT) + decayed_reads((q @ x.mT).tril(-gone), write, late, l)
    keys = x.shape[-1]
    products = decayed_products(q, x, late[..., :keys], l[..., :keys], gone)
    z = late[..., keys:].exp() * ((q * late[..., :keys].exp()) @ state.mT)
    return z + decayed_reads(products, write, late[..., keys:], l[..., keys:])
