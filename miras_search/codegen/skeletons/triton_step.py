# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""One token of decoding in one launch: a program a head, or some rows of one, all in float32; no gradient.

Opens a chunk or goes on in one, at a position that every sequence has for itself: error, inner gradient, write and read, and what
the masks ask for. States are taken as `memory` hands them over, `[B, H, out, in]`, an offset as the last column; a tile of it
has one column, whose input is 1.

Shape legend: P pairs of batch and head, K key dim, V value dim, HIDDEN units; tokens `[B, H, dim]`, numbers `[B, H]`.
"""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_dense_state import dense_cotangent, dense_error
    from miras_search.codegen.skeletons.triton_slots import (
        CHUNKED,
        DECAY_FIRST,
        DECOUPLED,
        ERASE_CHANNELS,
        GATE,
        LAYERS,
        MIRROR,
        MOMENTUM,
        NORM,
        OFFSET,
        READ,
        READ_FIRST,
        SCAN,
        STATE_FREE,
        THRESHOLDED,
        TOTALS,
        bias_phi_tile,
        memory_activate_grad_tile,
        memory_activate_tile,
        retention_psi_part_tile,
        retention_psi_tile,
        retention_scale_part_tile,
        retention_scale_tile,
        retention_totals_tile,
    )

    @triton.jit
    def step_places(index, out, inner, OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
        """Places of the tile `[HEIGHT, WIDTH]` at (out, inner) of the index-th matrix; at inner = IN stand the offsets."""
        rows = (index * OUT + out + tl.arange(0, HEIGHT))[:, None]
        if OFFSET:
            return rows * (IN + 1) + inner + tl.arange(0, WIDTH)[None, :]
        return rows * IN + inner + tl.arange(0, WIDTH)[None, :]

    @triton.jit
    def as_tile(number):
        """A number as a tile, which a mask must be."""
        return tl.zeros([1, 1], tl.int32) + number

    @triton.jit
    def step_load(
        states, first, pair, own, fresh, out, inner,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """A tile of the state before the token, which is the initial one where a document starts."""
        old = tl.load(
            states + step_places(pair, out, inner, OUT, IN, HEIGHT, WIDTH), mask=as_tile(fresh) == 0, other=0.0
        )
        return old + tl.load(
            first + step_places(own, out, inner, OUT, IN, HEIGHT, WIDTH), mask=as_tile(fresh) != 0, other=0.0
        )

    @triton.jit
    def step_frozen(
        states, first, frozen, new_frozen, pair, own, fresh, opens, out, inner,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """A tile of the frozen weights, passed on: those of the chunk, or the state where a chunk opens."""
        place = step_places(pair, out, inner, OUT, IN, HEIGHT, WIDTH)
        w = tl.load(frozen + place, mask=as_tile(opens) == 0, other=0.0)
        if opens != 0:
            w = step_load(states, first, pair, own, fresh, out, inner, OUT, IN, HEIGHT, WIDTH)
        tl.store(new_frozen + place, w)
        return w

    @triton.jit
    def step_open(
        states, first, frozen, scales, new_frozen, new_scales, pair, own, fresh, opens, numbers,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr,
    ):  # fmt: skip
        """The same under a mirror map, for a whole matrix, and the number of a lagged read."""
        if READ == "lagged":
            one = tl.zeros([1, 1], tl.int32)
        if opens != 0:
            if TOTALS:
                totals = tl.zeros([1, 8], tl.float32)
                for o in range(0, OUT, HEIGHT):
                    state = step_load(states, first, pair, own, fresh, o, 0, OUT, IN, HEIGHT, IN)
                    totals += retention_totals_tile(state, OUT * IN, numbers)
                if READ == "lagged":
                    tl.store(new_scales + pair + one, retention_scale_part_tile(totals, OUT * IN, numbers))
            for o in range(0, OUT, HEIGHT):
                state = step_load(states, first, pair, own, fresh, o, 0, OUT, IN, HEIGHT, IN)
                place = step_places(pair, o, 0, OUT, IN, HEIGHT, IN)
                if TOTALS:
                    tl.store(new_frozen + place, retention_psi_part_tile(state, totals, OUT * IN, numbers))
                else:
                    tl.store(new_frozen + place, retention_psi_tile(state, numbers))
                    if READ == "lagged":
                        tl.store(new_scales + pair + one, retention_scale_tile(state, numbers))
        else:
            for o in range(0, OUT, HEIGHT):
                place = step_places(pair, o, 0, OUT, IN, HEIGHT, IN)
                tl.store(new_frozen + place, tl.load(frozen + place))
            if READ == "lagged":
                tl.store(new_scales + pair + one, tl.load(scales + pair + one))
        tl.debug_barrier()

    @triton.jit
    def step_write(
        states, first, momenta, new_states, new_momenta, pair, own, fresh, out, inner, g, x, alpha, eta, mu, arrive,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """A tile of the state after the token, and of the momentum; g `[HEIGHT, 1]`, x `[1, WIDTH]`."""
        place = step_places(pair, out, inner, OUT, IN, HEIGHT, WIDTH)
        written = eta * g * x
        new = alpha * step_load(states, first, pair, own, fresh, out, inner, OUT, IN, HEIGHT, WIDTH) - written
        if MOMENTUM:
            momentum = tl.load(momenta + place, mask=as_tile(fresh) == 0, other=0.0)
            new += arrive * momentum
            tl.store(new_momenta + place, mu * momentum - written)
        tl.store(new_states + place, new)
        return new

    @triton.jit
    def step_read(states, x, z, pair, numbers, OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr):
        """An exact read under a mirror map: z = psi(S) x."""
        tl.debug_barrier()
        if TOTALS:
            totals = tl.zeros([1, 8], tl.float32)
            for o in range(0, OUT, HEIGHT):
                state = tl.load(states + step_places(pair, o, 0, OUT, IN, HEIGHT, IN))
                totals += retention_totals_tile(state, OUT * IN, numbers)
        for o in range(0, OUT, HEIGHT):
            state = tl.load(states + step_places(pair, o, 0, OUT, IN, HEIGHT, IN))
            if TOTALS:
                w = retention_psi_part_tile(state, totals, OUT * IN, numbers)
            else:
                w = retention_psi_tile(state, numbers)
            tl.store(z + pair * OUT + o + tl.arange(0, HEIGHT), tl.sum(w * x, axis=1))
        tl.debug_barrier()

    @triton.jit
    def step_row(x, batch, head, batch_stride, head_stride, SIZE: tl.constexpr):
        """A token's row, `[1, SIZE]`."""
        return tl.load(x + batch * batch_stride + head * head_stride + tl.arange(0, SIZE)).to(tl.float32)[None, :]

    @triton.jit
    def step_decay(log_alpha, pair, live, K: tl.constexpr):
        """alpha of the token, 1 for padding: a number, or one a key channel, `[1, K]`."""
        if GATE == "none":
            return 1.0
        if GATE == "channel":
            return tl.exp(live * tl.load(log_alpha + pair * K + tl.arange(0, K)).to(tl.float32))[None, :]
        return tl.exp(live * tl.load(log_alpha + pair).to(tl.float32))

    @triton.jit
    def dense_step(
        q, k, v, eta, log_alpha, log_mu, delta, gamma, beta, position, reset, valid, first_0, first_1,
        states_0, states_1, momenta_0, momenta_1, frozen_0, frozen_1, scales_0, scales_1,
        y, new_states_0, new_states_1, new_momenta_0, new_momenta_1, new_frozen_0, new_frozen_1,
        new_scales_0, new_scales_1, new_position, pre, outs, numbers, heads,
        q_batch, q_head, k_batch, k_head, v_batch, v_head,
        K: tl.constexpr, V: tl.constexpr, HIDDEN: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
        HEIGHT_0: tl.constexpr, HEIGHT_1: tl.constexpr, RESET: tl.constexpr, VALID: tl.constexpr,
    ):  # fmt: skip
        """A program a head."""
        pair = tl.program_id(0).to(tl.int64)
        batch = pair // heads
        own = pair % heads
        live = tl.cast(1, tl.int32)
        fresh = tl.cast(0, tl.int32)
        if VALID:
            live = tl.load(valid + batch).to(tl.int32)
        if RESET:
            fresh = tl.load(reset + batch).to(tl.int32) * live
        if CHUNKED:
            place = tl.load(position + batch) * (1 - fresh)
            opens = (place == 0).to(tl.int32) * live
            if own == 0:
                tl.store(new_position + batch, tl.where(live != 0, (place + 1) % SPAN, place))
        key = step_row(k, batch, own, k_batch, k_head, K)
        ask = step_row(q, batch, own, q_batch, q_head, K)
        value = step_row(v, batch, own, v_batch, v_head, V)
        alpha = step_decay(log_alpha, pair, live, K)
        size = live * tl.load(eta + pair).to(tl.float32)
        mu = 0.0
        arrive = 0.0
        if MOMENTUM:
            mu = tl.exp(live * tl.load(log_mu + pair).to(tl.float32))
            arrive = live * mu
        threshold = tl.full([1, 1], 1.0, tl.float32)
        if THRESHOLDED:
            threshold *= tl.load(delta + pair).to(tl.float32)
        norm_weight = value
        norm_bias = value
        if NORM:
            norm_weight = step_row(gamma, 0, own, 0, V, V)
            norm_bias = step_row(beta, 0, own, 0, V, V)
        if OFFSET:
            one = tl.full([1, 1], 1.0, tl.float32)
        if LAYERS > 1:
            if MIRROR:
                step_open(
                    states_0, first_0, frozen_0, scales_0, new_frozen_0, new_scales_0, pair, own, fresh, opens, numbers,
                    HIDDEN, K, HEIGHT_0,
                )  # fmt: skip
                step_open(
                    states_1, first_1, frozen_1, scales_1, new_frozen_1, new_scales_1, pair, own, fresh, opens, numbers,
                    V, HIDDEN, HEIGHT_1,
                )  # fmt: skip
            out = tl.zeros([V], tl.float32)
            for j in range(0, HIDDEN, BLOCK):
                if MIRROR:
                    w_0 = tl.load(new_frozen_0 + step_places(pair, j, 0, HIDDEN, K, BLOCK, K))
                    w_1 = tl.load(new_frozen_1 + step_places(pair, 0, j, V, HIDDEN, V, BLOCK))
                else:
                    w_0 = step_frozen(
                        states_0, first_0, frozen_0, new_frozen_0, pair, own, fresh, opens, j, 0, HIDDEN, K, BLOCK, K
                    )
                    w_1 = step_frozen(
                        states_1, first_1, frozen_1, new_frozen_1, pair, own, fresh, opens, 0, j, V, HIDDEN, V, BLOCK
                    )
                z = tl.sum(w_0 * key, axis=1)
                if OFFSET:
                    b_0 = step_frozen(
                        states_0, first_0, frozen_0, new_frozen_0, pair, own, fresh, opens, j, K, HIDDEN, K, BLOCK, 1
                    )
                    z += tl.sum(b_0, axis=1)
                tl.store(pre + pair * HIDDEN + j + tl.arange(0, BLOCK), z)
                out += tl.sum(w_1 * memory_activate_tile(z[None, :], numbers), axis=1)
            if OFFSET:
                b_1 = step_frozen(
                    states_1, first_1, frozen_1, new_frozen_1, pair, own, fresh, opens, 0, HIDDEN, V, HIDDEN, V, 1
                )
                out += tl.sum(b_1, axis=1)
            g = dense_cotangent(out[None, :], key, value, threshold, norm_weight, norm_bias, numbers)
            g = tl.sum(g, axis=0)[:, None]
            if READ == "lagged":
                scale_0 = tl.load(new_scales_0 + pair)
                scale_1 = tl.load(new_scales_1 + pair)
            tl.debug_barrier()
            answer = tl.zeros([V], tl.float32)
            for j in range(0, HIDDEN, BLOCK):
                z = tl.load(pre + pair * HIDDEN + j + tl.arange(0, BLOCK))[None, :]
                w_1 = tl.load(new_frozen_1 + step_places(pair, 0, j, V, HIDDEN, V, BLOCK))
                back = tl.sum(w_1 * g, axis=0)[None, :] * memory_activate_grad_tile(z, numbers)
                back = tl.sum(back, axis=0)[:, None]
                x = memory_activate_tile(z, numbers)
                if SCAN:
                    step_write(
                        states_0, first_0, momenta_0, new_states_0, new_momenta_0, pair, own, fresh, j, 0, back, key,
                        alpha, size, mu, arrive, HIDDEN, K, BLOCK, K,
                    )  # fmt: skip
                    step_write(
                        states_1, first_1, momenta_1, new_states_1, new_momenta_1, pair, own, fresh, 0, j, g, x,
                        alpha, size, mu, arrive, V, HIDDEN, V, BLOCK,
                    )  # fmt: skip
                else:
                    new_0 = step_write(
                        states_0, first_0, momenta_0, new_states_0, new_momenta_0, pair, own, fresh, j, 0, back, key,
                        alpha, size, mu, arrive, HIDDEN, K, BLOCK, K,
                    )  # fmt: skip
                    new_1 = step_write(
                        states_1, first_1, momenta_1, new_states_1, new_momenta_1, pair, own, fresh, 0, j, g, x,
                        alpha, size, mu, arrive, V, HIDDEN, V, BLOCK,
                    )  # fmt: skip
                    asked = tl.sum(new_0 * ask, axis=1)
                    if OFFSET:
                        b_0 = step_write(
                            states_0, first_0, momenta_0, new_states_0, new_momenta_0, pair, own, fresh, j, K, back, one,
                            alpha, size, mu, arrive, HIDDEN, K, BLOCK, 1,
                        )  # fmt: skip
                        asked += tl.sum(b_0, axis=1)
                    if READ == "lagged":
                        asked *= scale_0
                    answer += tl.sum(new_1 * memory_activate_tile(asked[None, :], numbers), axis=1)
            if OFFSET:
                b_1 = step_write(
                    states_1, first_1, momenta_1, new_states_1, new_momenta_1, pair, own, fresh, 0, HIDDEN, g, one,
                    alpha, size, mu, arrive, V, HIDDEN, V, 1,
                )  # fmt: skip
                answer += tl.sum(b_1, axis=1)
            if READ == "lagged":
                answer *= scale_1
            if SCAN:
                step_read(new_states_0, ask, pre, pair, numbers, HIDDEN, K, HEIGHT_0)
                asked = tl.load(pre + pair * HIDDEN + tl.arange(0, HIDDEN))[None, :]
                x = memory_activate_tile(asked, numbers)
                step_read(new_states_1, x, outs, pair, numbers, V, HIDDEN, HEIGHT_1)
                answer = tl.load(outs + pair * V + tl.arange(0, V))
        else:
            if CHUNKED:
                if MIRROR:
                    step_open(
                        states_0, first_0, frozen_0, scales_0, new_frozen_0, new_scales_0, pair, own, fresh, opens,
                        numbers, V, K, HEIGHT_0,
                    )  # fmt: skip
                    w_0 = tl.load(new_frozen_0 + step_places(pair, 0, 0, V, K, V, K))
                else:
                    w_0 = step_frozen(
                        states_0, first_0, frozen_0, new_frozen_0, pair, own, fresh, opens, 0, 0, V, K, V, K
                    )
            if STATE_FREE:
                g = bias_phi_tile(value, value, threshold, numbers)
            else:
                out = tl.sum(w_0 * key, axis=1)
                if OFFSET:
                    b_0 = step_frozen(
                        states_0, first_0, frozen_0, new_frozen_0, pair, own, fresh, opens, 0, K, V, K, V, 1
                    )
                    out += tl.sum(b_0, axis=1)
                g = dense_cotangent(out[None, :], key, value, threshold, norm_weight, norm_bias, numbers)
            g = tl.sum(g, axis=0)[:, None]
            if SCAN:
                step_write(
                    states_0, first_0, momenta_0, new_states_0, new_momenta_0, pair, own, fresh, 0, 0, g, key,
                    alpha, size, mu, arrive, V, K, V, K,
                )  # fmt: skip
                step_read(new_states_0, ask, outs, pair, numbers, V, K, HEIGHT_0)
                answer = tl.load(outs + pair * V + tl.arange(0, V))
            else:
                new_0 = step_write(
                    states_0, first_0, momenta_0, new_states_0, new_momenta_0, pair, own, fresh, 0, 0, g, key,
                    alpha, size, mu, arrive, V, K, V, K,
                )  # fmt: skip
                if READ_FIRST:
                    new_0 = step_load(states_0, first_0, pair, own, fresh, 0, 0, V, K, V, K)
                answer = tl.sum(new_0 * ask, axis=1)
            if OFFSET:
                b_0 = step_write(
                    states_0, first_0, momenta_0, new_states_0, new_momenta_0, pair, own, fresh, 0, K, g, one,
                    alpha, size, mu, arrive, V, K, V, 1,
                )  # fmt: skip
                answer += tl.sum(b_0, axis=1)
            if READ == "lagged":
                answer *= tl.load(new_scales_0 + pair)
        _, _, answered = dense_error(answer[None, :], ask, tl.zeros_like(value), norm_weight, norm_bias)
        if VALID:
            answered = tl.where(live != 0, answered, 0.0)
        tl.store(y + pair * V + tl.arange(0, V)[None, :], answered.to(y.dtype.element_ty))

    @triton.jit
    def delta_step(
        q, k, v, eta, log_alpha, erase, reset, valid, first, states, y, new_states, heads,
        q_batch, q_head, k_batch, k_head, v_batch, v_head,
        K: tl.constexpr, V: tl.constexpr, HEIGHT: tl.constexpr, RESET: tl.constexpr, VALID: tl.constexpr,
    ):  # fmt: skip
        """A program for some rows of a head's state."""
        pair = tl.program_id(0).to(tl.int64)
        batch = pair // heads
        own = pair % heads
        o = tl.program_id(1) * HEIGHT
        live = tl.cast(1, tl.int32)
        fresh = tl.cast(0, tl.int32)
        if VALID:
            live = tl.load(valid + batch).to(tl.int32)
        if RESET:
            fresh = tl.load(reset + batch).to(tl.int32) * live
        key = step_row(k, batch, own, k_batch, k_head, K)
        ask = step_row(q, batch, own, q_batch, q_head, K)
        rows = o + tl.arange(0, HEIGHT)
        value = tl.load(v + batch * v_batch + own * v_head + rows).to(tl.float32)[:, None]
        alpha = step_decay(log_alpha, pair, live, K)
        size = live * tl.load(eta + pair).to(tl.float32)
        strength = size
        if DECOUPLED:
            if ERASE_CHANNELS:
                strength = live * tl.load(erase + pair * K + tl.arange(0, K)).to(tl.float32)[None, :]
            else:
                strength = live * tl.load(erase + pair).to(tl.float32)
        state = step_load(states, first, pair, own, fresh, o, 0, V, K, HEIGHT, K)
        kept = alpha * state
        seen = state
        if DECAY_FIRST:
            seen = kept
        held = tl.sum(seen * key, axis=1)[:, None]
        new = kept + size * value * key - held * (strength * key)
        tl.store(new_states + step_places(pair, o, 0, V, K, HEIGHT, K), new)
        if READ_FIRST:
            new = state
        answer = tl.sum(new * ask, axis=1)
        if VALID:
            answer = tl.where(live != 0, answer, 0.0)
        tl.store(y + pair * V + rows, answer.to(y.dtype.element_ty))
