"""What a formula may say, and that a clamp by a number means the same lowered as in the reference."""

from typing import Any, Literal

import pytest
import torch

from miras_search.bias import Bias
from miras_search.codegen.lower import lower
from miras_search.errors import DesignError
from miras_search.reference import Xp


class _Clamped(Bias):
    """Clamps by a number of its own, on either side."""

    kind: Literal["_clamped"] = "_clamped"
    limit: float = 0.5

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return xp.maximum(xp.minimum(self.limit, r), -self.limit) + xp.minimum(r, 2.0 * self.limit)


class _Powered(Bias):
    """Uses an operator that Triton lacks."""

    kind: Literal["_powered"] = "_powered"

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return r**3


class _Named(Bias):
    """Passes an argument by name."""

    kind: Literal["_named"] = "_named"

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return xp.power(r, p=2.0)


def test_a_clamp_by_a_number_is_lowered() -> None:
    out = lower(_Clamped(), "phi")
    space: dict[str, Any] = {"torch": torch, **out.numbers}
    exec("\n".join(out.functions.values()), space)
    r = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(space["bias_phi"](r, r, r), _Clamped().phi(Xp, r, r, r), rtol=0, atol=0)


@pytest.mark.parametrize(("bias", "says"), [(_Powered(), r"uses \*\*"), (_Named(), "p= by name")])
def test_what_the_dialect_cannot_carry_is_refused(bias: Bias, says: str) -> None:
    with pytest.raises(DesignError, match=says):
        lower(bias, "phi")
