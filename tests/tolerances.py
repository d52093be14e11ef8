"""Every numerical tolerance of the suite: name -> (value, why). Nothing else may loosen a comparison."""

from __future__ import annotations

TOLERANCES: dict[str, tuple[float, str]] = {
    "path": (1e-9, "fast path against reference in float64: tens of terms summed in another order, then amplified"),
    "formula": (1e-12, "a hand-written derivative against autograd in float64, relative to the largest entry"),
    "identity": (1e-12, "one function written in two ways, float64"),
    "merge": (1e-9, "two descriptions of one function in the reference; a floor of 1e-3 drops out of l_q at q = 2"),
    "argmin": (1e-8, "stationarity of a mirror map whose floor eps is 1e-6"),
    "oracle": (1e-9, "an implementation by others, its float32 casts lifted to float64, against the emitted module"),
    "differences": (1e-6, "gradients of an oracle in numpy by central differences with a step of 1e-6"),
    "decode": (2e-5, "prefill + steps against the whole in float32, logits of order 1 over up to 40 tokens"),
    "float32": (1e-4, "float32 against float64 over 21 tokens, relative to the largest output"),
    "bfloat16": (4e-3, "outputs rounded to 8 bits; the recurrence itself is float32"),
    "half": (5e-3, "gradients of a layer under float16 autocast, of 11 bits, over the largest: 1.6e-3 measured"),
    "triton": (1e-5, "float32 kernels against the float64 reference, 2-norm: at most 1e-6 measured, 8e-6 for l_1.5"),
    "triton dense": (
        1e-4,
        "the same where a LayerNorm divides by little: 4e-5 measured (memora), with 1e-5 of its own",
    ),
    "triton factor": (4.0, "worst error of the kernels over the float32 reference's own worst: at most 3.3 measured"),
    "triton floor": (2e-6, "added to the above where the reference is exact by luck: some ten roundings of float32"),
    "gpu factor float32": (
        4.0,
        "error of the kernels over that of the torch path in float32; an estimate, as all of gpu",
    ),
    "gpu floor float32": (1e-5, "added to the above: three products of tf32 in place of one of float32"),
    "gpu factor half": (
        8.0,
        "error of the kernels over the change of the float64 path when q, k and v are rounded alike",
    ),
    "gpu floor float16": (2e-3, "added to the above: some roundings of a matrix operand to 11 bits"),
    "gpu floor bfloat16": (1.6e-2, "the same to 8 bits"),
    "gpu training": (1e-2, "last loss in bfloat16 over that in float32, where the seeds differ by less"),
    "causal": (0.0, "outputs before a changed input are the same bits"),
}


def tolerance(name: str) -> float:
    """The value of a named tolerance."""
    return TOLERANCES[name][0]
