"""A design: the four choices and the block around the memory. Compatibility, canonical form, identity.

`refusals` says what cannot work and the way out. `canonical` merges descriptions of the same function and resolves every
`auto`, so that all that follows sees one form. `fingerprint` names a function; `structure` names its code, with the numbers
that do not select code left out.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from miras_search.algorithm import Algorithm, GradientDescent
from miras_search.bias import Bias
from miras_search.choice import Frozen, OneOf
from miras_search.memory import Memory
from miras_search.retention import Retention


class Block(Frozen):
    """What stands around the memory inside a layer; held fixed when choices are compared.

    `conv`: width of the causal depthwise convolutions on q, k and v (SiLU after each); 0: none.
    `residual_conv`: width of a convolution outside the memory, x + conv(norm x); the zeroed control needs one to be a fair twin.
    `qk_norm`: q and k of unit length. `rope`: rotary positions on q and k. `output_gate`: the read is normalised and multiplied
    by silu of a projection of x. `output: zeroed` is the control whose memory answers zero. `values: shuffled` is the control whose
    token t writes the value of an earlier token, t - d with d fixed pseudo-randomly by t within 1 to 16: the values are the same,
    what they are stored under is not.
    """

    conv: int = Field(4, ge=0, le=16)
    residual_conv: int = Field(0, ge=0, le=16)
    qk_norm: bool = True
    rope: bool = False
    output_gate: bool = True
    output: Literal["memory", "zeroed"] = "memory"
    values: Literal["own", "shuffled"] = "own"


class Refusal(NamedTuple):
    """Why a combination is no model: a code to count by, the reason, the way out."""

    code: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}; {self.remedy}"


def refusals(memory: Memory, bias: Bias, retention: Retention, algorithm: Algorithm) -> list[Refusal]:
    """All reasons why these four do not go together; empty if they do."""
    found: list[Refusal] = []

    def refuse(code: str, message: str, remedy: str) -> None:
        found.append(Refusal(code, message, remedy))

    if not memory.parametric:
        if algorithm.parametric:
            refuse(
                "cache-algorithm",
                f"memory {memory.kind} stores its data and has no weights for {algorithm.kind} to write",
                "use algorithm: nonparametric, or memory: matrix or mlp",
            )
        if not (bias.quadratic and bias.plain):
            shaped = "" if bias.plain else " with features, a target or a window"
            refuse(
                "cache-bias",
                f"memory {memory.kind} is the solution of the l2 bias, not of {bias.kind}{shaped}",
                "use bias: l2",
            )
        if retention.kind != "none":
            refuse(
                "cache-retention",
                f"memory {memory.kind} keeps all it has; {retention.kind} cannot act",
                "use retention: none",
            )
        return found
    if not algorithm.parametric:
        refuse(
            "nonparametric-memory",
            f"algorithm {algorithm.kind} needs a memory that stores its data, not {memory.kind}",
            "use memory: cache, or algorithm: gradient_descent",
        )
        return found
    if algorithm.online and not (memory.linear and bias.quadratic and retention.linear):
        refuse(
            "online-needs-delta-rule",
            f"{'gradient: online' if hasattr(algorithm, 'gradient') else algorithm.kind} is exact for an l2 bias on memory "
            f"matrix with a linear gate, not for {bias.kind} on {memory.kind} with {retention.kind}",
            "use gradient_descent with gradient: chunk (chunk: 1 is the sequential recurrence)",
        )
    if algorithm.online and bias.window > 1:
        refuse(
            "online-has-no-window",
            f"a window of {bias.window} tokens sums gradients at frozen weights; "
            f"{'gradient: online' if hasattr(algorithm, 'gradient') else algorithm.kind} takes one at a time",
            "use window: 1, or algorithm: gradient_descent with gradient: chunk",
        )
    if bias.window > 1 and memory.diagonal:
        refuse(
            "window-needs-matrix",
            f"memory {memory.kind} is written channel by channel, and no path sums a window of such writes",
            "use window: 1, or memory: matrix",
        )
    if bias.lifting and (memory.residual_ or memory.diagonal or bias.target != "v"):
        if memory.residual_:
            what = "a memory with a residual"
        else:
            what = f"memory {memory.kind}" if memory.diagonal else "the target v - k"
        refuse(
            "features-change-dimension",
            f"features: {bias.features} gives keys more dimensions than values, which {what} takes as equal",
            "use features: elu, or memory: matrix and target: v",
        )
    if bias.lifting and (retention.gated in ("channel", "outer") or algorithm.erases_channels):
        refuse(
            "features-need-scalar-gate",
            f"a channel gate has a number for every dimension of a head, and features: {bias.features} makes more of them",
            "use gate: scalar, or features: elu",
        )
    if not algorithm.online and (algorithm.decay_first or algorithm.decoupled):
        what = "order: decay_first" if algorithm.decay_first else f"strengths: {getattr(algorithm, 'strengths', '')}"
        refuse("online-only", f"{what} is defined for gradient: online only", "use gradient: online, or leave it out")
    if algorithm.online and algorithm.read_ == "stale":
        refuse(
            "online-has-no-chunk",
            "read: stale reads the weights of the chunk's start; gradient: online has no chunks",
            "use read: exact, or gradient: chunk",
        )
    if algorithm.erases_channels and memory.diagonal:
        refuse(
            "channel-erase-needs-matrix",
            f"strengths: channel erases along another vector than the key; memory {memory.kind} keeps its channels apart",
            "use strengths: decoupled, or memory: matrix",
        )
    if algorithm.tied and (retention.gated not in ("scalar", "channel") or retention.decay_ != "data"):
        refuse(
            "tied-needs-gate",
            f"step_gate: tied writes what a predicted gate forgets, and {retention.kind} predicts none",
            "use retention: l2 with decay: data, or step_gate: data",
        )
    if algorithm.least_squares and retention.gated not in ("none", "scalar"):
        refuse(
            "newton-needs-scalar-gate",
            f"{algorithm.kind} forgets keys and values alike; one a channel would act on one side of its statistics",
            "use gate: scalar",
        )
    if algorithm.read_ == "lagged" and not (retention.scaling or retention.linear):
        refuse(
            "lagged-needs-scale",
            f"read: lagged is defined for maps that scale the state by one number; {retention.kind} is none",
            "use read: exact",
        )
    if memory.initial_ == "zeros" and not retention.linear:
        refuse(
            "zero-start",
            f"a zero initial state is a fixed point or undefined under retention {retention.kind}",
            "use initial: learned",
        )
    if retention.gated == "channel" and (memory.depth_ > memory.inputs_ + 1 or memory.offset_):
        refuse(
            "channel-gate-shape",
            f"a channel gate acts on the inputs of the first and the outputs of the last layer; {memory.kind} has {memory.depth_} "
            f"weights{' with an offset' if memory.offset_ else ''}",
            "use gate: scalar, or at most two layers without offset",
        )
    if (retention.gated in ("row", "outer") and (memory.depth_ > 1 or memory.diagonal)) or (
        retention.gated == "outer" and memory.offset_
    ):
        refuse(
            "row-gate-shape",
            f"gate: {retention.gated} acts on the rows of a memory of one matrix, and {memory.kind} is none",
            "use gate: scalar, or memory: matrix",
        )
    if memory.diagonal and retention.axis_ == "column":
        refuse(
            "simplex-of-one",
            f"a column of memory {memory.kind} has one entry, which axis: column of {retention.kind} would keep constant",
            "use axis: row",
        )
    if memory.diagonal and (algorithm.implicit or algorithm.least_squares):
        refuse(
            "closed-form-of-a-matrix",
            f"algorithm {algorithm.kind} has its closed form for memory matrix, not for {memory.kind}",
            "use memory: matrix, or algorithm: gradient_descent",
        )
    if bias.superlinear and not memory.normalised:
        refuse(
            "lp-runs-away",
            f"{bias.kind} with p > 2 on a memory without LayerNorm diverges within tens of tokens",
            "use cap: norm (or auto), p <= 2, or an mlp with norm: true",
        )
    return found


class Design(Frozen):
    """Four choices and the block: one associative memory.

    Raises:
        pydantic.ValidationError: for values out of range, and for choices that do not go together (see `refusals`).
    """

    memory: Annotated[Memory, OneOf("memory")]
    bias: Annotated[Bias, OneOf("bias")]
    retention: Annotated[Retention, OneOf("retention")]
    algorithm: Annotated[Algorithm, OneOf("algorithm")]
    block: Block = Block()

    @model_validator(mode="after")
    def _compatible(self) -> Design:
        found = refusals(self.memory, self.bias, self.retention, self.algorithm)
        if found:
            raise ValueError(str(found[0]))
        return self

    @property
    def state_free(self) -> bool:
        """The gradient does not depend on the memory's state: a state-free bias on a linear memory."""
        return self.bias.state_free and self.memory.linear

    @property
    def chunked(self) -> bool:
        """Chunk boundaries matter: gradients or reads use weights frozen at a chunk's start."""
        if self.algorithm.online or not self.memory.parametric:
            return False
        return not self.state_free or self.algorithm.read_ != "exact"

    def canonical(self) -> Design:
        """The one description of this function: `auto` resolved, equal functions merged, unused fields at their defaults.

        Merged: l_p with p = 2 and l2; printed l_q with q = 2 and the L2 gate; `lagged` and `exact` reads under a linear gate; the
        chunk where the gradient does not depend on the state, or is online; chunk 1 of the online rule and the online rule; the two
        orders without a gate; controls that change nothing (one layer is the last one).
        """
        retention = self.retention.canonical()
        memory = self.memory.canonical(retention.linear)
        bias = self.bias.canonical(memory.normalised)
        algorithm = self.algorithm.canonical(memory.depth_, retention.gated != "none", retention.linear)
        if isinstance(algorithm, GradientDescent) and algorithm.chunk == 1 and algorithm.read == "exact":
            sequential = algorithm.model_copy(update={"gradient": "online"})
            if not refusals(memory, bias, retention, sequential):
                algorithm = sequential
        if "chunk" in type(algorithm).model_fields:
            state_free = bias.state_free and memory.linear and algorithm.read_ == "exact"
            if algorithm.online or state_free:
                algorithm = algorithm.model_copy(update={"chunk": type(algorithm).model_fields["chunk"].default})
        return Design(memory=memory, bias=bias, retention=retention, algorithm=algorithm, block=self.block)

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits: equal for two descriptions of the same function."""
        return digest(self.canonical().model_dump(mode="json"))

    @cached_property
    def structure(self) -> str:
        """12 hex digits of the code: floats are left out, since they are run-time numbers."""
        return digest(_without_floats(self.canonical().model_dump()))

    def flat(self) -> dict[str, Any]:
        """Paths to values, `{"bias.kind": "lp", "bias.p": 3.0, ...}`."""
        return {
            f"{part}.{name}": value
            for part, fields in self.model_dump(mode="json").items()
            for name, value in fields.items()
        }

    def to_yaml(self) -> str:
        """The design as YAML, a line a choice."""
        return "".join(f"{part}: {_inline(fields)}\n" for part, fields in self.model_dump(mode="json").items())


def digest(value: Any) -> str:
    """First 12 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def rebuild() -> None:
    """Take in variants registered since import (plug-ins)."""
    Design.model_rebuild(force=True)


def _without_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_floats(v) for k, v in value.items() if not isinstance(v, float)}
    return value


def _inline(fields: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{k}: {_scalar(v)}" for k, v in fields.items()) + "}"


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
