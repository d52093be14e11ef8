"""What keeps four choices apart: one function a reason.

A rule's parameters are the choices that it looks at. So a space is counted by asking each rule about those choices alone, not
about all four (see `miras_search.space.counting`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from miras_search.algorithm import Algorithm
from miras_search.bias import Bias
from miras_search.memory import Memory
from miras_search.retention import Retention


class Refusal(NamedTuple):
    """Why a combination is no model: a code to count by, the reason, the way out."""

    code: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}; {self.remedy}"


class Rule(NamedTuple):
    """A function that answers why some choices do not go together, or None; and the names of those choices."""

    check: Callable[..., Refusal | None]
    choices: tuple[str, ...]

    def __call__(self, four: dict[str, Any]) -> Refusal | None:
        """What the rule says of the choices, by name."""
        return self.check(*(four[name] for name in self.choices))


RULES: list[Rule] = []
"""In the order in which reasons are given."""


def rule(check: Callable[..., Refusal | None]) -> Callable[..., Refusal | None]:
    """Add to the rules."""
    RULES.append(Rule(check, tuple(inspect.signature(check).parameters)))
    return check


def refusals(memory: Memory, bias: Bias, retention: Retention, algorithm: Algorithm) -> list[Refusal]:
    """All reasons why these four do not go together; empty if they do."""
    four = {"memory": memory, "bias": bias, "retention": retention, "algorithm": algorithm}
    return [found for found in (one(four) for one in RULES) if found is not None]


@rule
def _cache_algorithm(memory: Memory, algorithm: Algorithm) -> Refusal | None:
    if memory.parametric or not algorithm.parametric:
        return None
    return Refusal(
        "cache-algorithm",
        f"memory {memory.kind} stores its data and has no weights for {algorithm.kind} to write",
        "use algorithm: nonparametric, or memory: matrix or mlp",
    )


@rule
def _cache_bias(memory: Memory, bias: Bias) -> Refusal | None:
    if memory.parametric or (bias.quadratic and bias.plain):
        return None
    shaped = "" if bias.plain else " with features, a target or a window"
    return Refusal(
        "cache-bias",
        f"memory {memory.kind} is the solution of the l2 bias, not of {bias.kind}{shaped}",
        "use bias: l2",
    )


@rule
def _cache_retention(memory: Memory, retention: Retention) -> Refusal | None:
    if memory.parametric or retention.kind == "none":
        return None
    return Refusal(
        "cache-retention",
        f"memory {memory.kind} keeps all it has; {retention.kind} cannot act",
        "use retention: none",
    )


@rule
def _nonparametric_memory(memory: Memory, algorithm: Algorithm) -> Refusal | None:
    if algorithm.parametric or not memory.parametric:
        return None
    return Refusal(
        "nonparametric-memory",
        f"algorithm {algorithm.kind} needs a memory that stores its data, not {memory.kind}",
        "use memory: cache, or algorithm: gradient_descent",
    )


def _online(algorithm: Algorithm) -> str:
    return "gradient: online" if hasattr(algorithm, "gradient") else algorithm.kind


@rule
def _online_needs_delta_rule(memory: Memory, bias: Bias, retention: Retention, algorithm: Algorithm) -> Refusal | None:
    if not algorithm.online or not memory.parametric or (memory.linear and bias.quadratic and retention.linear):
        return None
    return Refusal(
        "online-needs-delta-rule",
        f"{_online(algorithm)} is exact for an l2 bias on memory matrix with a linear gate, not for {bias.kind} on {memory.kind} "
        f"with {retention.kind}",
        "use gradient_descent with gradient: chunk (chunk: 1 is the sequential recurrence)",
    )


@rule
def _online_has_no_window(bias: Bias, algorithm: Algorithm) -> Refusal | None:
    if not algorithm.online or bias.window == 1:
        return None
    return Refusal(
        "online-has-no-window",
        f"a window of {bias.window} tokens sums gradients at frozen weights; {_online(algorithm)} takes one at a time",
        "use window: 1, or algorithm: gradient_descent with gradient: chunk",
    )


@rule
def _window_needs_matrix(memory: Memory, bias: Bias) -> Refusal | None:
    if bias.window == 1 or not memory.diagonal:
        return None
    return Refusal(
        "window-needs-matrix",
        f"memory {memory.kind} is written channel by channel, and no path sums a window of such writes",
        "use window: 1, or memory: matrix",
    )


@rule
def _features_change_dimension(memory: Memory, bias: Bias) -> Refusal | None:
    if not (bias.lifting and (memory.residual_ or memory.diagonal or bias.target != "v")):
        return None
    if memory.residual_:
        what = "a memory with a residual"
    else:
        what = f"memory {memory.kind}" if memory.diagonal else "the target v - k"
    return Refusal(
        "features-change-dimension",
        f"features: {bias.features} gives keys more dimensions than values, which {what} takes as equal",
        "use features: elu, or memory: matrix and target: v",
    )


@rule
def _features_need_scalar_gate(bias: Bias, retention: Retention, algorithm: Algorithm) -> Refusal | None:
    if not (bias.lifting and (retention.gated in ("channel", "outer") or algorithm.erases_channels)):
        return None
    return Refusal(
        "features-need-scalar-gate",
        f"a channel gate has a number for every dimension of a head, and features: {bias.features} makes more of them",
        "use gate: scalar, or features: elu",
    )


@rule
def _online_only(algorithm: Algorithm) -> Refusal | None:
    if algorithm.online or not (algorithm.decay_first or algorithm.decoupled):
        return None
    what = "order: decay_first" if algorithm.decay_first else f"strengths: {getattr(algorithm, 'strengths', '')}"
    return Refusal(
        "online-only", f"{what} is defined for gradient: online only", "use gradient: online, or leave it out"
    )


@rule
def _online_has_no_chunk(algorithm: Algorithm) -> Refusal | None:
    if not (algorithm.online and algorithm.read_ == "stale"):
        return None
    return Refusal(
        "online-has-no-chunk",
        "read: stale reads the weights of the chunk's start; gradient: online has no chunks",
        "use read: exact, or gradient: chunk",
    )


@rule
def _channel_erase_needs_matrix(memory: Memory, algorithm: Algorithm) -> Refusal | None:
    if not (algorithm.erases_channels and memory.diagonal):
        return None
    return Refusal(
        "channel-erase-needs-matrix",
        f"strengths: channel erases along another vector than the key; memory {memory.kind} keeps its channels apart",
        "use strengths: decoupled, or memory: matrix",
    )


@rule
def _tied_needs_gate(retention: Retention, algorithm: Algorithm) -> Refusal | None:
    if not algorithm.tied or (retention.gated in ("scalar", "channel") and retention.decay_ == "data"):
        return None
    return Refusal(
        "tied-needs-gate",
        f"step_gate: tied writes what a predicted gate of all or of the key channels forgets, and {retention.kind} has none",
        "use retention: l2 with decay: data, or step_gate: data",
    )


@rule
def _newton_needs_scalar_gate(retention: Retention, algorithm: Algorithm) -> Refusal | None:
    if not algorithm.least_squares or retention.gated in ("none", "scalar"):
        return None
    return Refusal(
        "newton-needs-scalar-gate",
        f"{algorithm.kind} forgets keys and values alike; one a channel would act on one side of its statistics",
        "use gate: scalar",
    )


@rule
def _lagged_needs_scale(retention: Retention, algorithm: Algorithm) -> Refusal | None:
    if algorithm.read_ != "lagged" or retention.scaling or retention.linear:
        return None
    return Refusal(
        "lagged-needs-scale",
        f"read: lagged is defined for maps that scale the state by one number; {retention.kind} is none",
        "use read: exact",
    )


@rule
def _zero_start(memory: Memory, retention: Retention) -> Refusal | None:
    if memory.initial_ != "zeros" or retention.linear:
        return None
    return Refusal(
        "zero-start",
        f"a zero initial state is a fixed point or undefined under retention {retention.kind}",
        "use initial: learned",
    )


@rule
def _channel_gate_shape(memory: Memory, retention: Retention) -> Refusal | None:
    if retention.gated != "channel" or not (memory.depth_ > memory.inputs_ + 1 or memory.offset_):
        return None
    return Refusal(
        "channel-gate-shape",
        f"a channel gate acts on the inputs of the first and the outputs of the last layer; {memory.kind} has {memory.depth_} "
        f"weights{' with an offset' if memory.offset_ else ''}",
        "use gate: scalar, or at most two layers without offset",
    )


@rule
def _row_gate_shape(memory: Memory, retention: Retention) -> Refusal | None:
    one_matrix = memory.depth_ <= 1 and not memory.diagonal
    if retention.gated not in ("row", "outer") or (one_matrix and not (retention.gated == "outer" and memory.offset_)):
        return None
    return Refusal(
        "row-gate-shape",
        f"gate: {retention.gated} acts on the rows of a memory of one matrix, and {memory.kind} is none",
        "use gate: scalar, or memory: matrix",
    )


@rule
def _simplex_of_one(memory: Memory, retention: Retention) -> Refusal | None:
    if not memory.diagonal or retention.axis_ != "column":
        return None
    return Refusal(
        "simplex-of-one",
        f"a column of memory {memory.kind} has one entry, which axis: column of {retention.kind} would keep constant",
        "use axis: row",
    )


@rule
def _closed_form_of_a_matrix(memory: Memory, algorithm: Algorithm) -> Refusal | None:
    if not memory.diagonal or not (algorithm.implicit or algorithm.least_squares):
        return None
    return Refusal(
        "closed-form-of-a-matrix",
        f"algorithm {algorithm.kind} has its closed form for memory matrix, not for {memory.kind}",
        "use memory: matrix, or algorithm: gradient_descent",
    )


@rule
def _lp_runs_away(memory: Memory, bias: Bias) -> Refusal | None:
    if not bias.superlinear or memory.normalised or not memory.parametric:
        return None
    return Refusal(
        "lp-runs-away",
        f"{bias.kind} with p > 2 on a memory without LayerNorm diverges within tens of tokens",
        "use cap: norm (or auto), p <= 2, or an mlp with norm: true",
    )
