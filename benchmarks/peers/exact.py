"""Exact reads of a two-layer MLP memory under any mirror map: the plain loop over tokens, each chunk under `torch.utils.checkpoint`.

What one writes without further thought: the state is updated token by token, mapped, read, and autograd does the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def plain(
    psi: Callable[[Tensor], Tensor],
    chunk: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor,
    eta: Tensor,
    first: list[Tensor],
    norm: tuple[Tensor, Tensor],
) -> Tensor:
    """q, k, v `[B, T, H, D]`, gates `[B, T, H]`, first states `[H, out, in]`, norm `[H, D]` -> `[B, T, H, D]`; an l2 bias."""
    weight, bias = (x[:, None] for x in norm)

    def head(z: Tensor, x: Tensor) -> Tensor:
        return x + F.layer_norm(z, z.shape[-1:], eps=1e-6) * weight + bias

    def run(s1: Tensor, s2: Tensor, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor) -> tuple[Tensor, ...]:
        w1, w2 = psi(s1), psi(s2)
        h = k @ w1.mT
        x = F.gelu(h)
        z = x @ w2.mT
        centred = z - z.mean(-1, keepdim=True)
        rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
        unit = centred * rstd
        g = (k + unit * weight + bias - v) * weight
        g2 = rstd * (g - g.mean(-1, keepdim=True) - unit * (g * unit).mean(-1, keepdim=True))
        slope = 0.5 * (1.0 + torch.erf(h * 0.5**0.5)) + h * 0.3989422804014327 * torch.exp(-0.5 * h * h)
        g1 = (g2 @ w2) * slope
        answers = []
        for t in range(q.shape[2]):
            a, e = alpha[:, :, t, None, None], eta[:, :, t, None, None]
            s1 = a * s1 - e * g1[:, :, t, :, None] * k[:, :, t, None, :]
            s2 = a * s2 - e * g2[:, :, t, :, None] * x[:, :, t, None, :]
            u = q[:, :, t, None]
            answers.append(head(F.gelu(u @ psi(s1).mT) @ psi(s2).mT, u))
        return torch.cat(answers, 2), s1, s2

    parts = [y.transpose(1, 2) for y in (q, k, v, log_alpha.exp(), eta)]
    s1, s2 = (s.expand(q.shape[0], -1, -1, -1) for s in first)
    ys = []
    for t in range(0, q.shape[1], chunk):
        y, s1, s2 = checkpoint(run, s1, s2, *(p[:, :, t : t + chunk] for p in parts), use_reentrant=False)
        ys.append(y)
    return torch.cat(ys, 2).transpose(1, 2)
