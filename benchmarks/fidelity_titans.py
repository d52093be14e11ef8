"""titans-lmm's writes beside those of titans-pytorch: `pip install titans-pytorch`, then `python benchmarks/fidelity_titans.py`.

Where the two can be set alike: a two-layer memory without LayerNorm and residual (its LayerNorm has a scale that is itself
written online; ours is learned by the outer loop), chunks of one token, and one call a segment of 16 tokens, since its
gradients stay at the weights with which a call begins. Its loss is a mean over the channels, hence the factor K / 2. It reads
a token from the weights before that token's write: here its weights after every write are read with its own memory.

Prints the largest deviation of outputs and of every gradient, in float64, relative to the largest entry.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

TIME, DIM, SEGMENT = 37, 4, 16


def main() -> None:
    """Compare."""
    from problems import fast, gap, problem
    from titans_pytorch import MemoryMLP, NeuralMemory

    from miras_search.memory import Mlp
    from miras_search.named import NAMED

    torch.set_default_dtype(torch.float64)
    design = NAMED["titans-lmm"].design.model_copy(update={"memory": Mlp(residual=False, norm=False)})
    p = problem(design, TIME, batch=1, heads=1, dim=DIM)
    q, k, v = (x[0, :, 0] for x in (p.q, p.k, p.v))
    eta, alpha, mu = p.gates["eta"][0, :, 0], p.gates["log_alpha"][0, :, 0].exp(), p.gates["log_mu"][0, :, 0].exp()
    theirs = NeuralMemory(
        DIM, chunk_size=1, model=MemoryMLP(DIM, depth=2, expansion_factor=4.0), mem_model_norm_add_residual=False
    )
    names = [name for name, _ in theirs.memory_model.named_parameters()]
    weights = {name: p.initial[f"state_{i}"].mT for i, name in enumerate(names)}
    momenta = {name: torch.zeros(1, 1, *w.shape[1:]) for name, w in weights.items()}
    for name in ("store_norm", "to_adaptive_step", "to_decay_factor", "to_momentum", "to_keys", "to_values"):
        theirs._modules.pop(name)
    for name in ("k_norm", "split_kv_heads"):
        theirs._modules.pop(name)
    theirs.store_norm = theirs.k_norm = theirs.adaptive_step_transform = lambda x: x
    theirs.split_kv_heads = lambda x: x[:, None]
    answers = []
    for start in range(0, TIME, SEGMENT):
        now = slice(start, min(TIME, start + SEGMENT))

        def given(x: Tensor, *shape: int) -> object:
            return lambda _: x.view(*shape)

        theirs.to_adaptive_step = given(eta[now] * DIM / 2, 1, -1)
        theirs.to_decay_factor = given(torch.logit(1.0 - alpha[now]), 1, -1, 1)
        theirs.to_momentum = given(torch.logit(mu[now]), 1, 1, -1, 1)
        theirs.to_keys, theirs.to_values = given(k[now], 1, -1, DIM), given(v[now], 1, -1, DIM)
        after, state, _ = theirs.store_memories(torch.zeros(1, len(eta[now]), DIM), weights, (weights, momenta))
        for j in range(len(eta[now])):
            written = {name: after[name][0, j + 1] for name in names}
            answers.append(functional_call(theirs.memory_model, written, (q[start + j][None],))[0])
        weights, momenta = ({name: part[name] for name in names} for part in state.states)
    z, y = torch.stack(answers), fast(p)[0][0, :, 0]
    functional = torch.randn(TIME, DIM, generator=torch.Generator().manual_seed(1))
    ours, others = (torch.autograd.grad((x * functional).sum(), list(p.leaves.values())) for x in (y, z))
    print(f"outputs {gap(y, z):.0e}")
    for name, a, b in zip(p.leaves, ours, others, strict=True):
        print(f"gradient of {name} {gap(a, b):.0e}")


if __name__ == "__main__":
    main()
