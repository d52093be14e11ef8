"""First choice: the memory architecture M(W, x), what is learned online.

Shapes: weights `[..., out, in]`, vectors `[..., dim]`. Weights are listed in the order in which they are applied
(the paper's W_2 is our first).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field

from miras_search.choice import Choice, register

Shape = tuple[int, int]


class Memory(Choice):
    """Base of all memories. Capabilities are what other modules may ask; they never ask for the name."""

    role: ClassVar[str] = "memory"
    parametric: ClassVar[bool] = True
    """Has weights of fixed size that a gradient can write; a cache grows instead."""

    def canonical(self, linear_retention: bool) -> Memory:
        """Unused fields at their defaults, `auto` resolved, equal functions merged."""
        return self

    @property
    def activation_(self) -> str:
        """torch's name of the activation between the layers; empty without one."""
        return ""

    @property
    def linear(self) -> bool:
        """M(W, x) is linear in W, so that the delta rule has an exact form and a state-free bias a state-free gradient."""
        return False

    @property
    def diagonal(self) -> bool:
        """W is one number a channel, kept as a row: M(W, x) = W x, entry by entry."""
        return False

    @property
    def initial_(self) -> str:
        """`zeros` or `learned`: the state before the first token."""
        return "learned"

    @property
    def normalised(self) -> bool:
        """The prediction passes a LayerNorm, which bounds the inner error."""
        return False

    @property
    def residual_(self) -> bool:
        """M(x) = x + ...: key and value dimension are equal."""
        return False

    @property
    def depth_(self) -> int:
        """Number of weight matrices."""
        return 0

    @property
    def inputs_(self) -> int:
        """How many of the weights, the first ones, are applied to the input itself; of two the outputs are multiplied."""
        return 1

    @property
    def offset_(self) -> bool:
        """Every layer has an additive bias, written online."""
        return False

    def weights(self, dim_k: int, dim_v: int) -> list[Shape]:
        """Shapes `(out, in)` of one head's weights, in the order of application."""
        return []

    def predict(self, xp: Any, weights: Sequence[Any], x: Any, norm_weight: Any, norm_bias: Any) -> Any:
        """M(W, x), `[..., dim_k] -> [..., dim_v]`.

        Args:
            xp: the dialect.
            weights: `[..., out, in]` each.
            x: `[..., dim_k]`.
            norm_weight: `[..., dim_v]`, affine of the LayerNorm; unused without one.
            norm_bias: likewise.
        """
        raise NotImplementedError


class _Dense(Memory):
    """A stack of linear maps; what the matrix and the MLPs share."""

    def predict(self, xp: Any, weights: Sequence[Any], x: Any, norm_weight: Any, norm_bias: Any) -> Any:
        h = x
        for i, w in enumerate(weights):
            if i:
                h = self.activate(xp, h)
            if self.offset_:
                h = xp.append_one(h)
            h = xp.matvec(w, h)
        return self.answer(xp, h, x, norm_weight, norm_bias)

    def answer(self, xp: Any, h: Any, x: Any, norm_weight: Any, norm_bias: Any) -> Any:
        """From the last layer's output to M(W, x): LayerNorm and residual."""
        if self.normalised:
            centred = h - xp.row_mean(h)
            h = centred / xp.sqrt(xp.row_mean(centred * centred) + 1e-6) * norm_weight + norm_bias
        if self.residual_:
            h = x + h
        return h

    def activate(self, xp: Any, z: Any) -> Any:
        """gelu(z) = z Phi(z); silu(z) = z sigmoid(z)."""
        if self.activation_ == "silu":
            return z * xp.sigmoid(z)
        return z * 0.5 * (1.0 + xp.erf(z * 0.7071067811865476))

    def activate_grad(self, xp: Any, z: Any) -> Any:
        """gelu'(z) = Phi(z) + z phi(z); silu'(z) = s + z s (1 - s)."""
        if self.activation_ == "silu":
            s = xp.sigmoid(z)
            return s + z * s * (1.0 - s)
        return 0.5 * (1.0 + xp.erf(z * 0.7071067811865476)) + z * 0.3989422804014327 * xp.exp(-0.5 * z * z)

    def activate_curve(self, xp: Any, z: Any) -> Any:
        """gelu''(z) = phi(z) (2 - z^2); silu''(z) = s (1 - s) (2 + z (1 - 2 s))."""
        if self.activation_ == "silu":
            s = xp.sigmoid(z)
            return s * (1.0 - s) * (2.0 + z * (1.0 - 2.0 * s))
        return 0.3989422804014327 * xp.exp(-0.5 * z * z) * (2.0 - z * z)


class _Linear(_Dense):
    """One weight, linear in it.

    `initial`: the state before the first token. `zeros` as in the published models; `learned` is needed by mirror maps
    that are constant or undefined at zero; `auto` takes `zeros` where the retention is linear.
    """

    initial: Literal["auto", "zeros", "learned"] = "auto"

    def canonical(self, linear_retention: bool) -> Memory:
        if self.initial != "auto":
            return self
        return self.model_copy(update={"initial": "zeros" if linear_retention else "learned"})

    @property
    def initial_(self) -> str:
        return self.initial

    @property
    def linear(self) -> bool:
        return True

    @property
    def depth_(self) -> int:
        return 1


class Vector(_Linear):
    """Diagonal memory M(x) = w x, entry by entry: one number a channel (the vector of Miras, section 3).

    Key and value have one dimension. State: that many numbers a head, kept as a row `[1, dim]`.
    """

    kind: Literal["vector"] = "vector"

    @property
    def diagonal(self) -> bool:
        return True

    def weights(self, dim_k: int, dim_v: int) -> list[Shape]:
        return [(1, dim_k)]

    def predict(self, xp: Any, weights: Sequence[Any], x: Any, norm_weight: Any, norm_bias: Any) -> Any:
        return xp.diagonal(weights[0], x)


class Matrix(_Linear):
    """Linear memory M(x) = W x.

    The memory of linear attention, RetNet, Mamba2, DeltaNet (Miras, Table 1). State: dim_v x dim_k a head.
    """

    kind: Literal["matrix"] = "matrix"

    def weights(self, dim_k: int, dim_v: int) -> list[Shape]:
        return [(dim_v, dim_k)]


class Mlp(_Dense):
    """Deep memory M(x) = x + LN(W_n act(... act(W_1 x))).

    Two layers, expansion 4, residual and LayerNorm are the paper's (Miras, section 5.3; its W_1 is our last). One layer
    with `offset` is TTT-Linear, two with `offset` TTT-MLP (arXiv 2407.04620): since M(x) - v = LN(f(x)) - (v - x), the
    residual is their target v - k. The LayerNorm's affine is learned by the outer loop, one a head; so is the initial state, since at zero
    all layers but the last have zero gradient.

    `activation`: gelu is the paper's. `residual`, `norm`: without a LayerNorm the step must be smaller (at most 0.3).
    `offset`: an additive bias in every layer, written online like the weights (a constant 1 appended to the input).
    """

    kind: Literal["mlp"] = "mlp"
    layers: int = Field(2, ge=1, le=4)
    expansion: int = Field(4, ge=1, le=16)
    activation: Literal["gelu", "silu"] = "gelu"
    residual: bool = True
    norm: bool = True
    offset: bool = False

    def canonical(self, linear_retention: bool) -> Memory:
        if self.layers > 1:
            return self
        if self.linear:
            return Matrix(initial="learned")
        return self.model_copy(update={"expansion": 4, "activation": "gelu"})

    @property
    def activation_(self) -> str:
        return self.activation

    @property
    def linear(self) -> bool:
        return self.layers == 1 and not (self.residual or self.norm or self.offset)

    @property
    def normalised(self) -> bool:
        return self.norm

    @property
    def residual_(self) -> bool:
        return self.residual

    @property
    def depth_(self) -> int:
        return self.layers

    @property
    def offset_(self) -> bool:
        return self.offset

    def weights(self, dim_k: int, dim_v: int) -> list[Shape]:
        hidden = self.expansion * dim_k
        sizes = [dim_k, *([hidden] * (self.layers - 1)), dim_v]
        return [(o, i + self.offset) for i, o in pairwise(sizes)]


class GatedMlp(_Dense):
    """Gated deep memory M(x) = x + LN(W_2 (act(W_1 x) * W_3 x)).

    silu without residual and norm is LaCT's SwiGLU (arXiv 2505.23884); gelu with a residual and without norm is Atlas++
    (arXiv 2505.23735). Weights in the order W_1 (activated), W_3, W_2. State at expansion e: 3 e dim_k^2 a head.
    """

    kind: Literal["gated_mlp"] = "gated_mlp"
    expansion: int = Field(2, ge=1, le=16)
    activation: Literal["silu", "gelu"] = "silu"
    residual: bool = True
    norm: bool = True

    @property
    def activation_(self) -> str:
        return self.activation

    @property
    def normalised(self) -> bool:
        return self.norm

    @property
    def residual_(self) -> bool:
        return self.residual

    @property
    def depth_(self) -> int:
        return 3

    @property
    def inputs_(self) -> int:
        return 2

    def weights(self, dim_k: int, dim_v: int) -> list[Shape]:
        hidden = self.expansion * dim_k
        return [(hidden, dim_k), (hidden, dim_k), (dim_v, hidden)]

    def predict(self, xp: Any, weights: Sequence[Any], x: Any, norm_weight: Any, norm_bias: Any) -> Any:
        gate, up, down = weights
        h = xp.matvec(down, self.activate(xp, xp.matvec(gate, x)) * xp.matvec(up, x))
        return self.answer(xp, h, x, norm_weight, norm_bias)


class Cache(Memory):
    """Growing memory: the set of all keys and values, read by softmax attention.

    y = sum_i softmax_i(q'k_i / sqrt(d)) v_i, the Nadaraya-Watson solution of the l2 regression (Miras, Table 1).
    `window`: only the last so many tokens (sliding-window attention); none: all.
    """

    kind: Literal["cache"] = "cache"
    parametric: ClassVar[bool] = False
    window: int | None = Field(None, ge=1)


VARIANTS = register(Vector, Matrix, Mlp, GatedMlp, Cache)
