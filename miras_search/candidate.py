"""A candidate: a design inside a model of a given size, and how it is trained. Counts what it costs.

The counts are formulas, so that thousands of draws can be costed without building a model; tests hold them to the built one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from miras_search import named
from miras_search.choice import Frozen
from miras_search.design import Design, digest
from miras_search.errors import DesignError


def _known(part: Design | str) -> Design | str:
    if isinstance(part, str) and part != "design":
        try:
            named.get(part)
        except DesignError as error:  # pydantic would count it as one of its own, without the hint
            raise ValueError(f"{error.message}; {error.hint}") from None
    return part


_PARTS = {"anyOf": [{"enum": ["design", *named.NAMED]}, {"type": "object", "description": "a design"}]}
Part = Annotated[Design | str, AfterValidator(_known), WithJsonSchema(_PARTS)]
"""A layer's memory: `design`, the name of a published one, or a design."""


class Backbone(Frozen):
    """The model around the layers.

    `width`: model dimension; `heads` must divide it. `ffn`: hidden width of the SwiGLU after every memory layer, as a multiple
    of `width`; 0: none. `pattern`: the memories of the layers, begun again after the last; `design` is the candidate's, others
    are published names or designs. The embedding and the output share their matrix.
    """

    width: int = Field(64, ge=1, le=16384)
    layers: int = Field(2, ge=1, le=256)
    heads: int = Field(2, ge=1, le=256)
    ffn: float = Field(2.0, ge=0.0, le=16.0)
    pattern: tuple[Part, ...] = Field(("design",), min_length=1, max_length=16)

    @model_validator(mode="after")
    def _divides(self) -> Backbone:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; change one of them")
        if "design" not in self.pattern[: self.layers]:
            raise ValueError("no layer of the pattern is `design`; put it among the first")
        return self

    def over(self, pattern: Sequence[Design | str]) -> Backbone:
        """The same with another pattern."""
        return self.model_copy(update={"pattern": tuple(pattern)})


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
        if width == heads and any(layer.memory.normalised for layer in self.layers):
            raise ValueError(f"heads of dimension 1 have no LayerNorm: width {width} needs fewer heads than {heads}")
        return self

    @cached_property
    def layers(self) -> tuple[Design, ...]:
        """The memory of every layer, canonical: the pattern gone through again and again.

        The convolution outside the memories is the model's, so all have the one of `design`.
        """
        own = self.design.canonical()
        conv = own.block.residual_conv
        pattern = [own if part == "design" else _resolved(part, conv) for part in self.backbone.pattern]
        return tuple(pattern[i % len(pattern)] for i in range(self.backbone.layers))

    @property
    def hybrid(self) -> bool:
        """Its layers have more than one kind of memory."""
        return len(self.memories) > 1

    @property
    def label(self) -> str:
        """The published name of design and pattern, up to merging; empty if there is none."""
        pattern = self.canonical().backbone.pattern
        if pattern == ("design",):
            return named.label(self.design)
        for name, entry in named.HYBRIDS.items():
            same = self.model_copy(update={"design": entry.design, "backbone": self.backbone.over(entry.pattern)})
            if same.layers == self.layers:
                return name
        return ""

    @property
    def memories(self) -> dict[Design, int]:
        """The different memories in the order of their first layers, and how many layers each has."""
        return dict(Counter(self.layers))

    @property
    def structure(self) -> str:
        """12 hex digits of the code of all layers."""
        return digest([layer.structure for layer in self.layers]) if self.hybrid else self.design.structure

    def canonical(self) -> Candidate:
        """The same candidate with its designs in canonical form, and the shortest pattern that gives its layers."""
        own = self.design.canonical()
        parts = tuple("design" if layer == own else layer for layer in self.layers)
        n = next(n for n in range(1, len(parts) + 1) if all(p == parts[i % n] for i, p in enumerate(parts)))
        return self.model_copy(update={"design": own, "backbone": self.backbone.over(parts[:n])})

    @property
    def hidden(self) -> int:
        """Hidden width of the SwiGLU."""
        return round(self.backbone.ffn * self.backbone.width)

    def parameters(self, vocab: int) -> int:
        """Trained numbers of the model; the embedding counts once, since the output shares it."""
        width, hidden, conv = self.backbone.width, self.hidden, self.design.block.residual_conv
        block = width + (3 * width * hidden + width if hidden else 0) + (conv * width + width if conv else 0)
        memories = sum(n * layer_parameters(d, width, self.backbone.heads) for d, n in self.memories.items())
        return vocab * width + memories + self.backbone.layers * block + width

    def state_bytes(self, context: int | None = None) -> int:
        """Bytes of recurrent state a sequence, all layers, float32: dual state and momentum.

        A cache grows with the sequence: its keys and values after `context` tokens, or those its window keeps for the next
        token, if that is less. A zeroed memory keeps none.

        Raises:
            ValueError: for a cache without a window, if `context` is not given.
        """
        width, heads = self.backbone.width, self.backbone.heads
        return 4 * sum(n * state_numbers(d, width, heads, context) for d, n in self.memories.items())

    def buffer_bytes(self) -> int:
        """Bytes a sequence that decoding keeps beside the recurrent state: frozen weights of the open chunk, convolutions."""
        width, heads = self.backbone.width, self.backbone.heads
        return 4 * sum(n * buffer_numbers(d, width, heads) for d, n in self.memories.items())

    def flops_per_token(self, context: int) -> int:
        """Forward operations a token (a multiply-add is two), matrix products only; training takes about three times as many.

        The memory in its recurrent form: prediction, gradient, write and read of every weight; softmax attention over half of
        `context` on average.
        """
        width, heads, conv = self.backbone.width, self.backbone.heads, self.design.block.residual_conv
        block = 2 * (3 * width * self.hidden + width * conv)
        memories = sum(n * layer_flops(d, width, heads, context) for d, n in self.memories.items())
        return memories + self.backbone.layers * block

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits: equal for equal functions trained equally."""
        return digest(self.canonical().model_dump(mode="json"))


def _resolved(part: Design | str, conv: int) -> Design:
    found = (named.get(part) if isinstance(part, str) else part).canonical()
    return found.model_copy(update={"block": found.block.model_copy(update={"residual_conv": conv})})


def _projections(design: Design) -> int:
    """How many vectors a token are projected: q, and a k and v a step; a tied key is not."""
    return 2 if design.algorithm.tied and design.retention.gated == "channel" else 1 + 2 * design.algorithm.steps_


def layer_parameters(design: Design, width: int, heads: int) -> int:
    """Trained numbers of one memory layer; `design` is canonical, here and below."""
    memory, algorithm, retention, block = design.memory, design.algorithm, design.retention, design.block
    dim, mixed = width // heads, _projections(design)
    count = (mixed + 1 + block.output_gate) * width * width + dim + mixed * width * block.conv
    if not memory.parametric:
        return count
    gates = algorithm.steps_ * (getattr(algorithm, "step_gate", "") == "data")
    gates += (algorithm.decoupled and not algorithm.erases_channels) + algorithm.momentum + (design.bias.window > 1)
    if algorithm.erases_channels:
        count += 2 * min(32, width) * width + width
    gates += design.bias.threshold_ == "data"
    count += heads * (design.bias.threshold_ == "learned")
    channels = {"channel": width, "row": width, "outer": 2 * width}.get(retention.gated, 0)
    if retention.decay_ == "data":
        gates += retention.gated == "scalar"
        if channels:
            rank = min(32, width)
            count += rank * width + (rank + 1) * channels
    if retention.decay_ == "learned":
        count += channels or heads
    count += gates * heads * (width + 1)
    if memory.initial_ == "learned":
        count += heads * sum(o * i for o, i in memory.weights(design.bias.lifted(dim), dim))
    count += 2 * heads * design.bias.lifting
    return count + 2 * memory.normalised * width + algorithm.least_squares * heads * design.bias.lifted(dim)


def state_numbers(design: Design, width: int, heads: int, context: int | None) -> int:
    """Numbers of recurrent state of one layer."""
    if design.block.output == "zeroed":
        return 0
    if not design.memory.parametric:
        window = getattr(design.memory, "window", None)
        known = [n for n in (window and window - 1, context) if n is not None]
        if not known:
            raise ValueError("the state of a cache grows with the sequence: give the context")
        return 2 * width * min(known)
    dim = width // heads
    numbers = sum(o * i for o, i in design.memory.weights(design.bias.lifted(dim), dim))
    gram = design.bias.lifted(dim) ** 2 if design.algorithm.least_squares else 0
    return heads * (numbers * (2 if design.algorithm.momentum else 1) + gram)


def buffer_numbers(design: Design, width: int, heads: int) -> int:
    """Numbers that one layer keeps beside it."""
    block = design.block
    conv = _projections(design) * width * max(0, block.conv - 1) + width * max(0, block.residual_conv - 1)
    conv += 16 * width * design.algorithm.steps_ if block.values == "shuffled" else 0
    if block.output != "memory":
        return conv
    dim = width // heads
    past = heads * (design.bias.window - 1) * (design.bias.lifted(dim) + dim + 1 + design.bias.thresholded)
    if not design.chunked:
        return conv + past
    lagged = design.algorithm.read_ == "lagged"
    return conv + past + heads * sum(o * i + lagged for o, i in design.memory.weights(design.bias.lifted(dim), dim))


def layer_flops(design: Design, width: int, heads: int, context: int) -> int:
    """Operations of one memory layer."""
    block, dim, mixed = design.block, width // heads, _projections(design)
    layer = 2 * ((mixed + 1 + block.output_gate) * width * width + mixed * width * block.conv)
    if design.memory.parametric:
        shapes = design.memory.weights(design.bias.lifted(dim), dim)
        if design.algorithm.least_squares:
            # Write and read of C, the Gram matrix, two triangular solves; the factor takes dim^3 / 3 operations.
            keys = design.bias.lifted(dim)
            return layer + 2 * heads * keys * (2 * dim + 3 * keys + keys**2 // 6)
        written = design.algorithm.steps_ * design.bias.window
        passes = 1 + (2 if design.state_free else 3) * written
        numbers = sum(o * i * (passes + (depth > 0)) for depth, (o, i) in enumerate(shapes))
        if design.algorithm.orthogonal:
            numbers += sum(5 * (2 * o * i + min(o, i) ** 2) * min(o, i) for o, i in shapes)
        return layer + 2 * heads * numbers
    window = getattr(design.memory, "window", None) or context
    return layer + 4 * width * min(window, context // 2)


def rebuild() -> None:
    """Take in variants registered since import (plug-ins)."""
    Backbone.model_rebuild(force=True)
    Candidate.model_rebuild(force=True)
