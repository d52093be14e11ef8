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

from typing import Any, ClassVar, Literal

from pydantic import Field

from miras_search.choice import Choice, register


class Algorithm(Choice):
    """Base of all memory learning algorithms. Capabilities are what other modules may ask; they never ask for the name."""

    role: ClassVar[str] = "algorithm"
    parametric: ClassVar[bool] = True
    """Writes weights by gradients; the non-parametric one stores its data."""
    momentum: ClassVar[bool] = False
    """Keeps a second state, the momentum, and takes a gate mu."""
    implicit: ClassVar[bool] = False
    """The step is solved for exactly: eta becomes eta / (1 + eta ||k||^2)."""
    least_squares: ClassVar[bool] = False
    """Keeps the statistics of all tokens and answers from the exact solution."""
    orthogonal: ClassVar[bool] = False
    """The momentum is orthogonalised before it is written."""

    @property
    def steps_(self) -> int:
        """Online steps a token, each with a key, a value and a strength of its own."""
        return 1

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
    def erases_channels(self) -> bool:
        """The gate `erase` has a number for every key channel."""
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

    @property
    def read_first(self) -> bool:
        """A token's query is answered before the token is written."""
        return False

    @property
    def ascent(self) -> bool:
        """Control: writes have the opposite sign."""
        return False

    @property
    def last_only(self) -> bool:
        """Control: only the last weight matrix is written and decays; the others stay what they were at the start."""
        return False

    def canonical(self, depth: int, gated: bool, linear: bool) -> Algorithm:
        """Unused fields at their defaults, equal functions merged.

        Args:
            depth: the memory's number of weight matrices.
            gated: whether the retention has a gate.
            linear: whether the retention's mirror map is the identity.
        """
        return self


class _Gated(Algorithm):
    """What all share that weigh a token's write.

    `step_gate: data` makes the step of a token reach x sigmoid(w x + b) times `step`, between 0 and `reach`, and 1 at
    initialisation; `constant` keeps it; `tied` writes as much as the gate forgets: a scalar gate by the step -log alpha_t
    (Mamba2's dt), a channel gate by the key 1 - alpha_t (HGRN2). `reach` times `step` is the largest erase strength of the
    online rules: up to 1 the transition 1 - eta k k' has no negative eigenvalue, above 1 it has (state tracking, arXiv 2411.12537), and 2 is a
    reflection.
    """

    step: float = Field(1.0, gt=0.0)
    step_gate: Literal["data", "constant", "tied"] = "data"
    reach: float = Field(2.0, gt=1.0, le=64.0, description="largest step, in units of the initial one")

    @property
    def tied(self) -> bool:
        return self.step_gate == "tied"

    def canonical(self, depth: int, gated: bool, linear: bool) -> Algorithm:
        unused = {"reach"} if self.step_gate != "data" and not self.decoupled else set()
        return self.model_copy(update=_defaults(self, unused))


class _Step(_Gated):
    """What all that take steps share.

    `read_order: read_first` answers q_t from W_{t-1}. `sign: ascent` is the control that writes with the opposite sign.
    """

    read_order: Literal["write_first", "read_first"] = "write_first"
    sign: Literal["descent", "ascent"] = "descent"

    @property
    def read_first(self) -> bool:
        return self.read_order == "read_first"

    @property
    def ascent(self) -> bool:
        return self.sign == "ascent"


class _Gradient(_Step):
    """What the methods share whose gradients are frozen for a chunk.

    `chunk` is part of the design: another chunk is another function. `read`: `exact` reads psi(S_t); `lagged` takes the
    scale of psi from the chunk's start (cheap, causal, for scale maps); `stale` reads psi(S_t'), a control that cannot
    recall what its own chunk wrote. `updates: last_layer` is the control in which only the last weight matrix learns.
    """

    chunk: int = Field(16, ge=1, le=256)
    read: Literal["exact", "lagged", "stale"] = "exact"
    updates: Literal["all", "last_layer"] = "all"

    @property
    def chunk_(self) -> int:
        return self.chunk

    @property
    def read_(self) -> Literal["exact", "lagged", "stale"]:
        return self.read

    @property
    def last_only(self) -> bool:
        return self.updates == "last_layer"

    def canonical(self, depth: int, gated: bool, linear: bool) -> Algorithm:
        unused = {"updates"} if depth == 1 else set()
        unused |= {"read_order"} if self.read == "stale" else {"read"} if linear and self.read == "lagged" else set()
        return super().canonical(depth, gated, linear).model_copy(update=_defaults(self, unused))


class GradientDescent(_Gradient):
    """Gradient descent: S_t = alpha_t S_{t-1} - eta_t g_t (Miras Eq 5).

    `gradient: chunk` freezes the gradient's weights for a chunk (Miras Eq 28). `gradient: online` takes it at W_{t-1}, the
    exact delta rule, for an l2 bias on a linear memory (WY form; the chunk is then a tile and changes nothing).
    `order` (online): `gradient_first` reads the error from W_{t-1} (Miras, Titans, RWKV-7), `decay_first` from alpha_t W_{t-1}
    (Gated DeltaNet).
    `strengths: decoupled` (online): W_t = alpha_t W_{t-1} - erase_t (W k) k' + eta_t v k', with a gate for each; `channel`: the
    erase strength has a number a key channel, ... - (W k)(erase_t * k)' + ... (RWKV-7, arXiv 2503.14456).
    """

    kind: Literal["gradient_descent"] = "gradient_descent"
    gradient: Literal["chunk", "online"] = "chunk"
    order: Literal["gradient_first", "decay_first"] = "gradient_first"
    strengths: Literal["tied", "decoupled", "channel"] = "tied"

    @property
    def online(self) -> bool:
        return self.gradient == "online"

    @property
    def decay_first(self) -> bool:
        return self.order == "decay_first"

    @property
    def decoupled(self) -> bool:
        return self.strengths != "tied"

    @property
    def erases_channels(self) -> bool:
        return self.strengths == "channel"

    def canonical(self, depth: int, gated: bool, linear: bool) -> Algorithm:
        unused = set() if gated else {"order"}
        return super().canonical(depth, gated, linear).model_copy(update=_defaults(self, unused))


class Momentum(_Gradient):
    """Gradient descent with momentum: M_t = mu_t M_{t-1} - eta_t g_t, S_t = alpha_t S_{t-1} + M_t (Titans, arXiv 2501.00663).

    `bias` is the logit of mu at initialisation. The layer scales eta by 1 - mu, so that `step` means the same with and
    without momentum.
    """

    kind: Literal["momentum"] = "momentum"
    momentum: ClassVar[bool] = True
    bias: float = 0.0


class Implicit(_Step):
    """Implicit step: W_t = argmin eta_t ||W k_t - v_t||^2 + ||W - alpha_t W_{t-1}||^2 (Longhorn, arXiv 2407.14207).

    In closed form the delta rule after the decay with strength eta / (1 + eta ||k||^2): whatever eta is, no step
    overshoots. For an l2 bias on a linear memory.
    """

    kind: Literal["implicit"] = "implicit"
    implicit: ClassVar[bool] = True
    reach: float = Field(8.0, gt=1.0, le=64.0, description="largest step, in units of the initial one")

    @property
    def online(self) -> bool:
        return True

    @property
    def decay_first(self) -> bool:
        return True


class MultiStep(_Step):
    """Several online steps a token, after one decay: W <- W - eta_j (W k_j - v_j) k_j', j = 1 ... n.

    DeltaProduct (arXiv 2502.10297). The layer projects n keys, values and strengths a token, so that a token's transition is
    alpha_t times a product of n factors I - eta_j k_j k_j'. For an l2 bias on a linear memory.
    """

    kind: Literal["multi_step"] = "multi_step"
    steps: int = Field(2, ge=1, le=8, description="steps a token")
    step_gate: Literal["data", "constant"] = "data"

    @property
    def steps_(self) -> int:
        return self.steps

    @property
    def online(self) -> bool:
        return True

    @property
    def decay_first(self) -> bool:
        return True

    def canonical(self, depth: int, gated: bool, linear: bool) -> Algorithm:
        if self.steps > 1:
            return super().canonical(depth, gated, linear)
        shared = {n: getattr(self, n) for n in _Step.model_fields if n != "kind"}
        one = GradientDescent(gradient="online", order="decay_first", **shared)
        return one.canonical(depth, gated, linear)


class Muon(_Gradient):
    """Orthogonalised momentum: N_t = mu_t N_{t-1} - g_t, S_t = alpha_t S_{t-1} + eta_t NS(N_t) (Atlas, arXiv 2505.23735).

    NS is five Newton-Schulz iterations X <- a X + b (X X') X + c (X X')^2 X from X = N / ||N||, with Muon's a, b, c = 3.4445,
    -4.775, 2.0315: all singular values of N go to about 1, so that the scale of the gradient is lost. One a token, on frozen
    gradients: causal, and at chunk 1 the recurrence. `bias` is the logit of mu at initialisation; `step` is the write's
    spectral norm, whatever the memory's curvature.
    """

    kind: Literal["muon"] = "muon"
    momentum: ClassVar[bool] = True
    orthogonal: ClassVar[bool] = True
    step: float = Field(0.1, gt=0.0)
    bias: float = 0.0


class Newton(_Gated):
    """Exact least squares: H = alpha H + eta k k', C = alpha C + eta v k', y = C (H + Lambda)^-1 q (Mesa, arXiv 2506.05233).

    The memory that minimises the decayed sum of all past errors plus the ridge Lambda, a learned number a key channel, at
    least 0.25; `ridge` is its initial value. The torch path solves by Cholesky, for every token. For an l2 bias on a linear
    memory with a scalar gate or none.
    """

    kind: Literal["newton"] = "newton"
    least_squares: ClassVar[bool] = True
    ridge: float = Field(1.0, gt=0.25, description="Lambda at initialisation")

    @property
    def online(self) -> bool:
        return True


class Nonparametric(Algorithm):
    """No learning of weights: the memory keeps its data and answers from all of them (softmax attention)."""

    kind: Literal["nonparametric"] = "nonparametric"
    parametric: ClassVar[bool] = False


def _defaults(algorithm: Algorithm, names: set[str]) -> dict[str, Any]:
    """These fields at their defaults."""
    return {name: type(algorithm).model_fields[name].default for name in names}


VARIANTS = register(GradientDescent, Momentum, Implicit, MultiStep, Muon, Newton, Nonparametric)
