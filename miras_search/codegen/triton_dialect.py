"""The dialect in Triton: the same formulas on a tile `[tokens, dim]` held in registers.

Triton has no `**`, pow, tanh or log1p. Powers are taken of positive bases only, as in all formulas of the dialect.
"""

from __future__ import annotations

import ast

from miras_search.bias import Bias
from miras_search.codegen.lower import Lowered, lower
from miras_search.design import Design

TRITON: dict[str, str] = {
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sqrt": "tl.sqrt({0})",
    "abs": "tl.abs({0})",
    "tanh": "(2.0 * tl.sigmoid(2.0 * ({0})) - 1.0)",
    "sigmoid": "tl.sigmoid({0})",
    "erf": "tl.erf({0})",
    "power": "tl.exp2(({1}) * tl.log2({0}))",
    "where": "tl.where({0}, {1}, {2})",
    "minimum": "tl.minimum({0}, {1})",
    "maximum": "tl.maximum({0}, {1})",
    "zeros_like": "tl.zeros_like({0})",
    "row_sum": "tl.sum({0}, axis=1, keep_dims=True)",
    "row_mean": "(tl.sum({0}, axis=1, keep_dims=True) / {0}.shape[1])",
    "row_max": "tl.max({0}, axis=1, keep_dims=True)",
    # A tile of one number: the interpreter cannot divide a size, a constexpr, by a tile.
    "row_size": "tl.full([1, 1], {0}.shape[1], tl.float32)",
    "transpose": "tl.trans({0})",
    "total": "tl.sum(tl.sum({0}, axis=1, keep_dims=True), axis=0, keep_dims=True)",
    "total_size": "tl.full([1, 1], {0}.shape[0] * {0}.shape[1], tl.float32)",
}
"""As `dialect.TORCH`, word for word."""


def has_kernels(design: Design) -> bool:
    """A linear memory with identity mirror and scalar gate, written by frozen-chunk gradients and read exactly."""
    memory, retention, algorithm = design.memory, design.retention, design.algorithm
    written = memory.linear and retention.linear and retention.gated in ("none", "scalar") and retention.klass == "dual"
    learned = algorithm.parametric and not (algorithm.online or algorithm.momentum) and algorithm.chunk_ <= 64
    plain = not (algorithm.ascent or algorithm.read_first)
    return written and learned and plain and algorithm.read_ == "exact"


def lower_bias(bias: Bias) -> tuple[str, dict[str, float]]:
    """Source of the jit functions `bias_phi_tile` and `bias_phi_vjp_tile`, and of `BIAS_NUMBERS`, which both take last.

    Numbers are run-time arguments, not constants, so that one compiled kernel serves a continuous space.

    Returns:
        the text, and the numbers that it names.
    """
    out = Lowered()
    for method in ("phi", "phi_vjp"):
        lower(bias, method, TRITON, out, numbers="numbers")
    used = {n: {f for f, text in out.functions.items() if _mentions(text, n)} for n in out.numbers}
    passed = [n for n in out.numbers if used[n]]
    # Never empty: Triton's versions differ in how they pass an empty tuple.
    lines = [f"BIAS_NUMBERS = ({', '.join(passed or ['0.0'])}{'' if len(passed) > 1 else ','})"]
    lines += ["", "if triton is not None:"]
    for name, text in out.functions.items():
        header, *body = text.rstrip().split("\n")
        taken = [f"    {number} = numbers[{i}]" for i, number in enumerate(passed) if name in used[number]]
        lines += ["", *(f"    {line}" if line else "" for line in ["@triton.jit", header, *taken, *body])]
    return "\n".join(lines) + "\n", {n: out.numbers[n] for n in passed}


def _mentions(text: str, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(ast.parse(text)))
