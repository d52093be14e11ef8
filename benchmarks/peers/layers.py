"""Layers around the rules of others: projections and torch's own operations, or a package's whole layer.

Shape legend: x `[B, T, E]`; q, k, v `[B, T, H, D]`, gates `[B, T, H]`. `step` takes one token, its state and its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projected(nn.Module):
    """q, k, v and output projections around a rule on `[B, T, H, D]`; `gates` numbers a head and token more."""

    def __init__(self, width: int, heads: int, gates: int, rule: Callable[..., Tensor]) -> None:
        super().__init__()
        self.heads, self.rule = heads, rule
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gates = nn.Linear(width, gates * heads) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, -1).unbind(2)
        gates = [] if self.gates is None else list(self.gates(x).view(batch, time, -1, self.heads).unbind(2))
        return self.out(self.rule(q, k, v, *gates).reshape(batch, time, width))

    def step(self, x: Tensor, state: Any, t: int) -> tuple[Tensor, Any]:
        batch, _, width = x.shape
        q, k, v = self.qkv(x).view(batch, 1, 3, self.heads, -1).transpose(1, 3).unbind(2)
        k, v = (k, v) if state is None else (torch.cat([state[0], k], 2), torch.cat([state[1], v], 2))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, 1, width)), (k, v)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's causal attention."""
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)


def gated_delta(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
    """Qwen3-Next's torch path, below the decorator that would look for kernels."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule as rule

    rule = getattr(rule, "__wrapped__", rule)
    y: Tensor = rule(q, k, v, F.logsigmoid(decay + 4.0), beta.sigmoid(), use_qk_l2norm_in_kernel=True)[0]
    return y


def mamba2(q: Tensor, k: Tensor, v: Tensor, dt: Tensor) -> Tensor:
    """Mamba2's torch path with state size D; every head has its own B and C."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan as scan

    scan = getattr(scan, "__wrapped__", scan)
    rate = -torch.arange(1, q.shape[2] + 1, dtype=q.dtype)
    y = scan(v, dt, rate, k, q, 64, dt_softplus=True)
    out: Tensor = y[0] if isinstance(y, tuple) else y
    return out


class Titans(nn.Module):
    """titans-pytorch's layer; its per-head parameters are stride-0 and are cloned, or AdamW refuses them."""

    def __init__(self, width: int, heads: int, depth: int, momentum: bool, chunk: int = 64) -> None:
        super().__init__()
        from titans_pytorch import MemoryMLP, NeuralMemory

        model = MemoryMLP(width // heads, depth=depth, expansion_factor=4.0)
        self.memory = NeuralMemory(
            width,
            chunk_size=chunk,
            batch_size=chunk,
            dim_head=width // heads,
            heads=heads,
            model=model,
            momentum=momentum,
        )
        for module in self.memory.modules():
            for name, p in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(p.detach().clone()))
            if isinstance(module, nn.ParameterList):
                for i, p in enumerate(list(module)):
                    module[i] = nn.Parameter(p.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.memory(x)[0]
        return y

    def step(self, x: Tensor, state: Any, t: int) -> tuple[Tensor, Any]:
        y, state = self.memory(x, state=state)
        return y, state
