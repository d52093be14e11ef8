"""Third choice: the retention gate, how the memory keeps what it has.

Every gate works on a dual state S with a mirror map psi, W = psi(S), and a gate alpha in (0, 1], the fraction kept:

    dual             S_t = alpha_t S_{t-1} - eta_t g_t                    exact (design theorem: local and global gate from one potential)
    feedback         S_t = alpha_t feedback(S_{t-1}) - eta_t g_t          the map also acts between steps
    multiplicative   W_t = update(W_{t-1}, eta_t g_t)                     no additive dual

Shapes: S, W, d `[..., out, in]`, one matrix a head; row reductions run over `in`, totals over the matrix.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from miras_search.choice import Choice, register


class Retention(Choice):
    """Base of all retention gates."""

    role: ClassVar[str] = "retention"
    klass: ClassVar[Literal["dual", "feedback", "multiplicative"]] = "dual"
    linear: ClassVar[bool] = True
    """psi is the identity, so that chunks have a dual (attention-like) form."""

    @property
    def gated(self) -> Literal["none", "scalar", "channel"]:
        """The shape of alpha: absent, `[batch, time, heads]`, or `[batch, time, heads, dim_k]`."""
        return "none"

    @property
    def decay_(self) -> Literal["data", "constant"]:
        """Predicted for every token, or RetNet's constant 1 - 2^(-5 - head)."""
        return "data"

    @property
    def scaling(self) -> bool:
        """psi(S) = S / scale(S) with one number a matrix: the cheap `lagged` read exists."""
        return False

    def canonical(self) -> Retention:
        """Unused fields at their defaults, equal functions merged."""
        return self

    def psi(self, xp: Any, s: Any) -> Any:
        """The mirror map, S -> W."""
        return s

    def psi_vjp(self, xp: Any, s: Any, d: Any) -> Any:
        """Pull `d` back through psi."""
        return d

    def feedback(self, xp: Any, s: Any) -> Any:
        """What the state becomes before it is decayed; the identity for exact dual gates."""
        return s

    def initial(self, xp: Any, z: Any) -> Any:
        """A learned initial S from a standard normal `z`, such that W_0 = psi(S_0) has fan-in scale."""
        return z * xp.power(xp.row_size(z), -0.5)


class NoRetention(Retention):
    """No gate: nothing is forgotten.

    W_t = W_{t-1} - eta_t g_t.
    """

    kind: Literal["none"] = "none"


class L2Retention(Retention):
    """L2 gate (weight decay): F(W) = 1/2 ||W||^2, psi = identity (Miras Eq 9; Titans' forget gate).

    W_t = alpha_t W_{t-1} - eta_t g_t.
    gate `scalar`: one alpha a token and head. `channel`: one a key channel, W_t = W_{t-1} Diag(alpha_t) - ...; in an MLP it
    acts on the inputs of the first and the outputs of the last layer (the paper's alpha in R^d; its action on the 4d-wide
    side is not printed).
    `decay: constant` is RetNet's 1 - 2^(-5 - head). `bias`: the logit of alpha at initialisation (measured: +4 trains,
    +2 and 0 do not).
    """

    kind: Literal["l2"] = "l2"
    gate: Literal["scalar", "channel"] = "scalar"
    decay: Literal["data", "constant"] = "data"
    bias: float = 4.0

    def canonical(self) -> Retention:
        # A constant decay is one number a head: its channels are equal, and its initial logit is not used.
        return self if self.decay == "data" else self.model_copy(update={"bias": 4.0, "gate": "scalar"})

    @property
    def gated(self) -> Literal["none", "scalar", "channel"]:
        return self.gate

    @property
    def decay_(self) -> Literal["data", "constant"]:
        return self.decay


class Kl(Retention):
    """KL gate with entropy: the rows of W live on a scaled simplex (Miras Eq 18-21, 27; Memora).

    W = c softmax_row(S), c = scale * fan_in^exponent. The paper has c = 1 and leaves the slice open; rows (over the input)
    are ours. alpha is a scalar: the dual form is exact only where alpha is constant inside a softmax group.
    `signed`: W = c (softmax(S) - softmax(-S)), exponentiated gradient with both signs whose two accumulators stay opposite
    (not in the paper).
    """

    kind: Literal["kl"] = "kl"
    linear: ClassVar[bool] = False
    scale: float = Field(1.0, gt=0.0)
    exponent: float = Field(0.0, ge=0.0, le=1.0)
    signed: bool = False
    bias: float = 4.0

    @property
    def gated(self) -> Literal["none", "scalar", "channel"]:
        return "scalar"

    def psi(self, xp: Any, s: Any) -> Any:
        c = self.scale * xp.power(xp.row_size(s), self.exponent)
        up = xp.exp(s - xp.row_max(s))
        w = up / xp.row_sum(up)
        if self.signed:
            down = xp.exp(-s - xp.row_max(-s))
            w = w - down / xp.row_sum(down)
        return c * w

    def psi_vjp(self, xp: Any, s: Any, d: Any) -> Any:
        c = self.scale * xp.power(xp.row_size(s), self.exponent)
        up = xp.exp(s - xp.row_max(s))
        p = up / xp.row_sum(up)
        ds = p * (d - xp.row_sum(p * d))
        if self.signed:
            down = xp.exp(-s - xp.row_max(-s))
            n = down / xp.row_sum(down)
            ds = ds + n * (d - xp.row_sum(n * d))
        return c * ds

    def initial(self, xp: Any, z: Any) -> Any:
        """S_0 = z: a uniform start would make all hidden units identical."""
        return z


class Lq(Retention):
    """l_q gate: one norm of the dual state sets the scale of the weights (Miras Eq 24, section 5.2 variant 4; Moneta).

    With u = S^2 + eps^2, P = sum u^(q/2) (the q-th power of the norm n) and a = (q - 2) / q:

    printed: W = S P^-a, Eq 24's S / n^(q-2). Of degree 3 - q in S: with q = 4 the weights grow as the state decays; with
             q = 3 the scale of S is irrelevant. Not a mirror map for q != 2.
    mirror:  W = S u^(q/2 - 1) P^-a / (q - 1), the gradient of ||S||_q^2 / (2 (q - 1)): the true map, of degree 1, whose
             primal exponent is q / (q - 1).
    `norm: mean` takes the mean for the sum in P. The norm is per matrix and head (the paper leaves the scope open). `eps` is
    a floor for |S|, without which the printed map is 0/0 at zero. q ends at 6 (the paper sweeps 2 to 5), so that its
    powers stay within float32.
    """

    kind: Literal["lq"] = "lq"
    linear: ClassVar[bool] = False
    q: float = Field(4.0, ge=2.0, le=6.0)
    map: Literal["printed", "mirror"] = "printed"
    norm: Literal["sum", "mean"] = "sum"
    bias: float = 4.0
    eps: float = Field(1e-3, gt=0.0)

    @property
    def gated(self) -> Literal["none", "scalar", "channel"]:
        return "scalar"

    def canonical(self) -> Retention:
        return L2Retention(bias=self.bias) if self.q == 2.0 else self

    @property
    def scaling(self) -> bool:
        return self.map == "printed"

    @property
    def start(self) -> float:
        """Exponent of ||W_0|| in the initial scale of S: solves psi(S_0) = W_0 where the printed map's degree allows it."""
        return (self.q - 2.0) / (3.0 - self.q) if abs(3.0 - self.q) >= 0.5 else 0.0

    def power_sum(self, xp: Any, s: Any) -> Any:
        """P, `[..., 1, 1]`."""
        total = xp.total(xp.power(s * s + self.eps * self.eps, self.q / 2.0))
        if self.norm == "mean":
            total = total / xp.total_size(s)
        return total

    def scale(self, xp: Any, s: Any) -> Any:
        """1 / P^a, `[..., 1, 1]`: the number the printed map multiplies the state by."""
        return xp.power(self.power_sum(xp, s), 2.0 / self.q - 1.0)

    def psi(self, xp: Any, s: Any) -> Any:
        w = s * self.scale(xp, s)
        if self.map == "mirror":
            w = w * xp.power(s * s + self.eps * self.eps, self.q / 2.0 - 1.0) / (self.q - 1.0)
        return w

    def psi_vjp(self, xp: Any, s: Any, d: Any) -> Any:
        u = s * s + self.eps * self.eps
        scale = self.scale(xp, s)
        slope = s * xp.power(u, self.q / 2.0 - 1.0)
        # slope / P is bounded; scale / P alone leaves the range of float32 at both ends.
        pull = (2.0 - self.q) * scale * (slope / self.power_sum(xp, s))
        if self.norm == "mean":
            pull = pull / xp.total_size(s)
        if self.map == "printed":
            return d * scale + xp.total(d * s) * pull
        curve = xp.power(u, self.q / 2.0 - 2.0) * ((self.q - 1.0) * s * s + self.eps * self.eps)
        return (d * scale * curve + xp.total(d * slope) * pull) / (self.q - 1.0)

    def initial(self, xp: Any, z: Any) -> Any:
        w = z * xp.power(xp.row_size(z), -0.5)
        if self.map == "printed":
            return w * xp.power(self.power_sum(xp, w), self.start / self.q)
        b = w * xp.power(w * w + 1e-12, 0.5 / (self.q - 1.0) - 0.5)
        return b * (self.q - 1.0) * xp.power(self.power_sum(xp, b), 1.0 - 2.0 / self.q)


VARIANTS = register(NoRetention, L2Retention, Kl, Lq)
