"""A chunk whose reads need the weights of every token, with its backward written out: states are formed token by token in place,
the mirror map and the products run on tiles of tokens that stay in cache.

Shape legend: G rows (batch times heads), C tokens; states `[G, out, in]`, paths of states `[C + 1, G, out, in]`, activations
`[G, C, dim]`, and `[C, G, dim]` where the token comes first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from miras_search.codegen.skeletons.dense import with_one
from miras_search.codegen.skeletons.derived import (
    activated,
    activated_pull,
    dual_keys,
    dual_keys_backward,
    head_backward,
    unit_rows,
)
from miras_search.codegen.skeletons.slots import (
    GATE,
    LAYERS,
    MIRROR,
    MOMENTUM,
    NORM,
    RESIDUAL,
    SCALING,
    SHARING,
    TILE,
    retention_mass,
    retention_power_sum,
    retention_psi,
    retention_psi_vjp,
    retention_scale_of,
    retention_scale_vjp,
    retention_share,
    retention_share_vjp,
)


class Rates(NamedTuple):
    """The gates of a chunk, token first. What a design has not got stands as `eta` and is not read."""

    eta: Tensor  # [C, G, 1]
    alpha: Tensor  # [C, G, 1], or [C, G, D] for a channel gate
    mu: Tensor  # [C, G, 1]
    filled: Tensor  # [C, G, 1] 0 where no token sits


def scan_products(log_alpha: Tensor, eta: Tensor, log_mu: Tensor, filled: Tensor | None) -> list[Tensor]:
    """The fields of `Rates` that a design has, of many chunks at once: `[N, G, C, ...]` -> `[N, C, G, ...]`; differentiable."""
    rates = [eta.transpose(1, 2)[..., None]]
    if GATE == "channel":
        rates.append(log_alpha.transpose(1, 2).exp())
    if GATE == "scalar":
        rates.append(log_alpha.transpose(1, 2)[..., None].exp())
    if MOMENTUM:
        rates.append(log_mu.transpose(1, 2)[..., None].exp())
        there = torch.ones_like(eta) if filled is None else filled.to(eta.dtype)
        rates.append(there.transpose(1, 2)[..., None])
    return rates


def rates_of(products: list[Tensor]) -> Rates:
    """The gates of one chunk by name."""
    eta = alpha = mu = filled = products[0]
    if GATE != "none":
        alpha = products[1]
    if MOMENTUM:
        mu, filled = products[-2:]
    return Rates(eta, alpha, mu, filled)


def on_weights(alpha: Tensor, layer: int) -> Tensor:
    """alpha to be multiplied on weights: a number, the inputs of the first layer, or the outputs of the last."""
    if GATE == "channel":
        return alpha[..., None, :] if layer == 0 else alpha[..., :, None]
    return alpha[..., None]


def token_first(x: Tensor) -> Tensor:
    """`[G, C, dim]` -> `[C, G, dim]`, or back; contiguous, so that what is made of it is."""
    return x.transpose(0, 1).contiguous()


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Outer products, `[..., out]` and `[..., in]` -> `[..., out, in]`."""
    return a[..., :, None] * b[..., None, :]


def applied(weights: Tensor, x: Tensor) -> Tensor:
    """A matrix a token on a vector a token, `[c, G, out, in]` and `[c, G, in]` -> `[c, G, out]`."""
    return torch.bmm(x.reshape(-1, 1, x.shape[-1]), weights.flatten(0, 1).mT).view(*x.shape[:2], -1)


def applied_back(weights: Tensor, y: Tensor) -> Tensor:
    """Its transpose, `[c, G, out, in]` and `[c, G, out]` -> `[c, G, in]`."""
    return torch.bmm(y.reshape(-1, 1, y.shape[-1]), weights.flatten(0, 1)).view(*y.shape[:2], -1)


def tiles(path: Tensor) -> list[slice]:
    """Tokens in runs whose matrices have about TILE numbers."""
    count, size = path.shape[0] - 1, max(1, 2 * TILE // path[0].numel())
    return [slice(a, min(count, a + size)) for a in range(0, count, size)]


def state_path(
    state: Tensor, momentum: Tensor | None, write: Tensor, x: Tensor, rates: Rates, layer: int
) -> tuple[Tensor, Tensor | None]:
    """The states before the first token and after every one, and the momenta; `write`: -eta g `[C, G, out]`."""
    path = torch.empty(write.shape[0] + 1, *state.shape, dtype=state.dtype, device=state.device)
    path[0] = state
    torch.mul(write[..., :, None], x[..., None, :], out=path[1:])
    impulses = None
    if MOMENTUM:
        assert momentum is not None
        impulses = torch.empty_like(path)
        impulses[0] = momentum
        for t in range(write.shape[0]):
            torch.addcmul(path[t + 1], impulses[t], rates.mu[t, ..., None], out=impulses[t + 1])
        torch.mul(impulses[1:], rates.filled[..., None], out=path[1:])
    if GATE != "none":
        kept = on_weights(rates.alpha, layer)
        for t in range(write.shape[0]):
            path[t + 1].addcmul_(path[t], kept[t])
    else:
        for t in range(write.shape[0]):
            path[t + 1].add_(path[t])
    return path, impulses


def mapped(states: Tensor) -> Tensor:
    """What a read and its pull-back need of psi(S) `[c, G, out, in]`: the sum `[c, G, 1, 1]` of a scaling map, the shares of one
    that shares, else all of it."""
    if SCALING:
        return retention_power_sum(states)
    if SHARING:
        return retention_share(states)
    if MIRROR:
        return retention_psi(states)
    return states


def answered(states: Tensor, found: Tensor, u: Tensor) -> Tensor:
    """psi(S) u; `found`: what `mapped` gave."""
    if SCALING:
        return applied(states, u) * retention_scale_of(found)[..., 0]
    if SHARING:
        return applied(found, u) * retention_mass(states)
    return applied(found, u)


def answered_back(states: Tensor, found: Tensor, u: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
    """Its pull-back: the gradients of u and, `[c, G, out, in]`, of S."""
    if SCALING:
        seen = applied_back(states, dz)
        d = retention_scale_vjp(states, found, (seen * u).sum(-1, keepdim=True)[..., None])
        scale = retention_scale_of(found)[..., 0]
        return seen * scale, d.addcmul_((dz * scale)[..., :, None], u[..., None, :])
    if SHARING:
        dz = dz * retention_mass(states)
        return applied_back(found, dz), retention_share_vjp(found, outer(dz, u))
    if MIRROR:
        return applied_back(found, dz), retention_psi_vjp(states, outer(dz, u))
    return applied_back(found, dz), outer(dz, u)


def scan_forward(
    states: list[Tensor],
    momenta: list[Tensor],
    frozen: list[Tensor],
    scales: list[Tensor],
    tokens: list[Tensor],
    products: list[Tensor],
    norm: list[Tensor],
    into: list[Tensor],
) -> Tensor:
    """A chunk: returns its answers `[G, C, V]`; the states at its end, then the momenta, go to `into`.

    `tokens`: q, k, v `[G, C, dim]` and delta `[G, C, 1]`.
    """
    q, k, v, delta = tokens
    rates = rates_of(products)
    keys = dual_keys(frozen, k, v, delta, norm)
    z = token_first(q)
    for i in range(LAYERS):
        if LAYERS > 1:
            z = activated(z) if i else z
        write = token_first(keys.g[i]).mul_(-rates.eta)
        momentum = None
        if MOMENTUM:
            momentum = momenta[i]
        path, impulses = state_path(states[i], momentum, write, token_first(keys.x[i]), rates, i)
        u = with_one(z)
        parts = [(path[1:][run], u[run]) for run in tiles(path)]
        z = torch.cat([answered(s, mapped(s), x) for s, x in parts])
        into[i].copy_(path[-1])
        if MOMENTUM:
            assert impulses is not None
            into[LAYERS + i].copy_(impulses[-1])
    z = token_first(z)
    if NORM:
        z = torch.addcmul(norm[1], unit_rows(z)[0], norm[0])
    if RESIDUAL:
        z = z + q
    return z


def scan_backward(
    states: list[Tensor],
    momenta: list[Tensor],
    frozen: list[Tensor],
    scales: list[Tensor],
    tokens: list[Tensor],
    products: list[Tensor],
    norm: list[Tensor],
    dy: Tensor,
    dstates: list[Tensor],
    dmomenta: list[Tensor],
    dfrozen: list[Tensor],
    dscales: list[Tensor],
    dproducts: list[Tensor],
    dnorm: list[Tensor],
) -> list[Tensor]:
    """The chunk's pull-back. On entry `dstates` and `dmomenta` belong to its end, on return to its start (in place).

    `dfrozen` and `dnorm` are added to; `dproducts` is written. `dfrozen` may be the same tensors as `dstates`.

    Returns:
        Gradients of q, k, v and delta.
    """
    q, k, v, delta = tokens
    rates, drates = rates_of(products), rates_of(dproducts)
    keys = dual_keys(frozen, k, v, delta, norm)
    xs = [token_first(x) for x in keys.x]
    gs = [token_first(g) for g in keys.g]
    writes = [-rates.eta * g for g in gs]
    us: list[Tensor] = [with_one(token_first(q))]
    zs: list[Tensor] = []
    paths, impulses, maps = [], [], []
    for i in range(LAYERS):
        if LAYERS > 1 and i:
            us.append(with_one(activated(zs[-1])))
        momentum = None
        if MOMENTUM:
            momentum = momenta[i]
        path, impulse = state_path(states[i], momentum, writes[i], xs[i], rates, i)
        paths.append(path)
        impulses.append(impulse)
        found = [mapped(path[1:][run]) for run in tiles(path)]
        maps.append(found)
        parts = zip(found, tiles(path), strict=True)
        zs.append(torch.cat([answered(path[1:][run], w, us[i][run]) for w, run in parts]))
    dz = token_first(head_backward(token_first(zs[-1]), norm, dy, dnorm))
    dx: list[Tensor] = []
    dg: list[Tensor] = []
    for i in range(LAYERS - 1, -1, -1):
        du, dwrite, dread = path_backward(
            paths[i],
            maps[i],
            impulses[i],
            us[i],
            dz,
            writes[i],
            xs[i],
            rates,
            drates,
            dstates[i],
            dmomenta[i] if MOMENTUM else None,
            i,
        )
        drates.eta.sub_((dwrite * gs[i]).sum(-1, keepdim=True))
        dg.insert(0, token_first(dwrite.mul_(-rates.eta)))
        dx.insert(0, token_first(dread))
        if LAYERS > 1 and i:
            before = zs[i - 1]
            dz = activated_pull(du[..., : before.shape[-1]].contiguous(), before)
    dq = du[..., : q.shape[-1]].transpose(0, 1)
    if RESIDUAL:
        dq = dq + dy
    dk, dv, ddelta = dual_keys_backward(frozen, k, v, delta, norm, keys, dx, dg, dfrozen, dnorm)
    return [dq, dk, dv, ddelta]


def path_backward(
    path: Tensor,
    maps: list[Tensor],
    impulses: Tensor | None,
    u: Tensor,
    dz: Tensor,
    write: Tensor,
    x: Tensor,
    rates: Rates,
    drates: Rates,
    dstate: Tensor,
    dmomentum: Tensor | None,
    layer: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer's reads and writes pulled back, tile by tile from the last token; returns the gradients of u, write and x.

    With L_t the gradient of S_t: L_t = psi'(S_t)[dz_t u_t'] + alpha_{t+1} L_{t+1}, and the write -eta g x' takes L_t
    (with momentum N_t = L_t + mu_{t+1} N_{t+1}).
    """
    du, dwrite, dx = [], [], []
    follow = dstate
    if MOMENTUM:
        assert dmomentum is not None
        push = dmomentum
    if GATE != "none":
        kept = on_weights(rates.alpha, layer)
    for run, found in zip(reversed(tiles(path)), reversed(maps), strict=True):
        before = path[run]
        back, d = answered_back(path[1:][run], found, u[run], dz[run])
        du.append(back)
        for t in range(run.stop - 1, run.start - 1, -1):
            now = d[t - run.start]
            if GATE == "none" or t == path.shape[0] - 2:
                now.add_(follow)
            else:
                now.addcmul_(follow, kept[t + 1])
            follow = now
        if GATE == "scalar":
            drates.alpha[run].add_((d * before).sum((-2, -1))[..., None])
        if GATE == "channel":
            drates.alpha[run].add_((d * before).sum(-2 if layer == 0 else -1))
        if MOMENTUM:
            assert impulses is not None
            d = d * rates.filled[run, ..., None]
            for t in range(run.stop - 1, run.start - 1, -1):
                now = d[t - run.start]
                if t == path.shape[0] - 2:
                    now.add_(push)
                else:
                    now.addcmul_(push, rates.mu[t + 1, ..., None])
                push = now
            drates.mu[run].add_((d * impulses[run]).sum((-2, -1))[..., None])
        dwrite.append(applied(d, x[run]))
        dx.append(applied_back(d, write[run]))
    if GATE != "none":
        torch.mul(follow, kept[0], out=dstate)
    else:
        dstate.copy_(follow)
    if MOMENTUM:
        assert dmomentum is not None
        torch.mul(push, rates.mu[0, ..., None], out=dmomentum)
    return torch.cat(du[::-1]), torch.cat(dwrite[::-1]), torch.cat(dx[::-1])
