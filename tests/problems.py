"""A memory's inputs at random, and its two evaluations on the same leaves: the reference and the emitted module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from miras_search import op, reference
from miras_search.design import Design
from miras_search.reference import State, Xp

Run = Callable[..., tuple[Tensor, State]]


@dataclass(frozen=True)
class Problem:
    """Everything that a memory is called with; float leaves have gradients."""

    design: Design
    q: Tensor
    k: Tensor
    v: Tensor
    gates: dict[str, Tensor]
    initial: dict[str, Tensor]
    state: State | None = None
    reset: Tensor | None = None
    valid: Tensor | None = None

    @property
    def leaves(self) -> dict[str, Tensor]:
        """What gradients are compared for, by name."""
        incoming = {f"in {n}": x for n, x in (self.state or {}).items() if x.is_floating_point()}
        return {"q": self.q, "k": self.k, "v": self.v} | self.gates | self.initial | incoming

    def part(self, start: int, stop: int, state: State | None) -> Problem:
        """Some of the tokens, after a state."""

        def cut(x: Tensor) -> Tensor:
            return x[:, start:stop]

        return replace(
            self,
            q=cut(self.q),
            k=cut(self.k),
            v=cut(self.v),
            gates={n: cut(g) for n, g in self.gates.items()},
            state=state,
            reset=None if self.reset is None else cut(self.reset),
            valid=None if self.valid is None else cut(self.valid),
        )


def problem(design: Design, time: int, *, batch: int = 2, heads: int = 2, dim: int = 4, seed: int = 0) -> Problem:
    """Random float64 inputs of a design; keys of unit length."""
    source = torch.Generator().manual_seed(seed)
    design = design.canonical()
    memory, bias, retention, algorithm = design.memory, design.bias, design.retention, design.algorithm

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    shape = (batch, time, heads)
    square = memory.residual_ or memory.diagonal or not memory.linear or bias.target == "v-k"
    dim_v = dim if square else dim + 1
    several = [algorithm.steps_] if algorithm.steps_ > 1 else []
    q, k = (torch.nn.functional.normalize(draw(*s, dim), dim=-1) for s in (shape, (*shape, *several)))
    gates, initial = {}, {}
    if memory.parametric:
        # Below the step at which the recurrence is chaotic and would amplify rounding by itself.
        step = (0.5 if memory.linear else 0.1) * (0.2 if bias.superlinear or algorithm.orthogonal else 1.0)
        gates["eta"] = step * draw(*shape, *several).sigmoid()
        if bias.thresholded:
            gates["delta"] = (0.5 + draw(*shape)).exp()
        if bias.window > 1:
            gates["gamma"] = draw(*shape).sigmoid()
        if algorithm.decoupled:
            gates["erase"] = 0.5 * draw(*shape, *([dim] if algorithm.erases_channels else [])).sigmoid()
        if algorithm.momentum:
            gates["log_mu"] = torch.nn.functional.logsigmoid(draw(*shape))
        if retention.gated != "none":
            wide = {"channel": [dim], "row": [dim_v], "outer": [dim + dim_v]}.get(retention.gated, [])
            gates["log_alpha"] = torch.nn.functional.logsigmoid(2.0 + draw(*shape, *wide))
        for i, size in enumerate(memory.weights(dim, dim_v)):
            initial[f"state_{i}"] = retention.initial(Xp, draw(heads, *size))
        if algorithm.least_squares:
            initial["ridge"] = 0.25 + draw(heads, dim).exp()
        if memory.normalised:
            initial["norm_weight"], initial["norm_bias"] = 1.0 + 0.1 * draw(heads, dim_v), 0.1 * draw(heads, dim_v)
    leaf = {n: x.detach().requires_grad_() for n, x in (gates | initial).items()}
    return Problem(
        design,
        q.requires_grad_(),
        k.requires_grad_(),
        draw(*shape, *several, dim_v).requires_grad_(),
        {n: leaf[n] for n in gates},
        {n: leaf[n] for n in initial},
    )


def ragged(given: Problem, seed: int = 0) -> Problem:
    """The same with left padding, holes, resets, and a state whose rows stand at different places of a chunk."""
    source = torch.Generator().manual_seed(seed + 1)
    batch, time = given.q.shape[:2]
    earlier = problem(given.design, 7, batch=batch, heads=given.q.shape[2], dim=given.q.shape[-1], seed=seed + 2)
    lengths = torch.randint(1, 8, (batch,), generator=source)
    past = replace(earlier, initial=given.initial, valid=torch.arange(7) < lengths[:, None])
    with torch.no_grad():
        _, state = slow(past)
    state = {n: x.detach().clone().requires_grad_() if x.is_floating_point() else x for n, x in state.items()}
    valid = torch.rand(batch, time, generator=source) > 0.2
    valid &= torch.arange(time) >= torch.randint(0, 3, (batch, 1), generator=source)
    reset = torch.rand(batch, time, generator=source) < 0.15
    return replace(given, state=state, valid=valid, reset=reset)


def slow(p: Problem) -> tuple[Tensor, State]:
    """The reference."""
    return reference.run(p.design, p.q, p.k, p.v, p.gates, p.state, initial=p.initial, reset=p.reset, valid=p.valid)


def fast(p: Problem) -> tuple[Tensor, State]:
    """The emitted module's torch path."""
    module = op.load(p.design)
    run: Run = module.memory if p.design.memory.parametric else module.memory_cache
    return run(p.q, p.k, p.v, p.gates, p.initial, p.state, p.reset, p.valid)


def gradients(p: Problem, y: Tensor, state: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Of a random functional of the outputs and of the final state, to every leaf; absent ones are zero."""
    source = torch.Generator().manual_seed(seed)

    def pair(x: Tensor) -> Tensor:
        return (x * torch.randn(x.shape, generator=source, dtype=x.dtype)).sum()

    total = pair(y)
    for name in sorted(state):
        if name.startswith(("state", "momentum")):
            total = total + pair(state[name])
    grads = torch.autograd.grad(total, list(p.leaves.values()), allow_unused=True)
    found = zip(p.leaves.items(), grads, strict=True)
    return {name: torch.zeros_like(x) if g is None else g for (name, x), g in found}


def deviations(p: Problem, run: Callable[[Problem], tuple[Tensor, State]] = fast) -> dict[str, float]:
    """How far `run` is from the reference: outputs, final state and every gradient, each relative to its largest entry.

    A gradient below 1e-6 of the largest one is held to that floor: it is zero but for rounding.
    """
    (y, state), (expected, kept) = run(p), slow(p)
    found = {"y": gap(y, expected)}
    for name, x in kept.items():
        if name == "position":
            found[name] = float((state[name] != x).any())
        elif name.startswith(("state", "momentum", "window")):
            found[f"out {name}"] = gap(state[name], x)
        elif name.startswith(("frozen", "scale")):
            open_rows = kept["position"] > 0  # a closed chunk's weights are never read again
            found[f"out {name}"] = gap(state[name][open_rows], x[open_rows])
    a, b = gradients(p, y, state), gradients(p, expected, kept)
    floor = max([1e-30, *(1e-6 * float(g.abs().max()) for g in b.values() if g.numel())])
    return found | {f"d {name}": gap(a[name], b[name], floor) for name in b if b[name].numel()}


def gap(a: Tensor, b: Tensor, floor: float = 1e-30) -> float:
    """Largest difference, relative to the largest entry of b."""
    assert a.shape == b.shape, (a.shape, b.shape)
    if not b.numel():
        return 0.0
    return float((a - b).detach().abs().max()) / max(floor, float(b.detach().abs().max()))


def check(p: Problem, limit: float, **about: Any) -> None:
    """All deviations are within the limit; says which are not."""
    found = deviations(p)
    wrong = {name: value for name, value in found.items() if not value <= limit}
    assert not wrong, f"{wrong} {about} for\n{p.design.to_yaml()}"
