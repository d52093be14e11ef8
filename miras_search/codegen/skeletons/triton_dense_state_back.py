# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The way back of `triton_dense_state`, from chunk to chunk, and then the writes of all chunks at once. Shapes as there."""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_dense_offset import (
        offset_close,
        offset_layer_write,
        offset_unwrite,
        offset_written,
    )
    from miras_search.codegen.skeletons.triton_dense_state import (
        dense_error,
        row_mean,
    )
    from miras_search.codegen.skeletons.triton_slots import (
        LAYERS,
        MIRROR,
        MOMENTUM,
        NORM,
        OFFSET,
        READ,
        RESIDUAL,
        TOTALS,
        bias_phi_tile,
        bias_phi_vjp_tile,
        memory_activate_curve_tile,
        memory_activate_grad_tile,
        memory_activate_tile,
        retention_psi_vjp_part_tile,
        retention_psi_vjp_tile,
        retention_scale_part_tile,
        retention_scale_tile,
        retention_totals_vjp_tile,
    )
    from miras_search.codegen.skeletons.triton_tiles import (
        load_gate,
        load_rows,
        store_gate,
        store_rows,
        tile_total,
        weight_places,
    )

    @triton.jit
    def dense_cotangent_vjp(d_g, g, out, key, value, threshold, gamma, beta, numbers):
        """Pull d_g back through `dense_cotangent`: to out, r, value, threshold, and a row each of gamma and beta."""
        unit, scale, r = dense_error(out, key, value, gamma, beta)
        if NORM:
            phi = bias_phi_tile(r, value, threshold, numbers)
            along = row_mean(d_g * unit)
            d_u = scale * (d_g - row_mean(d_g) - unit * along)
            d_unit = -scale * (d_g * row_mean(phi * gamma * unit) + phi * gamma * along)
            # The deviation scales g, and unit through the output: the second has no part along unit itself.
            d_scale = tl.sum(d_g * g, axis=1, keep_dims=True) * scale / out.shape[1]
            d_r, d_value, d_threshold = bias_phi_vjp_tile(r, value, threshold, d_u * gamma, numbers)
            d_unit += d_r * gamma
            d_gamma = tl.sum(d_u * phi + d_r * unit, axis=0)
            d_out = scale * (d_unit - row_mean(d_unit) - unit * row_mean(d_unit * unit)) - unit * d_scale
        else:
            d_r, d_value, d_threshold = bias_phi_vjp_tile(r, value, threshold, d_g, numbers)
            d_out = d_r
            d_gamma = tl.sum(d_r, axis=0)
        return d_out, d_r, d_value - d_r, d_threshold, d_gamma, tl.sum(d_r, axis=0)

    @triton.jit
    def dense_written(rows, weight, push, d_next, m_next, PRECISION: tl.constexpr):
        """What the gradients of state and momentum after a chunk say to its writes: rows times their transposes, weighted."""
        d = weight[:, None] * tl.dot(rows, tl.trans(d_next.to(rows.dtype)), input_precision=PRECISION)
        if MOMENTUM:
            d += push[:, None] * tl.dot(rows, tl.trans(m_next.to(rows.dtype)), input_precision=PRECISION)
        return d

    @triton.jit
    def dense_unwrite(
        d_states, d_momenta, d_read, m_read, d_weights, here, after, out, inner, d, total, arrived, kept,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """A tile of the state's gradient from the end of a chunk to its start; d: that of the frozen weights."""
        place = weight_places(here, out, inner, OUT, IN, HEIGHT, WIDTH)
        if MIRROR:
            if READ == "lagged":
                d += tl.load(d_weights + place)
            tl.store(d_weights + place, d)
        else:
            target = weight_places(after, out, inner, OUT, IN, HEIGHT, WIDTH)
            tl.store(d_states + place, total * tl.load(d_states + target) + d + tl.load(d_read + place))
        if MOMENTUM:
            target = weight_places(after, out, inner, OUT, IN, HEIGHT, WIDTH)
            pulled = kept * tl.load(d_momenta + target) + arrived * tl.load(d_states + target)
            tl.store(d_momenta + place, pulled + tl.load(m_read + place))

    @triton.jit
    def dense_close(
        states, d_states, d_momenta, d_read, d_weights, d_scales, d_opened, d_first, here, after, pair, mark, total,
        numbers, OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr,
    ):  # fmt: skip
        """Back through the start of a chunk: mirror map, the state handed out as `frozen`, documents that begin."""
        if MIRROR:
            if TOTALS:
                if READ == "lagged":
                    # As below.
                    square = tl.zeros([1, 1], tl.float32)
                    for o in range(0, OUT, HEIGHT):
                        state = tl.load(states + weight_places(here, o, 0, OUT, IN, HEIGHT, IN))
                        square += tile_total(state * state)
                    c = tl.load(d_scales + here) / tl.maximum(square, 1e-30)
                totals = tl.zeros([1, 8], tl.float32)
                for o in range(0, OUT, HEIGHT):
                    place = weight_places(here, o, 0, OUT, IN, HEIGHT, IN)
                    state = tl.load(states + place)
                    d = tl.load(d_weights + place)
                    if READ == "lagged":
                        d += c * state
                    totals += retention_totals_vjp_tile(state, d, OUT * IN, numbers)
                for o in range(0, OUT, HEIGHT):
                    place = weight_places(here, o, 0, OUT, IN, HEIGHT, IN)
                    state = tl.load(states + place)
                    d = tl.load(d_weights + place)
                    if READ == "lagged":
                        d = retention_psi_vjp_part_tile(state, d + c * state, totals, OUT * IN, numbers)
                        d -= c * retention_scale_part_tile(totals, OUT * IN, numbers) * state
                    else:
                        d = retention_psi_vjp_part_tile(state, d, totals, OUT * IN, numbers) + tl.load(d_read + place)
                    d += total * tl.load(d_states + weight_places(after, o, 0, OUT, IN, HEIGHT, IN))
                    tl.store(d_states + place, d)
            else:
                for o in range(0, OUT, HEIGHT):
                    place = weight_places(here, o, 0, OUT, IN, HEIGHT, IN)
                    state = tl.load(states + place)
                    d = tl.load(d_weights + place)
                    if READ == "lagged":
                        # psi(S) = S scale(S): pulling c S back gives c scale S and the gradient of scale, times c |S|^2.
                        square = tl.sum(tl.sum(state * state, axis=1, keep_dims=True), axis=0, keep_dims=True)
                        c = tl.load(d_scales + here) / tl.maximum(square, 1e-30)
                        d = retention_psi_vjp_tile(state, d + c * state, numbers)
                        d -= c * retention_scale_tile(state, numbers) * state
                    else:
                        d = retention_psi_vjp_tile(state, d, numbers) + tl.load(d_read + place)
                    d += total * tl.load(d_states + weight_places(after, o, 0, OUT, IN, HEIGHT, IN))
                    tl.store(d_states + place, d)
        if mark > 0:
            tl.debug_barrier()
            for o in range(0, OUT, HEIGHT):
                place = weight_places(here, o, 0, OUT, IN, HEIGHT, IN)
                own = weight_places(pair, o, 0, OUT, IN, HEIGHT, IN)
                d = tl.load(d_states + place)
                if mark >= 2:
                    d += tl.load(d_opened + own)
                if mark % 2 == 1:
                    tl.store(d_first + own, tl.load(d_first + own) + d)
                    d = tl.zeros_like(d)
                    if MOMENTUM:
                        tl.store(d_momenta + place, d)
                tl.store(d_states + place, d)

    @triton.jit
    def dense_backward_state(
        k, v, delta, gamma, beta, strength, held, carried, impulse, kept, marks, pre, g_1, outs,
        states_0, states_1, weights_0, weights_1,
        d_states_0, d_states_1, d_momenta_0, d_momenta_1, d_read_0, d_read_1, m_read_0, m_read_1,
        d_weights_0, d_weights_1, d_scales_0, d_scales_1, d_opened_0, d_opened_1, d_first_0, d_first_1,
        d_g_0, d_g_1, d_x, d_pre, d_r, d_v, d_delta, d_gamma, d_beta, numbers, P, N,
        K: tl.constexpr, V: tl.constexpr, HIDDEN: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        BLOCK: tl.constexpr, HEIGHT_0: tl.constexpr, HEIGHT_1: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a pair, from the last chunk to the first: gradients of the states, and through the inner gradient.

        `d_g_0` and `d_x` are read and then hold intermediate results; `d_pre` is the gradient of the first layer's output.
        """
        pair = tl.program_id(0).to(tl.int64)
        norm_weight = tl.zeros([1, V], tl.float32)
        norm_bias = tl.zeros([1, V], tl.float32)
        if NORM:
            norm_weight = tl.load(gamma + pair * V + tl.arange(0, V))[None, :]
            norm_bias = tl.load(beta + pair * V + tl.arange(0, V))[None, :]
            d_weight_row = tl.load(d_gamma + pair * V + tl.arange(0, V))
            d_bias_row = tl.load(d_beta + pair * V + tl.arange(0, V))
        for i in range(N):
            here = (N - 1 - i) * P + pair
            after = here + P
            key = load_rows(k, here, 0, K, K, SPAN, ROWS)
            g = load_rows(g_1, here, 0, V, V, SPAN, ROWS)
            weight = load_gate(strength, here * SPAN + SPAN - 1, 0.0, SPAN, ROWS)
            total = tl.load(held + here * SPAN + SPAN - 1)
            push = weight
            arrived = total
            keep = total
            if MOMENTUM:
                push = load_gate(impulse, here, 0.0, SPAN, ROWS)
                arrived = tl.load(carried + here * SPAN + SPAN - 1)
                keep = tl.load(kept + here)
            d_g = load_rows(d_g_1, here, 0, V, V, SPAN, ROWS)
            if LAYERS > 1:
                for j in range(0, HIDDEN, BLOCK):
                    z = load_rows(pre, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    slope = memory_activate_grad_tile(z, numbers)
                    place_0 = weight_places(after, j, 0, HIDDEN, K, BLOCK, K)
                    next_0 = tl.load(d_states_0 + place_0)
                    m_next_0 = next_0
                    if MOMENTUM:
                        m_next_0 = tl.load(d_momenta_0 + place_0)
                    d_g_pre = load_rows(d_g_0, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    d_g_pre -= dense_written(key, weight, push, next_0, m_next_0, PRECISION)
                    if OFFSET:
                        d_g_pre -= offset_written(d_states_0, d_momenta_0, after, j, weight, push, HIDDEN, K, BLOCK)
                    d_back = d_g_pre * slope
                    store_rows(d_g_0, d_back, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    w_1 = tl.load(weights_1 + weight_places(here, 0, j, V, HIDDEN, V, BLOCK)).to(key.dtype)
                    d_g = tl.dot(d_back.to(key.dtype), tl.trans(w_1), acc=d_g, input_precision=PRECISION)
                    d_z = d_g_pre * tl.dot(g.to(key.dtype), w_1, input_precision=PRECISION)
                    d_z *= memory_activate_curve_tile(z, numbers)
                    place_1 = weight_places(after, 0, j, V, HIDDEN, V, BLOCK)
                    next_1 = tl.load(d_states_1 + place_1)
                    m_next_1 = next_1
                    if MOMENTUM:
                        m_next_1 = tl.load(d_momenta_1 + place_1)
                    x = memory_activate_tile(z, numbers).to(key.dtype)
                    d_g -= dense_written(x, weight, push, next_1, m_next_1, PRECISION)
                    d_act = load_rows(d_x, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    d_act -= dense_written(
                        g.to(key.dtype), weight, push, tl.trans(next_1), tl.trans(m_next_1), PRECISION
                    )
                    store_rows(d_x, d_z + d_act * slope, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                tl.debug_barrier()
            else:
                place_0 = weight_places(after, 0, 0, V, K, V, K)
                next_0 = tl.load(d_states_0 + place_0)
                m_next_0 = next_0
                if MOMENTUM:
                    m_next_0 = tl.load(d_momenta_0 + place_0)
                d_g -= dense_written(key, weight, push, next_0, m_next_0, PRECISION)
            if OFFSET:
                if LAYERS > 1:
                    d_g -= offset_written(d_states_1, d_momenta_1, after, 0, weight, push, V, HIDDEN, V)
                else:
                    d_g -= offset_written(d_states_0, d_momenta_0, after, 0, weight, push, V, K, V)
            out = load_rows(outs, here, 0, V, V, SPAN, ROWS)
            value = load_rows(v, here, 0, V, V, SPAN, ROWS).to(tl.float32)
            threshold = load_gate(delta, here, 1.0, SPAN, ROWS)
            d_out, error, d_value, d_threshold, d_weights_row, d_biases_row = dense_cotangent_vjp(
                d_g, g, out, key, value, threshold[:, None], norm_weight, norm_bias, numbers
            )
            if NORM:
                d_weight_row += d_weights_row
                d_bias_row += d_biases_row
            store_rows(d_r, error, here, 0, V, V, SPAN, ROWS)
            store_rows(d_v, d_value, here, 0, V, V, SPAN, ROWS)
            store_gate(d_delta, tl.sum(d_threshold, axis=1), here, SPAN, ROWS)
            mark = tl.load(marks + here)
            lost = d_out.to(key.dtype)
            if LAYERS > 1:
                for j in range(0, HIDDEN, BLOCK):
                    z = load_rows(pre, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    w_1 = tl.load(weights_1 + weight_places(here, 0, j, V, HIDDEN, V, BLOCK)).to(key.dtype)
                    d_z = tl.dot(lost, w_1, input_precision=PRECISION) * memory_activate_grad_tile(z, numbers)
                    d_z += load_rows(d_x, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    store_rows(d_pre, d_z, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    d = tl.dot(tl.trans(d_z.to(key.dtype)), key, input_precision=PRECISION)
                    dense_unwrite(
                        d_states_0, d_momenta_0, d_read_0, m_read_0, d_weights_0, here, after, j, 0, d,
                        total, arrived, keep, HIDDEN, K, BLOCK, K,
                    )  # fmt: skip
                    if OFFSET:
                        offset_unwrite(
                            d_states_0, d_momenta_0, d_read_0, m_read_0, here, after, j, d_z, total, arrived, keep,
                            HIDDEN, K, BLOCK,
                        )  # fmt: skip
                    x = memory_activate_tile(z, numbers).to(key.dtype)
                    d_back = load_rows(d_g_0, here, j, HIDDEN, BLOCK, SPAN, ROWS).to(key.dtype)
                    d = tl.dot(tl.trans(lost), x, input_precision=PRECISION)
                    d = tl.dot(tl.trans(g.to(key.dtype)), d_back, acc=d, input_precision=PRECISION)
                    dense_unwrite(
                        d_states_1, d_momenta_1, d_read_1, m_read_1, d_weights_1, here, after, 0, j, d,
                        total, arrived, keep, V, HIDDEN, V, BLOCK,
                    )  # fmt: skip
                if OFFSET:
                    offset_unwrite(
                        d_states_1, d_momenta_1, d_read_1, m_read_1, here, after, 0, d_out, total, arrived, keep,
                        V, HIDDEN, V,
                    )  # fmt: skip
                tl.debug_barrier()
                if OFFSET:
                    offset_close(d_states_0, d_momenta_0, d_opened_0, d_first_0, here, pair, mark, HIDDEN, K)
                    offset_close(d_states_1, d_momenta_1, d_opened_1, d_first_1, here, pair, mark, V, HIDDEN)
                dense_close(
                    states_0, d_states_0, d_momenta_0, d_read_0, d_weights_0, d_scales_0, d_opened_0, d_first_0,
                    here, after, pair, mark, total, numbers, HIDDEN, K, HEIGHT_0,
                )  # fmt: skip
                dense_close(
                    states_1, d_states_1, d_momenta_1, d_read_1, d_weights_1, d_scales_1, d_opened_1, d_first_1,
                    here, after, pair, mark, total, numbers, V, HIDDEN, HEIGHT_1,
                )  # fmt: skip
            else:
                store_rows(d_pre, d_out, here, 0, V, V, SPAN, ROWS)
                d = tl.dot(tl.trans(lost), key, input_precision=PRECISION)
                dense_unwrite(
                    d_states_0, d_momenta_0, d_read_0, m_read_0, d_weights_0, here, after, 0, 0, d,
                    total, arrived, keep, V, K, V, K,
                )  # fmt: skip
                if OFFSET:
                    offset_unwrite(
                        d_states_0, d_momenta_0, d_read_0, m_read_0, here, after, 0, d_out, total, arrived, keep,
                        V, K, V,
                    )  # fmt: skip
                tl.debug_barrier()
                if OFFSET:
                    offset_close(d_states_0, d_momenta_0, d_opened_0, d_first_0, here, pair, mark, V, K)
                dense_close(
                    states_0, d_states_0, d_momenta_0, d_read_0, d_weights_0, d_scales_0, d_opened_0, d_first_0,
                    here, after, pair, mark, total, numbers, V, K, HEIGHT_0,
                )  # fmt: skip
            tl.debug_barrier()
        if NORM:
            tl.store(d_gamma + pair * V + tl.arange(0, V), d_weight_row)
            tl.store(d_beta + pair * V + tl.arange(0, V), d_bias_row)

    @triton.jit
    def dense_layer_write(
        x, g, d_states, d_momenta, states, momenta, index, after, out, inner, weight, push,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A tile's part in the gradients of weight, push, total, arrived, kept, and of x."""
        place = weight_places(index, out, inner, OUT, IN, HEIGHT, WIDTH)
        target = weight_places(after, out, inner, OUT, IN, HEIGHT, WIDTH)
        d_next = tl.load(d_states + target)
        d_weight = -tl.sum(tl.dot(x, tl.trans(d_next.to(x.dtype)), input_precision=PRECISION) * g, axis=1)
        d_x = -tl.dot((g * weight[:, None]).to(x.dtype), d_next.to(x.dtype), input_precision=PRECISION)
        d_total = tl.sum(tl.sum(d_next * tl.load(states + place), axis=1), axis=0)
        d_push = d_weight
        d_arrived = d_total
        d_kept = d_total
        if MOMENTUM:
            momentum = tl.load(momenta + place)
            m_next = tl.load(d_momenta + target)
            d_push = -tl.sum(tl.dot(x, tl.trans(m_next.to(x.dtype)), input_precision=PRECISION) * g, axis=1)
            d_x -= tl.dot((g * push[:, None]).to(x.dtype), m_next.to(x.dtype), input_precision=PRECISION)
            d_arrived = tl.sum(tl.sum(d_next * momentum, axis=1), axis=0)
            d_kept = tl.sum(tl.sum(m_next * momentum, axis=1), axis=0)
        return d_weight, d_push, d_total, d_arrived, d_kept, d_x

    @triton.jit
    def dense_backward_write(
        k, strength, held, impulse, pre, g_0, g_1, states_0, states_1, momenta_0, momenta_1, weights_0,
        d_states_0, d_states_1, d_momenta_0, d_momenta_1, d_pre, d_r, d_k_read,
        d_k, d_strength, d_held, d_carried, d_impulse, d_kept, numbers, P,
        K: tl.constexpr, V: tl.constexpr, HIDDEN: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a chunk: what the gradients of the states after it say to its keys and to the strengths of its writes."""
        here = tl.program_id(0).to(tl.int64)
        after = here + P
        key = load_rows(k, here, 0, K, K, SPAN, ROWS)
        weight = load_gate(strength, here * SPAN + SPAN - 1, 0.0, SPAN, ROWS)
        push = weight
        if MOMENTUM:
            push = load_gate(impulse, here, 0.0, SPAN, ROWS)
        d_key = load_rows(d_k_read, here, 0, K, K, SPAN, ROWS)
        if RESIDUAL:
            d_key += load_rows(d_r, here, 0, K, K, SPAN, ROWS)
        d_weight = tl.zeros([ROWS], tl.float32)
        d_push = tl.zeros([ROWS], tl.float32)
        d_total = 0.0
        d_arrived = 0.0
        d_keep = 0.0
        if LAYERS > 1:
            for j in range(0, HIDDEN, BLOCK):
                d_z = load_rows(d_pre, here, j, HIDDEN, BLOCK, SPAN, ROWS).to(key.dtype)
                w_0 = tl.load(weights_0 + weight_places(here, j, 0, HIDDEN, K, BLOCK, K)).to(key.dtype)
                d_key = tl.dot(d_z, w_0, acc=d_key, input_precision=PRECISION)
                g_pre = load_rows(g_0, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                a, b, c, d, e, d_x = dense_layer_write(
                    key, g_pre, d_states_0, d_momenta_0, states_0, momenta_0, here, after, j, 0, weight, push,
                    HIDDEN, K, BLOCK, K, PRECISION,
                )  # fmt: skip
                d_key += d_x
                d_weight += a
                d_push += b
                d_total += c
                d_arrived += d
                d_keep += e
                if OFFSET:
                    a, b, c, d, e = offset_layer_write(
                        g_pre, d_states_0, d_momenta_0, states_0, momenta_0, here, after, j, HIDDEN, K, BLOCK
                    )
                    d_weight += a
                    d_push += b
                    d_total += c
                    d_arrived += d
                    d_keep += e
                # Of the second layer only the numbers: what it says to x has gone through the activation already.
                x = memory_activate_tile(load_rows(pre, here, j, HIDDEN, BLOCK, SPAN, ROWS), numbers).to(key.dtype)
                g = load_rows(g_1, here, 0, V, V, SPAN, ROWS)
                a, b, c, d, e, _ = dense_layer_write(
                    x, g, d_states_1, d_momenta_1, states_1, momenta_1, here, after, 0, j, weight, push,
                    V, HIDDEN, V, BLOCK, PRECISION,
                )  # fmt: skip
                d_weight += a
                d_push += b
                d_total += c
                d_arrived += d
                d_keep += e
        else:
            lost = load_rows(d_pre, here, 0, V, V, SPAN, ROWS).to(key.dtype)
            w_0 = tl.load(weights_0 + weight_places(here, 0, 0, V, K, V, K)).to(key.dtype)
            d_key = tl.dot(lost, w_0, acc=d_key, input_precision=PRECISION)
            g = load_rows(g_1, here, 0, V, V, SPAN, ROWS)
            d_weight, d_push, d_total, d_arrived, d_keep, d_x = dense_layer_write(
                key, g, d_states_0, d_momenta_0, states_0, momenta_0, here, after, 0, 0, weight, push,
                V, K, V, K, PRECISION,
            )  # fmt: skip
            d_key += d_x
        if OFFSET:
            last_g = load_rows(g_1, here, 0, V, V, SPAN, ROWS)
            if LAYERS > 1:
                a, b, c, d, e = offset_layer_write(
                    last_g, d_states_1, d_momenta_1, states_1, momenta_1, here, after, 0, V, HIDDEN, V
                )
            else:
                a, b, c, d, e = offset_layer_write(
                    last_g, d_states_0, d_momenta_0, states_0, momenta_0, here, after, 0, V, K, V
                )
            d_weight += a
            d_push += b
            d_total += c
            d_arrived += d
            d_keep += e
        store_rows(d_k, d_key, here, 0, K, K, SPAN, ROWS)
        last = here * SPAN + SPAN - 1
        store_gate(d_strength, load_gate(d_strength, last, 0.0, SPAN, ROWS) + d_weight, last, SPAN, ROWS)
        tl.store(d_held + last, tl.load(d_held + last) + d_total)
        if MOMENTUM:
            store_gate(d_impulse, d_push, here, SPAN, ROWS)
            tl.store(d_carried + last, tl.load(d_carried + last) + d_arrived)
            tl.store(d_kept + here, d_keep)
