# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Products of tokens between which every channel decays by itself, in Triton, forward and backward.

    A_ti = sum_c x_tc y_ic exp(sum_{i < j <= t - LAG} a_jc)    for i <= t, or i < t

or A is given and applied, z_tc = sum_i A_ti y_ic exp(...); the form is linear in A, x and y, so each is in the gradients of the other.

Here a is the log decay, at most 0; LAG is 1 where t sees the decays before its own, else 0. A tile is taken in blocks of 16 tokens. Between
two blocks the sum is split at the later one's start, so that the block is a matrix product of scaled rows; on the diagonal every
pair has its own exponential. All sums are of terms of one sign: nothing overflows, what underflows is zero, and no digits
cancel, whatever decays have been summed before.

The pair i = t - LAG has no decay. The gradient of a leaves it out, whose two parts would cancel but for their rounding, which is
all that would be left where the decay is strong.

Shape legend: N tiles, P pairs of batch and head, C = SPAN tokens a tile; x, y, a `[N, P, C, K]`, A `[N, P, C, C]`.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_tiles import operator, precision

    @triton.jit
    def decay_rows(x, tile, start, ROWS: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr):
        """Tokens of a tile from `start`, in float32; zero before and beyond the tile."""
        rows = start + tl.arange(0, ROWS)
        place = (tile * SPAN + rows)[:, None] * K + tl.arange(0, K)[None, :]
        return tl.load(x + place, mask=((rows >= 0) & (rows < SPAN))[:, None], other=0.0).to(tl.float32)

    @triton.jit
    def decay_store(x, value, tile, start, K: tl.constexpr, SPAN: tl.constexpr):
        """The inverse of `decay_rows`, of 16 tokens."""
        rows = start + tl.arange(0, 16)
        place = (tile * SPAN + rows)[:, None] * K + tl.arange(0, K)[None, :]
        tl.store(x + place, value.to(x.dtype.element_ty), mask=((rows >= 0) & (rows < SPAN))[:, None])

    @triton.jit
    def decay_since_start(a, tile, start, LAG: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr):
        """What has decayed in a block of 16 tokens when each of them asks."""
        own = decay_rows(a, tile, start - LAG, 16, K, SPAN)
        return tl.cumsum(tl.where((tl.arange(0, 16) >= LAG)[:, None], own, 0.0), axis=0)

    @triton.jit
    def decay_until_end(a, tile, start, K: tl.constexpr, SPAN: tl.constexpr):
        """What decays in a block of 16 tokens after each of them."""
        later = decay_rows(a, tile, start + 1, 16, K, SPAN)
        return tl.cumsum(tl.where((tl.arange(0, 16) < 15)[:, None], later, 0.0), axis=0, reverse=True)

    @triton.jit
    def decay_total(a, tile, start, K: tl.constexpr, SPAN: tl.constexpr):
        """What decays in a block of 16 tokens, `[1, K]`."""
        return tl.sum(decay_rows(a, tile, start, 16, K, SPAN), axis=0, keep_dims=True)

    @triton.jit
    def decay_places(tile, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr):
        """Places of the block at (row, column) of a tile's products, and which exist."""
        rows = row + tl.arange(0, ROWS)
        columns = column + tl.arange(0, COLUMNS)
        place = (tile * SPAN + rows)[:, None] * SPAN + columns[None, :]
        return place, (rows < SPAN)[:, None] & (columns < SPAN)[None, :]

    @triton.jit
    def decay_block(products, tile, row, column, LAG: tl.constexpr, SPAN: tl.constexpr):
        """Products of 16 tokens with 16 earlier ones, but for those without decay."""
        place, exists = decay_places(tile, row, column, 16, 16, SPAN)
        decayed = row + tl.arange(0, 16)[:, None] > column + tl.arange(0, 16)[None, :] + LAG
        return tl.load(products + place, mask=exists & decayed, other=0.0)

    @triton.jit
    def decay_free(products, tile, start, LAG: tl.constexpr, SPAN: tl.constexpr):
        """Of 16 tokens the products with those `LAG` before, `[16, 1]`; zero where there is none."""
        rows = start + tl.arange(0, 16)
        exists = (rows >= LAG) & (rows < SPAN)
        return tl.load(products + (tile * SPAN + rows) * SPAN + rows - LAG, mask=exists, other=0.0)[:, None]

    @triton.jit
    def decay_forward(
        x, y, a, products,
        K: tl.constexpr, SPAN: tl.constexpr, LAG: tl.constexpr, STRICT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for 16 tokens t of a tile."""
        KIND: tl.constexpr = x.dtype.element_ty
        tile = tl.program_id(0).to(tl.int64)
        start = tl.program_id(1) * 16
        here = tl.arange(0, 16)
        ask = decay_rows(x, tile, start, 16, K, SPAN)
        faded = (ask * tl.exp(decay_since_start(a, tile, start, LAG, K, SPAN))).to(KIND)
        between = tl.zeros([1, K], tl.float32)
        for back in range(16, start + 16, 16):
            block = start - back
            seen = decay_rows(y, tile, block, 16, K, SPAN)
            seen *= tl.exp(decay_until_end(a, tile, block, K, SPAN) + between)
            between += decay_total(a, tile, block, K, SPAN)
            place, exists = decay_places(tile, start, block, 16, 16, SPAN)
            found = tl.dot(faded, tl.trans(seen.to(KIND)), input_precision=PRECISION)
            tl.store(products + place, found, mask=exists)
        own = tl.zeros([16, 16], tl.float32)
        gap = tl.zeros([16, K], tl.float32)
        for back in range(16):
            i = 15 - back
            gap += tl.where((here > i + LAG)[:, None], decay_rows(a, tile, start + i + 1, 1, K, SPAN), 0.0)
            pair = tl.sum(ask * decay_rows(y, tile, start + i, 1, K, SPAN) * tl.exp(gap), axis=1)
            own = tl.where((here == i)[None, :] & (here >= i + STRICT)[:, None], pair[:, None], own)
        place, exists = decay_places(tile, start, start, 16, 16, SPAN)
        tl.store(products + place, own, mask=exists)

    @triton.jit
    def decay_gather(
        y, a, products, tile, start, KIND: tl.constexpr,
        K: tl.constexpr, SPAN: tl.constexpr, LAG: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """For 16 tokens t the sum over i of A_ti y_i, each decayed, but for those without decay."""
        here = tl.arange(0, 16)
        found = tl.zeros([16, K], tl.float32)
        between = tl.zeros([1, K], tl.float32)
        for back in range(16, start + 16, 16):
            block = start - back
            seen = decay_rows(y, tile, block, 16, K, SPAN)
            seen *= tl.exp(decay_until_end(a, tile, block, K, SPAN) + between)
            between += decay_total(a, tile, block, K, SPAN)
            factor = decay_block(products, tile, start, block, LAG, SPAN)
            found = tl.dot(factor.to(KIND), seen.to(KIND), acc=found, input_precision=PRECISION)
        found *= tl.exp(decay_since_start(a, tile, start, LAG, K, SPAN))
        gap = tl.zeros([16, K], tl.float32)
        for back in range(16):
            i = 15 - back
            decayed = (here > i + LAG)[:, None]
            gap += tl.where(decayed, decay_rows(a, tile, start + i + 1, 1, K, SPAN), 0.0)
            place, exists = decay_places(tile, start, start + i, 16, 1, SPAN)
            factor = tl.load(products + place, mask=exists & decayed, other=0.0)
            found += factor * decay_rows(y, tile, start + i, 1, K, SPAN) * tl.exp(gap)
        return found

    @triton.jit
    def decay_apply(
        products, y, a, z,
        K: tl.constexpr, SPAN: tl.constexpr, LAG: tl.constexpr, STRICT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for 16 tokens of a tile."""
        KIND: tl.constexpr = y.dtype.element_ty
        tile = tl.program_id(0).to(tl.int64)
        start = tl.program_id(1) * 16
        found = decay_gather(y, a, products, tile, start, KIND, K, SPAN, LAG, PRECISION)
        if STRICT <= LAG:
            found += decay_free(products, tile, start, LAG, SPAN) * decay_rows(y, tile, start - LAG, 16, K, SPAN)
        decay_store(z, found, tile, start, K, SPAN)

    @triton.jit
    def decay_backward(
        x, y, a, d_products, d_x, d_y, d_late, d_early,
        K: tl.constexpr, SPAN: tl.constexpr, LAG: tl.constexpr, STRICT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for 16 tokens of a tile: as those that ask, then as those that are seen; of a the gradients of its sums."""
        KIND: tl.constexpr = x.dtype.element_ty
        tile = tl.program_id(0).to(tl.int64)
        start = tl.program_id(1) * 16
        here = tl.arange(0, 16)
        found = decay_gather(y, a, d_products, tile, start, KIND, K, SPAN, LAG, PRECISION)
        decay_store(d_late, found * decay_rows(x, tile, start, 16, K, SPAN), tile, start - LAG, K, SPAN)
        if STRICT <= LAG:
            found += decay_free(d_products, tile, start, LAG, SPAN) * decay_rows(y, tile, start - LAG, 16, K, SPAN)
        decay_store(d_x, found, tile, start, K, SPAN)
        found = tl.zeros([16, K], tl.float32)
        between = tl.zeros([1, K], tl.float32)
        for block in range(start + 16, SPAN, 16):
            ask = decay_rows(x, tile, block, 16, K, SPAN)
            ask *= tl.exp(decay_since_start(a, tile, block, LAG, K, SPAN) + between)
            between += decay_total(a, tile, block, K, SPAN)
            pull = decay_block(d_products, tile, block, start, LAG, SPAN)
            found = tl.dot(tl.trans(pull).to(KIND), ask.to(KIND), acc=found, input_precision=PRECISION)
        found *= tl.exp(decay_until_end(a, tile, start, K, SPAN))
        gap = tl.zeros([16, K], tl.float32)
        for t in range(16):
            decayed = (here < t - LAG)[None, :]
            gap += tl.where(tl.trans(decayed), decay_rows(a, tile, start + t - LAG, 1, K, SPAN), 0.0)
            place, exists = decay_places(tile, start + t, start, 1, 16, SPAN)
            pull = tl.trans(tl.load(d_products + place, mask=exists & decayed, other=0.0))
            found += pull * decay_rows(x, tile, start + t, 1, K, SPAN) * tl.exp(gap)
        decay_store(d_early, -found * decay_rows(y, tile, start, 16, K, SPAN), tile, start, K, SPAN)
        if STRICT <= LAG:
            ask = decay_rows(x, tile, start + LAG, 16, K, SPAN)
            found += decay_free(d_products, tile, start + LAG, LAG, SPAN) * ask
        decay_store(d_y, found, tile, start, K, SPAN)

    def decay_options(x: Tensor, lag: int, strict: bool) -> tuple[tuple[int, int], dict[str, object]]:
        """Programs of both kernels, and what they take at compile time."""
        tiles, pairs, span, key = x.shape
        sizes = {"K": key, "SPAN": span, "LAG": lag, "STRICT": int(strict), "PRECISION": precision()}
        return (tiles * pairs, -(-span // 16)), sizes | {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}

    def decay_products(x: Tensor, y: Tensor, a: Tensor, lag: int, strict: bool) -> Tensor:
        """A, zero above the diagonal; `strict`: zero on it, too. Blocks are multiplied in the type of x."""
        products = torch.zeros_like(decay_shapes(x, y, a, lag, strict))
        x, y, a = (b.contiguous() for b in (x, y, a))
        grid, options = decay_options(x, lag, strict)
        with torch.cuda.device_of(x):  # Triton launches on the current device, whatever the tensors' is
            decay_forward[grid](x, y, a, products, **options)
        return products

    def decay_shapes(x: Tensor, y, a: Tensor, lag, strict) -> Tensor:
        """An empty output of `decay_products`."""
        return a.new_empty(*x.shape[:3], x.shape[2])

    def decay_pull(
        x: Tensor, y: Tensor, a: Tensor, d_products: Tensor, lag: int, strict: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the three tensors of `decay_products`."""
        dx, dy, d_early = decay_gradient_shapes(x, y, a, d_products, lag, strict)
        d_late = torch.zeros_like(d_early)
        x, y, a, d_products = (b.contiguous() for b in (x, y, a, d_products))
        grid, options = decay_options(x, lag, strict)
        with torch.cuda.device_of(x):
            decay_backward[grid](x, y, a, d_products, dx, dy, d_late, d_early, **options)
        return dx, dy, (d_late + d_early).flip(-2).cumsum(-2).flip(-2)

    def decay_gradient_shapes(
        x: Tensor, y: Tensor, a: Tensor, d_products, lag, strict
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Empty outputs of `decay_pull`."""
        return x.new_empty(x.shape), y.new_empty(y.shape), a.new_empty(a.shape)

    def decay_setup(ctx, inputs, output) -> None:
        """Keep the tensors."""
        ctx.save_for_backward(*inputs[:3])
        ctx.kind = inputs[3:]

    def decay_autograd(ctx, d_products: Tensor):
        """From the gradient of A to those of the tensors."""
        return (*DECAYED_BACKWARD(*ctx.saved_tensors, d_products, *ctx.kind), None, None)

    def decay_applied(products: Tensor, y: Tensor, a: Tensor, lag: int, strict: bool) -> Tensor:
        """z_t = sum_i A_ti y_i, every channel of y decayed as above; blocks are multiplied in the type of y."""
        z = decay_applied_shapes(products, y, a, lag, strict)
        products, y, a = (b.contiguous() for b in (products, y, a))
        grid, options = decay_options(y, lag, strict)
        with torch.cuda.device_of(y):
            decay_apply[grid](products, y, a, z, **options)
        return z

    def decay_applied_shapes(products: Tensor, y: Tensor, a: Tensor, lag, strict) -> Tensor:
        """An empty output of `decay_applied`."""
        return products.new_empty(y.shape)

    def decay_applied_autograd(ctx, dz: Tensor):
        """The form is linear in A, y and z: their gradients are one another's products."""
        products, y, a = ctx.saved_tensors
        dz = dz.to(y.dtype)
        _, dy, da = DECAYED_BACKWARD(dz, y, a, products, *ctx.kind)
        return DECAYED(dz, y, a, *ctx.kind), dy, da, None, None

    DECAYED_BACKWARD = operator("decayed_backward", decay_pull, decay_gradient_shapes)
    DECAYED = operator("decayed", decay_products, decay_shapes, decay_autograd, decay_setup)
    APPLIED = operator("applied", decay_applied, decay_applied_shapes, decay_applied_autograd, decay_setup)
