"""A design: the four choices and the block around the memory. Compatibility, canonical form, identity.

`rules` says what cannot work and the way out. `canonical` merges descriptions of the same function and resolves every
`auto`, so that all that follows sees one form. `fingerprint` names a function; `structure` names its code, with the numbers
that do not select code left out.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from miras_search.algorithm import Algorithm, GradientDescent
from miras_search.bias import Bias
from miras_search.choice import Frozen, OneOf
from miras_search.memory import Memory
from miras_search.retention import Retention
from miras_search.rules import refusals


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


class Design(Frozen):
    """Four choices and the block: one associative memory.

    Raises:
        pydantic.ValidationError: for values out of range, and for choices that do not go together (see `rules`).
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
