"""An attentional bias of one's own: pseudo-Huber, smooth everywhere, quadratic near zero and linear far out.

miras-search validate my_space.yaml --plugin docs/examples/plugin_bias.py
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from miras_search.bias import Bias
from miras_search.choice import register


class PseudoHuber(Bias):
    """Pseudo-Huber: l = c^2 sum_j (sqrt(1 + (r_j / c)^2) - 1).

    phi = r / sqrt(1 + (r / c)^2), at most c a coordinate.
    """

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    c: float = Field(1.0, gt=0.0, description="error from which on the loss is about linear")

    def loss(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        """The potential, `[..., 1]`."""
        u = r / self.c
        return self.c * self.c * xp.row_sum(xp.sqrt(1.0 + u * u) - 1.0)

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        """d loss / dr, `[..., dim_v]`."""
        u = r / self.c
        return r / xp.sqrt(1.0 + u * u)

    def phi_vjp(self, xp: Any, r: Any, v: Any, delta: Any, d: Any) -> tuple[Any, Any, Any]:
        """`d` pulled back to r, to v (at fixed r) and to the threshold, which this bias has not."""
        u = r / self.c
        return d * xp.power(1.0 + u * u, -1.5), xp.zeros_like(r), xp.row_sum(xp.zeros_like(r))


VARIANTS = register(PseudoHuber)
