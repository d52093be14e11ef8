"""The dialect in which formulas are written: a closed set of functions, and how each reads in torch.

A formula is a method `f(self, xp, ...)`; `xp.row_sum(r)` sums over the last axis and keeps it, `xp.total(s)` over a matrix.
`{0}`, `{1}`, ... are the arguments' texts. The Triton spelling stands with the Triton families.
"""

from __future__ import annotations

TORCH: dict[str, str] = {
    "exp": "torch.exp({0})",
    "log": "torch.log({0})",
    "sqrt": "torch.sqrt({0})",
    "abs": "torch.abs({0})",
    "tanh": "torch.tanh({0})",
    "sigmoid": "torch.sigmoid({0})",
    "erf": "torch.erf({0})",
    "power": "({0}) ** ({1})",
    "where": "torch.where({0}, {1}, {2})",
    "minimum": "torch.minimum({0}, {1})",
    "maximum": "torch.maximum({0}, {1})",
    "zeros_like": "torch.zeros_like({0})",
    "row_sum": "torch.sum({0}, -1, keepdim=True)",
    "row_mean": "torch.mean({0}, -1, keepdim=True)",
    "row_max": "torch.amax({0}, -1, keepdim=True)",
    "transpose": "({0}).mT",
    "row_softmax": "torch.softmax({0}, -1)",
    "row_softmax_vjp": "torch._softmax_backward_data({1}, {0}, -1, {0}.dtype)",
    "row_size": "{0}.shape[-1]",
    "total": "torch.sum({0}, (-2, -1), keepdim=True)",
    "total_size": "({0}.shape[-2] * {0}.shape[-1])",
}
"""Every function a formula may call; anything else is refused when it is lowered."""

REFERENCE_ONLY = frozenset({"matvec", "diagonal", "append_one"})
"""Functions of `Memory.predict`, which the reference runs and the skeletons spell out in matrix form."""
