"""The memory and its inner gradient, written out.

Shape legend: B batch, H heads, C tokens; weights `[B, H, out, in]`, activations `[B, H, C, dim]`.
"""

import torch
from torch import Tensor

from miras_search.codegen.skeletons.slots import (
    DIAGONAL,
    INPUTS,
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


def apply(w: Tensor, x: Tensor) -> Tensor:
    """One weight on its input."""
    if DIAGONAL:
        return x * w
    return x @ w.mT


def feed(x: Tensor, outs: list[Tensor]) -> Tensor:
    """The input of the next weight, from the memory's input and the outputs of the weights before it."""
    if LAYERS > 1:
        if INPUTS == 2:
            if len(outs) == 2:
                x = memory_activate(outs[0]) * outs[1]
        else:
            if outs:
                x = memory_activate(outs[-1])
    return with_one(x)


def predict(weights: list[Tensor], x: Tensor, norm: list[Tensor]) -> Tensor:
    """M(W, x)."""
    outs: list[Tensor] = []
    for w in weights:
        outs.append(apply(w, feed(x, outs)))
    return head(outs[-1], x, norm)


def gradient(
    weights: list[Tensor], k: Tensor, v: Tensor, delta: Tensor, norm: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The inner gradient in factors: dl/dW_i of a token is the outer product of g_i and x_i.

    Returns:
        x: the inputs of the layers, and g: the cotangents at their outputs; of a diagonal weight, their product and 1.
    """
    x: list[Tensor] = []
    outs: list[Tensor] = []
    for w in weights[:-1]:
        x.append(feed(k, outs))
        outs.append(apply(w, x[-1]))
    x.append(feed(k, outs))
    if STATE_FREE:
        g = [bias_phi(v, v, delta)]
    else:
        out = apply(weights[-1], x[-1])
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
    if DIAGONAL:
        return [g[0] * x[0]], [torch.ones_like(x[0][..., :1])]
    if LAYERS > 1:
        if INPUTS == 2:
            back = g[0] @ weights[2]
            g = [back * outs[1] * memory_activate_grad(outs[0]), back * memory_activate(outs[0]), *g]
        else:
            for w, pre in zip(weights[:0:-1], outs[::-1], strict=True):
                back = g[0] @ w[..., : pre.shape[-1]]
                g.insert(0, back * memory_activate_grad(pre))
    return x, g
