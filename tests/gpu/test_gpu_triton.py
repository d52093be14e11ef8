"""The Triton families on a GPU: correctness against float64, determinism, the sanitizer, short trainings.

Needs torch, triton and pytest beside the package.
Run: pytest tests/gpu -m gpu
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from tolerances import tolerance
from triton_cases.designs import DESIGNS, design

from miras_search import op
from miras_search.algorithm import GradientDescent
from miras_search.bias import Huber
from miras_search.design import Design
from miras_search.memory import Mlp
from miras_search.reference import Xp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # Compilers and drivers warn of what is theirs.
    pytest.mark.filterwarnings("default"),
]

HALF = tolerance("gpu factor half")
ALLOWED = {
    torch.float32: (tolerance("gpu factor float32"), tolerance("gpu floor float32")),
    torch.float16: (HALF, tolerance("gpu floor float16")),
    torch.bfloat16: (HALF, tolerance("gpu floor bfloat16")),
}
"""What rounding does to the same call without kernels, times the first, plus the second; relative, in the 2-norm. In float32 that
is the error of the torch path, in half precision the change of the float64 path when q, k and v are rounded."""


def inputs(chosen: Design, batch: int, time: int, heads: int, k: int, v: int) -> dict[str, Tensor]:
    """All in float32."""
    draw = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device="cuda")

    out = {
        "q": torch.nn.functional.normalize(normal(batch, time, heads, k), dim=-1),
        "k": torch.nn.functional.normalize(normal(batch, time, heads, k), dim=-1),
        "v": normal(batch, time, heads, v),
        # Below the step at which the recurrence is chaotic and would amplify rounding by itself.
        "eta": (0.5 if chosen.memory.linear else 0.1)
        * (0.2 if chosen.bias.superlinear else 1.0)
        * normal(batch, time, heads).sigmoid(),
    }
    for i, shape in enumerate(chosen.memory.weights(k, v)):
        out[f"state_{i}"] = chosen.retention.initial(Xp, normal(heads, *shape))
    if chosen.memory.normalised:
        out |= {"norm_weight": 1.0 + 0.1 * normal(heads, v), "norm_bias": 0.1 * normal(heads, v)}
    if chosen.algorithm.decoupled:
        wide = [k] if chosen.algorithm.erases_channels else []
        out["erase"] = 0.5 * normal(batch, time, heads, *wide).sigmoid()
    if chosen.algorithm.momentum:
        out["log_mu"] = torch.nn.functional.logsigmoid(normal(batch, time, heads))
    if chosen.retention.gated != "none":
        wide = {"channel": [k], "row": [v], "outer": [k + v]}.get(chosen.retention.gated, [])
        out["log_alpha"] = torch.nn.functional.logsigmoid(3.0 + normal(batch, time, heads, *wide))
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


def cast(values: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """q, k and v in a dtype, as in training."""
    return {name: x.to(dtype) if name in ("q", "k", "v") else x for name, x in values.items()}


@contextmanager
def in_torch(module: ModuleType) -> Iterator[None]:
    """The module with its kernels switched off."""
    takes = module.triton_takes
    vars(module)["triton_takes"] = lambda *_: False
    try:
        yield
    finally:
        vars(module)["triton_takes"] = takes


def worst(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative deviations in the 2-norm."""
    return {n: float((found[n].double() - x).norm() / x.norm().clamp_min(1e-30)) for n, x in exact.items()}


def check(chosen: Design, dtype: torch.dtype, values: Mapping[str, Tensor], *masks: Tensor) -> None:
    """The kernels against the torch path in float64 at the same inputs, within what rounding does without kernels."""
    module = op.load(chosen.canonical())
    rounded = cast(values, dtype)

    def double(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return outcome(module, {name: x.double() for name, x in given.items()}, *masks)

    before = module.PATHS["triton"]
    fast = outcome(module, rounded, *masks)
    assert module.PATHS["triton"] == before + 1, module.PATHS
    exact = double(rounded)
    assert module.PATHS["triton"] == before + 1, "float64 ran in Triton"
    if dtype == torch.float32:
        with in_torch(module):
            own = worst(outcome(module, rounded, *masks), exact)
    else:
        own = worst(double(values), exact)
    found = worst(fast, exact)
    factor, floor = ALLOWED[dtype]
    assert max(found.values()) < factor * max(own.values()) + floor, (found, own)


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("dtype", ALLOWED, ids=str)
def test_kernels_equal_float64(name: str, dtype: torch.dtype) -> None:
    check(DESIGNS[name], dtype, inputs(DESIGNS[name], 2, 197, 3, 64, 64))


@pytest.mark.parametrize("name", DESIGNS)
def test_packed_and_padded_rows_equal_float64(name: str) -> None:
    draw = torch.Generator("cuda").manual_seed(2)
    reset, other = (torch.rand(3, 150, generator=draw, device="cuda") for _ in range(2))
    check(DESIGNS[name], torch.float32, inputs(DESIGNS[name], 3, 150, 2, 32, 32), reset < 0.1, other > 0.2)


@pytest.mark.parametrize("name", DESIGNS)
def test_steps_equal_float64(name: str) -> None:
    """A call a token, without gradients, beside the torch path in float64 and what float32 does to that."""
    values = inputs(DESIGNS[name], 2, 70, 3, 64, 64)
    module = op.load(DESIGNS[name].canonical())

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        gates = {n: given[n] for n in ("eta", "log_alpha", "delta", "log_mu", "erase") if n in given}
        parts, state = [], None
        with torch.no_grad():
            for t in range(70):
                now = slice(t, t + 1)
                own = {n: x[:, now] for n, x in gates.items()}
                y, state = module.memory(*(given[n][:, now] for n in "qkv"), own, given, state)
                parts.append(y)
        return {"y": torch.cat(parts, 1)} | {n: x for n, x in state.items() if n.startswith(("state", "momentum"))}

    before = module.PATHS["triton"]
    fast = run(values)
    assert module.PATHS["triton"] == before + 70, module.PATHS
    exact = run({n: x.double() for n, x in values.items()})
    with in_torch(module):
        own = worst(run(values), exact)
    factor, floor = ALLOWED[torch.float32]
    found = worst(fast, exact)
    assert max(found.values()) < factor * max(own.values()) + floor, (found, own)


@pytest.mark.parametrize("dim", [16, 32, 128])
@pytest.mark.parametrize("chunk", [16, 32, 64])
def test_dense_shapes(dim: int, chunk: int) -> None:
    chosen = design(Huber(), algorithm=GradientDescent(chunk=chunk), memory=Mlp())
    check(chosen, torch.bfloat16, inputs(chosen, 1, 130, 2, dim, dim))


@pytest.mark.parametrize("name", ["moneta", "moneta-r", "memora", "memora-r", "ttt-mlp"])
def test_named_designs_at_128(name: str) -> None:
    check(DESIGNS[name], torch.float32, inputs(DESIGNS[name], 1, 70, 2, 128, 128))


@pytest.mark.parametrize(("k", "v"), [(16, 32), (32, 16), (64, 128), (128, 64), (128, 128)])
@pytest.mark.parametrize("chunk", [8, 16, 64])
def test_shapes(k: int, v: int, chunk: int) -> None:
    chosen = design(Huber(), algorithm=GradientDescent(chunk=chunk))
    check(chosen, torch.bfloat16, inputs(chosen, 1, 130, 2, k, v))


@pytest.mark.parametrize(("k", "v"), [(16, 32), (32, 16), (64, 128), (128, 64), (128, 128)])
@pytest.mark.parametrize("name", ["gla", "rwkv7", "channels, l2 in chunks of 40"])
def test_shapes_of_channels(name: str, k: int, v: int) -> None:
    check(DESIGNS[name], torch.bfloat16, inputs(DESIGNS[name], 1, 130, 2, k, v))


@pytest.mark.parametrize("name", ["gla", "rwkv7"])
def test_strong_decays_of_channels(name: str) -> None:
    """A log decay of -20 a token on a third of the channels: -400 in a tile, of which no exponential may be taken alone."""
    values = inputs(DESIGNS[name], 1, 130, 2, 64, 64)
    some = torch.rand(values["log_alpha"].shape, generator=torch.Generator("cuda").manual_seed(3), device="cuda") < 0.3
    for dtype in (torch.float32, torch.bfloat16):
        check(DESIGNS[name], dtype, values | {"log_alpha": torch.where(some, -20.0, values["log_alpha"])})


@pytest.mark.parametrize("name", DESIGNS)
def test_two_runs_give_the_same_bits(name: str) -> None:
    chosen = DESIGNS[name]
    values = cast(inputs(chosen, 4, 1024, 8, 64, 64), torch.bfloat16)
    module = op.load(chosen.canonical())
    first = outcome(module, values)
    for _ in range(5):
        again = outcome(module, values)
        assert all(torch.equal(again[key], x) for key, x in first.items())


TRAINED = (
    "dot", "lp potential, cap", "huber mixture", "yaad", "moneta-r", "memora-r", "titans-lmm", "ttt-mlp",
    "gated delta rule", "gla", "rwkv7",
)  # fmt: skip


def losses(name: str, seed: int, steps: int, dtype: torch.dtype | None, compiled: bool = False) -> list[float]:
    """Of a layer that learns to repeat the token before, without autocast or under it."""
    torch.manual_seed(seed)
    layer = op.load(DESIGNS[name].canonical()).Layer(256, 4).cuda()
    # What depends on the state's position can't be traced; a call without a state can.
    run = torch.compile(layer) if compiled else layer
    optimiser = torch.optim.AdamW(layer.parameters(), lr=3e-3)
    x = torch.randn(4, 256, 256, device="cuda")
    target = x.roll(1, 1)
    found = []
    for _ in range(steps):
        with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None):
            y, _ = run(x)
        loss = (y.float() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", TRAINED)
def test_a_layer_trains_under_compile_and_autocast(name: str) -> None:
    found = losses(name, 0, 30, torch.bfloat16, compiled=True)
    assert found[-1] < 0.95 * found[0]


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_trains_as_float32_does(name: str) -> None:
    """The mean over seeds differs by no more than two standard errors of the seeds."""
    module = op.load(DESIGNS[name].canonical())
    before = module.PATHS["triton"]
    half, single = (torch.tensor([losses(name, s, 60, d)[-1] for s in range(4)]) for d in (torch.bfloat16, None))
    assert module.PATHS["triton"] == before + 2 * 4 * 60, module.PATHS
    noise = float(single.std()) / 2.0
    assert abs(float(half.mean() - single.mean())) < max(
        2.0 * noise, tolerance("gpu training") * float(single.mean())
    ), (half, single)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("name", ["retnet", "gated_deltanet", "gla", "rwkv7", "yaad", "memora_r"])
def test_the_sanitizer_finds_nothing(tool: str, name: str) -> None:
    """Races between a program's warps, and places outside of tensors, in the kernels as `kernels/NAME.py` calls them."""
    command = shutil.which("compute-sanitizer")
    if command is None:
        pytest.skip("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    script = Path(__file__).parents[2] / "kernels" / f"{name}.py"
    arguments = [command, "--tool", tool, "--error-exitcode", "9", sys.executable, str(script)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
