# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""What the Triton families share: tiles in memory, compile-time options, and operators.

Shape legend: a chunk is `SPAN` tokens, held in `ROWS` rows of a tile; arrays of tokens are `[chunks, SPAN, SIZE]`, of
weights `[matrices, OUT, IN]`.
"""

import torch
from torch import Tensor

from miras_search.codegen.skeletons.layout import Layout, plan_layout, to_slots, to_tokens
from miras_search.codegen.skeletons.slots import CHUNK
from miras_search.codegen.skeletons.triton_slots import STRUCTURE

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_slots import OFFSET

    @triton.jit
    def load_rows(x, chunk, first, SIZE: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr):
        """Columns `first` to `first + WIDTH` of a chunk's tokens; rows beyond the chunk are zero."""
        rows = tl.arange(0, ROWS)
        place = (chunk * SPAN + rows)[:, None] * SIZE + first + tl.arange(0, WIDTH)[None, :]
        return tl.load(x + place, mask=(rows < SPAN)[:, None], other=0.0)

    @triton.jit
    def store_rows(
        x, value, chunk, first, SIZE: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr
    ):
        """The inverse of `load_rows`."""
        rows = tl.arange(0, ROWS)
        place = (chunk * SPAN + rows)[:, None] * SIZE + first + tl.arange(0, WIDTH)[None, :]
        tl.store(x + place, value.to(x.dtype.element_ty), mask=(rows < SPAN)[:, None])

    @triton.jit
    def load_gate(x, chunk, OTHER: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr):
        """One number a token, `[ROWS]`; `OTHER` beyond the chunk."""
        rows = tl.arange(0, ROWS)
        return tl.load(x + chunk * SPAN + rows, mask=rows < SPAN, other=OTHER)

    @triton.jit
    def store_gate(x, value, chunk, SPAN: tl.constexpr, ROWS: tl.constexpr):
        """The inverse of `load_gate`."""
        rows = tl.arange(0, ROWS)
        tl.store(x + chunk * SPAN + rows, value, mask=rows < SPAN)

    @triton.jit
    def pair_places(chunk, SPAN: tl.constexpr, ROWS: tl.constexpr):
        """Places of a chunk's numbers for pairs of tokens, `[chunks, SPAN, SPAN]`, and which exist."""
        rows = tl.arange(0, ROWS)
        place = (chunk * SPAN + rows)[:, None] * SPAN + rows[None, :]
        return place, (rows < SPAN)[:, None] & (rows < SPAN)[None, :]

    @triton.jit
    def weight_places(index, out, inner, OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
        """Places of the tile `[ROWS, WIDTH]` at (out, inner) of the index-th matrix `[OUT, IN]`."""
        rows = (index * OUT + out + tl.arange(0, ROWS))[:, None]
        if OFFSET:
            return rows * IN + inner + tl.arange(0, WIDTH)[None, :] + index * OUT
        return rows * IN + inner + tl.arange(0, WIDTH)[None, :]

    @triton.jit
    def offset_places(index, out, OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr):
        """Places of the offsets of some outputs, which lie behind the index-th matrix, `[ROWS]`."""
        return (index + 1) * (OUT * IN) + index * OUT + out + tl.arange(0, ROWS)

    @triton.jit
    def tile_total(x):
        """The sum over a matrix, `[1, 1]`."""
        return tl.sum(tl.sum(x, axis=1, keep_dims=True), axis=0, keep_dims=True)

    @triton.jit
    def place_total(x, place: tl.constexpr):
        """The sum x `[1, 1]` at a place of a row of sums, `[1, 8]`."""
        return tl.where(tl.arange(0, 8)[None, :] == place, x, 0.0)

    @triton.jit
    def pick_total(totals, place: tl.constexpr):
        """The inverse of `place_total`."""
        return tl.sum(tl.where(tl.arange(0, 8)[None, :] == place, totals, 0.0), axis=1, keep_dims=True)

    @triton.jit
    def tile_tanh(x):
        """tanh by an exponential that cannot overflow."""
        e = tl.exp(-2.0 * tl.abs(x))
        t = (1.0 - e) / (1.0 + e)
        return tl.where(x < 0.0, -t, t)

    @triton.jit
    def tile_sigmoid(x):
        """The logistic function by an exponential that cannot overflow."""
        e = tl.exp(-tl.abs(x))
        return tl.where(x < 0.0, e / (1.0 + e), 1.0 / (1.0 + e))

    def rows_of(span: int) -> int:
        """Rows of a tile that holds a chunk: a power of two that a matrix product takes."""
        return max(16, 1 << (span - 1).bit_length())

    def device_major(x: Tensor) -> int:
        """The compute capability that kernels on x are compiled for; Hopper's without a GPU."""
        if x.is_cuda:
            return torch.cuda.get_device_properties(x.device).major
        return 9

    def free_tile(x: Tensor) -> int:
        """Tokens of a tile whose size the design leaves open; before Hopper 64 rows do not fit into registers."""
        if device_major(x) < 9:
            return 32
        return 64

    def precision() -> str:
        """How float32 is multiplied: on tensor cores by three products of tf32, which keeps float32's accuracy."""
        return "ieee" if torch.version.hip else "tf32x3"

    def operator(name: str, function, shapes, autograd=None, setup=None):
        """An operator that torch.compile takes as one piece.

        Designs that differ in numbers alone share it; a second registration would leave the first a dangling handle.
        """
        namespace = getattr(torch.ops, f"miras_{STRUCTURE}")
        if not hasattr(namespace, name):
            made = torch.library.custom_op(f"miras_{STRUCTURE}::{name}", function, mutates_args=())
            made.register_fake(shapes)
            if autograd is not None:
                made.register_autograd(autograd, setup_context=setup)
        return getattr(namespace, name).default


def plan_tiles(k: Tensor, span: int, reset: Tensor | None, valid: Tensor | None) -> tuple[Layout | None, int, Tensor]:
    """The grid of a call on keys `[B, T, H, K]`: its layout, tokens a tile, and `[N, P]` int32, 1 where a document starts.

    Without masks the tiles have `span` tokens and no layout; else a document starts a tile of the layout's grid.
    """
    batch, time, heads = k.shape[:3]
    if reset is None and valid is None:
        return None, span, torch.zeros(-(-time // span), batch * heads, dtype=torch.int32, device=k.device)
    layout = plan_layout(time, torch.zeros(batch, dtype=torch.long, device=k.device), reset, valid)
    marks = torch.zeros(layout.chunks, batch, dtype=torch.int32, device=k.device)
    if layout.fresh is not None:
        marks += layout.fresh.mT
    return layout, CHUNK, marks.repeat_interleave(heads, 1)


def to_tiles(x: Tensor, layout: Layout | None, tiles: int, span: int) -> Tensor:
    """`[B, T, H, ...]` -> `[N, P, C, ...]`."""
    return to_chunks(x if layout is None else to_slots(x, layout), tiles, span)


def from_tiles(z: Tensor, like: Tensor, layout: Layout | None, valid: Tensor | None) -> Tensor:
    """`[N, P, C, V]` -> `[B, T, H, V]`, in the sizes and the type of `like`."""
    batch, time, heads = like.shape[:3]
    y = z.unflatten(1, (batch, heads)).permute(1, 0, 3, 2, 4).flatten(1, 2)
    y = y[:, :time] if layout is None else to_tokens(y, layout, valid)
    return y.to(like.dtype)


def to_chunks(x: Tensor, chunks: int, span: int) -> Tensor:
    """`[B, S, H, ...]` -> `[N, P, C, ...]` with P = B * H, and empty slots at the end."""
    missing = chunks * span - x.shape[1]
    x = torch.nn.functional.pad(x, [0, 0] * (x.ndim - 2) + [0, missing])
    x = x.unflatten(1, (chunks, span)).permute(1, 0, 3, 2, *range(4, x.ndim + 1))
    return x.flatten(1, 2).contiguous()
