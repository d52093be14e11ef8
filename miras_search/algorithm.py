"""Fourth choice: the memory learning algorithm, how a gradient becomes a write.

With dual state S, W = psi(S) and chunk start t' (see `docs/design-space.md`):

    W   = psi(S_t')                       frozen for the gradients of a chunk
    g_t = d l(M(W, k_t), v_t) / dW
    S_t = algorithm(alpha_t, S_{t-1}, eta_t, g_t)
    y_t = M(psi(S_t), q_t)                write, then read

The step eta is relative to the memory's curvature, measured at initialisation: `step` 1 is the largest step that shrinks
the error of a fresh memory in every direction. This makes biases and memories comparable at one value.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from miras_search.choice import Choice, register


class Algorithm(Choice):
    """Base of all memory learning algorithms."""

    role: ClassVar[str] = "algorithm"
    parametric: ClassVar[bool] = True
    """Writes weights by gradients; the non-parametric one stores its data."""
    momentum: ClassVar[bool] = False
    """Keeps a second state, the momentum, and takes a gate mu."""

    @property
    def online(self) -> bool:
        """The gradient is taken at the weights of the token before, exactly, by the WY form."""
        return False

    @property
    def decay_first(self) -> bool:
        """The error is read from the memory after its decay."""
        return False

    @property
    def decoupled(self) -> bool:
        """Erasing and writing have a strength each (gates `erase` and `eta`)."""
        return False

    @property
    def tied(self) -> bool:
        """What is written is what the gate forgets."""
        return False

    @property
    def chunk_(self) -> int:
        """Tokens for which the gradient's weights are frozen; 1 is the sequential recurrence."""
        return 1

    @property
    def read_(self) -> Literal["exact", "lagged", "stale"]:
        """Which weights answer a query."""
        return "exact"


class _Gradient(Algorithm):
    """Fields common to the gradient methods.

    `chunk` is part of the design: another chunk is another function. `read`: `exact` reads psi(S_t); `lagged` takes the
    scale of psi from the chunk's start (cheap, causal, for scale maps); `stale` reads psi(S_t'), a control that cannot
    recall what its own chunk wrote. `step_gate: data` multiplies the step by 2 sigmoid(w x) in (0, 2). `tied` writes as much
    as the gate forgets: a scalar gate by the step -log alpha_t (Mamba2's dt), a channel gate by the key 1 - alpha_t (HGRN2).
    """

    chunk: int = Field(16, ge=1, le=256)
    read: Literal["exact", "lagged", "stale"] = "exact"
    step: float = Field(1.0, gt=0.0)
    step_gate: Literal["data", "constant", "tied"] = "data"

    @property
    def tied(self) -> bool:
        return self.step_gate == "tied"

    @property
    def chunk_(self) -> int:
        return self.chunk

    @property
    def read_(self) -> Literal["exact", "lagged", "stale"]:
        return self.read


class GradientDescent(_Gradient):
    """Gradient descent: S_t = alpha_t S_{t-1} - eta_t g_t (Miras Eq 5).

    `gradient: chunk` freezes the gradient's weights for a chunk (Miras Eq 28). `gradient: online` takes it at W_{t-1}, the
    exact delta rule, for an l2 bias on a linear memory (WY form; the chunk is then a tile and changes nothing).
    `order` (online): `gradient_first` reads the error from W_{t-1} (Miras, Titans, RWKV-7), `decay_first` from alpha_t W_{t-1}
    (Gated DeltaNet).
    `strengths: decoupled` (online): W_t = alpha_t W_{t-1} - erase_t (W k) k' + eta_t v k', with a gate for each.
    """

    kind: Literal["gradient_descent"] = "gradient_descent"
    gradient: Literal["chunk", "online"] = "chunk"
    order: Literal["gradient_first", "decay_first"] = "gradient_first"
    strengths: Literal["tied", "decoupled"] = "tied"

    @property
    def online(self) -> bool:
        return self.gradient == "online"

    @property
    def decay_first(self) -> bool:
        return self.order == "decay_first"

    @property
    def decoupled(self) -> bool:
        return self.strengths == "decoupled"


class Momentum(_Gradient):
    """Gradient descent with momentum: M_t = mu_t M_{t-1} - eta_t g_t, S_t = alpha_t S_{t-1} + M_t (Titans, arXiv 2501.00663).

    `bias` is the logit of mu at initialisation. The layer scales eta by 1 - mu, so that `step` means the same with and
    without momentum.
    """

    kind: Literal["momentum"] = "momentum"
    momentum: ClassVar[bool] = True
    bias: float = 0.0


class Nonparametric(Algorithm):
    """No learning of weights: the memory keeps its data and answers from all of them (softmax attention)."""

    kind: Literal["nonparametric"] = "nonparametric"
    parametric: ClassVar[bool] = False


VARIANTS = register(GradientDescent, Momentum, Nonparametric)
