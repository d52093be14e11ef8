"""How a task is put to a design: what is built around the memory layers, and how its answers are scored.

`tokens`: the language model of `miras_search.model`. `autoencoder`: its blocks, of whose output only the last vector is kept; a
decoder unfolds it into all tokens. `memory`: one bare memory, driven by the task's own queries, keys and values; no projection,
convolution, norm or gate of a block stands between task and choice, since those can mend what a choice gets wrong (a learned
key map whitens ill-conditioned keys, a norm of the read hides its scale).

Shape legend: B rows, T time, E width, V vocabulary, D dimension of a key.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miras_search import model, op
from miras_search.errors import TaskError
from miras_search.tasks.base import IGNORE

if TYPE_CHECKING:
    from miras_search.candidate import Candidate
    from miras_search.design import Design
    from miras_search.tasks.base import Batch, Task

BLOCK = frozenset({"qkv", "conv", "read_norm", "gate", "out"})
"""Parts of an emitted layer that stand around the memory."""


class Scored(NamedTuple):
    """A batch judged: `loss` [B, T], 0 where not scored; `predicted`, `targets` int64 [B, T], target -100 where not scored.

    The loss is a negative log likelihood in nats, or for vectors the mean squared error of a coordinate (their class is 0).
    """

    loss: Tensor
    predicted: Tensor
    targets: Tensor


class AutoEncoder(nn.Module):
    """A sequence through one vector: the last output of the blocks, plus a position, through an MLP, gives the token there.

    logits_t = W RMSNorm(z + MLP(z)), z = RMSNorm(h_T) + p_t, p sinusoidal; the MLP is a SwiGLU of hidden width 2 E.

    Args:
        body: its embedding and blocks are used, its output not.
        vocab: V.
        width: E.
    """

    def __init__(self, body: model.LM, vocab: int, width: int) -> None:
        super().__init__()
        self.body = body
        self.mlp = model.FeedForward(width, 2 * width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.out = nn.Linear(width, vocab, bias=False)

    def forward(self, tokens: Tensor, reset: Tensor | None = None) -> Tensor:
        """`[B, T]` -> logits `[B, T, V]` of the same tokens."""
        x = self.body.embedding(tokens)
        for block in self.body.blocks:
            x, _ = block(x, None, reset, None)
        last = self.body.norm(x[:, -1:])
        z = last + _sinusoids(tokens.shape[1], x.shape[2]).to(x)
        logits: Tensor = self.out(self.norm(z + self.mlp(z)))
        return logits


def _sinusoids(time: int, width: int) -> Tensor:
    """`[T, E]`: sines in the first half of the coordinates, cosines in the second."""
    half = (width + 1) // 2
    rates = torch.exp(-math.log(1e4) * torch.arange(half) / max(1, half))
    angle = torch.arange(time)[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], 1)[:, :width]


class BareMemory(nn.Module):
    """One memory of one head: writes `k_t -> v_t`, then reads `q_t`, at every token.

    Trained are the memory's own numbers: step, retention and other gates, each one constant (the bias of its map, whose input is
    zero), the initial state and the affine of a LayerNorm; and two scales, of keys and queries together and of the answer, so that
    softmax attention has its temperature and a sum of outer products its size. What the design says of its block does not act,
    but for `output: zeroed`.

    Args:
        design: the memory.
        dim: D, of keys and values.
    """

    def __init__(self, design: Design, dim: int) -> None:
        super().__init__()
        module = op.load(design)
        self.layer: Any = module.Layer(dim, 1)
        self.run = getattr(module, "memory", None) or module.memory_cache
        self.parametric, self.zeroed = design.memory.parametric, design.block.output == "zeroed"
        maps = {f"{name}.weight" for name, part in self.layer.named_modules() if isinstance(part, nn.Linear)}
        for name, p in self.layer.named_parameters():
            p.requires_grad_(self.parametric and name not in maps and name.split(".")[0] not in BLOCK)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.size = nn.Parameter(torch.ones(()))

    def forward(self, vectors: Tensor) -> Tensor:
        """`[B, T, 3, D]` (q, k, v) -> answers `[B, T, D]`."""
        q, k, v = (x[:, :, None] for x in vectors.unbind(2))
        if self.zeroed:
            return torch.zeros_like(v[:, :, 0])
        scale = self.log_scale.exp()
        gates, initial = {}, {}
        if self.parametric:
            gates, initial = self.layer.gates(torch.zeros_like(v[:, :, 0])), self.layer.initial()
        answer: Tensor = self.run(q * scale, k * scale, v, gates, initial)[0][:, :, 0]
        return self.size * answer


def build(candidate: Candidate, task: Task, *, seed: int) -> nn.Module:
    """The module that a task trains, initialised from the seed alone."""
    if task.head == "memory":
        design = candidate.design
        reasons = {
            "a hybrid has several": candidate.hybrid,
            "values: shuffled acts in a layer": design.block.values != "own",
            f"{design.algorithm.kind} takes {design.algorithm.steps_} pairs a token, here is one": design.algorithm.steps_
            > 1,
        }
        for what in (reason for reason, holds in reasons.items() if holds):
            raise TaskError(
                f"it drives one bare memory; {what}", where=f"task {task.name}", hint="use another task for this design"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            size = task.trained(candidate).backbone
            return BareMemory(candidate.design.canonical(), size.width)
    body = model.build(candidate, task.vocab, seed=seed)
    if task.head == "tokens":
        return body
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        return AutoEncoder(body, task.vocab, candidate.backbone.width)


def score(module: nn.Module, batch: Batch, device: torch.device) -> Scored:
    """Loss and answers of a batch."""
    inputs, targets = batch.inputs.to(device), batch.targets.to(device)
    if targets.is_floating_point():
        answer = module(inputs)
        loss = (answer.float() - targets).square().mean(-1)
        classes = torch.zeros(loss.shape, dtype=torch.long, device=device)
        return Scored(loss, classes, classes)
    reset = None if batch.reset is None else batch.reset.to(device)
    logits: Tensor = module(inputs, reset=reset)
    nll = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
    return Scored(nll.view_as(targets), logits.detach().argmax(-1), targets)
