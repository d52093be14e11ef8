"""Second choice: the attentional bias, the inner loss l(M(k), v).

Three formulas each, with r = M(k) - v:

    loss(r, v, delta)                      the potential, summed over the value dimension
    phi(r, v, delta) = d loss / d M(k)     its cotangent, what is written
    phi_vjp(r, v, delta, d)                (d'phi/dr, d'phi/dv at fixed r, d'phi/d delta), for the outer gradient

Shapes: r, v, d `[..., dim_v]`; delta `[..., 1]`, the token's threshold, for those that have one. Sums, not means: a mean
would divide the step by dim_v. The hand-written two are checked against autograd in float64.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from miras_search.choice import Choice, register


class Bias(Choice):
    """Base of all attentional biases.

    What all of them share is which tokens and vectors the loss is of. `features`: keys and queries are lifted before they
    reach the memory, `elu` to elu(x) + 1 (arXiv 2006.16236), `polynomial` to a_1 x and a_2 x (x) x, so that with unit x
    q'k becomes a_1^2 q'k + a_2^2 (q'k)^2 (a learned one a head, from 1 / i! = 1, 1/2; Atlas, arXiv 2505.23735).
    `target: v-k`: what is written under k is v - k (TTT, arXiv 2407.04620). `window`: the loss of a token is the sum over
    the last so many tokens of its document, each with its gate gamma_i (the Omega rule, arXiv 2505.23735).
    """

    role: ClassVar[str] = "bias"
    features: Literal["identity", "elu", "polynomial"] = "identity"
    target: Literal["v", "v-k"] = "v"
    window: int = Field(1, ge=1, le=64)
    state_free: ClassVar[bool] = False
    """The cotangent does not depend on the prediction, so the gradient needs no memory state and no chunk."""
    quadratic: ClassVar[bool] = False
    """The loss is 1/2 ||r||^2: with a linear memory, the delta rule."""

    @property
    def plain(self) -> bool:
        """The loss is of one token, its key as it is, and its value."""
        return self.window == 1 and self.target == "v" and self.features == "identity"

    @property
    def lifting(self) -> bool:
        """Keys have more dimensions in the memory than they come with."""
        return self.features == "polynomial"

    def lifted(self, dim: int) -> int:
        """The dimension of a key of this dimension in the memory."""
        return dim + dim * (dim + 1) // 2 if self.lifting else dim

    def shared(self) -> dict[str, Any]:
        """The fields of the base class."""
        return {name: getattr(self, name) for name in Bias.model_fields if name != "kind"}

    @property
    def has_loss(self) -> bool:
        """The cotangent is the gradient of `loss`; surrogates have none."""
        return True

    @property
    def threshold_(self) -> Literal["none", "data", "learned", "fixed"]:
        """Where the threshold delta comes from: there is none; predicted for every token; one a head of the outer loop; fixed."""
        return "none"

    @property
    def thresholded(self) -> bool:
        """Takes a threshold delta for every token."""
        return self.threshold_ != "none"

    @property
    def delta_(self) -> float:
        """The threshold at initialisation."""
        return 1.0

    @property
    def of_norm(self) -> bool:
        """The threshold is one of ||r||, so that it starts in units of the square root of dim_v."""
        return False

    @property
    def superlinear(self) -> bool:
        """The cotangent grows faster than the error: without a LayerNorm it can run away."""
        return False

    def canonical(self, normalised: bool) -> Bias:
        """Unused fields at their defaults, `auto` resolved, equal functions merged.

        Args:
            normalised: whether the memory's prediction passes a LayerNorm.
        """
        return self

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        """The potential, `[..., 1]`."""
        raise NotImplementedError

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        """The cotangent, `[..., dim_v]`."""
        raise NotImplementedError

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        """Pull `d` back through phi: to r, to v (at fixed r) and to delta."""
        raise NotImplementedError


class Dot(Bias):
    """Dot product: l = -<M(k), v>, so the write is v itself (Hebb; Miras Eq 8).

    phi = -v.
    """

    kind: Literal["dot"] = "dot"
    state_free: ClassVar[bool] = True

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return -xp.row_sum((r + v) * v)

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return -v

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        return xp.zeros_like(r), -d, xp.row_sum(xp.zeros_like(r))


class L2(Bias):
    """Squared error: l = 1/2 ||M(k) - v||^2 (Miras Eq 9; the printed factor 2 is absorbed in the step).

    phi = r.
    """

    kind: Literal["l2"] = "l2"
    quadratic: ClassVar[bool] = True

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return 0.5 * xp.row_sum(r * r)

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return r

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        return d, xp.zeros_like(r), xp.row_sum(xp.zeros_like(r))


class Lp(Bias):
    """l_p error: l = (1/p) sum_j (r_j^2 + eps)^(p/2) (Miras Eq 10-11, smooth at zero; p = 2 is l2).

    potential: phi = r (r^2 + eps)^(p/2 - 1).
    surrogate: phi = tanh(nu r) (r^2 + eps)^((p - 1)/2), the paper's form (Remark 5, Eq 25); no gradient of any loss.
    `factor: paper` keeps the factor p of d|r|^p/dr in phi; `unit` (default) drops it, so that p does not change the step.
    `cap: norm` scales phi down to norm sqrt(dim_v) where it is longer: needed for p > 2 without a LayerNorm in the memory
    (else NaN within tens of tokens), harmful with one; `auto` decides so.
    """

    kind: Literal["lp"] = "lp"
    p: float = Field(3.0, ge=1.0, le=8.0)
    form: Literal["potential", "surrogate"] = "potential"
    nu: float = Field(10.0, gt=0.0, description="slope of the surrogate's tanh; not printed in the paper")
    factor: Literal["unit", "paper"] = "unit"
    cap: Literal["auto", "none", "norm"] = "auto"
    eps: float = Field(1e-6, gt=0.0)

    @property
    def has_loss(self) -> bool:
        return self.form == "potential" and self.cap == "none"

    @property
    def superlinear(self) -> bool:
        return self.p > 2.0 and self.cap == "none"

    def canonical(self, normalised: bool) -> Bias:
        cap = self.cap
        if cap == "auto":
            cap = "norm" if self.p > 2.0 and not normalised else "none"
        if self.form == "potential" and self.p == 2.0 and self.factor == "unit" and cap == "none":
            return L2(**self.shared())
        if self.p == 1.0:  # its cotangent is at most one a coordinate, which is where the cap begins
            form: Any = "smooth" if self.form == "potential" else "tanh"
            return L1(form=form, nu=self.nu, eps=self.eps, **self.shared()).canonical(normalised)
        return self.model_copy(update={"cap": cap, **({"nu": 10.0} if self.form == "potential" else {})})

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        total = xp.row_sum(xp.power(r * r + self.eps, self.p / 2.0))
        if self.factor == "unit":
            total = total / self.p
        return total

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        s = r * r + self.eps
        if self.form == "potential":
            g = r * xp.power(s, self.p / 2.0 - 1.0)
        else:
            g = xp.tanh(self.nu * r) * xp.power(s, self.p / 2.0 - 0.5)
        if self.factor == "paper":
            g = g * self.p
        if self.cap == "norm":
            # |g|^2 overflows float32 for large p: the norm is taken in units of the largest entry.
            largest = xp.maximum(1e-6, xp.row_max(xp.abs(g)))
            unit = g / largest
            square = xp.maximum(1e-6, xp.row_sum(unit * unit))
            g = g * xp.minimum(1.0, xp.sqrt(xp.row_size(r) / square) / largest)
        return g

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        s = r * r + self.eps
        if self.form == "potential":
            slope = xp.power(s, self.p / 2.0 - 2.0) * ((self.p - 1.0) * r * r + self.eps)
        else:
            t = xp.tanh(self.nu * r)
            slope = self.nu * (1.0 - t * t) * xp.power(s, self.p / 2.0 - 0.5)
            slope = slope + t * (self.p - 1.0) * r * xp.power(s, self.p / 2.0 - 1.5)
        if self.factor == "paper":
            slope = slope * self.p
        if self.cap == "norm":
            if self.form == "potential":
                g = r * xp.power(s, self.p / 2.0 - 1.0)
            else:
                g = t * xp.power(s, self.p / 2.0 - 0.5)
            if self.factor == "paper":
                g = g * self.p
            largest = xp.maximum(1e-6, xp.row_max(xp.abs(g)))
            unit = g / largest
            square = xp.maximum(1e-6, xp.row_sum(unit * unit))
            shrink = xp.sqrt(xp.row_size(r) / square) / largest
            pulled = shrink * (d - unit * (xp.row_sum(d * unit) / square))
            d = xp.where(shrink < 1.0, pulled, d)
        return d * slope, xp.zeros_like(r), xp.row_sum(xp.zeros_like(r))


class L1(Bias):
    """Value-less: l = ||M(k) - v||_1, so that only the sign of the error is written (Miras Eq 12).

    tanh:   phi = tanh(nu r), the gradient of sum_j log(cosh(nu r_j)) / nu; the paper's surrogate of the sign (Remark 5).
    smooth: phi = r / sqrt(r^2 + eps), the gradient of sum_j sqrt(r_j^2 + eps).
    nu is not printed in the paper. The steeper either form, the less of the outer gradient comes through the error.
    """

    kind: Literal["l1"] = "l1"
    form: Literal["tanh", "smooth"] = "tanh"
    nu: float = Field(1.0, gt=0.0, description="slope of the tanh at zero")
    eps: float = Field(1e-2, gt=0.0, description="of the smooth form")

    def canonical(self, normalised: bool) -> Bias:
        unused = {"eps": 1e-2} if self.form == "tanh" else {"nu": 1.0}
        return self.model_copy(update=unused)

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        if self.form == "smooth":
            return xp.row_sum(xp.sqrt(r * r + self.eps))
        # log(cosh(x)) without the exponential that overflows.
        x = self.nu * xp.abs(r)
        return xp.row_sum(x + xp.log(0.5 + 0.5 * xp.exp(-2.0 * x))) / self.nu

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        if self.form == "smooth":
            return r / xp.sqrt(r * r + self.eps)
        return xp.tanh(self.nu * r)

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        if self.form == "smooth":
            slope = self.eps * xp.power(r * r + self.eps, -1.5)
        else:
            t = xp.tanh(self.nu * r)
            slope = self.nu * (1.0 - t * t)
        return d * slope, xp.zeros_like(r), xp.row_sum(xp.zeros_like(r))


class _Thresholded(Bias):
    """A bias with a threshold: fields and capabilities that they share."""

    delta: float = Field(1.4142135623730951, gt=0.0)
    threshold: Literal["data", "learned", "fixed"] = "data"

    @property
    def threshold_(self) -> Literal["none", "data", "learned", "fixed"]:
        return self.threshold

    @property
    def delta_(self) -> float:
        return self.delta


class Huber(_Thresholded):
    """Huber: quadratic near zero, linear beyond the threshold delta (Miras Eq 13-16).

    coordinate: phi = clip(r_j, -delta, delta), of l = sum_j H_delta(r_j) (Eq 13-14).
    norm:       phi = r min(1, delta / ||r||), of l = H_delta(||r||) (Eq 15).
    mixture:    phi = r if ||r|| <= delta else delta tanh(nu r), the paper's Yaad (Eq 16, 26); no potential, and it
                jumps at the threshold. The paper's sign is tanh with a slope nu that it does not print.
    `delta`: threshold at initialisation per square root of dim_v (norm, mixture), or per coordinate.
    `threshold`: `data` predicts it for every token, `learned` learns one a head in the outer loop, `fixed` keeps it.
    """

    kind: Literal["huber"] = "huber"
    form: Literal["coordinate", "norm", "mixture"] = "norm"
    nu: float = Field(1.0, gt=0.0, description="slope of the mixture's tanh")

    def canonical(self, normalised: bool) -> Bias:
        return self if self.form == "mixture" else self.model_copy(update={"nu": 1.0})

    @property
    def has_loss(self) -> bool:
        return self.form != "mixture"

    @property
    def of_norm(self) -> bool:
        return self.form != "coordinate"

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        if self.form == "coordinate":
            a = xp.abs(r)
            return xp.row_sum(xp.where(a <= delta, 0.5 * r * r, delta * (a - 0.5 * delta)))
        norm = xp.sqrt(xp.row_sum(r * r) + 1e-24)
        return xp.where(norm <= delta, 0.5 * norm * norm, delta * (norm - 0.5 * delta))

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        if self.form == "coordinate":
            return xp.minimum(xp.maximum(r, -delta), delta)
        norm = xp.sqrt(xp.row_sum(r * r) + 1e-24)
        if self.form == "norm":
            return r * xp.minimum(1.0, delta / norm)
        return xp.where(norm <= delta, r, delta * xp.tanh(self.nu * r))

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        if self.form == "coordinate":
            inside = xp.abs(r) <= delta
            outside = xp.where(inside, xp.zeros_like(r), xp.where(r > 0.0, d, -d))
            return xp.where(inside, d, xp.zeros_like(r)), xp.zeros_like(r), xp.row_sum(outside)
        norm = xp.sqrt(xp.row_sum(r * r) + 1e-24)
        inside = norm <= delta
        if self.form == "norm":
            along = xp.row_sum(d * r) / norm
            dr = xp.where(inside, d, (delta / norm) * (d - r * (along / norm)))
            return dr, xp.zeros_like(r), xp.where(inside, 0.0 * along, along)
        t = xp.tanh(self.nu * r)
        dr = xp.where(inside, d, d * delta * self.nu * (1.0 - t * t))
        return dr, xp.zeros_like(r), xp.where(inside, 0.0 * norm, xp.row_sum(d * t))


class PseudoHuber(_Thresholded):
    """Pseudo-Huber: l = delta^2 (sqrt(1 + (r / delta)^2) - 1), the Huber loss without its kink.

    coordinate: phi = r / sqrt(1 + (r_j / delta)^2), of the sum over j.
    norm:       phi = r / sqrt(1 + (||r|| / delta)^2), of the norm.
    `delta` and `threshold` as in huber. Not in the paper.
    """

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    form: Literal["coordinate", "norm"] = "norm"

    @property
    def of_norm(self) -> bool:
        return self.form == "norm"

    def square(self, xp: Any, r: Any) -> Any:
        """What the threshold is compared with: r_j^2, or ||r||^2; with a floor, so that delta = r = 0 is no 0/0."""
        if self.form == "norm":
            return xp.row_sum(r * r) + 1e-24
        return r * r + 1e-24

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        square = self.square(xp, r)
        # delta (sqrt(square + delta^2) - delta) without the difference of near numbers; of a norm there is one term.
        return xp.row_sum(delta * square / (xp.sqrt(square + delta * delta) + delta))

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return delta * (r / xp.sqrt(self.square(xp, r) + delta * delta))

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        size = xp.sqrt(self.square(xp, r) + delta * delta)
        u = r / size
        if self.form == "norm":
            along = xp.row_sum(d * u)
            return (delta / size) * (d - u * along), xp.zeros_like(r), along * (self.square(xp, r) / (size * size))
        beyond = d * u * (self.square(xp, r) / (size * size))
        return (delta / size) * d * (1.0 - u * u), xp.zeros_like(r), xp.row_sum(beyond)


class Robust(_Thresholded):
    """Robust to a shifted value: l = max over ||e|| <= delta of 1/2 ||M(k) - v - e||^2 = 1/2 (||r|| + delta)^2 (Miras Eq 17).

    phi = r (1 + delta / n), n = sqrt(||r||^2 + eps): l2, and beside it a pull of constant size delta. eps bounds the slope
    at zero, 1 + delta / sqrt(eps).
    `delta`: the radius of the shift at initialisation per square root of dim_v; `threshold` as in huber.
    """

    kind: Literal["robust"] = "robust"
    delta: float = Field(0.1, gt=0.0)
    eps: float = Field(1e-2, gt=0.0)

    @property
    def of_norm(self) -> bool:
        return True

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        square = xp.row_sum(r * r)
        return 0.5 * square + delta * xp.sqrt(square + self.eps) + 0.5 * delta * delta

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return r * (1.0 + delta / xp.sqrt(xp.row_sum(r * r) + self.eps))

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        n = xp.sqrt(xp.row_sum(r * r) + self.eps)
        u = r / n
        along = xp.row_sum(d * u)
        return d + (delta / n) * (d - u * along), xp.zeros_like(r), along


VARIANTS = register(Dot, L2, Lp, L1, Huber, PseudoHuber, Robust)
