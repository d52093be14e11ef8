"""The dialect in Triton: the same formulas on a tile `[tokens, dim]` held in registers.

Triton has no `**`, pow, tanh or log1p. Powers are taken of positive bases only, as in all formulas of the dialect.
"""

from __future__ import annotations

import ast

from miras_search.choice import Choice
from miras_search.codegen.lower import Lowered, lower
from miras_search.codegen.stage import staged
from miras_search.design import Design

TRITON: dict[str, str] = {
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sqrt": "tl.sqrt({0})",
    "abs": "tl.abs({0})",
    "tanh": "tile_tanh({0})",
    "sigmoid": "tile_sigmoid({0})",
    "erf": "tl.erf({0})",
    "power": "tl.exp2(({1}) * tl.log2({0}))",
    "where": "tl.where({0}, {1}, {2})",
    "minimum": "tl.minimum({0}, {1})",
    "maximum": "tl.maximum({0}, {1})",
    "zeros_like": "tl.zeros_like({0})",
    "row_sum": "tl.sum({0}, axis=1, keep_dims=True)",
    "row_mean": "(tl.sum({0}, axis=1, keep_dims=True) / {0}.shape[1])",
    "row_max": "tl.max({0}, axis=1, keep_dims=True)",
    # Written out: the arguments of tl.softmax differ from version to version.
    "row_softmax": "(tl.exp({0} - tl.max({0}, 1, keep_dims=True)) "
    "/ tl.sum(tl.exp({0} - tl.max({0}, 1, keep_dims=True)), 1, keep_dims=True))",
    "row_softmax_vjp": "({0} * ({1} - tl.sum({0} * ({1}), axis=1, keep_dims=True)))",
    # A tile of one number: the interpreter cannot divide a size, a constexpr, by a tile.
    "row_size": "tl.full([1, 1], {0}.shape[1], tl.float32)",
    "transpose": "tl.trans({0})",
    "total": "tile_total({0})",
    "total_size": "tl.full([1, 1], {0}.shape[0] * {0}.shape[1], tl.float32)",
}
"""As `dialect.TORCH`, word for word."""


def has_kernels(design: Design) -> str:
    """The family of kernels that serves a canonical design, empty if none does.

    linear: a matrix with identity mirror map and scalar gate or none, gradients frozen for a chunk, exact reads.
    delta: the online delta rule with scalar gate or none, in either order, with tied, decoupled or implicit strengths.
    channels: both with a gate for every key channel, the first also for value channels or both; the delta rule that erases by
        channels, whatever its gate.
    dense: one or two layers with or without offset, any dual mirror map without one, momentum, exact or lagged reads.
    """
    if why_no_kernels(design):
        return ""
    if design.retention.gated not in ("none", "scalar") or design.algorithm.erases_channels:
        return "channels"
    if design.algorithm.online:
        return "delta"
    plain = design.memory.linear and design.retention.linear and not design.algorithm.momentum
    return "linear" if plain else "dense"


def why_no_kernels(design: Design) -> str:
    """What a canonical design has that no family serves, the first of it; empty if one serves the design."""
    memory, retention, algorithm = design.memory, design.retention, design.algorithm
    if not memory.parametric:
        return "the memory is a cache"
    if algorithm.least_squares:
        return "the memory is the solution of a regression"
    channels = retention.gated not in ("none", "scalar")
    if retention.klass != "dual":
        return f"a {retention.klass} gate"
    if memory.diagonal:
        return "the memory is diagonal"
    if channels and not (memory.linear and retention.linear and not algorithm.momentum):
        return f"a {retention.gated} gate on other than a matrix with identity mirror map and without momentum"
    if algorithm.online and retention.gated in ("row", "outer"):
        return f"a {retention.gated} gate of the online rule, whose value channels have a system each"
    if algorithm.steps_ > 1:
        return f"{algorithm.steps_} steps a token"
    if algorithm.online:
        return ""
    # The hidden units are taken in tiles, whose size is a power of two.
    hidden = memory.weights(16, 16)[0][0]
    lacks = {
        f"a memory of {memory.depth_} layers": memory.depth_ > 2,
        "a memory of two inputs": memory.inputs_ > 1,
        "an offset under a mirror map": memory.offset_ and not retention.linear,
        f"a chunk of {algorithm.chunk_} tokens, more than 64": algorithm.chunk_ > 64,
        "the momentum is orthogonalised": algorithm.orthogonal,
        "only the last layer is written": algorithm.last_only,
        f"a loss over {design.bias.window} tokens": design.bias.window > 1,
        "reads are stale": algorithm.read_ == "stale",
        "reads come before the write": algorithm.read_first and not channels,
        "the activation has no second derivative here": memory.depth_ > 1 and not hasattr(memory, "activate_curve"),
        f"an expansion to {hidden // 16} times the width, no power of two": bool(hidden & (hidden - 1)),
    }
    return next((reason for reason, lacking in lacks.items() if lacking), "")


def lower_tiles(design: Design) -> tuple[str, dict[str, float], dict[str, bool]]:
    """Source of the jit functions that a design's kernels call, and of `TILE_NUMBERS`, which all take last.

    Numbers are run-time arguments, not constants, so that one compiled kernel serves a continuous space.

    Returns:
        the text, the numbers that it names, and flags of what the mirror map takes of the matrix beside an entry: TOTALS, sums over
        it, so that tiles can be taken one after another, or WHOLE, all of it; ROWWISE, sums or the size of a row.
    """
    out = Lowered()
    wanted: list[tuple[Choice, str]] = [(design.bias, "phi"), (design.bias, "phi_vjp")]
    if design.memory.depth_ > 1:
        wanted += [(design.memory, f"activate{suffix}") for suffix in ("", "_grad", "_curve")]
    if not design.retention.linear:
        wanted += [(design.retention, "psi"), (design.retention, "psi_vjp")]
        if design.retention.scaling:
            wanted.append((design.retention, "scale"))
    for choice, method in wanted:
        lower(choice, method, TRITON, out, numbers="numbers")
    mirror = [name for name in out.functions if name.startswith("retention")]
    whole = any("tile_total(" in out.functions[n] or "tl.trans(" in out.functions[n] for n in mirror)
    divided = staged(design.retention, TRITON, design.retention.scaling) if whole else None
    if divided is not None:
        for name in mirror:
            del out.functions[name]
        out.functions |= divided[0]
        out.numbers |= divided[1]
    used = {n: {f for f, text in out.functions.items() if _mentions(text, n)} for n in out.numbers}
    passed = [n for n in out.numbers if used[n]]
    # Never empty: Triton's versions differ in how they pass an empty tuple.
    lines = [f"TILE_NUMBERS = ({', '.join(passed or ['0.0'])}{'' if len(passed) > 1 else ','})"]
    lines += ["", "if triton is not None:"]
    for name, text in out.functions.items():
        header, *body = text.rstrip().split("\n")
        taken = [f"    {number} = numbers[{i}]" for i, number in enumerate(passed) if name in used[number]]
        lines += ["", *(f"    {line}" if line else "" for line in ["@triton.jit", header, *taken, *body])]
    whole = whole and divided is None
    asks_rows = any("keep_dims" in x or ".shape" in x for n, x in out.functions.items() if n.startswith("retention"))
    mapped = {"WHOLE": whole, "TOTALS": divided is not None, "ROWWISE": whole or asks_rows}
    return "\n".join(lines) + "\n", {n: out.numbers[n] for n in passed}, mapped


def _mentions(text: str, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(ast.parse(text)))
