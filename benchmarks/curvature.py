"""How far a write moves a fresh memory's answer: the scale that inner steps are relative to, one line a design with a mirror map.

    python benchmarks/curvature.py

A write -eta J_W' phi to the dual state S moves the prediction by -eta J_S J_W' phi, J_S and J_W its derivatives by S and by W = psi(S).
Beside the norm of J_S J_W' stands that of J_S J_S', which equals it for the identity alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from miras_search import op
from miras_search.named import NAMED

DIM = 32


def norms(name: str) -> tuple[float, float]:
    """|J_S J_W'| and |J_S J_S'|, means of four random unit keys."""
    module = op.load(NAMED[name].design)
    torch.manual_seed(0)
    states = [s[0].detach().double().requires_grad_() for s in module.Layer(DIM, 1).start]
    weights = [module.retention_psi(s) for s in states]
    affine = [torch.ones(DIM, dtype=torch.float64), torch.zeros(DIM, dtype=torch.float64)]
    found = []
    for key in torch.nn.functional.normalize(torch.randn(4, 1, DIM, dtype=torch.float64), dim=-1):
        answer = module.predict(weights, key, affine)[0]
        rows = torch.eye(DIM, dtype=torch.float64)
        parts = torch.autograd.grad(answer, [*states, *weights], rows, is_grads_batched=True, retain_graph=True)
        by_state, by_weight = (_flat(parts[: len(states)]), _flat(parts[len(states) :]))
        found.append([float(torch.linalg.matrix_norm(by_state @ x.mT, 2)) for x in (by_weight, by_state)])
    written, squared = torch.tensor(found).mean(0).tolist()
    return written, squared


def _flat(jacobian: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([j.flatten(1) for j in jacobian], 1)


def main() -> None:
    """Print both norms and their ratio."""
    print("design      |J_S J_W'|  |J_S J_S'|  ratio")
    for name, entry in NAMED.items():
        if entry.design.memory.parametric and not entry.design.retention.linear:
            written, squared = norms(name)
            print(f"{name:10s}  {written:10.1f}  {squared:10.1f}  {written / squared:5.2f}")


if __name__ == "__main__":
    main()
