"""A chunk in its dual form with its backward written out: nothing is recorded, so nothing is kept but the states at chunk starts.

Shape legend: G rows (batch times heads), C tokens; weights `[G, out, in]`, activations `[G, C, dim]`, gates `[G, C, 1]`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from miras_search.codegen.skeletons.decay import lower_decay
from miras_search.codegen.skeletons.dense import with_one
from miras_search.codegen.skeletons.slots import (
    ACTIVATION,
    GATE,
    LAYERS,
    MOMENTUM,
    NORM,
    READ,
    RESIDUAL,
    STATE_FREE,
    bias_phi,
    bias_phi_vjp,
    memory_activate,
    memory_activate_curve,
    memory_activate_grad,
)


def activated(z: Tensor) -> Tensor:
    """The activation, in one operation where torch has it."""
    if ACTIVATION == "gelu":
        return torch.nn.functional.gelu(z)
    return memory_activate(z)


def activated_pull(d: Tensor, z: Tensor) -> Tensor:
    """d times the activation's derivative at z."""
    if ACTIVATION == "gelu":
        pulled: Tensor = torch.ops.aten.gelu_backward(d, z)
        return pulled
    return d * memory_activate_grad(z)


def unit_rows(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm without affine: the rows at mean 0 and variance 1, their means, and 1 / standard deviation."""
    return torch.native_layer_norm(z, z.shape[-1:], None, None, 1e-6)


def unit_rows_pull(d: Tensor, z: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """`d` pulled back through `unit_rows`; as a map of d it is its own transpose."""
    wanted = [True, False, False]
    pulled: Tensor = torch.ops.aten.native_layer_norm_backward(d, z, z.shape[-1:], mean, rstd, None, None, wanted)[0]
    return pulled


class Gates(NamedTuple):
    """What the gates make of a chunk. What a design has not got stands as `strength` and is not read."""

    strength: Tensor  # [G, C, C] how much of the write of token i is in the state at token t
    held: Tensor  # [G, C, 1] what of the state at the chunk's start is in the state at t
    carried: Tensor  # [G, C, 1] the same of the momentum at the chunk's start
    impulse: Tensor  # [G, C, 1] how much of the write of token i is in the momentum at the chunk's end
    kept: Tensor  # [G, 1, 1] what of the momentum at the chunk's start is in that at its end


def gates_of(products: list[Tensor]) -> Gates:
    """The products of one chunk by name."""
    strength = held = carried = impulse = kept = products[0]
    if GATE != "none":
        held = products[1]
    if MOMENTUM:
        carried, impulse, kept = products[-3:]
    return Gates(strength, held, carried, impulse, kept)


def gate_products(log_alpha: Tensor, eta: Tensor, log_mu: Tensor, filled: Tensor | None) -> list[Tensor]:
    """The fields of `Gates` that a design has, of many chunks at once from `[..., C]` each; differentiable.

    `filled` `[..., C]`: false where no token sits; there the momentum goes on but is not added.
    """
    l = log_alpha.cumsum(-1)
    decay = lower_decay(l, l)
    products = []
    if GATE != "none":
        products.append(l.exp()[..., None])
    if MOMENTUM:
        m = log_mu.cumsum(-1)
        written = lower_decay(m, m) * eta[..., None, :]
        if filled is not None:
            decay = decay * filled[..., None, :]
        carried, impulse = decay @ m.exp()[..., None], written[..., -1, :, None]
        return [decay @ written, *products, carried, impulse, m[..., -1:, None].exp()]
    return [decay * eta[..., None, :], *products]


class Keys(NamedTuple):
    """The inner gradient at frozen weights, and what its own derivative needs."""

    x: list[Tensor]  # inputs of the layers
    z: list[Tensor]  # outputs of the layers but the last
    g: list[Tensor]  # cotangents at the outputs: dl/dW_i of a token is the outer product of g_i and x_i
    pushed: list[Tensor]  # cotangents behind the activations
    error: Tensor  # r = M(k) - v
    bend: Tensor  # the bias's cotangent
    out: Tensor  # the last layer's output
    unit: Tensor  # its rows normalised
    mean: Tensor
    rstd: Tensor


def dual_keys(frozen: list[Tensor], k: Tensor, v: Tensor, delta: Tensor, norm: list[Tensor]) -> Keys:
    """The inner gradient in factors."""
    x: list[Tensor] = [with_one(k)]
    z: list[Tensor] = []
    pushed: list[Tensor] = []
    if LAYERS > 1:
        for w in frozen[:-1]:
            z.append(torch.bmm(x[-1], w.mT))
            x.append(with_one(activated(z[-1])))
    if STATE_FREE:
        return Keys(x, z, [bias_phi(v, v, delta)], pushed, v, v, v, v, v, v)
    out = torch.bmm(x[-1], frozen[-1].mT)
    unit = mean = rstd = out
    if NORM:
        unit, mean, rstd = unit_rows(out)
        r = torch.addcmul(norm[1], unit, norm[0]).sub_(v)
    else:
        r = out.sub_(v)
    if RESIDUAL:
        r.add_(k)
    bend = bias_phi(r, v, delta)
    if NORM:
        g = [unit_rows_pull(bend * norm[0], out, mean, rstd)]
    else:
        g = [bend]
    if LAYERS > 1:
        for w, pre in zip(frozen[:0:-1], z[::-1], strict=True):
            pushed.insert(0, torch.bmm(g[0], w[..., : pre.shape[-1]]))
            g.insert(0, activated_pull(pushed[0], pre))
    return Keys(x, z, g, pushed, r, bend, out, unit, mean, rstd)


class Reads(NamedTuple):
    """The queries' way through the memory."""

    u: list[Tensor]  # inputs of the layers
    z: list[Tensor]  # outputs of the layers
    raw: list[Tensor]  # before the scale
    products: list[Tensor]  # u_t . x_i


def dual_reads(
    states: list[Tensor], momenta: list[Tensor], scales: list[Tensor], q: Tensor, keys: Keys, gates: Gates
) -> Reads:
    """Masked products, as in attention: no weights are formed."""
    reads = Reads([with_one(q)], [], [], [])
    for i in range(LAYERS):
        if LAYERS > 1 and i:
            reads.u.append(with_one(activated(reads.z[-1])))
        u = reads.u[i]
        products = torch.bmm(u, keys.x[i].mT)
        if GATE != "none":
            if u.shape[-1] < states[i].shape[-2]:
                z = torch.bmm(u * gates.held, states[i].mT)
            else:
                z = torch.bmm(u, states[i].mT).mul_(gates.held)
        else:
            z = torch.bmm(u, states[i].mT)
        z.baddbmm_(products * gates.strength, keys.g[i], alpha=-1)
        if MOMENTUM:
            z.addcmul_(torch.bmm(u, momenta[i].mT), gates.carried)
        reads.products.append(products)
        reads.raw.append(z)
        if READ == "lagged":
            z = z * scales[i]
        reads.z.append(z)
    return reads


def dual_forward(
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
    gates = gates_of(products)
    keys = dual_keys(frozen, k, v, delta, norm)
    for i in range(LAYERS):
        new, g = into[i], keys.g[i]
        if GATE != "none":
            torch.mul(states[i], gates.held[:, -1:], out=new)
        else:
            new.copy_(states[i])
        new.baddbmm_((g * gates.strength[:, -1, :, None]).mT, keys.x[i], alpha=-1)
        if MOMENTUM:
            new.addcmul_(momenta[i], gates.carried[:, -1:])
            torch.mul(momenta[i], gates.kept, out=into[LAYERS + i])
            into[LAYERS + i].baddbmm_((g * gates.impulse).mT, keys.x[i], alpha=-1)
    if READ == "stale":
        z, u = q, with_one(q)
        for i in range(LAYERS):
            if LAYERS > 1 and i:
                u = with_one(activated(z))
            z = torch.bmm(u, frozen[i].mT)
    else:
        z = dual_reads(states, momenta, scales, q, keys, gates).z[-1]
    if NORM:
        z = torch.addcmul(norm[1], unit_rows(z)[0], norm[0])
    if RESIDUAL:
        z = z + q
    return z


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of two tensors, `[..., 1]`."""
    return (a * b).sum(-1, keepdim=True)


def matrix_dots(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of matrices, `[G, 1, 1]`."""
    return (a * b).sum((-2, -1), keepdim=True)


def dual_backward(
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

    `dfrozen`, `dscales` and `dnorm` are added to; `dproducts` is added to. `dfrozen` may be the same tensors as `dstates`.

    Returns:
        Gradients of q, k, v and delta.
    """
    q, k, v, delta = tokens
    gates, dgates = gates_of(products), gates_of(dproducts)
    keys = dual_keys(frozen, k, v, delta, norm)
    x, g = keys.x, keys.g
    last = gates.strength[:, -1, :, None]
    dx, dg = [], []
    for i in range(LAYERS):
        seen = torch.bmm(x[i], dstates[i].mT)
        dgates.strength[:, -1, :, None] -= row_dots(seen, g[i])
        dg.append(seen.mul_(last).neg_())
        dx.append(torch.bmm(g[i] * last, dstates[i]).neg_())
        if MOMENTUM:
            seen = torch.bmm(x[i], dmomenta[i].mT)
            dgates.impulse.sub_(row_dots(seen, g[i]))
            dg[i].addcmul_(seen, gates.impulse, value=-1)
            dx[i].baddbmm_(g[i] * gates.impulse, dmomenta[i], alpha=-1)
            dgates.kept.add_(matrix_dots(dmomenta[i], momenta[i]))
            dgates.carried[:, -1:].add_(matrix_dots(dstates[i], momenta[i]))
            dmomenta[i].mul_(gates.kept).addcmul_(dstates[i], gates.carried[:, -1:])
        if GATE != "none":
            dgates.held[:, -1:].add_(matrix_dots(dstates[i], states[i]))
            dstates[i].mul_(gates.held[:, -1:])
    if READ == "stale":
        dq = stale_reads_backward(frozen, q, norm, dy, dfrozen, dnorm)
    else:
        dq = dual_reads_backward(
            states, momenta, scales, q, keys, gates, norm, dy, dstates, dmomenta, dscales, dgates, dnorm, dx, dg
        )
    dk, dv, ddelta = dual_keys_backward(frozen, k, v, delta, norm, keys, dx, dg, dfrozen, dnorm)
    return [dq, dk, dv, ddelta]


def head_backward(z: Tensor, norm: list[Tensor], dy: Tensor, dnorm: list[Tensor]) -> Tensor:
    """Through the LayerNorm of the answers, to the last layer's output."""
    if NORM:
        unit, mean, rstd = unit_rows(z)
        dnorm[0].add_((dy * unit).sum(1, keepdim=True))
        dnorm[1].add_(dy.sum(1, keepdim=True))
        return unit_rows_pull(dy * norm[0], z, mean, rstd)
    return dy


def dual_reads_backward(
    states: list[Tensor],
    momenta: list[Tensor],
    scales: list[Tensor],
    q: Tensor,
    keys: Keys,
    gates: Gates,
    norm: list[Tensor],
    dy: Tensor,
    dstates: list[Tensor],
    dmomenta: list[Tensor],
    dscales: list[Tensor],
    dgates: Gates,
    dnorm: list[Tensor],
    dx: list[Tensor],
    dg: list[Tensor],
) -> Tensor:
    """The reads' pull-back; returns the gradient of q."""
    reads = dual_reads(states, momenta, scales, q, keys, gates)
    dz = head_backward(reads.z[-1], norm, dy, dnorm)
    for i in range(LAYERS - 1, -1, -1):
        u, g, products = reads.u[i], keys.g[i], reads.products[i]
        if READ == "lagged":
            dscales[i].add_(matrix_dots(dz, reads.raw[i]))
            dz = dz * scales[i]
        du = torch.bmm(dz, states[i])
        if GATE != "none":
            dgates.held.add_(row_dots(du, u))
            du.mul_(gates.held)
            if u.shape[-1] < dz.shape[-1]:
                dstates[i].baddbmm_(dz.mT, u * gates.held)
            else:
                dstates[i].baddbmm_((dz * gates.held).mT, u)
        else:
            dstates[i].baddbmm_(dz.mT, u)
        if MOMENTUM:
            seen = torch.bmm(dz, momenta[i])
            dgates.carried.add_(row_dots(seen, u))
            du.addcmul_(seen, gates.carried)
            dmomenta[i].baddbmm_((dz * gates.carried).mT, u)
        dg[i].baddbmm_((products * gates.strength).mT, dz, alpha=-1)
        weight = torch.bmm(dz, g.mT)
        dgates.strength.addcmul_(weight, products, value=-1)
        weight.mul_(gates.strength)
        du.baddbmm_(weight, keys.x[i], alpha=-1)
        dx[i].baddbmm_(weight.mT, u, alpha=-1)
        if LAYERS > 1 and i:
            before = reads.z[i - 1]
            dz = activated_pull(du[..., : before.shape[-1]], before)
    dq = du[..., : q.shape[-1]]
    if RESIDUAL:
        dq = dq + dy
    return dq


def stale_reads_backward(
    frozen: list[Tensor], q: Tensor, norm: list[Tensor], dy: Tensor, dfrozen: list[Tensor], dnorm: list[Tensor]
) -> Tensor:
    """The pull-back of reads from the chunk's start; returns the gradient of q."""
    us: list[Tensor] = [with_one(q)]
    zs: list[Tensor] = []
    for i in range(LAYERS):
        if LAYERS > 1 and i:
            us.append(with_one(activated(zs[-1])))
        zs.append(torch.bmm(us[i], frozen[i].mT))
    dz = head_backward(zs[-1], norm, dy, dnorm)
    for i in range(LAYERS - 1, -1, -1):
        dfrozen[i].baddbmm_(dz.mT, us[i])
        du = torch.bmm(dz, frozen[i])
        if LAYERS > 1 and i:
            before = zs[i - 1]
            dz = activated_pull(du[..., : before.shape[-1]], before)
    dq = du[..., : q.shape[-1]]
    if RESIDUAL:
        dq = dq + dy
    return dq


def dual_keys_backward(
    frozen: list[Tensor],
    k: Tensor,
    v: Tensor,
    delta: Tensor,
    norm: list[Tensor],
    keys: Keys,
    dx: list[Tensor],
    dg: list[Tensor],
    dfrozen: list[Tensor],
    dnorm: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """The inner gradient's pull-back, a second derivative; returns the gradients of k, v and delta."""
    if STATE_FREE:
        _, dv, ddelta = bias_phi_vjp(v, v, delta, dg[0])
        return dx[0], dv, ddelta
    x = keys.x
    dz = []
    if LAYERS > 1:
        z = keys.z
        for i, pre in enumerate(z):
            dz.append((dg[i] * keys.pushed[i]).mul_(memory_activate_curve(pre)))
            down = activated_pull(dg[i], pre)
            width = pre.shape[-1]
            dg[i + 1].baddbmm_(down, frozen[i + 1][..., :width].mT)
            dfrozen[i + 1][..., :width].baddbmm_(keys.g[i + 1].mT, down)
    d = dg[-1]
    if NORM:
        # g = rstd (c - mean(c) - unit mean(c unit)), c = bend * weight: symmetric in c, and it depends on unit and rstd.
        c = keys.bend * norm[0]
        dc = unit_rows_pull(d, keys.out, keys.mean, keys.rstd)
        dnorm[0].add_((dc * keys.bend).sum(1, keepdim=True))
        dr, dv, ddelta = bias_phi_vjp(keys.error, v, delta, dc * norm[0])
        dnorm[0].add_((dr * keys.unit).sum(1, keepdim=True))
        dnorm[1].add_(dr.sum(1, keepdim=True))
        scaled = d * keys.rstd
        dunit = dr * norm[0]
        dunit.addcmul_(scaled, (c * keys.unit).mean(-1, keepdim=True), value=-1)
        dunit.addcmul_(c, (scaled * keys.unit).mean(-1, keepdim=True), value=-1)
        dout = unit_rows_pull(dunit, keys.out, keys.mean, keys.rstd)
        dout.addcmul_(keys.unit, (scaled * keys.g[-1]).mean(-1, keepdim=True), value=-1)
    else:
        dr, dv, ddelta = bias_phi_vjp(keys.error, v, delta, d)
        dout = dr
    dz.append(dout)
    for i in range(LAYERS - 1, -1, -1):
        dfrozen[i].baddbmm_(dz[i].mT, x[i])
        dx[i].baddbmm_(dz[i], frozen[i])
        if LAYERS > 1 and i:
            before = z[i - 1]
            dz[i - 1].add_(activated_pull(dx[i][..., : before.shape[-1]], before))
    dk = dx[0][..., : k.shape[-1]]
    if RESIDUAL:
        dk = dk + dr
    return dk, dv - dr, ddelta
