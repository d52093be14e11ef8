# ruff: noqa: F401
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The dense family in Triton, seen from torch: one or two linear maps, any bias, any mirror map, momentum, masks.

Gates become numbers a chunk (`write_strengths`) and the head is applied outside, both by torch, whose autograd they keep. The
kernels run `SEGMENT` chunks at a time; only the states at segment starts are kept for the backward, which runs the
segments again from the last to the first.

Shape legend: N chunks, P pairs of batch and head, C tokens a chunk; tokens `[N, P, C, dim]`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.chunk import write_strengths
from miras_search.codegen.skeletons.dense import head
from miras_search.codegen.skeletons.layout import plan_layout, to_slots, to_tokens
from miras_search.codegen.skeletons.slots import (
    CHUNK,
    CHUNKED,
    LAYERS,
    MIRROR,
    MOMENTUM,
    NORM,
    OFFSET,
    READ,
    SCAN,
    THRESHOLDED,
    retention_psi,
    retention_scale,
)
from miras_search.codegen.skeletons.triton_slots import ROWWISE, TILE_NUMBERS, WHOLE
from miras_search.codegen.skeletons.triton_tiles import to_chunks

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_dense_read import dense_backward_read, dense_forward_read
    from miras_search.codegen.skeletons.triton_dense_scan import dense_backward_scan, dense_forward_scan
    from miras_search.codegen.skeletons.triton_dense_state import (
        dense_forward_state,
    )
    from miras_search.codegen.skeletons.triton_dense_state_back import (
        dense_backward_state,
        dense_backward_write,
    )
    from miras_search.codegen.skeletons.triton_slots import TOTALS
    from miras_search.codegen.skeletons.triton_tiles import operator, precision, rows_of

    def dense_height(out: int, inner: int) -> int:
        """Rows of a matrix that a mirror map takes at once: all if it must, else a tile of 4096 numbers."""
        if WHOLE:
            return out
        return min(out, max(16, 4096 // inner))

    def dense_width(inner: int) -> int:
        """Columns that an exact read takes at once: whole rows if the map sums over them."""
        if ROWWISE:
            return inner
        return min(inner, 64)

    def dense_segment(pairs: int, chunks: int) -> int:
        """Chunks a segment: enough to fill a GPU, and a buffer of some 4000 states."""
        return min(chunks, max(8, 4096 // pairs))

    class DenseSegment:
        """Buffers of a segment of chunks, and the kernels on them; `carry`: states, then momenta, `[P, out, in]`."""

        def __init__(self, tokens, norm, carry, first, numbers, span: slice) -> None:
            self.q, self.k, self.v, self.delta, marks, strength, held, *rest = (x[span].contiguous() for x in tokens)
            if not MOMENTUM:
                rest = [held, held, held]
            self.gates = [strength, held, *rest, marks]
            if NORM:
                self.norm = [x.contiguous() for x in norm]
            else:
                self.norm = [held, held]
            self.first, self.numbers = [x.contiguous() for x in first], tuple(numbers)
            self.chunks, self.count = self.k.shape[:2]
            self.shapes = [tuple(x.shape[1:]) for x in first]
            if OFFSET:
                self.shapes = [(out, inner - 1) for out, inner in self.shapes]
            starts = [self.weights(x, 1) for x in carry]
            for start, x in zip(starts, carry, strict=True):
                start[0] = x
            self.states, self.momenta = starts[:LAYERS], starts[LAYERS:] or starts[:LAYERS]
            self.frozen = self.states
            if MIRROR:
                self.frozen = [self.weights(x, 1) for x in first]
            self.scales = [self.numbers_of(1) for _ in first]
            self.g = [self.rows(out) for out, _ in self.shapes]
            self.out = self.rows(self.shapes[-1][0])
            self.z = self.out if LAYERS == 1 else self.rows(self.shapes[0][0])

        def weights(self, x: Tensor, more: int = 0):
            """A matrix for every chunk, and `more`."""
            return x.new_empty(self.chunks + more, self.count, *x.shape[1:])

        def rows(self, size: int):
            """A row for every token."""
            return self.delta.new_empty(*self.delta.shape, size)

        def numbers_of(self, size: int):
            """Some numbers for every chunk."""
            return self.delta.new_empty(self.chunks, self.count, size)

        @property
        def sizes(self) -> dict[str, object]:
            """What all kernels take at compile time."""
            return {
                "SPAN": CHUNK,
                "ROWS": rows_of(CHUNK),
                "PRECISION": precision(),
                "num_stages": 1,
                "enable_fp_fusion": True,
            }

        @property
        def dims(self) -> dict[str, object]:
            """What the kernels on whole memories take."""
            hidden = self.shapes[0][0]
            # A map of the whole matrix holds it in registers.
            warps = 4
            if WHOLE:
                warps = 8
            return self.sizes | {
                "K": self.k.shape[-1],
                "V": self.v.shape[-1],
                "HIDDEN": hidden,
                "BLOCK": min(hidden, 32),
                "num_warps": warps,
            }

        def heights(self) -> dict[str, object]:
            """Rows of each matrix that its mirror map takes at once."""
            return {f"HEIGHT_{i}": dense_height(*self.shapes[-i]) for i in range(2)}

        def layer(self, i: int, block: int) -> dict[str, object]:
            """What the kernels on one layer take."""
            out, inner = self.shapes[i]
            own: dict[str, object] = {"IN": inner, "OUT": out, "ACTIVATED": i > 0}
            if not SCAN:
                return own | {"BLOCK_IN": min(inner, block), "BLOCK_OUT": min(out, block), "num_warps": 4}
            width = dense_width(inner)
            tile = {"HEIGHT": dense_height(out, width), "WIDTH": width}
            return own | tile | {"num_warps": 16 if out * inner > 64 * 64 and WHOLE else 8}

        def forward_state(self) -> list[Tensor]:
            """Run over the segment's chunks; returns the carry after it."""
            dense_forward_state[(self.count,)](
                self.k, self.v, self.delta, *self.norm, *self.gates, self.first[0], self.first[-1],
                self.states[0], self.states[-1], self.momenta[0], self.momenta[-1], self.frozen[0], self.frozen[-1],
                self.scales[0], self.scales[-1], self.z, self.g[0], self.g[-1], self.out,
                self.numbers, self.count, self.chunks, **self.dims, **self.heights(),
            )  # fmt: skip
            return [x[-1] for x in (self.states + self.momenta if MOMENTUM else self.states)]

        def forward_read(self) -> None:
            """Answer the queries, layer by layer."""
            strength, held, carried = self.gates[:3]
            asked, seen = self.q, self.k
            self.answers = []
            for i in range(LAYERS):
                out = self.shapes[i][0]
                z = self.rows(out)
                options = self.sizes | self.layer(i, 64)
                if SCAN:
                    tiles = out // options["HEIGHT"]
                    if TOTALS:
                        tiles = 1
                    dense_forward_scan[(self.chunks * self.count, tiles)](
                        asked, seen, self.g[i], self.states[i], self.momenta[i], strength, held, carried, z,
                        self.numbers, **options,
                    )  # fmt: skip
                else:
                    dense_forward_read[(self.chunks * self.count, out // options["BLOCK_OUT"])](
                        asked, seen, self.g[i], self.frozen[i], self.momenta[i], self.scales[i], strength, held, carried,
                        z, self.k, self.numbers, **options,
                    )  # fmt: skip
                self.answers.append(z)
                asked, seen = z, self.z

        def backward(self, dy: Tensor, dcarry, dopened, found, dfirst, dnorm) -> list[Tensor]:
            """From the gradients of answers and carry after the segment to those of the carry before it.

            `found`: gradients of the tokens, filled in; `dfirst` and `dnorm` are added to.
            """
            dq, dk, dv, ddelta, dstrength, dheld, *rest = found
            if not MOMENTUM:
                rest = [dheld, dheld, dheld]
            dcarried, dimpulse, dkept = rest
            strength, held, carried, impulse, _, _ = self.gates
            dg = [torch.empty_like(x) for x in self.g]
            read = [self.weights(x) for x in self.first]
            flow = [self.weights(x) for x in self.first] if MOMENTUM else read
            dfrozen = [self.weights(x) for x in self.first] if MIRROR else read
            dscales = [torch.empty_like(x) for x in self.scales]
            dk_read = torch.empty_like(self.k, dtype=torch.float32)
            dx = torch.empty_like(self.z)
            for i in reversed(range(LAYERS)):
                asked, seen = (self.answers[i - 1], self.z) if i else (self.q, self.k)
                before = torch.empty_like(asked) if i else dq
                if SCAN:
                    before = torch.empty_like(asked, dtype=torch.float32)
                dseen = dx if i else dk_read
                own = (asked, seen, self.g[i])
                gates = (strength, held, carried, dy)
                numbers = (dstrength, dheld, dcarried, self.numbers)
                options = self.sizes | self.layer(i, 32)
                grid = (self.chunks * self.count,)
                if SCAN:
                    dense_backward_scan[grid](
                        *own, self.states[i], self.momenta[i], *gates, before, dseen, dg[i], read[i], flow[i],
                        *numbers, **options,
                    )  # fmt: skip
                else:
                    dense_backward_read[grid](
                        *own, self.frozen[i], self.momenta[i], self.scales[i], *gates, self.k, before, dseen, dg[i],
                        dfrozen[i], flow[i], dscales[i], *numbers, **options,
                    )  # fmt: skip
                dy = before
            if SCAN:
                dq.copy_(before)
            after = [self.weights(x, 1) for x in dcarry]
            for a, d in zip(after, dcarry, strict=True):
                a[-1] = d
            dstates, dmomenta = after[:LAYERS], after[LAYERS:] or after[:LAYERS]
            if not dopened:
                dopened = dstates
            if not dnorm:
                dnorm = [dheld, dheld]
            dpre = torch.empty_like(self.z)
            dr = torch.empty_like(self.out)
            dense_backward_state[(self.count,)](
                self.k, self.v, self.delta, *self.norm, *self.gates, self.z, self.g[-1], self.out,
                self.states[0], self.states[-1], self.frozen[0], self.frozen[-1],
                dstates[0], dstates[-1], dmomenta[0], dmomenta[-1], read[0], read[-1], flow[0], flow[-1],
                dfrozen[0], dfrozen[-1], dscales[0], dscales[-1], dopened[0], dopened[-1], dfirst[0], dfirst[-1],
                dg[0], dg[-1], dx, dpre, dr, dv, ddelta, *dnorm, self.numbers, self.count, self.chunks,
                **self.dims | {"num_warps": 8}, **self.heights(),
            )  # fmt: skip
            dense_backward_write[(self.chunks * self.count,)](
                self.k, strength, held, impulse, self.z, self.g[0], self.g[-1], self.states[0], self.states[-1],
                self.momenta[0], self.momenta[-1], self.frozen[0], dstates[0], dstates[-1], dmomenta[0], dmomenta[-1],
                dpre, dr, dk_read, dk, dstrength, dheld, dcarried, dimpulse, dkept, self.numbers, self.count,
                **self.dims,
            )  # fmt: skip
            return [x[0] for x in after]

    def dense_spans(tokens: list[Tensor]) -> list[slice]:
        """The segments of a call."""
        chunks, pairs = tokens[0].shape[:2]
        size = dense_segment(pairs, chunks)
        return [slice(n, min(n + size, chunks)) for n in range(0, chunks, size)]

    def dense_forward(
        tokens: list[Tensor], norm: list[Tensor], carry: list[Tensor], first: list[Tensor], numbers: list[float]
    ) -> list[Tensor]:
        """The answers before the head, the carry after the call, the states that the last chunk froze, and checkpoints.

        Args:
            tokens: q, k, v, delta, marks (1: a document starts, 2: the last chunk that opens), strength, held, and
                with momentum carried, impulse, kept.
            norm: the LayerNorm's affine a pair, `[P, V]` each, or nothing.
            carry: states, then momenta, `[P, out, in]`.
            first: states of a new document.
            numbers: of the formulas.
        """
        spans = dense_spans(tokens)
        z, *rest = dense_shapes(tokens, norm, carry, first, numbers)
        count = LAYERS if CHUNKED else 0
        opened, checkpoints = rest[len(carry) : len(carry) + count], rest[len(carry) + count :]
        pairs = torch.arange(z.shape[1], device=z.device)
        with torch.cuda.device_of(z):  # Triton launches on the current device, whatever the tensors' is
            for i, span in enumerate(spans):
                for saved, x in zip(checkpoints, carry, strict=True):
                    saved[i] = x
                segment = DenseSegment(tokens, norm, carry, first, numbers, span)
                carry = segment.forward_state()
                segment.forward_read()
                z[span] = segment.answers[-1]
                last = tokens[4][span] >= 2
                for x, states in zip(opened, segment.states, strict=False):
                    chosen = states[last.int().argmax(0), pairs]
                    x.copy_(torch.where(last.any(0)[:, None, None], chosen, chosen if i == 0 else x))
        return [z, *(x.clone() for x in carry), *opened, *checkpoints]

    def dense_shapes(tokens, norm, carry: list[Tensor], first, numbers) -> list[Tensor]:
        """Empty outputs of `dense_forward`."""
        z = carry[0].new_empty(tokens[2].shape)
        count = len(dense_spans(tokens))
        opened = [x.new_empty(x.shape) for x in first] if CHUNKED else []
        checkpoints = [x.new_empty(count, *x.shape) for x in carry]
        return [z, *(x.new_empty(x.shape) for x in carry), *opened, *checkpoints]

    def dense_backward(
        tokens: list[Tensor],
        norm: list[Tensor],
        first: list[Tensor],
        checkpoints: list[Tensor],
        dz: Tensor,
        dcarry: list[Tensor],
        dopened: list[Tensor],
        numbers: list[float],
    ) -> list[Tensor]:
        """Gradients of all tokens but the marks, of norm, carry and first, in this order."""
        grads = dense_gradient_shapes(tokens, norm, first, checkpoints, dz, dcarry, dopened, numbers)
        count = len(tokens) - 1
        found, dnorm, dfirst = grads[:count], grads[count : count + len(norm)], grads[len(grads) - len(first) :]
        for x in dnorm + dfirst:
            x.zero_()
        spans = dense_spans(tokens)
        with torch.cuda.device_of(dz):
            for i in reversed(range(len(spans))):
                carry = [x[i] for x in checkpoints]
                segment = DenseSegment(tokens, norm, carry, first, numbers, spans[i])
                segment.forward_state()
                segment.forward_read()
                part = [x[spans[i]] for x in found]
                dcarry = segment.backward(dz[spans[i]].contiguous(), dcarry, dopened, part, dfirst, dnorm)
        return [*found, *dnorm, *(x.clone() for x in dcarry), *dfirst]

    def dense_gradient_shapes(tokens, norm, first, checkpoints, dz, dcarry, dopened, numbers) -> list[Tensor]:
        """Empty outputs of `dense_backward`."""
        given = [*tokens[:4], *tokens[5:], *norm, *dcarry, *first]
        return [x.new_empty(x.shape) for x in given]

    def dense_setup(ctx, inputs, output) -> None:
        """Keep what the backward needs: the inputs and the states at segment starts."""
        tokens, norm, carry, first, numbers = inputs
        ctx.numbers, ctx.sizes = numbers, (len(tokens), len(norm), len(carry), len(first))
        ctx.save_for_backward(*tokens, *norm, *first, *output[len(output) - len(carry) :])
        ctx.shapes = [x.shape for x in output]
        ctx.set_materialize_grads(False)

    def dense_autograd(ctx, grads):
        """From the gradients of the outputs to those of the inputs."""
        counts = ctx.sizes
        saved = list(ctx.saved_tensors)
        tokens, saved = saved[: counts[0]], saved[counts[0] :]
        norm, saved = saved[: counts[1]], saved[counts[1] :]
        first, checkpoints = saved[: counts[3]], saved[counts[3] :]
        filled = [
            checkpoints[0].new_zeros(shape) if d is None else d.contiguous()
            for d, shape in zip(grads, ctx.shapes[: len(grads) - counts[2]], strict=False)
        ]
        dz, dcarry, dopened = filled[0], filled[1 : 1 + counts[2]], filled[1 + counts[2] :]
        out = DENSE_BACKWARD(tokens, norm, first, checkpoints, dz, dcarry, dopened, ctx.numbers)
        dtokens, out = [*out[:4], None, *out[4 : counts[0] - 1]], out[counts[0] - 1 :]
        dnorm, out = out[: counts[1]], out[counts[1] :]
        return dtokens, dnorm, out[: counts[2]], out[counts[2] :], None

    DENSE_BACKWARD = operator("dense_backward", dense_backward, dense_gradient_shapes)
    DENSE = operator("dense", dense_forward, dense_shapes, dense_autograd, dense_setup)


def beside_offsets(x: Tensor) -> Tensor:
    """As the kernels want it: of every `[out, in + 1]` the matrix, and behind it its last column."""
    return torch.cat([x[..., :-1].flatten(-2), x[..., -1]], -1).view(x.shape)


def with_offsets(x: Tensor) -> Tensor:
    """The inverse of `beside_offsets`."""
    out, inner = x.shape[-2:]
    matrix, column = x.flatten(-2).split([out * (inner - 1), out], -1)
    return torch.cat([matrix.unflatten(-1, (out, inner - 1)), column[..., None]], -1)


def triton_dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    reset: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`memory` on the kernels, for calls that `triton_refusal` does not refuse; same arguments, same returns."""
    with torch.autocast(q.device.type, enabled=False):
        return dense_call(q, k, v, gates, initial, state, reset, valid)


def dense_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None,
    reset: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """In float32: what gates make of a chunk, the kernels, the head, and the answers in their places."""
    batch, time, heads = k.shape[:3]
    position = torch.zeros(batch, dtype=torch.long, device=q.device)
    masked = reset is not None or valid is not None
    layout = None
    chunks = -(-time // CHUNK)
    filled = torch.ones(batch, time, 1, dtype=torch.bool, device=q.device)
    if masked:
        layout = plan_layout(time, position, reset, valid)
        chunks = layout.chunks
        if layout.filled is not None:
            filled = layout.filled[..., None]

    def arrange(x: Tensor) -> Tensor:
        return to_chunks(x if layout is None else to_slots(x, layout), chunks, CHUNK)

    def spread(x: Tensor) -> Tensor:
        return x.float().expand(batch, *x.shape[-3:]).flatten(0, 1).contiguous()

    eta = arrange(gates["eta"].float())
    log_alpha = arrange(gates["log_alpha"].float()) if "log_alpha" in gates else torch.zeros_like(eta)
    delta = arrange(gates["delta"].float()) if THRESHOLDED else torch.ones_like(eta)
    log_mu = None
    if MOMENTUM:
        log_mu = arrange(gates["log_mu"].float()).flatten(0, 1)[:, None]
    held = to_chunks(filled.expand(-1, -1, heads), chunks, CHUNK).flatten(0, 1)
    strength, carried, impulse, kept = write_strengths(
        log_alpha.flatten(0, 1)[:, None], eta.flatten(0, 1)[:, None], log_mu, held
    )
    tokens = [arrange(q), arrange(k), arrange(v), delta]
    marks = torch.zeros(chunks, batch, dtype=torch.int32, device=q.device)
    if CHUNKED:
        some = None
        if layout is not None and layout.opens is not None:
            order = torch.where(layout.opens, torch.arange(1, chunks + 1, device=q.device), 0)
            some = layout.opens.any(1)
            marks.scatter_(0, order.argmax(1)[None], 2)
        else:
            marks[-1] = 2
    if layout is not None and layout.fresh is not None:
        marks += layout.fresh.mT
    tokens.append(marks.repeat_interleave(heads, 1))
    tokens += [strength.view(*eta.shape, CHUNK), log_alpha.cumsum(-1).exp()]
    if MOMENTUM:
        assert carried is not None
        assert impulse is not None
        assert kept is not None
        tokens += [carried.view(eta.shape), impulse.reshape(eta.shape), kept.view(eta.shape[:2])]
    names = [f"state_{i}" for i in range(LAYERS)]
    first = [spread(initial[name]) for name in names]
    carry = first if state is None else [spread(state[name]) for name in names]
    if MOMENTUM:
        moving = [f"momentum_{i}" for i in range(LAYERS)]
        carry = [
            *carry,
            *([torch.zeros_like(x) for x in first] if state is None else [spread(state[name]) for name in moving]),
        ]
        names += moving
    if OFFSET:
        first, carry = ([beside_offsets(x) for x in group] for group in (first, carry))
    norm = [spread(initial[n][:, None]).squeeze(1) for n in ("norm_weight", "norm_bias") if n in initial]
    z, *rest = DENSE(tokens, norm, carry, first, list(TILE_NUMBERS))
    if OFFSET:
        rest = [with_offsets(x) for x in rest[: len(names) + LAYERS]]
    z = z.unflatten(1, (batch, heads)).permute(1, 0, 3, 2, 4).flatten(1, 2)
    if layout is not None:
        z = to_tokens(z, layout, valid)
    y = head(z[:, :time], q.float(), [initial[n].float() for n in ("norm_weight", "norm_bias") if n in initial])
    if valid is not None:
        y = y * valid[:, :, None, None]
    out = {name: x.unflatten(0, (batch, heads)) for name, x in zip(names, rest, strict=False)}
    if CHUNKED:
        for i, opened in enumerate(rest[len(names) : len(names) + LAYERS]):
            start = opened.unflatten(0, (batch, heads))
            if MIRROR:
                found = {f"frozen_{i}": retention_psi(start)}
            else:
                found = {f"frozen_{i}": start}
            if READ == "lagged":
                found[f"scale_{i}"] = retention_scale(start)
            for name, x in found.items():
                if some is not None:
                    before = torch.zeros_like(x) if state is None else state[name]
                    x = torch.where(some[:, None, None, None], x, before)
                out[name] = x
        out["position"] = torch.full((batch,), time % CHUNK, device=q.device) if layout is None else layout.position
    return y.to(v.dtype), out
