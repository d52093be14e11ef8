# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""A matrix whose channels decay each by itself, in Triton: frozen chunks with any bias, and the online delta rule.

Within a tile, with S the state at its start and tokens scaled by the gates as in `triton_channels_tokens`,

    g = phi(seen S' - value),   y = asked S' - pairs g,   S' <- S Diag(total) - g' written

Where value channels decay, S' <- Diag(row_total) S Diag(total) - (g * row_fade)' written. The kernels then read from S alone;
torch lets the answers decay and adds what `triton_decay` applies of pairs to g.

Shape legend: N tiles, P pairs of batch and head, C tokens a tile, W = SPAN writes; asked `[N, P, C, K]`, seen, written
`[N, P, W, K]`, value, g, row_fade `[N, P, W, V]`, pairs `[N, P, C, W]`, total `[N, P, K]`, row_total `[N, P, V]`, states
`[N, P, V, K]`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.slots import (
    CHUNK,
    CHUNKED,
    DECOUPLED,
    ERASE_CHANNELS,
    GATE,
    ONLINE,
    READ_FIRST,
    THRESHOLDED,
)
from miras_search.codegen.skeletons.triton_channels_tokens import channels_tokens, decays_after, decays_before
from miras_search.codegen.skeletons.triton_slots import TILE_NUMBERS
from miras_search.codegen.skeletons.triton_tiles import from_tiles, plan_tiles, to_tiles

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_decay import APPLIED
    from miras_search.codegen.skeletons.triton_slots import ROW_GATE, STATE_FREE, bias_phi_tile, bias_phi_vjp_tile
    from miras_search.codegen.skeletons.triton_tiles import (
        free_tile,
        load_gate,
        load_rows,
        operator,
        precision,
        rows_of,
        store_gate,
        store_rows,
        weight_places,
    )

    @triton.jit
    def channels_error(seen, value, state, PRECISION: tl.constexpr):
        """r of a tile, `[ROWS, HEIGHT]`."""
        if STATE_FREE:
            r = value
        else:
            r = tl.dot(seen, tl.trans(state).to(seen.dtype), input_precision=PRECISION) - value
        return r

    @triton.jit
    def channels_forward_state(
        seen, value, threshold, written, total, row_fade, row_total, marks, carry, first,
        states, g, final, like, numbers, P, N,
        K: tl.constexpr, V: tl.constexpr, HEIGHT: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for a pair and some rows of its state. `like`: any tensor of the type that is multiplied."""
        KIND: tl.constexpr = like.dtype.element_ty
        pair = tl.program_id(0).to(tl.int64)
        o = tl.program_id(1) * HEIGHT
        own = weight_places(pair, o, 0, V, K, HEIGHT, K)
        channels = tl.arange(0, K)
        state = tl.load(carry + own)
        for n in range(N):
            here = n * P + pair
            fresh = tl.load(marks + here) > 0
            state = tl.where(fresh, tl.load(first + own), state)
            tl.store(states + weight_places(here, o, 0, V, K, HEIGHT, K), state)
            key = load_rows(seen, here, 0, K, K, SPAN, ROWS).to(KIND)
            aim = load_rows(value, here, o, V, HEIGHT, SPAN, ROWS).to(tl.float32)
            delta = load_gate(threshold, here, 1.0, SPAN, ROWS)[:, None]
            write = bias_phi_tile(channels_error(key, aim, state, PRECISION), aim, delta, numbers)
            store_rows(g, write, here, o, V, HEIGHT, SPAN, ROWS)
            late = load_rows(written, here, 0, K, K, SPAN, ROWS).to(KIND)
            state *= tl.load(total + here * K + channels)[None, :]
            if ROW_GATE:
                state *= tl.load(row_total + here * V + o + tl.arange(0, HEIGHT))[:, None]
                write *= load_rows(row_fade, here, o, V, HEIGHT, SPAN, ROWS)
            state -= tl.dot(tl.trans(write.to(KIND)), late, input_precision=PRECISION)
        tl.store(final + own, state)

    @triton.jit
    def channels_forward_read(
        asked, pairs, g, states, y, like,
        K: tl.constexpr, V: tl.constexpr, HEIGHT: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        ASKED: tl.constexpr, ASKED_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for a tile and some of its outputs."""
        KIND: tl.constexpr = like.dtype.element_ty
        here = tl.program_id(0).to(tl.int64)
        o = tl.program_id(1) * HEIGHT
        query = load_rows(asked, here, 0, K, K, ASKED, ASKED_ROWS).to(KIND)
        state = tl.load(states + weight_places(here, o, 0, V, K, HEIGHT, K))
        answer = tl.dot(query, tl.trans(state).to(KIND), input_precision=PRECISION)
        if not ROW_GATE:
            place, exists = channels_pairs(here, SPAN, ROWS, ASKED, ASKED_ROWS)
            factor = tl.load(pairs + place, mask=exists, other=0.0).to(KIND)
            write = load_rows(g, here, o, V, HEIGHT, SPAN, ROWS).to(KIND)
            answer -= tl.dot(factor, write, input_precision=PRECISION)
        store_rows(y, answer, here, o, V, HEIGHT, ASKED, ASKED_ROWS)

    @triton.jit
    def channels_pairs(here, SPAN: tl.constexpr, ROWS: tl.constexpr, ASKED: tl.constexpr, ASKED_ROWS: tl.constexpr):
        """Places of a tile's `pairs`, and which exist."""
        rows = tl.arange(0, ASKED_ROWS)
        columns = tl.arange(0, ROWS)
        place = (here * ASKED + rows)[:, None] * SPAN + columns[None, :]
        return place, (rows < ASKED)[:, None] & (columns < SPAN)[None, :]

    @triton.jit
    def channels_backward_read(
        asked, pairs, g, states, d_y, d_asked, d_pairs, d_g, d_read, like,
        K: tl.constexpr, V: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        ASKED: tl.constexpr, ASKED_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a tile: all that follows from the answers alone, whatever comes later."""
        KIND: tl.constexpr = like.dtype.element_ty
        here = tl.program_id(0).to(tl.int64)
        pull = load_rows(d_y, here, 0, V, V, ASKED, ASKED_ROWS).to(KIND)
        weights = weight_places(here, 0, 0, V, K, V, K)
        d_query = tl.dot(pull, tl.load(states + weights).to(KIND), input_precision=PRECISION)
        store_rows(d_asked, d_query, here, 0, K, K, ASKED, ASKED_ROWS)
        query = load_rows(asked, here, 0, K, K, ASKED, ASKED_ROWS).to(KIND)
        tl.store(d_read + weights, tl.dot(tl.trans(pull), query, input_precision=PRECISION))
        if not ROW_GATE:
            place, exists = channels_pairs(here, SPAN, ROWS, ASKED, ASKED_ROWS)
            write = load_rows(g, here, 0, V, V, SPAN, ROWS).to(KIND)
            tl.store(d_pairs + place, -tl.dot(pull, tl.trans(write), input_precision=PRECISION), mask=exists)
            factor = tl.load(pairs + place, mask=exists, other=0.0).to(KIND)
            store_rows(d_g, -tl.dot(tl.trans(factor), pull, input_precision=PRECISION), here, 0, V, V, SPAN, ROWS)

    @triton.jit
    def channels_backward_state(
        seen, value, threshold, written, total, row_fade, row_total, marks, states, d_g, d_read, d_final,
        d_next, d_carry, d_first, like, numbers, P, N,
        K: tl.constexpr, V: tl.constexpr, HEIGHT: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """From the last tile to the first: the gradient of the state after each tile."""
        pair = tl.program_id(0).to(tl.int64)
        o = tl.program_id(1) * HEIGHT
        own = weight_places(pair, o, 0, V, K, HEIGHT, K)
        channels = tl.arange(0, K)
        d_state = tl.load(d_final + own)
        d_start = tl.zeros([HEIGHT, K], tl.float32)
        for i in range(N):
            here = (N - 1 - i) * P + pair
            place = weight_places(here, o, 0, V, K, HEIGHT, K)
            tl.store(d_next + place, d_state)
            if not STATE_FREE:
                KIND: tl.constexpr = like.dtype.element_ty
                late = load_rows(written, here, 0, K, K, SPAN, ROWS).to(KIND)
                push = tl.dot(late, tl.trans(d_state).to(KIND), input_precision=PRECISION)
                if ROW_GATE:
                    push *= load_rows(row_fade, here, o, V, HEIGHT, SPAN, ROWS)
                d_write = load_rows(d_g, here, o, V, HEIGHT, SPAN, ROWS) - push
                key = load_rows(seen, here, 0, K, K, SPAN, ROWS).to(KIND)
                aim = load_rows(value, here, o, V, HEIGHT, SPAN, ROWS).to(tl.float32)
                delta = load_gate(threshold, here, 1.0, SPAN, ROWS)[:, None]
                r = channels_error(key, aim, tl.load(states + place), PRECISION)
                d_r, _, _ = bias_phi_vjp_tile(r, aim, delta, d_write, numbers)
            d_state *= tl.load(total + here * K + channels)[None, :]
            if ROW_GATE:
                d_state *= tl.load(row_total + here * V + o + tl.arange(0, HEIGHT))[:, None]
            if not STATE_FREE:
                d_state += tl.dot(tl.trans(d_r.to(KIND)), key, input_precision=PRECISION)
            d_state += tl.load(d_read + place)
            fresh = tl.load(marks + here) > 0
            d_start += tl.where(fresh, d_state, 0.0)
            d_state = tl.where(fresh, 0.0, d_state)
        tl.store(d_carry + own, d_state)
        tl.store(d_first + own, d_start)

    @triton.jit
    def channels_backward_write(
        seen, value, threshold, written, total, row_fade, row_total, states, g, d_g, d_next,
        d_seen, d_value, d_threshold, d_written, d_total, d_row_fade, d_row_total, like, numbers,
        K: tl.constexpr, V: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a tile: what the gradient of the state after it says to its writes and decays."""
        KIND: tl.constexpr = like.dtype.element_ty
        here = tl.program_id(0).to(tl.int64)
        place = weight_places(here, 0, 0, V, K, V, K)
        state = tl.load(states + place)
        after = tl.load(d_next + place)
        kept = state * after
        write = load_rows(g, here, 0, V, V, SPAN, ROWS)
        late = load_rows(written, here, 0, K, K, SPAN, ROWS).to(KIND)
        push = tl.dot(late, tl.trans(after).to(KIND), input_precision=PRECISION)
        if ROW_GATE:
            rows = here * V + tl.arange(0, V)
            tl.store(d_row_total + rows, tl.sum(kept * tl.load(total + here * K + tl.arange(0, K))[None, :], axis=1))
            kept *= tl.load(row_total + rows)[:, None]
            store_rows(d_row_fade, -write * push, here, 0, V, V, SPAN, ROWS)
            faded = load_rows(row_fade, here, 0, V, V, SPAN, ROWS)
            write *= faded
            push *= faded
        tl.store(d_total + here * K + tl.arange(0, K), tl.sum(kept, axis=0))
        d_late = -tl.dot(write.to(KIND), after.to(KIND), input_precision=PRECISION)
        store_rows(d_written, d_late, here, 0, K, K, SPAN, ROWS)
        d_write = load_rows(d_g, here, 0, V, V, SPAN, ROWS) - push
        key = load_rows(seen, here, 0, K, K, SPAN, ROWS).to(KIND)
        aim = load_rows(value, here, 0, V, V, SPAN, ROWS).to(tl.float32)
        delta = load_gate(threshold, here, 1.0, SPAN, ROWS)[:, None]
        r = channels_error(key, aim, state, PRECISION)
        d_r, d_aim, d_delta = bias_phi_vjp_tile(r, aim, delta, d_write, numbers)
        store_gate(d_threshold, tl.sum(d_delta, axis=1), here, SPAN, ROWS)
        d_key = tl.zeros([ROWS, K], tl.float32)
        if not STATE_FREE:
            d_aim -= d_r
            d_key = tl.dot(d_r.to(KIND), state.to(KIND), input_precision=PRECISION)
        store_rows(d_seen, d_key, here, 0, K, K, SPAN, ROWS)
        store_rows(d_value, d_aim, here, 0, V, V, SPAN, ROWS)

    def channels_options(asked: Tensor, value: Tensor) -> tuple[dict[str, object], dict[str, object]]:
        """What all kernels take at compile time, and what those on reads take besides."""
        key, (span, width), tokens = asked.shape[3], value.shape[2:], asked.shape[2]
        sizes: dict[str, object] = {
            "K": key,
            "V": width,
            "SPAN": span,
            "ROWS": rows_of(span),
            "PRECISION": precision(),
            "num_warps": 8 if key * width > 64 * 64 else 4,
            "num_stages": 1,
            "enable_fp_fusion": True,
        }
        return sizes, {"ASKED": tokens, "ASKED_ROWS": rows_of(tokens)}

    def channels_split(value: Tensor) -> tuple[tuple[int, int], dict[str, object]]:
        """Programs of the kernels on states, and rows of a state that each takes; a bias may look at all of them."""
        height = value.shape[3]
        if ONLINE:
            height = min(height, 64)
        return (value.shape[1], value.shape[3] // height), {"HEIGHT": height}

    def channels_forward(
        tokens: list[Tensor], carry: Tensor, first: Tensor, like: Tensor, numbers: list[float]
    ) -> list[Tensor]:
        """The answers, the state after the call, the states at tile starts, and the writes g.

        Args:
            tokens: asked, pairs, seen, value, threshold, written, total, marks (1: a document starts). Where value channels
                decay, row_fade and row_total besides, and pairs is not used.
            carry: the state before the call, `[P, V, K]`.
            first: the state of a new document.
            like: any tensor of the type that is multiplied.
            numbers: of the bias.
        """
        asked, pairs, seen, value, threshold, written, total, marks, *rows = (x.contiguous() for x in tokens)
        row_fade, row_total = rows or (written, total)
        y, final, states, g = channels_shapes(tokens, carry, first, like, numbers)
        tiles, count = value.shape[:2]
        own, reads = channels_options(asked, value)
        grid, split = channels_split(value)
        block = min(value.shape[3], 64)
        with torch.cuda.device_of(asked):  # Triton launches on the current device, whatever the tensors' is
            channels_forward_state[grid](
                seen, value, threshold, written, total, row_fade, row_total, marks, carry.contiguous(), first.contiguous(),
                states, g, final, like, tuple(numbers), count, tiles, **own, **split,
            )  # fmt: skip
            channels_forward_read[(tiles * count, value.shape[3] // block)](
                asked, pairs, g, states, y, like, HEIGHT=block, **own, **reads
            )
        return [y, final, states, g]

    def channels_shapes(tokens: list[Tensor], carry: Tensor, first, like, numbers) -> list[Tensor]:
        """Empty outputs of `channels_forward`."""
        asked, value = tokens[0], tokens[3]
        y = carry.new_empty(*asked.shape[:3], value.shape[3])
        states = carry.new_empty(value.shape[0], *carry.shape)
        return [y, carry.new_empty(carry.shape), states, carry.new_empty(value.shape)]

    def channels_backward(
        tokens: list[Tensor],
        states: Tensor,
        g: Tensor,
        dy: Tensor,
        dfinal: Tensor,
        dstates: Tensor | None,
        dwrites: Tensor | None,
        like: Tensor,
        numbers: list[float],
    ) -> list[Tensor]:
        """Gradients of all tokens but the marks, of carry and of first."""
        asked, pairs, seen, value, threshold, written, total, marks, *rows = (x.contiguous() for x in tokens)
        row_fade, row_total = rows or (written, total)
        found = channels_gradient_shapes(tokens, states, g, dy, dfinal, dstates, dwrites, like, numbers)
        dasked, dpairs, dseen, dvalue, dthreshold, dwritten, dtotal, *rows, dcarry, dfirst = found
        drow_fade, drow_total = rows or (dwritten, dtotal)
        tiles, count = value.shape[:2]
        dread, dnext = torch.empty_like(states), torch.empty_like(states)
        # What the answers say to g: found by the read's kernel, or outside.
        if ROW_GATE:
            dg = torch.zeros_like(g) if dwrites is None else dwrites.contiguous()
            dpairs.zero_()
        else:
            dg = torch.empty_like(g)
        own, reads = channels_options(asked, value)
        grid, split = channels_split(value)
        sizes = tuple(numbers)
        with torch.cuda.device_of(asked):
            channels_backward_read[(tiles * count,)](
                asked, pairs, g, states, dy.contiguous(), dasked, dpairs, dg, dread, like, **own, **reads
            )
            if dstates is not None:
                dread += dstates
            channels_backward_state[grid](
                seen, value, threshold, written, total, row_fade, row_total, marks, states, dg, dread, dfinal.contiguous(),
                dnext, dcarry, dfirst, like, sizes, count, tiles, **own, **split,
            )  # fmt: skip
            channels_backward_write[(tiles * count,)](
                seen, value, threshold, written, total, row_fade, row_total, states, g, dg, dnext,
                dseen, dvalue, dthreshold, dwritten, dtotal, drow_fade, drow_total, like, sizes, **own,
            )  # fmt: skip
        return found

    def channels_gradient_shapes(
        tokens, states, g, dy, dfinal: Tensor, dstates, dwrites, like, numbers
    ) -> list[Tensor]:
        """Empty outputs of `channels_backward`."""
        return [x.new_empty(x.shape) for x in (*tokens[:7], *tokens[8:], dfinal, dfinal)]

    def channels_setup(ctx, inputs, output) -> None:
        """Keep the inputs, the states at tile starts and the writes."""
        ctx.save_for_backward(*inputs[0], inputs[3], *output[2:])
        ctx.numbers = inputs[4]
        ctx.shapes = [x.shape for x in output[:2]]
        ctx.set_materialize_grads(False)

    def channels_autograd(ctx, grads):
        """From the gradients of the outputs to those of the inputs."""
        *tokens, like, states, g = ctx.saved_tensors
        dy, dfinal = (g.new_zeros(s) if d is None else d for d, s in zip(grads[:2], ctx.shapes, strict=True))
        *found, dcarry, dfirst = CHANNELS_BACKWARD(tokens, states, g, dy, dfinal, grads[2], grads[3], like, ctx.numbers)
        return [*found[:7], None, *found[7:]], dcarry, dfirst, None, None

    CHANNELS_BACKWARD = operator("channels_backward", channels_backward, channels_gradient_shapes)
    CHANNELS = operator("channels", channels_forward, channels_shapes, channels_autograd, channels_setup)


def triton_channels(
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
        return channels_call(q, k, v, gates, initial, state, reset, valid)


def channels_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None,
    reset: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """In float32: what gates make of a tile, the kernels, and the answers in their places."""
    batch, time, heads = k.shape[:3]
    if CHUNKED:
        span = CHUNK
    else:
        span = min(free_tile(k), 16 * -(-time // 16))
        if ERASE_CHANNELS:
            span = min(span, free_tile(k) // 2)
    layout, span, marks = plan_tiles(k, span, reset, valid)

    def arrange(x: Tensor) -> Tensor:
        return to_tiles(x, layout, marks.shape[0], span)

    query, key, value = arrange(q), arrange(k), arrange(v)
    given = {"eta": arrange(gates["eta"].float())}
    if GATE != "none":
        given["log_alpha"] = arrange(gates["log_alpha"].float())
    if THRESHOLDED:
        given["delta"] = arrange(gates["delta"].float())
    if DECOUPLED:
        given["erase"] = arrange(gates["erase"].float())
    pairs, tokens = channels_tokens(query, key, value, given)
    if GATE in ("row", "outer"):
        # What a tile reads of its own writes decays by value channels, and is added below.
        row_alpha = given["log_alpha"][..., -v.shape[-1] :]
        tokens = [tokens[0], pairs.new_zeros(1), *tokens[1:], marks, *decays_after(row_alpha)]
    else:
        tokens = [tokens[0], pairs, *tokens[1:], marks]
    first = initial["state_0"].float().expand(batch, *initial["state_0"].shape[-3:]).flatten(0, 1).contiguous()
    carry = first if state is None else state["state_0"].float().flatten(0, 1)
    z, final, starts, g = CHANNELS(tokens, carry, first, key, list(TILE_NUMBERS))
    if GATE in ("row", "outer"):
        own = APPLIED(pairs, g.to(key.dtype), row_alpha, int(READ_FIRST), READ_FIRST)
        z = decays_before(row_alpha, READ_FIRST) * z - own
    out = {"state_0": final.unflatten(0, (batch, heads))}
    if CHUNKED:
        starts = starts.unflatten(1, (batch, heads))
        out["frozen_0"] = starts[-1].clone()  # a view would keep all of them alive
        out["position"] = torch.full((batch,), time % CHUNK, device=q.device)
        if layout is not None:
            out["position"] = layout.position
            if layout.opens is not None:
                order = torch.where(layout.opens, torch.arange(1, layout.chunks + 1, device=q.device), 0)
                opened = starts[order.argmax(1), torch.arange(batch, device=q.device)]
                before = torch.zeros_like(opened) if state is None else state["frozen_0"]
                out["frozen_0"] = torch.where(layout.opens.any(1)[:, None, None, None], opened, before)
    return from_tiles(z, v, layout, valid), out
