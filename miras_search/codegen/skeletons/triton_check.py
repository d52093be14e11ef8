# ruff: noqa: F401
"""The kernels of an emitted module against the plain loop: on a GPU, or in Triton's interpreter."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from miras_search.codegen.skeletons.check import check_inputs, deviation, slow_memory
from miras_search.codegen.skeletons.recurrence import memory
from miras_search.codegen.skeletons.slots import CHUNK
from miras_search.codegen.skeletons.triton_paths import PATHS

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


def interpret_without_gpu() -> None:
    """Start this file again in Triton's interpreter if there is Triton but no GPU."""
    if triton is not None and not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ:
        os.environ["TRITON_INTERPRET"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])


def triton_outcome(
    run: Any, inputs: list[Tensor], gates: Mapping[str, Tensor], initial: Mapping[str, Tensor], like: Tensor
) -> dict[str, Tensor]:
    """Answers and gradients of a loop or of the kernels, in the type and on the device of `like`."""
    named = {"q": inputs[0], "k": inputs[1], "v": inputs[2], **gates, **initial}
    leaves = {name: x.detach().to(like).requires_grad_() for name, x in named.items()}
    own = [leaves[name] for name in ("q", "k", "v")]
    out = run(*own, {n: leaves[n] for n in gates}, {n: leaves[n] for n in initial})
    y = out[0] if isinstance(out, tuple) else out
    weight = torch.linspace(-1.0, 2.0, y.numel()).view(y.shape).cos().to(like)
    grads = torch.autograd.grad((y * weight).sum(), list(leaves.values()), allow_unused=True)
    found = {f"d{name}": g for name, g in zip(leaves, grads, strict=True) if g is not None}
    return {name: x.detach().double().cpu() for name, x in {"y": y, **found}.items()}


def triton_check() -> bool:
    """The kernels in float32 against the loop in float64, beside the loop in float32, which loses as much to rounding."""
    if triton is None:
        print("kernels: not checked, triton is not installed")
        return True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs, gates, initial = check_inputs(1, CHUNK + 5, 1, 16)
    # Below the step at which the recurrence amplifies rounding by itself.
    gates["eta"] = 0.3 * gates["eta"]
    before = PATHS["triton"]
    fast = triton_outcome(memory, inputs, gates, initial, torch.zeros((), device=device))
    if PATHS["triton"] == before:
        print(f"kernels: FAILED to run: {sorted(PATHS)}")
        return False
    exact = triton_outcome(slow_memory, inputs, gates, initial, torch.zeros((), dtype=torch.float64))
    plain = triton_outcome(slow_memory, inputs, gates, initial, torch.zeros(()))
    floor = 1e-9 * max(float(x.abs().max()) for x in exact.values())
    compared = [name for name, x in exact.items() if float(x.abs().max()) > floor]
    for name in compared:
        print(f"kernels {name:16s} {deviation(fast[name], exact[name]):.1e}")
    worst = max(deviation(fast[name], exact[name]) for name in compared)
    limit = 4.0 * max(deviation(plain[name], exact[name]) for name in compared) + 2e-6
    where = torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter"
    print(f"{'ok' if worst < limit else 'FAILED'}: the kernels deviate by {worst:.1e} in {where}, {limit:.1e} allowed")
    return worst < limit
