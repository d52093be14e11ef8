"""An attentional bias of one's own: Cauchy's, quadratic near zero and logarithmic far out.

miras-search validate my_space.yaml --plugin docs/examples/plugin_bias.py
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from miras_search.bias import Bias
from miras_search.choice import register


class Cauchy(Bias):
    """Cauchy: l = c^2 / 2 sum_j log(1 + (r_j / c)^2).

    phi = r / (1 + (r / c)^2), largest at c and falling beyond: an outlier is all but ignored.
    """

    kind: Literal["cauchy"] = "cauchy"
    c: float = Field(1.0, gt=0.0, description="error of the largest cotangent")

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        """The potential, `[..., 1]`."""
        u = r / self.c
        return 0.5 * self.c * self.c * xp.row_sum(xp.log(1.0 + u * u))

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        """d loss / dr, `[..., dim_v]`."""
        u = r / self.c
        return r / (1.0 + u * u)

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        """`d` pulled back to r, to v (at fixed r) and to the threshold, which this bias has not."""
        u = r / self.c
        slope = (1.0 - u * u) * xp.power(1.0 + u * u, -2.0)
        return d * slope, xp.zeros_like(r), xp.row_sum(xp.zeros_like(r))


VARIANTS = register(Cauchy)
