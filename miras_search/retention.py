"""Third choice: the retention gate, how the memory keeps what it has.

Every gate works on a dual state S with a mirror map psi, W = psi(S), and a gate alpha in (0, 1], the fraction kept:

    dual             S_t = alpha_t S_{t-1} - eta_t g_t                    exact (design theorem: local and global gate from one potential)
    feedback         S_t = alpha_t feedback(S_{t-1}) - eta_t g_t          the map also acts between steps
    multiplicative   S_t = update(S_{t-1}, alpha_t, eta_t g_t)            no additive dual: the write is weighed by the state

The class decides which forms a chunk has: a dual gate with psi = identity has the parallel, attention-like one; any other is
scanned token by token (a dual one for its reads alone).

Shapes: S, W, d `[..., out, in]`, one matrix a head; row reductions run over `in`, totals over the matrix.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from miras_search.choice import Choice, register

Gate = Literal["none", "scalar", "channel", "row", "outer"]


class Retention(Choice):
    """Base of all retention gates."""

    role: ClassVar[str] = "retention"
    linear: ClassVar[bool] = True
    """psi is the identity, so that chunks have a dual (attention-like) form."""

    @property
    def klass(self) -> Literal["dual", "feedback", "multiplicative"]:
        """How the state goes on from token to token; see the head of this file."""
        return "dual"

    @property
    def has_potential(self) -> bool:
        """psi is the gradient of the convex `conjugate` F*, so that W = psi(S) minimises F(W) - <S, W>."""
        return True

    @property
    def gated(self) -> Gate:
        """The shape of alpha: absent, `[batch, time, heads]`, or with a last axis of dim_k (`channel`), dim_v (`row`) or both (`outer`)."""
        return "none"

    @property
    def decay_(self) -> Literal["data", "constant", "learned"]:
        """Predicted for every token; a constant of the head; or one that the outer loop learns."""
        return "data"

    @property
    def schedule_(self) -> Literal["retnet", "alibi"]:
        """The constants of the heads."""
        return "retnet"

    @property
    def axis_(self) -> Literal["none", "row", "column", "matrix"]:
        """The slices of a matrix whose entries share a sum; none."""
        return "none"

    @property
    def scaling(self) -> bool:
        """psi(S) = scale(S) S with one number a matrix, `scale_of(power_sum(S))`: the cheap `lagged` read exists."""
        return False

    @property
    def sharing(self) -> bool:
        """psi(S) = mass(S) share(S), mass a number of the matrix's shape; `share_vjp` pulls back by the shares alone."""
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

    def conjugate(self, xp: Any, s: Any) -> Any:
        """F*(S), `[..., 1, 1]`, of which psi is the gradient; where `has_potential`."""
        return 0.5 * xp.total(s * s)

    def feedback(self, xp: Any, s: Any) -> Any:
        """What the state becomes before it is decayed; the identity for exact dual gates."""
        return s

    def update(self, xp: Any, s: Any, alpha: Any, write: Any) -> Any:
        """The next state of a multiplicative gate; `write` is eta_t g_t, alpha broadcasts."""
        raise NotImplementedError

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
    gate `scalar`: one alpha a token and head. `channel`: one a key channel, on the columns of a matrix, W_t = W_{t-1}
    Diag(alpha_t) - ... (GLA, KDA); in an MLP it acts on the inputs of the first and the outputs of the last layer (the paper's
    alpha in R^d; its action on the 4d-wide side is not printed). `row`: one a value channel, on the rows of a memory of one
    matrix, W_t = Diag(alpha_t) W_{t-1} - ... `outer`: both, W_t = Diag(beta_t) W_{t-1} Diag(alpha_t) - ..., which decays an entry by
    the product of its two (arXiv 2210.04243).
    `decay`: `data` predicts alpha for every token; `learned` learns one constant a head (or channel) in the outer loop;
    `constant` fixes one a head by `schedule`: `retnet` 1 - 2^(-5 - head), `alibi` exp(-2^(-8 (head + 1) / heads)) (Lightning
    attention, arXiv 2401.04658).
    `bias`: the logit of alpha at initialisation. At 4 a deep memory has forgotten its learned start after 256 tokens, and its
    LayerNorm blows up what is left (docs/decisions.md, 15).
    """

    kind: Literal["l2"] = "l2"
    gate: Literal["scalar", "channel", "row", "outer"] = "scalar"
    decay: Literal["data", "constant", "learned"] = "data"
    schedule: Literal["retnet", "alibi"] = "retnet"
    bias: float = 6.0

    def canonical(self) -> Retention:
        # A constant decay is one number a head: its channels are equal, and its initial logit is not used.
        unused = {"bias": 6.0, "gate": "scalar"} if self.decay == "constant" else {"schedule": "retnet"}
        return self.model_copy(update=unused)

    @property
    def gated(self) -> Gate:
        return self.gate

    @property
    def decay_(self) -> Literal["data", "constant", "learned"]:
        return self.decay

    @property
    def schedule_(self) -> Literal["retnet", "alibi"]:
        return self.schedule


class _Gated(Retention):
    """A map that is not the identity, under a predicted scalar alpha whose initial logit is `bias`."""

    linear: ClassVar[bool] = False
    bias: float = 4.0

    @property
    def gated(self) -> Gate:
        return "scalar"


class _Simplex(_Gated):
    """W = c softmax(S) over groups of entries, c = scale * size^exponent."""

    axis: Literal["row", "column", "matrix"] = "row"
    scale: float = Field(1.0, gt=0.0)
    exponent: float = Field(0.0, ge=0.0, le=1.0)

    @property
    def axis_(self) -> Literal["none", "row", "column", "matrix"]:
        return self.axis

    def group_sum(self, xp: Any, s: Any) -> Any:
        """Sum over the group of every entry, kept."""
        if self.axis == "row":
            return xp.row_sum(s)
        if self.axis == "column":
            return xp.transpose(xp.row_sum(xp.transpose(s)))
        return xp.total(s)

    def group_max(self, xp: Any, s: Any) -> Any:
        """Largest entry of the group, kept."""
        if self.axis == "row":
            return xp.row_max(s)
        columns = xp.transpose(xp.row_max(xp.transpose(s)))
        if self.axis == "column":
            return columns
        return xp.row_max(columns)

    def mass(self, xp: Any, s: Any) -> Any:
        """c, what the entries of a group sum to."""
        if self.axis == "row":
            return self.scale * xp.power(xp.row_size(s), self.exponent)
        if self.axis == "column":
            return self.scale * xp.power(xp.row_size(xp.transpose(s)), self.exponent)
        return self.scale * xp.power(xp.total_size(s), self.exponent)

    def share(self, xp: Any, s: Any) -> Any:
        """softmax(S), of sum 1."""
        if self.axis == "row":
            return xp.row_softmax(s)
        up = xp.exp(s - self.group_max(xp, s))
        return up / self.group_sum(xp, up)

    def share_vjp(self, xp: Any, p: Any, d: Any) -> Any:
        """Pull `d` back through the shares p."""
        if self.axis == "row":
            return xp.row_softmax_vjp(p, d)
        return p * (d - self.group_sum(xp, p * d))

    def log_sum(self, xp: Any, s: Any) -> Any:
        """Sum over the matrix of c log sum exp(S): every group counted once, by its shares."""
        top = self.group_max(xp, s)
        level = top + xp.log(self.group_sum(xp, xp.exp(s - top)))
        return self.mass(xp, s) * xp.total(self.share(xp, s) * level)

    def initial(self, xp: Any, z: Any) -> Any:
        """S_0 = z: a uniform start would make all hidden units identical."""
        return z


class Kl(_Simplex):
    """KL gate with entropy: the rows of W live on a scaled simplex (Miras Eq 18-21, 27; Memora).

    W = c softmax_row(S), c = scale * size^exponent. The paper has c = 1 and leaves the slice open; rows (over the input) are
    the default, `axis` takes columns (over the output) or the whole matrix. size is that of the slice. alpha is a scalar: the
    dual form is exact only where alpha is constant inside a softmax group.
    `signed`: W = c (softmax(S) - softmax(-S)), exponentiated gradient with both signs whose two accumulators stay opposite
    (not in the paper).
    """

    kind: Literal["kl"] = "kl"
    signed: bool = False

    @property
    def sharing(self) -> bool:
        return not self.signed

    def psi(self, xp: Any, s: Any) -> Any:
        w = self.share(xp, s)
        if self.signed:
            w = w - self.share(xp, -s)
        return self.mass(xp, s) * w

    def psi_vjp(self, xp: Any, s: Any, d: Any) -> Any:
        ds = self.share_vjp(xp, self.share(xp, s), d)
        if self.signed:
            ds = ds + self.share_vjp(xp, self.share(xp, -s), d)
        return self.mass(xp, s) * ds

    def conjugate(self, xp: Any, s: Any) -> Any:
        f = self.log_sum(xp, s)
        if self.signed:
            f = f + self.log_sum(xp, -s)
        return f


class Chi2(_Simplex):
    """Chi-square gate, an f-divergence: D(W, W') = 1/2 sum (W - W')^2 / W' on the scaled simplex (Miras, 5.2).

    W_t = W' (1 - eta_t (g_t - <g_t>)), <g> the mean of g under W' / c: the argmin of <g, W> + D(W, W') / eta over the simplex
    while it is positive; a factor below `clip` is set to it, and the group is scaled back to its sum. With W = c softmax(S)
    that is S_t = alpha_t S_{t-1} + log(factor), to first order in eta the KL gate. alpha pulls towards uniform, as there.
    c, `axis`, `scale`, `exponent` as in kl. The factor 1/2 and alpha are ours.
    """

    kind: Literal["chi2"] = "chi2"
    clip: float = Field(0.1, gt=0.0, le=0.5, description="least factor of one token")

    @property
    def klass(self) -> Literal["dual", "feedback", "multiplicative"]:
        return "multiplicative"

    def psi(self, xp: Any, s: Any) -> Any:
        return self.mass(xp, s) * self.share(xp, s)

    def psi_vjp(self, xp: Any, s: Any, d: Any) -> Any:
        return self.mass(xp, s) * self.share_vjp(xp, self.share(xp, s), d)

    def conjugate(self, xp: Any, s: Any) -> Any:
        return self.log_sum(xp, s)

    def update(self, xp: Any, s: Any, alpha: Any, write: Any) -> Any:
        factor = 1.0 - write + self.group_sum(xp, self.share(xp, s) * write)
        return alpha * s + xp.log(xp.maximum(factor, self.clip))


class Bregman(_Gated):
    """Bregman gate of a separable potential: W = scale * map(S), entry by entry (Miras, section 5.2 variant 2).

    sigmoid: W in (0, scale), F the Fermi-Dirac entropy w log w + (1 - w) log(1 - w), w = W / scale; the paper's.
    tanh:    W in (-scale, scale), the same potential on the symmetric interval: signed weights (not in the paper).
    """

    kind: Literal["bregman"] = "bregman"
    map: Literal["sigmoid", "tanh"] = "tanh"
    scale: float = Field(1.0, gt=0.0)

    def psi(self, xp: Any, s: Any) -> Any:
        if self.map == "sigmoid":
            return self.scale * xp.sigmoid(s)
        return self.scale * xp.tanh(s)

    def psi_vjp(self, xp: Any, s: Any, d: Any) -> Any:
        if self.map == "sigmoid":
            return self.scale * d * xp.sigmoid(s) * xp.sigmoid(-s)
        w = xp.tanh(s)
        return self.scale * d * (1.0 - w * w)

    def conjugate(self, xp: Any, s: Any) -> Any:
        a = xp.abs(s)
        if self.map == "sigmoid":
            # log(1 + exp(s)) without the exponential that overflows.
            return self.scale * xp.total(0.5 * (s + a) + xp.log(1.0 + xp.exp(-a)))
        return self.scale * xp.total(a + xp.log(0.5 + 0.5 * xp.exp(-2.0 * a)))

    def initial(self, xp: Any, z: Any) -> Any:
        """tanh: S_0 / scale of fan-in scale. sigmoid: weights about half of `scale` would all be alike; log-normal ones."""
        w = xp.power(xp.row_size(z), -0.5) / self.scale
        if self.map == "sigmoid":
            return z + xp.log(w + xp.zeros_like(z))
        return z * w


class ElasticNet(_Gated):
    """Elastic net: an l1 term beside the l2 one, so that small weights are exactly zero (Miras Eq 22-23).

    soft_tau(x) = sign(x) max(|x| - tau, 0), tau = threshold * in^(-1/2): in units of a fan-in weight.
    ftrl:  W = soft_tau(S) of the exact dual state (Eq 23, follow the regularised leader): class dual.
    local: S_t = alpha_t soft_tau(S_{t-1}) - eta_t g_t, W = soft_tau(S) (Eq 22, learning and retaining): every token shrinks
           every weight by tau; class feedback. The two differ.
    """

    kind: Literal["elastic_net"] = "elastic_net"
    form: Literal["ftrl", "local"] = "ftrl"
    threshold: float = Field(0.02, gt=0.0)

    @property
    def klass(self) -> Literal["dual", "feedback", "multiplicative"]:
        return "feedback" if self.form == "local" else "dual"

    def tau(self, xp: Any, s: Any) -> Any:
        """The threshold of a matrix of this shape."""
        return self.threshold * xp.power(xp.row_size(s), -0.5)

    def soft(self, xp: Any, s: Any) -> Any:
        """Towards zero by tau, and no further."""
        tau = self.tau(xp, s)
        return xp.where(s > tau, s - tau, xp.where(s < -tau, s + tau, xp.zeros_like(s)))

    def psi(self, xp: Any, s: Any) -> Any:
        return self.soft(xp, s)

    def psi_vjp(self, xp: Any, s: Any, d: Any) -> Any:
        return xp.where(xp.abs(s) > self.tau(xp, s), d, xp.zeros_like(d))

    def conjugate(self, xp: Any, s: Any) -> Any:
        w = self.soft(xp, s)
        return 0.5 * xp.total(w * w)

    def feedback(self, xp: Any, s: Any) -> Any:
        if self.form == "local":
            s = self.soft(xp, s)
        return s

    def initial(self, xp: Any, z: Any) -> Any:
        """S_0 = W_0 + tau sign(W_0)."""
        w = z * xp.power(xp.row_size(z), -0.5)
        tau = self.tau(xp, z)
        return xp.where(w > 0.0, w + tau, w - tau)


class Sphere(Retention):
    """Sphere: every row of W keeps one norm, W = radius S / ||S||_row (LaCT, arXiv 2505.23884).

    S_t = W_{t-1} - eta_t g_t, normalised before the next step and before the read (class feedback). There is no alpha: it
    would be undone by the norm. A radius of 1 is that of fan-in weights. LaCT normalises once a chunk; here every token does.
    """

    kind: Literal["sphere"] = "sphere"
    linear: ClassVar[bool] = False
    radius: float = Field(1.0, gt=0.0)
    eps: float = Field(1e-3, gt=0.0, description="floor of the norm")

    @property
    def klass(self) -> Literal["dual", "feedback", "multiplicative"]:
        return "feedback"

    def size(self, xp: Any, s: Any) -> Any:
        """||S||_row, with its floor."""
        return xp.sqrt(xp.row_sum(s * s) + self.eps * self.eps)

    def psi(self, xp: Any, s: Any) -> Any:
        return self.radius * s / self.size(xp, s)

    def psi_vjp(self, xp: Any, s: Any, d: Any) -> Any:
        size = self.size(xp, s)
        unit = s / size
        return (self.radius / size) * (d - unit * xp.row_sum(d * unit))

    def conjugate(self, xp: Any, s: Any) -> Any:
        return self.radius * xp.total(self.size(xp, s))

    def feedback(self, xp: Any, s: Any) -> Any:
        return self.psi(xp, s)


class Lq(_Gated):
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
    q: float = Field(4.0, ge=2.0, le=6.0)
    map: Literal["printed", "mirror"] = "printed"
    norm: Literal["sum", "mean"] = "sum"
    eps: float = Field(1e-3, gt=0.0)

    @property
    def has_potential(self) -> bool:
        return self.map == "mirror"

    def canonical(self) -> Retention:
        return L2Retention(bias=self.bias) if self.q == 2.0 else self

    @property
    def axis_(self) -> Literal["none", "row", "column", "matrix"]:
        """The slices of a matrix whose entries share a sum; none."""
        return "none"

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

    def scale_of(self, xp: Any, p: Any) -> Any:
        """The scale from P."""
        return xp.power(p, 2.0 / self.q - 1.0)

    def scale_vjp(self, xp: Any, s: Any, p: Any, d: Any) -> Any:
        """Pull `d`, `[..., 1, 1]`, back through the scale; P is given."""
        weight = (2.0 - self.q) * self.scale_of(xp, p) * d
        if self.norm == "mean":
            weight = weight / xp.total_size(s)
        # slope / P is bounded; scale / P alone leaves the range of float32 at both ends.
        slope = s * xp.power(s * s + self.eps * self.eps, self.q / 2.0 - 1.0)
        return (slope / p) * weight

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

    def conjugate(self, xp: Any, s: Any) -> Any:
        f = xp.power(self.power_sum(xp, s), 2.0 / self.q) / (2.0 * (self.q - 1.0))
        if self.norm == "mean":
            f = f * xp.total_size(s)
        return f

    def initial(self, xp: Any, z: Any) -> Any:
        w = z * xp.power(xp.row_size(z), -0.5)
        if self.map == "printed":
            return w * xp.power(self.power_sum(xp, w), self.start / self.q)
        b = w * xp.power(w * w + 1e-12, 0.5 / (self.q - 1.0) - 0.5)
        return b * (self.q - 1.0) * xp.power(self.power_sum(xp, b), 1.0 - 2.0 / self.q)


VARIANTS = register(NoRetention, L2Retention, Kl, Lq, Bregman, ElasticNet, Chi2, Sphere)
