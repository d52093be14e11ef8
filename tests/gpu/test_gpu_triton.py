"""The Triton families on a GPU: correctness against float64, determinism, a short training.

Needs torch, triton and pytest beside the package.
Run: pytest tests/gpu -m gpu
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from triton_cases.designs import DESIGNS, design

from miras_search import op
from miras_search.algorithm import GradientDescent
from miras_search.bias import Huber
from miras_search.design import Design
from miras_search.memory import Mlp
from miras_search.reference import Xp

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LIMITS = {torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Relative deviation (2-norm) from the float64 torch path at the same inputs; estimates until a GPU has run them:
float32 passes through three tf32 products, the others round every matrix operand to 11 or 8 bits."""


def inputs(chosen: Design, dtype: torch.dtype, batch: int, time: int, heads: int, k: int, v: int) -> dict[str, Tensor]:
    """Float32 gates and start, q, k and v of the given dtype."""
    draw = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device="cuda")

    out = {
        "q": torch.nn.functional.normalize(normal(batch, time, heads, k), dim=-1).to(dtype),
        "k": torch.nn.functional.normalize(normal(batch, time, heads, k), dim=-1).to(dtype),
        "v": normal(batch, time, heads, v).to(dtype),
        "eta": 0.2 * normal(batch, time, heads).sigmoid(),
    }
    for i, shape in enumerate(chosen.memory.weights(k, v)):
        out[f"state_{i}"] = chosen.retention.initial(Xp, normal(heads, *shape))
    if chosen.memory.normalised:
        out |= {"norm_weight": 1.0 + 0.1 * normal(heads, v), "norm_bias": 0.1 * normal(heads, v)}
    if chosen.algorithm.decoupled:
        out["erase"] = 0.5 * normal(batch, time, heads).sigmoid()
    if chosen.algorithm.momentum:
        out["log_mu"] = torch.nn.functional.logsigmoid(normal(batch, time, heads))
    if chosen.retention.gated != "none":
        out["log_alpha"] = torch.nn.functional.logsigmoid(3.0 + normal(batch, time, heads))
    if chosen.bias.thresholded:
        out["delta"] = (v**0.5 if chosen.bias.of_norm else 1.0) * normal(batch, time, heads).mul(0.5).exp()
    return out


def outcome(module: ModuleType, values: Mapping[str, Tensor], *masks: Tensor) -> dict[str, Tensor]:
    """Answers, final state, and the gradients of both."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in values.items()}
    gates = {name: leaves[name] for name in ("eta", "log_alpha", "delta", "log_mu", "erase") if name in leaves}
    y, state = module.memory(leaves["q"], leaves["k"], leaves["v"], gates, leaves, None, *masks)
    draw = torch.Generator("cuda").manual_seed(1)
    total = (y.double() * torch.randn(y.shape, generator=draw, device="cuda")).sum()
    finals = {name: x for name, x in state.items() if name.startswith(("state", "momentum"))}
    for final in finals.values():
        total = total + (final.double() * torch.randn(final.shape, generator=draw, device="cuda")).sum()
    grads = torch.autograd.grad(total, list(leaves.values()))
    found = {"y": y.detach()} | {name: x.detach() for name, x in finals.items()}
    return found | {f"d{name}": g for name, g in zip(leaves, grads, strict=True)}


def deviations(module: ModuleType, values: Mapping[str, Tensor], *masks: Tensor) -> dict[str, float]:
    """The kernels against the torch path in float64, which refuses Triton by its dtype."""
    before = module.PATHS["triton"]
    fast = outcome(module, values, *masks)
    assert module.PATHS["triton"] == before + 1, module.PATHS
    slow = outcome(module, {name: x.double() for name, x in values.items()}, *masks)
    assert module.PATHS["triton"] == before + 1
    return {name: float((fast[name].double() - x).norm() / x.norm().clamp_min(1e-30)) for name, x in slow.items()}


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_kernels_equal_float64(name: str, dtype: torch.dtype) -> None:
    chosen = DESIGNS[name]
    found = deviations(op.load(chosen), inputs(chosen, dtype, 2, 197, 3, 64, 64))
    assert max(found.values()) < LIMITS[dtype], found


@pytest.mark.parametrize("name", DESIGNS)
def test_packed_and_padded_rows_equal_float64(name: str) -> None:
    chosen = DESIGNS[name]
    draw = torch.Generator("cuda").manual_seed(2)
    reset, other = (torch.rand(3, 150, generator=draw, device="cuda") for _ in range(2))
    masks = (reset < 0.1, other > 0.2)
    found = deviations(op.load(chosen), inputs(chosen, torch.float32, 3, 150, 2, 32, 32), *masks)
    assert max(found.values()) < LIMITS[torch.float32], found


@pytest.mark.parametrize("dim", [16, 32, 128])
@pytest.mark.parametrize("chunk", [16, 32, 64])
def test_dense_shapes(dim: int, chunk: int) -> None:
    chosen = design(Huber(), algorithm=GradientDescent(chunk=chunk), memory=Mlp())
    found = deviations(op.load(chosen), inputs(chosen, torch.bfloat16, 1, 130, 2, dim, dim))
    assert max(found.values()) < LIMITS[torch.bfloat16], found


@pytest.mark.parametrize(("k", "v"), [(16, 32), (32, 16), (64, 128), (128, 64), (128, 128)])
@pytest.mark.parametrize("chunk", [8, 16, 64])
def test_shapes(k: int, v: int, chunk: int) -> None:
    chosen = design(Huber(), algorithm=GradientDescent(chunk=chunk))
    found = deviations(op.load(chosen), inputs(chosen, torch.bfloat16, 1, 130, 2, k, v))
    assert max(found.values()) < LIMITS[torch.bfloat16], found


@pytest.mark.parametrize("name", DESIGNS)
def test_two_runs_give_the_same_bits(name: str) -> None:
    chosen = DESIGNS[name]
    values = inputs(chosen, torch.bfloat16, 4, 1024, 8, 64, 64)
    module = op.load(chosen)
    first = outcome(module, values)
    for _ in range(5):
        again = outcome(module, values)
        assert all(torch.equal(again[key], x) for key, x in first.items())


@pytest.mark.parametrize(
    "name",
    ["dot", "lp potential, cap", "huber mixture", "yaad", "moneta-r", "memora-r", "titans-lmm", "gated delta rule"],
)
def test_a_layer_trains_under_compile_and_autocast(name: str) -> None:
    torch.manual_seed(0)
    module = op.load(DESIGNS[name])
    layer = module.Layer(256, 4).cuda()
    # What depends on the state's position can't be traced; a call without a state can.
    compiled = torch.compile(layer)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=3e-3)
    x = torch.randn(4, 256, 256, device="cuda")
    target = x.roll(1, 1)
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", torch.bfloat16):
            y, _ = compiled(x)
        loss = (y.float() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
