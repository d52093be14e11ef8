"""TTT-Linear and TTT-MLP (arXiv 2407.04620), written from the paper's formulas for a fair race on a CPU.

Per head and mini-batch of 16 tokens: f trains on the target v - k under a LayerNorm with the head's affine, all gradients taken at the
mini-batch's first weights; the reads are in the dual form (masked products), the answer is q + LN(f(q)). The steps are
eta_i = base sigmoid(w x_i) / d times a learned 1 / (t + 1). A LayerNorm on the output, RoPE with positions modulo 16.

Shape legend: B batch, T time, H heads, N mini-batches, C = 16 tokens, D head dimension.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 16


def gelu_derivative(x: Tensor) -> Tensor:
    """Of the tanh form."""
    t = torch.tanh(0.7978845608 * x * (1.0 + 0.044715 * x * x))
    return 0.5 * x * ((1.0 - t * t) * (0.7978845608 + 0.1070322243 * x * x)) + 0.5 * (1.0 + t)


def unit(z: Tensor) -> tuple[Tensor, Tensor]:
    """Rows at mean 0 and variance 1, and the standard deviation."""
    centred = z - z.mean(-1, keepdim=True)
    std = torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
    return centred / std, std


def error_gradient(z: Tensor, target: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """d / dz of 1/2 ||weight LN(z) + bias - target||^2."""
    x, std = unit(z)
    g = (weight * x + bias - target) * weight
    return (g - g.mean(-1, keepdim=True) - x * (g * x).mean(-1, keepdim=True)) / std


class TTT(nn.Module):
    """The layer, `[B, T, E] -> [B, T, E]`; `layers` 1 is TTT-Linear (base step 1), 2 TTT-MLP (base step 0.1)."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads, self.dim, self.layers = heads, width // heads, layers
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.rate = nn.Linear(width, heads)
        self.token = nn.Parameter(torch.zeros(CHUNK))
        sizes = [self.dim] * 2 if layers == 1 else [self.dim, 4 * self.dim, self.dim]
        self.weights = nn.ParameterList(0.02 * torch.randn(heads, a, b) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(heads, 1, b) for b in sizes[1:])
        self.norm_weight = nn.Parameter(torch.ones(heads, 1, self.dim))
        self.norm_bias = nn.Parameter(torch.zeros(heads, 1, self.dim))
        self.post = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, width, bias=False)
        self.base = 1.0 if layers == 1 else 0.1

    def parts(self, x: Tensor, start: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k, v `[B, H, T, D]`, and the two factors of the step, `[B, H, T]` and `[T]`."""
        batch, time, _ = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        place = (torch.arange(time) + start) % CHUNK
        half = self.dim // 2
        angle = place[:, None] * 10000.0 ** (-torch.arange(half) / half)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)

        def rotate(y: Tensor) -> Tensor:
            a, b = y[..., :half], y[..., half:]
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        rate = self.base * torch.sigmoid(self.rate(x)).transpose(1, 2) / self.dim
        token = (self.token + 1.0 / torch.arange(1, CHUNK + 1)).clamp_min(0.0).to(x.dtype)[place]
        return rotate(q), rotate(k), v, rate, token

    def head(self, z: Tensor, q: Tensor) -> Tensor:
        """q + LN(z)."""
        return q + self.norm_weight * unit(z)[0] + self.norm_bias

    def forward(self, x: Tensor) -> Tensor:
        """Whole rows; T a multiple of 16."""
        batch, time, width = x.shape
        q, k, v, rate, token = self.parts(x, 0)
        w = [p.expand(batch, -1, -1, -1) for p in self.weights]
        b = [p.expand(batch, -1, -1, -1) for p in self.biases]
        answers = []
        chunks = (y.split(CHUNK, 2) for y in (q, k, v, rate))
        for qs, ks, vs, rs in zip(*chunks, strict=True):
            eta = torch.tril(token[:CHUNK, None] * rs[..., None, :])
            last = eta[..., -1, :, None]
            if self.layers == 1:
                z = ks @ w[0] + b[0]
                g = error_gradient(z, vs - ks, self.norm_weight, self.norm_bias)
                read = qs @ w[0] - (eta * (qs @ ks.mT)) @ g + b[0] - eta @ g
                w = [w[0] - (last * ks).mT @ g]
                b = [b[0] - (last * g).sum(-2, keepdim=True)]
            else:
                z1 = ks @ w[0] + b[0]
                x2 = F.gelu(z1, approximate="tanh")
                z2 = x2 @ w[1] + b[1]
                g2 = error_gradient(z2, vs - ks, self.norm_weight, self.norm_bias)
                g1 = (g2 @ w[1].mT) * gelu_derivative(z1)
                r1 = qs @ w[0] - (eta * (qs @ ks.mT)) @ g1 + b[0] - eta @ g1
                u2 = F.gelu(r1, approximate="tanh")
                read = u2 @ w[1] - (eta * (u2 @ x2.mT)) @ g2 + b[1] - eta @ g2
                w = [w[0] - (last * ks).mT @ g1, w[1] - (last * x2).mT @ g2]
                b = [b[0] - (last * g1).sum(-2, keepdim=True), b[1] - (last * g2).sum(-2, keepdim=True)]
            answers.append(self.head(read, qs))
        y = torch.cat(answers, 2).transpose(1, 2).reshape(batch, time, width)
        return self.out(self.post(y))

    def step(self, x: Tensor, state: list[list[Tensor]] | None, t: int) -> tuple[Tensor, list[list[Tensor]]]:
        """One token `[B, 1, E]`, in the primal form; state: first weights of the mini-batch, and the gradients summed so far."""
        return self.one_token(x, state, t, t % CHUNK == CHUNK - 1)

    def one_token(
        self, x: Tensor, state: list[list[Tensor]] | None, t: int | Tensor, last: bool
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """The same, told whether the token is the last of its mini-batch."""
        q, k, v, rate, token = self.parts(x, t)
        if state is None:
            values = [p.expand(x.shape[0], -1, -1, -1) for p in [*self.weights, *self.biases]]
            state = [values, [torch.zeros_like(p) for p in values]]
        first, total = state
        w, b = first[: self.layers], first[self.layers :]
        inputs, outputs = [k], []
        for i in range(self.layers):
            outputs.append(inputs[-1] @ w[i] + b[i])
            if i + 1 < self.layers:
                inputs.append(F.gelu(outputs[-1], approximate="tanh"))
        g = [error_gradient(outputs[-1], v - k, self.norm_weight, self.norm_bias)]
        if self.layers == 2:
            g.insert(0, (g[0] @ w[1].mT) * gelu_derivative(outputs[0]))
        r = rate[..., None]
        total = [
            a + d
            for a, d in zip(
                total, [(r * y).mT @ d for y, d in zip(inputs, g, strict=True)] + [r * d for d in g], strict=True
            )
        ]
        now = [p - token[0] * d for p, d in zip(first, total, strict=True)]
        z = q
        for i in range(self.layers):
            z = (F.gelu(z, approximate="tanh") if i else z) @ now[i] + now[self.layers + i]
        if last:
            first, total = now, [torch.zeros_like(d) for d in total]
        y = self.head(z, q).transpose(1, 2).reshape(x.shape)
        return self.out(self.post(y)), [first, total]


class Ahead(nn.Module):
    """A TTT layer whose steps are compiled as ours are; the last token of a mini-batch has a function of its own."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.runs = layer, {}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y

    def step(self, x: Tensor, state: Any, t: int) -> tuple[Tensor, Any]:
        if state is None:
            y, (first, total) = self.layer.step(x, None, t)
            return y, [z.contiguous() for z in (*first, *total)]
        given, last = [x.contiguous(), torch.tensor(t), *state], t % CHUNK == CHUNK - 1
        if last not in self.runs:
            self.runs[last] = self.compiled(given, last)
        y, *state = self.runs[last](given)
        return y, state

    def compiled(self, given: list[Tensor], last: bool) -> Any:
        """The function of one token."""
        from miras_search.decode import INDUCTOR

        class Token(nn.Module):
            def __init__(self, layer: Any) -> None:
                super().__init__()
                self.layer = layer

            def forward(self, given: list[Tensor]) -> list[Tensor]:
                x, t, *state = given
                half = len(state) // 2
                y, (first, total) = self.layer.one_token(x, [state[:half], state[half:]], t, last)
                return [y, *first, *total]

        with torch.no_grad():
            program = torch.export.export(Token(self.layer), ([x.clone() for x in given],), strict=False)
            path = torch._inductor.aoti_compile_and_package(program, inductor_configs=dict(INDUCTOR))
        return torch._inductor.aoti_load_package(path).loader.boxed_run
