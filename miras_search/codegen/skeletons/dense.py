"""The memory and its inner gradient, written out.

Shape legend: B batch, H heads, C tokens; weights `[B, H, out, in]`, activations `[B, H, C, dim]`.
"""

import torch
from torch import Tensor

from miras_search.codegen.skeletons.slots import (
    LAYERS,
    NORM,
    OFFSET,
    RESIDUAL,
    STATE_FREE,
    bias_phi,
    memory_activate,
    memory_activate_grad,
)


def with_one(x: Tensor) -> Tensor:
    """The input of a layer with an additive bias: a constant 1 appended."""
    if OFFSET:
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    return x


def head(z: Tensor, x: Tensor, norm: list[Tensor]) -> Tensor:
    """From the last layer's output to the answer: LayerNorm with the head's affine, and the residual."""
    if NORM:
        z = torch.nn.functional.layer_norm(z, z.shape[-1:], eps=1e-6) * norm[0] + norm[1]
    if RESIDUAL:
        z = x + z
    return z


def predict(weights: list[Tensor], x: Tensor, norm: list[Tensor]) -> Tensor:
    """M(W, x)."""
    z = with_one(x) @ weights[0].mT
    if LAYERS > 1:
        for w in weights[1:]:
            z = with_one(memory_activate(z)) @ w.mT
    return head(z, x, norm)


def gradient(
    weights: list[Tensor], k: Tensor, v: Tensor, delta: Tensor, norm: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The inner gradient in factors: dl/dW_i of a token is the outer product of g_i and x_i.

    Returns:
        x: the inputs of the layers, and g: the cotangents at their outputs.
    """
    x = [with_one(k)]
    if LAYERS > 1:
        z = []
        for w in weights[:-1]:
            z.append(x[-1] @ w.mT)
            x.append(with_one(memory_activate(z[-1])))
    if STATE_FREE:
        g = [bias_phi(v, v, delta)]
    else:
        out = x[-1] @ weights[-1].mT
        if NORM:
            centred = out - out.mean(-1, keepdim=True)
            rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
            unit = centred * rstd
            r = unit * norm[0] + norm[1] - v
            if RESIDUAL:
                r = r + k
            d = bias_phi(r, v, delta) * norm[0]
            d = rstd * (d - d.mean(-1, keepdim=True) - unit * (d * unit).mean(-1, keepdim=True))
        else:
            r = out - v
            if RESIDUAL:
                r = r + k
            d = bias_phi(r, v, delta)
        g = [d]
    if LAYERS > 1:
        for w, pre in zip(weights[:0:-1], z[::-1], strict=True):
            back = g[0] @ w[..., : pre.shape[-1]]
            g.insert(0, back * memory_activate_grad(pre))
    return x, g
