# ruff: noqa: F401
"""Which calls run in Triton, why the others do not, and how many did."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.slots import CHUNKED, EXPANSION, GATE, LAYERS
from miras_search.codegen.skeletons.triton_slots import WHOLE

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_slots import bias_phi_tile
    from miras_search.codegen.skeletons.triton_tiles import device_major


def triton_refusal(q: Tensor, k: Tensor, v: Tensor, state: Mapping[str, Tensor] | None) -> str:
    """Why this call can't run in Triton, empty if it can; arguments as in `memory`."""
    if triton is None:
        return "triton is not installed"
    interpreted = not isinstance(bias_phi_tile, triton.JITFunction)
    if not q.is_cuda and not interpreted:
        return f"tensors are on {q.device.type}, not on a GPU"
    if not q.dtype == k.dtype == v.dtype:
        return f"q, k and v differ in dtype: {q.dtype}, {k.dtype}, {v.dtype}"
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"no kernel for {q.dtype}"
    if interpreted and q.dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 wrongly"
    if k.shape[-1] not in (16, 32, 64, 128) or v.shape[-1] not in (16, 32, 64, 128):
        return f"key and value dimension must be 16, 32, 64 or 128, not {k.shape[-1]} and {v.shape[-1]}"
    if WHOLE:
        wide = max(k.shape[-1], v.shape[-1]) > 64
        if wide:
            return f"a map of the whole matrix takes dimensions up to 64, not {k.shape[-1]} and {v.shape[-1]}"
        if LAYERS > 1:
            large = EXPANSION * k.shape[-1] ** 2 > 4096 and device_major(q) < 9
            if large:
                return "a map of the whole matrix does not fit this GPU, from Hopper on it does"
    if k.shape[1] < 2:
        if GATE in ("row", "outer"):
            return "one token under a gate of value channels"
        taken = k.shape[1] == 1 and not torch.is_grad_enabled()
        return "" if taken else "one token with gradients, or none: a step is without, under torch.no_grad"
    if CHUNKED:
        inside = state is not None and bool(state["position"].any())
        if inside:
            return "the state is inside a chunk"
    return ""


def under_autocast(x: Tensor) -> Tensor:
    """Under autocast the kernels take what a matrix product would: its dtype."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))


LOG = logging.getLogger(__name__)
# Calls by path: `triton`, or the reason why the torch path ran.
PATHS = {"triton": 0}


def triton_takes(q: Tensor, k: Tensor, v: Tensor, state: Mapping[str, Tensor] | None) -> bool:
    """Whether this call runs in Triton; counted in `PATHS` and logged the first time, so that nobody need guess which path ran.

    A compiled graph is not counted: its operators have the kernels' names, or it has none.
    """
    path = triton_refusal(q, k, v, state) or "triton"
    if not torch.compiler.is_compiling():
        if not PATHS.get(path):
            level = logging.WARNING if q.is_cuda and path != "triton" else logging.INFO
            LOG.log(level, "the memory runs in %s", "Triton" if path == "triton" else f"torch, not in Triton: {path}")
        PATHS[path] = PATHS.get(path, 0) + 1
    return path == "triton"
