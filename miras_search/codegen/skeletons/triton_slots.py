# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Slots of the Triton skeletons; the values here are those of an l2 bias on a matrix, so that the kernels run as they stand.

Flags stand here a second time, as constants of Triton; an emitted module has neither, since they are folded.
"""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

STRUCTURE = "library"
"""Names the operators, so that two designs in one process do not meet."""
TILE_NUMBERS = (0.0,)
"""Run-time numbers of the formulas, in the order in which the tile functions unpack them."""
KERNELS = "linear"
"""The family that serves the design: `linear`, `dense`, or none."""
WHOLE = False
"""The mirror map looks at the whole matrix, not at each row by itself, nor at totals."""
ROWWISE = True
"""It sums over rows."""

if triton is not None:
    LAYERS = tl.constexpr(1)
    NORM = tl.constexpr(False)
    RESIDUAL = tl.constexpr(False)
    OFFSET = tl.constexpr(False)
    MIRROR = tl.constexpr(False)
    TOTALS = tl.constexpr(False)
    """The mirror map takes totals of the matrix beside a row, eight at most, so that rows are taken twice."""
    MOMENTUM = tl.constexpr(False)
    READ = tl.constexpr("exact")
    ROW_GATE = tl.constexpr(False)
    """Value channels decay, too, and what is read from a tile's own writes is added by torch."""
    READ_FIRST = tl.constexpr(False)
    SCAN = tl.constexpr(False)
    CHUNKED = tl.constexpr(True)
    GATE = tl.constexpr("none")
    THRESHOLDED = tl.constexpr(False)
    DECAY_FIRST = tl.constexpr(False)
    DECOUPLED = tl.constexpr(False)
    ERASE_CHANNELS = tl.constexpr(False)
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

    @triton.jit
    def memory_activate_tile(z, numbers):
        """The activation between the memory's layers."""
        return z * 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))

    @triton.jit
    def memory_activate_grad_tile(z, numbers):
        """Its derivative."""
        return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)

    @triton.jit
    def memory_activate_curve_tile(z, numbers):
        """Its second derivative."""
        return 0.3989422804014327 * tl.exp(-0.5 * z * z) * (2.0 - z * z)

    @triton.jit
    def retention_psi_tile(s, numbers):
        """The mirror map on `[out, in]`, or on some of its rows."""
        return s

    @triton.jit
    def retention_psi_vjp_tile(s, d, numbers):
        """Pull d back through it."""
        return d

    @triton.jit
    def retention_scale_tile(s, numbers):
        """The number `[1, 1]` by which a scaling map multiplies the state."""
        return tl.full([1, 1], 1.0, tl.float32)

    @triton.jit
    def retention_totals_tile(s, SIZE: tl.constexpr, numbers):
        """What some rows of a matrix of SIZE numbers add to the totals that psi takes, `[1, 8]`."""
        return tl.zeros([1, 8], tl.float32)

    @triton.jit
    def retention_totals_vjp_tile(s, d, SIZE: tl.constexpr, numbers):
        """What they add to those totals and, behind them, to those that pulling d back takes."""
        return tl.zeros([1, 8], tl.float32)

    @triton.jit
    def retention_psi_part_tile(s, totals, SIZE: tl.constexpr, numbers):
        """The mirror map on some rows, from the totals."""
        return s

    @triton.jit
    def retention_psi_vjp_part_tile(s, d, totals, SIZE: tl.constexpr, numbers):
        """Pull d back through it."""
        return d

    @triton.jit
    def retention_scale_part_tile(totals, SIZE: tl.constexpr, numbers):
        """The number `[1, 1]` of a scaling map."""
        return tl.full([1, 1], 1.0, tl.float32)
