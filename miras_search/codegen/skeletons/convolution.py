"""The short causal convolution before the memory, each channel by itself, with its silu.

Shape legend: B batch, T time, F features; inputs `[B, reach + T, F]`, those before the call first; weights `[reach + 1, F]`, newest tap first.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from miras_search.codegen.skeletons.layout import full_precision

BLOCK = 128
"""Tokens whose taps are added up in a core's cache."""


def short_convolution(past: Tensor, weight: Tensor, age: Tensor | None) -> Tensor:
    """silu(sum_j weight_j u_{t-j}), `[B, T, F]`. With `age`, taps do not reach into the document before."""
    reach = weight.shape[0] - 1
    time = past.shape[1] - reach
    if time > 1 and past.device.type == "cpu":
        kind = torch.promote_types(past.dtype, weight.dtype)
        y: Tensor = ShortConvolution.apply(past.to(kind), weight.to(kind), age)  # type: ignore[no-untyped-call]
        return y
    out = past[:, reach:] * weight[0]
    for j in range(1, reach + 1):
        tap = past[:, reach - j : reach - j + time]
        if age is not None:
            tap = tap * (age >= j)[..., None]
        out = torch.addcmul(out, tap, weight[j])
    return torch.nn.functional.silu(out)


def tap_blocks(past: Tensor, weight: Tensor, age: Tensor | None) -> Iterator[tuple[int, slice, list[Tensor]]]:
    """Row, tokens, and what each tap sees of them."""
    reach = weight.shape[0] - 1
    time = past.shape[1] - reach
    for row in range(past.shape[0]):
        for start in range(0, time, BLOCK):
            own = slice(start, min(time, start + BLOCK))
            seen = [past[row, own.start + reach - j : own.stop + reach - j] for j in range(reach + 1)]
            if age is not None:
                seen = [x if j == 0 else x * (age[row, own, None] >= j) for j, x in enumerate(seen)]
            yield row, own, seen


def taps_summed(seen: list[Tensor], weight: Tensor, into: Tensor | None = None) -> Tensor:
    """The convolution of a block."""
    out = torch.mul(seen[0], weight[0], out=into)
    for x, w in zip(seen[1:], weight[1:], strict=True):
        out.addcmul_(x, w)
    return out


class ShortConvolution(torch.autograd.Function):
    """Block by block, its sum recomputed in the backward: nothing is kept but the inputs."""

    @staticmethod
    def forward(ctx: Any, past: Tensor, weight: Tensor, age: Tensor | None) -> Tensor:
        """The arguments of `short_convolution`."""
        ctx.save_for_backward(past, weight, age)
        y = past.new_empty(past.shape[0], past.shape[1] - weight.shape[0] + 1, past.shape[2])
        for row, own, seen in tap_blocks(past, weight, age):
            torch.nn.functional.silu(taps_summed(seen, weight, y[row, own]), inplace=True)
        return y

    @staticmethod
    @full_precision
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        """To the inputs and the weights."""
        past, weight, age = ctx.saved_tensors
        reach = weight.shape[0] - 1
        dpast, dweight = torch.zeros_like(past), torch.zeros_like(weight)
        for row, own, seen in tap_blocks(past, weight, age):
            d: Tensor = torch.ops.aten.silu_backward(dy[row, own], taps_summed(seen, weight))
            for j, x in enumerate(seen):
                dweight[j] += (d * x).sum(0)
                back = d
                if age is not None:
                    back = d * (age[row, own, None] >= j)
                dpast[row, own.start + reach - j : own.stop + reach - j].addcmul_(back, weight[j])
        return dpast, dweight, None
