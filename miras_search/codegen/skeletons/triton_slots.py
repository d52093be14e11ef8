# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Slots of the Triton skeletons; the values here are those of an l2 bias, so that the kernels run as they stand."""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

STRUCTURE = "library"
"""Names the operators, so that two designs in one process do not meet."""
BIAS_NUMBERS = (0.0,)
"""Run-time numbers of the bias, in the order in which its tile functions unpack them."""

if triton is not None:
    STATE_FREE = tl.constexpr(False)
    """The cotangent does not depend on the prediction."""

    @triton.jit
    def bias_phi_tile(r, v, delta, numbers):
        """The bias's cotangent on a tile; r and v `[rows, V]`, delta `[rows, 1]`."""
        return r

    @triton.jit
    def bias_phi_vjp_tile(r, v, delta, d, numbers):
        """Pull d back through it: to r, to v at fixed r, and to delta."""
        return d, tl.zeros_like(r), tl.sum(tl.zeros_like(r), axis=1, keep_dims=True)
