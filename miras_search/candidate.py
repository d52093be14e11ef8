"""A candidate: a design inside a model of a given size, and how it is trained. Counts what it costs; solves `match`.

The counts are formulas, so that thousands of draws can be costed without building a model; tests hold them to the built one.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from miras_search.choice import Frozen
from miras_search.design import Design, digest
from miras_search.errors import MatchError


class Backbone(Frozen):
    """The model around the layers.

    `width`: model dimension; `heads` must divide it. `ffn`: hidden width of the SwiGLU after every memory layer, as a multiple
    of `width`; 0: none. The embedding and the output share their matrix.
    """

    width: int = Field(64, ge=1, le=16384)
    layers: int = Field(2, ge=1, le=256)
    heads: int = Field(2, ge=1, le=256)
    ffn: float = Field(2.0, ge=0.0, le=16.0)

    @model_validator(mode="after")
    def _divides(self) -> Backbone:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; change one of them")
        return self


class Optimiser(Frozen):
    """AdamW with linear warm-up and a cosine to `final` times the rate.

    `warmup` is a fraction of the steps; `clip` the largest gradient norm. Weight decay acts on matrices of the outer model,
    not on biases, norms, gates or initial memory states.
    """

    lr: float = Field(1e-2, gt=0.0)
    weight_decay: float = Field(0.1, ge=0.0)
    warmup: float = Field(0.05, ge=0.0, lt=1.0)
    final: float = Field(0.05, ge=0.0, le=1.0)
    clip: float = Field(1.0, gt=0.0)
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.95, ge=0.0, lt=1.0)


class Candidate(Frozen):
    """Design + backbone + optimiser: everything a trial needs but its task, budget and seed."""

    design: Design
    backbone: Backbone = Backbone()
    optimiser: Optimiser = Optimiser()

    @model_validator(mode="after")
    def _wide_enough(self) -> Candidate:
        width, heads = self.backbone.width, self.backbone.heads
        if self.design.memory.normalised and width == heads:
            raise ValueError(f"heads of dimension 1 have no LayerNorm: width {width} needs fewer heads than {heads}")
        return self

    def canonical(self) -> Candidate:
        """The same candidate with its design in canonical form."""
        return self.model_copy(update={"design": self.design.canonical()})

    @property
    def hidden(self) -> int:
        """Hidden width of the SwiGLU."""
        return round(self.backbone.ffn * self.backbone.width)

    def layer_parameters(self) -> int:
        """Trained numbers of one memory layer."""
        design, width, heads = self.design.canonical(), self.backbone.width, self.backbone.heads
        memory, algorithm, retention, block = design.memory, design.algorithm, design.retention, design.block
        dim = width // heads
        count = 4 * width * width + dim + 3 * width * block.conv + block.output_gate * width * width
        if not memory.parametric:
            return count
        gates = getattr(algorithm, "step_gate", "") == "data"
        gates += algorithm.decoupled + algorithm.momentum
        gates += design.bias.thresholded and getattr(design.bias, "threshold", "") == "data"
        if retention.decay_ == "data":
            gates += retention.gated == "scalar"
            if retention.gated == "channel":
                rank = min(32, width)
                count += 2 * rank * width + width
        count += gates * heads * (width + 1)
        if memory.initial_ == "learned":
            count += heads * sum(o * i for o, i in memory.weights(dim, dim))
        return count + memory.normalised * 2 * width

    def parameters(self, vocab: int) -> int:
        """Trained numbers of the model; the embedding counts once, since the output shares it."""
        width, hidden, conv = self.backbone.width, self.hidden, self.design.block.residual_conv
        block = self.layer_parameters() + width
        block += 3 * width * hidden + width if hidden else 0
        block += conv * width + width if conv else 0
        return vocab * width + self.backbone.layers * block + width

    def state_bytes(self, context: int | None = None) -> int:
        """Bytes of recurrent state a sequence, all layers, float32: dual state and momentum.

        A cache grows with the sequence: its keys and values after `context` tokens, or those its window keeps for the next
        token, if that is less. A zeroed memory keeps none.

        Raises:
            ValueError: for a cache without a window, if `context` is not given.
        """
        design, backbone = self.design.canonical(), self.backbone
        dim = backbone.width // backbone.heads
        if design.block.output == "zeroed":
            return 0
        if not design.memory.parametric:
            window = getattr(design.memory, "window", None)
            known = [n for n in (window and window - 1, context) if n is not None]
            if not known:
                raise ValueError("the state of a cache grows with the sequence: give the context")
            return 4 * backbone.layers * 2 * backbone.width * min(known)
        numbers = sum(o * i for o, i in design.memory.weights(dim, dim))
        return 4 * backbone.layers * backbone.heads * numbers * (2 if design.algorithm.momentum else 1)

    def buffer_bytes(self) -> int:
        """Bytes a sequence that decoding keeps beside the recurrent state: frozen weights of the open chunk, convolutions."""
        design, backbone = self.design.canonical(), self.backbone
        width = backbone.width
        conv = 3 * width * max(0, design.block.conv - 1) + width * max(0, design.block.residual_conv - 1)
        frozen = 0
        if design.chunked and design.block.output == "memory":
            dim = width // backbone.heads
            lagged = design.algorithm.read_ == "lagged"
            frozen = backbone.heads * sum(o * i + lagged for o, i in design.memory.weights(dim, dim))
        return 4 * backbone.layers * (conv + frozen)

    def flops_per_token(self, context: int) -> int:
        """Forward operations a token (a multiply-add is two), matrix products only; training takes about three times as many.

        The memory in its recurrent form: prediction, gradient, write and read of every weight; softmax attention over half of
        `context` on average.
        """
        design, backbone = self.design.canonical(), self.backbone
        width, heads = backbone.width, backbone.heads
        dim = width // heads
        block = design.block
        layer = 2 * (4 * width * width + block.output_gate * width * width + 3 * width * (block.conv + self.hidden))
        layer += 2 * width * block.residual_conv
        if design.memory.parametric:
            shapes = design.memory.weights(dim, dim)
            passes = 3 if design.state_free else 4
            layer += 2 * heads * sum(o * i * (passes + (depth > 0)) for depth, (o, i) in enumerate(shapes))
        else:
            window = getattr(design.memory, "window", None) or context
            layer += 4 * width * min(window, context // 2)
        return backbone.layers * layer

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits: equal for equal functions trained equally."""
        return digest(self.canonical().model_dump(mode="json"))


class Match(Frozen):
    """Make candidates equal in size before they are compared.

    `parameters`: the target. `by`: what is changed to reach it, the model's `width` or the SwiGLU's hidden width (`ffn`).
    """

    parameters: int = Field(gt=0)
    by: Literal["width", "ffn"] = "width"
    tolerance: float = Field(0.02, gt=0.0, lt=1.0)


class Certificate(Frozen):
    """What `match` reached: the count, and by how much it misses the target."""

    target: int
    parameters: int
    relative_error: float


def match(candidate: Candidate, target: Match, vocab: int) -> tuple[Candidate, Certificate]:
    """The candidate, resized to the target.

    Raises:
        MatchError: if no size is within the tolerance; names the nearest one.
    """
    backbone = candidate.backbone

    def sized(n: int) -> Candidate:
        changed = {"width": n * backbone.heads} if target.by == "width" else {"ffn": n / backbone.width}
        return candidate.model_copy(update={"backbone": backbone.model_copy(update=changed)})

    low, high = (2, 16384 // backbone.heads) if target.by == "width" else (1, 16 * backbone.width)
    while high - low > 1:
        middle = (low + high) // 2
        if sized(middle).parameters(vocab) > target.parameters:
            high = middle
        else:
            low = middle
    best = min((sized(n) for n in (low, high)), key=lambda c: abs(c.parameters(vocab) - target.parameters))
    count = best.parameters(vocab)
    error = (count - target.parameters) / target.parameters
    if abs(error) > target.tolerance:
        raise MatchError(
            f"no {target.by} gives {target.parameters} parameters within {target.tolerance:.0%}; the nearest is {count} "
            f"({error:+.1%}) at width {best.backbone.width}, ffn {best.backbone.ffn:g}",
            hint=f"ask for {count}, widen `tolerance`, or match by {'ffn' if target.by == 'width' else 'width'}",
        )
    return best, Certificate(target=target.parameters, parameters=count, relative_error=error)


def rebuild() -> None:
    """Take in variants registered since import (plug-ins)."""
    Candidate.model_rebuild(force=True)
