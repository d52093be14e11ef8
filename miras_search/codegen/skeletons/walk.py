"""The memory over a sequence by chunks whose backward is written out (`derived`): rows in groups that stay in cache, gates of
many chunks at once, only the states at chunk starts kept.

Shape legend: B batch, H heads, S slots, N chunks of a span, C tokens a chunk, G rows (batch times heads) of a group.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from miras_search.codegen.skeletons.chunk import open_chunk
from miras_search.codegen.skeletons.derived import dual_backward, dual_forward, gate_products
from miras_search.codegen.skeletons.layout import Layout, Span, blocks, full_precision, spans, split_groups, unblock
from miras_search.codegen.skeletons.scan import scan_backward, scan_forward, scan_products
from miras_search.codegen.skeletons.slots import CHUNK, CHUNKED, LAYERS, MIRROR, MOMENTUM, SCAN, TILE

GATED = (3, 4, 6) if MOMENTUM else (3, 4)
"""Places among the tokens of log_alpha, eta and log_mu."""


def many_chunks(rows: int) -> int:
    """Chunks whose gate products, `[N, rows, C, C]`, stay small."""
    return max(1, 16 * TILE // (rows * CHUNK * CHUNK))


def row_groups(carry: list[Tensor], tokens: list[Tensor]) -> Iterator[slice]:
    """Batch rows in groups whose largest activation, or matrices where a scan forms them, have about TILE numbers."""
    batch, heads, slots = tokens[0].shape[:3]
    if SCAN:
        widest = max(s.shape[-2] * s.shape[-1] for s in carry[:LAYERS])
    else:
        widest = max(max(s.shape[-2:]) for s in carry[:LAYERS]) * min(CHUNK, slots)
    size = max(1, TILE // (heads * widest))
    for start in range(0, batch, size):
        yield slice(start, min(batch, start + size))


def span_gates(layout: Layout, rows: slice, parts: list[Tensor], span: Span) -> list[Tensor]:
    """The gate products of a span."""
    log_mu = parts[4]
    filled = None
    if MOMENTUM:
        log_mu = parts[6]
        if layout.filled is not None:
            given = layout.filled[rows, None]
            filled = blocks(given.expand(-1, parts[3].shape[1] // given.shape[0], -1), span)
    if SCAN:
        return scan_products(parts[3], parts[4], log_mu, filled)
    return gate_products(parts[3], parts[4], log_mu, filled)


def forward_chunk(*parts: Any) -> Tensor:
    """One chunk by the way of this design."""
    if SCAN:
        return scan_forward(*parts)
    return dual_forward(*parts)


def backward_chunk(*parts: Any) -> list[Tensor]:
    """Its pull-back."""
    if SCAN:
        return scan_backward(*parts)
    return dual_backward(*parts)


def opened_parts(opened: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """States, momenta, frozen weights and scales of an opened chunk, `[G, out, in]`."""
    flat = [x.flatten(0, 1) for x in opened]
    states, rest = flat[:LAYERS], flat[LAYERS:]
    momenta: list[Tensor] = []
    if MOMENTUM:
        momenta, rest = rest[:LAYERS], rest[LAYERS:]
    if CHUNKED:
        frozen = rest[:LAYERS]
    else:
        frozen = states
    return states, momenta, frozen, rest[LAYERS:]


def opened_chunk(layout: Layout, at: int, rows: slice, carry: list[Tensor], initial: list[Tensor]) -> list[Tensor]:
    """`open_chunk` of some rows."""
    opens = None if layout.opens is None else layout.opens[rows, at]
    fresh = None if layout.fresh is None else layout.fresh[rows, at]
    return open_chunk(carry, initial, opens, fresh)


def folded(norm: list[Tensor], rows: slice) -> list[Tensor]:
    """The affine of the LayerNorm for every row of a group, `[G, 1, V]`."""
    return [x.expand(rows.stop - rows.start, *x.shape).flatten(0, 1) for x in norm]


class Walk(torch.autograd.Function):
    """All chunks; the arguments of `Recurrence`."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, sizes: tuple[int, int, int, int], *flat: Tensor) -> tuple[Tensor, ...]:
        """Run the chunks and keep the carry at the start of each; of frozen weights only where rows are inside a chunk."""
        carry, tokens, initial, norm = split_groups(flat, sizes)
        batch, heads, slots = tokens[0].shape[:3]
        moving = 2 * LAYERS if MOMENTUM else LAYERS
        kept = moving if layout.opens is None else len(carry)
        starts = [x.new_empty(layout.chunks + 1, *x.shape) for x in carry[:kept]]
        for s, x in zip(starts, carry, strict=False):
            s[0] = x
        out = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in carry]
        y = tokens[0].new_empty(batch, heads, slots, tokens[2].shape[-1])
        for rows in row_groups(carry, tokens):
            group, first, affine = [x[rows] for x in tokens], [x[rows] for x in initial], folded(norm, rows)
            for span in spans(slots, many_chunks(group[0].shape[0] * heads)):
                parts = [blocks(x, span) for x in group]
                products = span_gates(layout, rows, parts, span)
                answers = []
                for n in range(span.chunks):
                    at = span.first + n
                    opened = opened_chunk(layout, at, rows, [s[at, rows] for s in starts], first)
                    into = [s[at + 1, rows].flatten(0, 1) for s in starts[:moving]]
                    now = [parts[0][n], parts[1][n], parts[2][n], parts[5][n][..., None]]
                    answers.append(forward_chunk(*opened_parts(opened), now, [x[n] for x in products], affine, into))
                    for s, x in zip(starts[moving:], opened[moving:], strict=False):
                        s[at + 1, rows] = x
                unblock(y[rows], torch.stack(answers), span)
            for o, x in zip(out, [s[-1, rows] for s in starts[:moving]] + opened[moving:], strict=True):
                o[rows] = x
        ctx.layout, ctx.sizes, ctx.kept = layout, sizes, kept
        ctx.save_for_backward(*starts, *flat[sizes[0] :])
        return (y, *out)

    @staticmethod
    @full_precision
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, *dcarry: Tensor) -> tuple[Any, ...]:
        """Walk back over the chunks; each is recomputed from its start."""
        layout, saved = ctx.layout, ctx.saved_tensors
        starts = saved[: ctx.kept]
        _, tokens, initial, norm = split_groups(saved[ctx.kept :], (0, *ctx.sizes[1:]))
        heads, slots = tokens[0].shape[1:3]
        dtokens = [torch.zeros_like(x) for x in tokens]
        din = [torch.zeros_like(d) for d in dcarry]
        dinitial = [torch.zeros_like(x) for x in initial]
        dnorm = [torch.zeros_like(x) for x in norm]
        # Where every chunk opens anew and W = S, the frozen weights are the states, and so are their gradients.
        same = layout.opens is None and not MIRROR
        for rows in row_groups([s[0] for s in starts], tokens):
            group, first, affine = [x[rows] for x in tokens], [x[rows] for x in initial], folded(norm, rows)
            daffine = [torch.zeros_like(x) for x in affine]
            d = [x[rows].clone(memory_format=torch.contiguous_format) for x in dcarry]
            for span in reversed(spans(slots, many_chunks(group[0].shape[0] * heads))):
                parts = [blocks(x, span).detach() for x in group]
                dys = blocks(dy[rows], span)
                leaves = [parts[i].requires_grad_() for i in GATED]
                with torch.enable_grad():
                    recorded = span_gates(layout, rows, parts, span)
                products = [x.detach() for x in recorded]
                dproducts = [torch.zeros_like(x) for x in products]
                found = []
                for n in range(span.chunks - 1, -1, -1):
                    at = span.first + n
                    carry = [s[at, rows] for s in starts]
                    if not same:
                        carry = [x.requires_grad_() for x in carry]
                        first = [x.detach().requires_grad_() for x in first]
                    with torch.set_grad_enabled(not same):
                        opened = opened_chunk(layout, at, rows, carry, first)
                    states, momenta, frozen, scales = opened_parts([x.detach() for x in opened])
                    dstates, dmomenta, dfrozen, dscales = opened_parts(d)
                    now = [parts[0][n], parts[1][n], parts[2][n], parts[5][n][..., None]]
                    found.append(
                        backward_chunk(
                            states,
                            momenta,
                            frozen,
                            scales,
                            now,
                            [x[n] for x in products],
                            affine,
                            dys[n],
                            dstates,
                            dmomenta,
                            dstates if same else dfrozen,
                            dscales,
                            [x[n] for x in dproducts],
                            daffine,
                        )
                    )
                    if same and CHUNKED and at == layout.chunks - 1:
                        for s, x in zip(dstates, dfrozen, strict=True):
                            s.add_(x)
                    if not same:
                        grads = torch.autograd.grad(opened, [*carry, *first], d, allow_unused=True)
                        for i, x in enumerate(d):
                            g = grads[i] if i < len(carry) else None
                            d[i] = torch.zeros_like(x) if g is None else g.contiguous()
                        for x, g in zip(dinitial, grads[len(carry) :], strict=True):
                            if g is not None:
                                x[rows] += g
                for into, *part in zip([dtokens[i] for i in (0, 1, 2, 5)], *reversed(found), strict=True):
                    unblock(into[rows], torch.stack(part), span)
                pairs = [(x, d) for x, d in zip(recorded, dproducts, strict=True) if x.requires_grad]
                grads = torch.autograd.grad([x for x, _ in pairs], leaves, [d for _, d in pairs], allow_unused=True)
                for i, g in zip(GATED, grads, strict=True):
                    if g is not None:
                        unblock(dtokens[i][rows], g, span)
            for x, g in zip(din, d, strict=True):
                x[rows] = g
            for x, g in zip(dnorm, daffine, strict=True):
                x += g.view(-1, *x.shape).sum(0)
        return (None, None, *din, *dtokens, *dinitial, *dnorm)
