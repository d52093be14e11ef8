"""How the outer model is optimised: AdamW, and the learning rate of every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from miras_search.candidate import Optimiser

GATES = frozenset({"eta", "erase", "alpha", "mu", "delta"})
"""Maps from the input to a memory's gates, by their names in the emitted layer."""


def rate(optimiser: Optimiser, step: int, steps: int) -> float:
    """Learning rate of a step (from 0): linear to `lr` over the warm-up, then a cosine that ends at `final * lr`."""
    warm = round(optimiser.warmup * steps)
    if step < warm:
        return optimiser.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm - 1)
    return optimiser.lr * (optimiser.final + (1.0 - optimiser.final) * 0.5 * (1.0 + math.cos(math.pi * done)))


def adamw(module: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """Decay acts on the matrices of linear maps and the embedding, but for gates and what says `no_weight_decay`."""
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": w} for w in (settings.weight_decay, 0.0)]
    matrices = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear | nn.Embedding)}
    for name, p in module.named_parameters():
        free = id(p) not in matrices or GATES & set(name.split(".")) or getattr(p, "no_weight_decay", False)
        groups[bool(free)]["params"].append(p)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)
