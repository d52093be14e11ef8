# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Linear memory with identity mirror in Triton: gradients frozen for a chunk, any bias, forward and backward.

Three roles. `state` walks over the chunks of a head and keeps the state at the start of each; `read` and `write` treat
all chunks at once. The state at a chunk's start is the weight at which all gradients of the chunk are taken, so with
r_i = S k_i - v_i, g_i = phi(r_i), l the cumulated log decay of the chunk and w_i = eta_i exp(l_C - l_i):

    y_t = exp(l_t) S q_t - sum_{i <= t} (q_t . k_i) exp(l_t - l_i) eta_i g_i
    S'  = exp(l_C) S - sum_i w_i g_i k_i'

Shape legend: B batch, T time, H heads, K key dim, V value dim, N chunks; q, k `[B, T, H, K]`, v `[B, T, H, V]`, gates
`[B, T, H]` float32, states `[B, H, V, K]` float32, states at chunk starts `[B, H, N, V, K]`. In registers a state is
the tile `[K, V]`, and the tokens of a chunk are `ROWS` rows.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.layout import plan_layout, to_slots, to_tokens
from miras_search.codegen.skeletons.slots import CHUNK, CHUNKED, THRESHOLDED
from miras_search.codegen.skeletons.triton_slots import TILE_NUMBERS

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_slots import STATE_FREE, bias_phi_tile, bias_phi_vjp_tile
    from miras_search.codegen.skeletons.triton_tiles import free_tile, operator, precision, rows_of

    @triton.jit
    def linear_rows(n, pair, T, H, SPAN: tl.constexpr, ROWS: tl.constexpr):
        """Chunk n of a head: the index of each row's token in `[B, T, H]`, and which rows hold one."""
        rows = tl.arange(0, ROWS)
        time = n * SPAN + rows
        return (pair // H * T + time) * H + pair % H, (rows < SPAN) & (time < T)

    @triton.jit
    def linear_load(tokens, token, held, SIZE: tl.constexpr):
        """Rows of q, k or v, zero where no token is."""
        return tl.load(tokens + token[:, None] * SIZE + tl.arange(0, SIZE)[None, :], mask=held[:, None], other=0.0)

    @triton.jit
    def linear_store(tokens, token, held, x, SIZE: tl.constexpr):
        """The inverse of `linear_load`."""
        place = tokens + token[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
        tl.store(place, x.to(tokens.dtype.element_ty), mask=held[:, None])

    @triton.jit
    def linear_tile(index, K: tl.constexpr, V: tl.constexpr):
        """Places of the tile `[K, V]` of the index-th state of `[..., V, K]`."""
        return index * K * V + tl.arange(0, V)[None, :] * K + tl.arange(0, K)[:, None]

    @triton.jit
    def linear_gradient(key, value, threshold, state, numbers, PRECISION: tl.constexpr):
        """The errors of a chunk at its frozen weights, and their cotangents."""
        if STATE_FREE:
            r = value
        else:
            r = tl.dot(key, state.to(key.dtype), input_precision=PRECISION) - value
        return r, bias_phi_tile(r, value, threshold, numbers)

    @triton.jit
    def linear_forward_state(
        k, v, log_alpha, eta, delta, marks, initial, first, starts, final, numbers, T, H, N,
        K: tl.constexpr, V: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a head: from chunk to chunk, with the least work that this needs."""
        pair = tl.program_id(0).to(tl.int64)
        state = tl.load(initial + linear_tile(pair, K, V))
        for n in range(N):
            fresh = tl.load(marks + pair // H * N + n) > 0
            state = tl.where(fresh, tl.load(first + linear_tile(pair, K, V)), state)
            tl.store(starts + linear_tile(pair * N + n, K, V), state)
            token, held = linear_rows(n, pair, T, H, SPAN, ROWS)
            key = linear_load(k, token, held, K)
            value = linear_load(v, token, held, V).to(tl.float32)
            decay = tl.load(log_alpha + token, mask=held, other=0.0)
            step = tl.load(eta + token, mask=held, other=0.0)
            threshold = tl.load(delta + token, mask=held, other=1.0)
            total = tl.sum(decay, axis=0)
            weight = step * tl.exp(total - tl.cumsum(decay, axis=0))
            _, g = linear_gradient(key, value, threshold[:, None], state, numbers, PRECISION)
            written = tl.dot(tl.trans(key), (g * weight[:, None]).to(key.dtype), input_precision=PRECISION)
            state = tl.exp(total) * state - written
        tl.store(final + linear_tile(pair, K, V), state)

    @triton.jit
    def linear_forward_read(
        q, k, v, log_alpha, eta, delta, starts, y, numbers, T, H, N,
        K: tl.constexpr, V: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a chunk: the answers, in the dual, attention-like form."""
        pair = tl.program_id(0).to(tl.int64) // N
        n = tl.program_id(0) % N
        state = tl.load(starts + linear_tile(pair * N + n, K, V))
        token, held = linear_rows(n, pair, T, H, SPAN, ROWS)
        query = linear_load(q, token, held, K)
        key = linear_load(k, token, held, K)
        value = linear_load(v, token, held, V).to(tl.float32)
        step = tl.load(eta + token, mask=held, other=0.0)
        threshold = tl.load(delta + token, mask=held, other=1.0)
        l = tl.cumsum(tl.load(log_alpha + token, mask=held, other=0.0), axis=0)
        _, g = linear_gradient(key, value, threshold[:, None], state, numbers, PRECISION)
        # Masked before the exponential, which would overflow above the diagonal.
        late = tl.arange(0, ROWS)[:, None] >= tl.arange(0, ROWS)[None, :]
        gap = tl.exp(tl.where(late, l[:, None] - l[None, :], float("-inf")))
        products = tl.dot(query, tl.trans(key), input_precision=PRECISION) * gap * step[None, :]
        answer = tl.exp(l)[:, None] * tl.dot(query, state.to(key.dtype), input_precision=PRECISION)
        answer -= tl.dot(products.to(key.dtype), g.to(key.dtype), input_precision=PRECISION)
        linear_store(y, token, held, answer, V)

    @triton.jit
    def linear_backward_read(
        q, k, v, log_alpha, eta, delta, starts, dy, dq, dk, dg, dl, deta, dstarts, numbers, T, H, N,
        K: tl.constexpr, V: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a chunk: all that follows from the answers alone, whatever comes later.

        The gradient of l needs no matrix of its own: l_t scales what q_t reads, -l_i what k_i and eta_i write.
        """
        pair = tl.program_id(0).to(tl.int64) // N
        n = tl.program_id(0) % N
        state = tl.load(starts + linear_tile(pair * N + n, K, V))
        token, held = linear_rows(n, pair, T, H, SPAN, ROWS)
        query = linear_load(q, token, held, K)
        key = linear_load(k, token, held, K)
        value = linear_load(v, token, held, V).to(tl.float32)
        pull = linear_load(dy, token, held, V)
        step = tl.load(eta + token, mask=held, other=0.0)
        threshold = tl.load(delta + token, mask=held, other=1.0)
        l = tl.cumsum(tl.load(log_alpha + token, mask=held, other=0.0), axis=0)
        # In this order few tiles live at once; another one spills registers.
        faded = (pull.to(tl.float32) * tl.exp(l)[:, None]).to(key.dtype)
        tl.store(dstarts + linear_tile(pair * N + n, K, V), tl.dot(tl.trans(query), faded, input_precision=PRECISION))
        _, g = linear_gradient(key, value, threshold[:, None], state, numbers, PRECISION)
        d_query = tl.dot(faded, tl.trans(state.to(key.dtype)), input_precision=PRECISION)
        late = tl.arange(0, ROWS)[:, None] >= tl.arange(0, ROWS)[None, :]
        gap = tl.exp(tl.where(late, l[:, None] - l[None, :], float("-inf")))
        d_products = -tl.dot(pull, tl.trans(g.to(key.dtype)), input_precision=PRECISION) * gap
        d_query = tl.dot((d_products * step[None, :]).to(key.dtype), key, acc=d_query, input_precision=PRECISION)
        linear_store(dq, token, held, d_query, K)
        d_key = tl.dot(tl.trans(d_products.to(key.dtype)), query, input_precision=PRECISION)
        d_step = tl.sum(key.to(tl.float32) * d_key, axis=1)
        linear_store(dk, token, held, d_key * step[:, None], K)
        tl.store(deta + token, d_step, mask=held)
        tl.store(dl + token, tl.sum(query.to(tl.float32) * d_query, axis=1) - step * d_step, mask=held)
        products = tl.dot(query, tl.trans(key), input_precision=PRECISION) * gap
        d_g = -tl.dot(tl.trans(products.to(key.dtype)), pull, input_precision=PRECISION) * step[:, None]
        linear_store(dg, token, held, d_g, V)

    @triton.jit
    def linear_backward_state(
        k, v, log_alpha, eta, delta, starts, marks, dg, dstarts, dfinal, dnext, dinitial, dfirst, numbers, T, H, N,
        K: tl.constexpr, V: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a head, from the last chunk to the first: the gradient of the state after each chunk."""
        pair = tl.program_id(0).to(tl.int64)
        d_state = tl.load(dfinal + linear_tile(pair, K, V))
        d_start = tl.zeros([K, V], tl.float32)
        for i in range(N):
            n = N - 1 - i
            tl.store(dnext + linear_tile(pair * N + n, K, V), d_state)
            token, held = linear_rows(n, pair, T, H, SPAN, ROWS)
            decay = tl.load(log_alpha + token, mask=held, other=0.0)
            total = tl.sum(decay, axis=0)
            if not STATE_FREE:
                key = linear_load(k, token, held, K)
                value = linear_load(v, token, held, V).to(tl.float32)
                step = tl.load(eta + token, mask=held, other=0.0)
                threshold = tl.load(delta + token, mask=held, other=1.0)
                weight = step * tl.exp(total - tl.cumsum(decay, axis=0))
                d_g = linear_load(dg, token, held, V)
                d_g -= weight[:, None] * tl.dot(key, d_state.to(key.dtype), input_precision=PRECISION)
                state = tl.load(starts + linear_tile(pair * N + n, K, V))
                r, _ = linear_gradient(key, value, threshold[:, None], state, numbers, PRECISION)
                d_r, _, _ = bias_phi_vjp_tile(r, value, threshold[:, None], d_g, numbers)
                d_state = tl.exp(total) * d_state + tl.dot(tl.trans(key), d_r.to(key.dtype), input_precision=PRECISION)
            else:
                d_state = tl.exp(total) * d_state
            d_state += tl.load(dstarts + linear_tile(pair * N + n, K, V))
            fresh = tl.load(marks + pair // H * N + n) > 0
            d_start += tl.where(fresh, d_state, 0.0)
            d_state = tl.where(fresh, 0.0, d_state)
        tl.store(dinitial + linear_tile(pair, K, V), d_state)
        tl.store(dfirst + linear_tile(pair, K, V), d_start)

    @triton.jit
    def linear_backward_write(
        k, v, log_alpha, eta, delta, starts, dg, dk_read, dl, deta_read, dnext,
        dk, dv, dlog_alpha, deta, ddelta, numbers, T, H, N,
        K: tl.constexpr, V: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a chunk: what follows from the state after it, added to what `linear_backward_read` found."""
        pair = tl.program_id(0).to(tl.int64) // N
        n = tl.program_id(0) % N
        token, held = linear_rows(n, pair, T, H, SPAN, ROWS)
        decay = tl.load(log_alpha + token, mask=held, other=0.0)
        step = tl.load(eta + token, mask=held, other=0.0)
        threshold = tl.load(delta + token, mask=held, other=1.0)
        total = tl.sum(decay, axis=0)
        fade = tl.exp(total - tl.cumsum(decay, axis=0))
        weight = step * fade
        key = linear_load(k, token, held, K)
        value = linear_load(v, token, held, V).to(tl.float32)
        state = tl.load(starts + linear_tile(pair * N + n, K, V))
        d_next = tl.load(dnext + linear_tile(pair * N + n, K, V))
        d_total = tl.exp(total) * tl.sum(tl.sum(state * d_next, axis=1), axis=0)
        r, g = linear_gradient(key, value, threshold[:, None], state, numbers, PRECISION)
        push = tl.dot(key, d_next.to(key.dtype), input_precision=PRECISION)
        d_weight = -tl.sum(push * g, axis=1)
        written = (-weight[:, None] * g).to(key.dtype)
        d_key = tl.dot(written, tl.trans(d_next.to(key.dtype)), input_precision=PRECISION)
        tl.store(deta + token, tl.load(deta_read + token, mask=held, other=0.0) + d_weight * fade, mask=held)
        d_l = tl.load(dl + token, mask=held, other=0.0) - d_weight * weight
        d_total += tl.sum(d_weight * weight, axis=0)
        tl.store(dlog_alpha + token, tl.cumsum(d_l, axis=0, reverse=True) + d_total, mask=held)
        d_g = linear_load(dg, token, held, V) - weight[:, None] * push
        d_r, d_value, d_threshold = bias_phi_vjp_tile(r, value, threshold[:, None], d_g, numbers)
        tl.store(ddelta + token, tl.sum(d_threshold, axis=1), mask=held)
        if not STATE_FREE:
            d_value -= d_r
            d_key = tl.dot(d_r.to(key.dtype), tl.trans(state.to(key.dtype)), acc=d_key, input_precision=PRECISION)
        linear_store(dv, token, held, d_value, V)
        linear_store(dk, token, held, d_key + linear_load(dk_read, token, held, K), K)

    def linear_options(k: Tensor, v: Tensor, span: int) -> dict[str, object]:
        """What the kernels take at compile time."""
        return {
            "K": k.shape[-1],
            "V": v.shape[-1],
            "SPAN": span,
            "ROWS": rows_of(span),
            "PRECISION": precision(),
            "num_warps": 8 if k.shape[-1] * v.shape[-1] > 64 * 64 else 4,
            "num_stages": 1,
            "enable_fp_fusion": True,
        }

    def linear_forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_alpha: Tensor,
        eta: Tensor,
        delta: Tensor,
        initial: Tensor,
        first: Tensor,
        marks: Tensor,
        span: int,
        numbers: list[float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y, the final state, and the states at the chunk starts; `marks` `[B, N]`: a document starts, in state `first`."""
        batch, time, heads = k.shape[:3]
        chunks = marks.shape[1]
        y, final, starts = linear_shapes(q, k, v, log_alpha, eta, delta, initial, first, marks, span, numbers)
        q, k, v, log_alpha, eta, delta = (x.contiguous() for x in (q, k, v, log_alpha, eta, delta))
        initial, first, marks = (x.contiguous() for x in (initial, first, marks))
        sizes = (tuple(numbers), time, heads, chunks)
        options = linear_options(k, v, span)
        gates = (log_alpha, eta, delta)
        with torch.cuda.device_of(q):  # Triton launches on the current device, whatever the tensors' is
            linear_forward_state[(batch * heads,)](
                k, v, *gates, marks, initial, first, starts, final, *sizes, **options
            )
            linear_forward_read[(batch * heads * chunks,)](q, k, v, *gates, starts, y, *sizes, **options)
        return y, final, starts

    def linear_shapes(
        q, k: Tensor, v: Tensor, log_alpha, eta, delta, initial: Tensor, first, marks: Tensor, span, numbers
    ) -> tuple[Tensor, ...]:
        """Empty outputs of `linear_forward`."""
        batch, chunks = marks.shape
        starts = initial.new_empty(batch, k.shape[2], chunks, v.shape[-1], k.shape[-1])
        return v.new_empty(v.shape), initial.new_empty(initial.shape), starts

    def linear_backward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_alpha: Tensor,
        eta: Tensor,
        delta: Tensor,
        marks: Tensor,
        starts: Tensor,
        dy: Tensor,
        dfinal: Tensor,
        dstarts: Tensor | None,
        span: int,
        numbers: list[float],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients of all tensors of `linear_forward` but the marks."""
        batch, time, heads = k.shape[:3]
        chunks = marks.shape[1]
        inputs = (q, k, v, log_alpha, eta, delta, marks, starts, dy, dfinal)
        dq, dk, dv, dlog_alpha, deta, ddelta, dinitial, dfirst = linear_gradient_shapes(*inputs)
        q, k, v, log_alpha, eta, delta = (x.contiguous() for x in (q, k, v, log_alpha, eta, delta))
        dy, dfinal, marks = dy.contiguous(), dfinal.contiguous(), marks.contiguous()
        dk_read, dg = (torch.empty_like(x, dtype=torch.float32) for x in (k, v))
        dl, deta_read, dread, dnext = (torch.empty_like(x) for x in (eta, eta, starts, starts))
        sizes = (tuple(numbers), time, heads, chunks)
        options = linear_options(k, v, span)
        gates = (log_alpha, eta, delta, starts)
        found = (dk, dv, dlog_alpha, deta, ddelta)
        parallel = (batch * heads * chunks,)
        with torch.cuda.device_of(q):
            linear_backward_read[parallel](
                q, k, v, *gates, dy, dq, dk_read, dg, dl, deta_read, dread, *sizes, **options
            )
            if dstarts is not None:
                dread += dstarts
            linear_backward_state[(batch * heads,)](
                k, v, *gates, marks, dg, dread, dfinal, dnext, dinitial, dfirst, *sizes, **options
            )
            linear_backward_write[parallel](k, v, *gates, dg, dk_read, dl, deta_read, dnext, *found, *sizes, **options)
        return dq, dk, dv, dlog_alpha, deta, ddelta, dinitial, dfirst

    def linear_gradient_shapes(*inputs) -> tuple[Tensor, ...]:
        """Empty outputs of `linear_backward`."""
        return (*(x.new_empty(x.shape) for x in (*inputs[:6], inputs[9], inputs[9])),)

    def linear_setup(ctx, inputs, output) -> None:
        """Keep what the backward needs; the cotangents and errors are computed again."""
        ctx.save_for_backward(*inputs[:6], inputs[8], output[2])
        ctx.numbers = inputs[9:]
        ctx.set_materialize_grads(False)

    def linear_autograd(ctx, dy: Tensor | None, dfinal: Tensor | None, dstarts: Tensor | None):
        """From the gradients of the outputs to those of the inputs."""
        saved = ctx.saved_tensors  # asked for once: activation checkpointing gives them out once
        v, starts = saved[2], saved[7]
        if dy is None:
            dy = torch.zeros_like(v)
        if dfinal is None:
            dfinal = torch.zeros_like(starts[:, :, 0])
        return (*LINEAR_BACKWARD(*saved, dy, dfinal, dstarts, *ctx.numbers), None, None, None)

    LINEAR_BACKWARD = operator("linear_backward", linear_backward, linear_gradient_shapes)
    LINEAR = operator("linear", linear_forward, linear_shapes, linear_autograd, linear_setup)


def triton_linear(
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
    batch, time = k.shape[:2]
    layout = None
    # Without frozen weights a chunk is a tile.
    if CHUNKED:
        span = CHUNK
    else:
        span = free_tile(k)
    marks = torch.zeros(batch, -(-time // span), dtype=torch.int32, device=q.device)
    if reset is not None or valid is not None:
        # A document starts a chunk of the grid.
        layout = plan_layout(time, torch.zeros(batch, dtype=torch.long, device=q.device), reset, valid)
        span = CHUNK
        marks = torch.zeros(batch, layout.chunks, dtype=torch.int32, device=q.device)
        if layout.fresh is not None:
            marks = marks + layout.fresh

    def arrange(x: Tensor) -> Tensor:
        return x if layout is None else to_slots(x, layout)

    eta = arrange(gates["eta"].float())
    log_alpha = arrange(gates["log_alpha"].float()) if "log_alpha" in gates else torch.zeros_like(eta)
    delta = arrange(gates["delta"].float()) if THRESHOLDED else torch.ones_like(eta)
    first = initial["state_0"].float().expand(batch, -1, -1, -1)
    start = first if state is None else state["state_0"].float()
    tokens = (arrange(q), arrange(k), arrange(v), log_alpha, eta, delta)
    y, final, starts = LINEAR(*tokens, start, first, marks, span, list(TILE_NUMBERS))
    out = {"state_0": final}
    if CHUNKED:
        out["frozen_0"] = starts[:, :, -1].clone()  # a view would keep all of them alive
        out["position"] = torch.full((batch,), time % CHUNK, device=q.device)
        if layout is not None:
            out["position"] = layout.position
            if layout.opens is not None:
                order = torch.where(layout.opens, torch.arange(1, layout.chunks + 1, device=q.device), 0)
                opened = starts[torch.arange(batch, device=q.device), :, order.argmax(1)]
                before = torch.zeros_like(opened) if state is None else state["frozen_0"]
                out["frozen_0"] = torch.where(layout.opens.any(1)[:, None, None, None], opened, before)
    if layout is not None:
        y = to_tokens(y, layout, valid)
    return y, out
