"""Every numerical tolerance of the suite: name -> (value, why it is what it is). Nothing else may loosen a comparison."""

from __future__ import annotations

TOLERANCES: dict[str, tuple[float, str]] = {
    "path": (1e-9, "fast path against reference in float64: sums of tens of terms in another order, amplified by the recurrence"),
    "formula": (1e-12, "a hand-written derivative against autograd in float64, relative to the largest entry"),
    "identity": (1e-12, "one function written in two ways, float64"),
    "argmin": (1e-8, "stationarity of a mirror map whose floor eps is 1e-6"),
    "oracle": (1e-9, "an implementation by others, its float32 casts lifted to float64, against the emitted module"),
    "decode": (2e-5, "prefill + steps against the whole in float32, logits of order 1 over up to 40 tokens"),
    "causal": (0.0, "outputs before a changed input are the same bits"),
}


def tolerance(name: str) -> float:
    """The value of a named tolerance."""
    return TOLERANCES[name][0]
