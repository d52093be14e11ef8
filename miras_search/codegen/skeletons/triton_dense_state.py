# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The sequential half of the dense family in Triton: from chunk to chunk.

A dense memory is one linear map, or two with an activation between them, with or without residual and LayerNorm. What
gates, steps and momentum make of a chunk's writes comes as numbers: with x_i and g_i input and cotangent of a layer,

    S_t = held_t S - sum_{i <= t} strength_ti g_i x_i' + carried_t N,   N' = kept N - sum_i impulse_i g_i x_i'

where S and N are state and momentum at the chunk's start, S' = S at its last row. Which token is a document's first, and
which slot is empty, is in these numbers too, so no kernel knows of gates or masks.

Shape legend: P pairs of batch and head, N chunks, C = SPAN tokens a chunk, held in ROWS rows, K key dim, V value dim,
HIDDEN units; tokens `[N, P, C, dim]`, numbers of tokens `[N, P, C]`, `strength` `[N, P, C, C]`, states at chunk starts
`[N + 1, P, out, in]`. The hidden units are taken BLOCK at a time, row by row maps HEIGHT rows at a time.
"""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_dense_offset import (
        offset_open,
        offset_write,
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
        memory_activate_grad_tile,
        memory_activate_tile,
        retention_psi_part_tile,
        retention_psi_tile,
        retention_scale_part_tile,
        retention_scale_tile,
        retention_totals_tile,
    )
    from miras_search.codegen.skeletons.triton_tiles import (
        load_gate,
        load_rows,
        offset_places,
        store_rows,
        weight_places,
    )

    @triton.jit
    def row_mean(x):
        """Over the columns of a tile."""
        return tl.sum(x, axis=1, keep_dims=True) / x.shape[1]

    @triton.jit
    def dense_error(out, key, value, gamma, beta):
        """From the last layer's output: the normalised output, 1 / its deviation, and the error of the prediction."""
        unit = out
        scale = out
        r = out - value
        if NORM:
            centred = out - row_mean(out)
            scale = 1.0 / tl.sqrt(row_mean(centred * centred) + 1e-6)
            unit = centred * scale
            r = unit * gamma + beta - value
        if RESIDUAL:
            r += key.to(tl.float32)
        return unit, scale, r

    @triton.jit
    def dense_cotangent(out, key, value, threshold, gamma, beta, numbers):
        """The inner gradient at the last layer's output."""
        unit, scale, r = dense_error(out, key, value, gamma, beta)
        g = bias_phi_tile(r, value, threshold, numbers)
        if NORM:
            g = g * gamma
            g = scale * (g - row_mean(g) - unit * row_mean(g * unit))
        return g

    @triton.jit
    def dense_open(
        first, states, momenta, weights, scales, here, pair, mark, numbers,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr,
    ):  # fmt: skip
        """Start a chunk: a document that begins takes the initial state; the mirror map gives the frozen weights."""
        if mark % 2 == 1:
            for o in range(0, OUT, HEIGHT):
                place = weight_places(here, o, 0, OUT, IN, HEIGHT, IN)
                start = tl.load(first + weight_places(pair, o, 0, OUT, IN, HEIGHT, IN))
                tl.store(states + place, start)
                if MOMENTUM:
                    tl.store(momenta + place, tl.zeros_like(start))
            tl.debug_barrier()
        if MIRROR:
            if TOTALS:
                totals = tl.zeros([1, 8], tl.float32)
                for o in range(0, OUT, HEIGHT):
                    state = tl.load(states + weight_places(here, o, 0, OUT, IN, HEIGHT, IN))
                    totals += retention_totals_tile(state, OUT * IN, numbers)
                for o in range(0, OUT, HEIGHT):
                    place = weight_places(here, o, 0, OUT, IN, HEIGHT, IN)
                    state = tl.load(states + place)
                    tl.store(weights + place, retention_psi_part_tile(state, totals, OUT * IN, numbers))
                if READ == "lagged":
                    one = tl.zeros([1, 1], tl.int32)
                    tl.store(scales + here + one, retention_scale_part_tile(totals, OUT * IN, numbers))
            else:
                for o in range(0, OUT, HEIGHT):
                    place = weight_places(here, o, 0, OUT, IN, HEIGHT, IN)
                    state = tl.load(states + place)
                    tl.store(weights + place, retention_psi_tile(state, numbers))
                    if READ == "lagged":
                        one = tl.zeros([1, 1], tl.int32)
                        tl.store(scales + here + one, retention_scale_tile(state, numbers))

    @triton.jit
    def dense_write(
        states, momenta, here, after, out, inner, g, weight, push, x, total, arrived, kept,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A tile of a layer's state, and of its momentum, from the start of a chunk to its end."""
        place = weight_places(here, out, inner, OUT, IN, HEIGHT, WIDTH)
        target = weight_places(after, out, inner, OUT, IN, HEIGHT, WIDTH)
        written = tl.dot(tl.trans((g * weight[:, None]).to(x.dtype)), x, input_precision=PRECISION)
        new = total * tl.load(states + place) - written
        if MOMENTUM:
            momentum = tl.load(momenta + place)
            pushed = tl.dot(tl.trans((g * push[:, None]).to(x.dtype)), x, input_precision=PRECISION)
            new += arrived * momentum
            tl.store(momenta + target, kept * momentum - pushed)
        tl.store(states + target, new)

    @triton.jit
    def dense_forward_state(
        k, v, delta, gamma, beta, strength, held, carried, impulse, kept, marks, first_0, first_1,
        states_0, states_1, momenta_0, momenta_1, weights_0, weights_1, scales_0, scales_1, pre, g_0, g_1, outs,
        numbers, P, N,
        K: tl.constexpr, V: tl.constexpr, HIDDEN: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        BLOCK: tl.constexpr, HEIGHT_0: tl.constexpr, HEIGHT_1: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a pair: the states at all chunk starts, and each chunk's inner gradient at its frozen weights."""
        pair = tl.program_id(0).to(tl.int64)
        norm_weight = tl.zeros([1, V], tl.float32)
        norm_bias = tl.zeros([1, V], tl.float32)
        if NORM:
            norm_weight = tl.load(gamma + pair * V + tl.arange(0, V))[None, :]
            norm_bias = tl.load(beta + pair * V + tl.arange(0, V))[None, :]
        for n in range(N):
            here = n * P + pair
            after = here + P
            mark = tl.load(marks + here)
            if LAYERS > 1:
                dense_open(
                    first_0, states_0, momenta_0, weights_0, scales_0, here, pair, mark, numbers, HIDDEN, K, HEIGHT_0
                )
                dense_open(
                    first_1, states_1, momenta_1, weights_1, scales_1, here, pair, mark, numbers, V, HIDDEN, HEIGHT_1
                )
            else:
                dense_open(first_0, states_0, momenta_0, weights_0, scales_0, here, pair, mark, numbers, V, K, HEIGHT_0)
            if OFFSET:
                if LAYERS > 1:
                    offset_open(first_0, states_0, momenta_0, here, pair, mark, HIDDEN, K)
                    offset_open(first_1, states_1, momenta_1, here, pair, mark, V, HIDDEN)
                else:
                    offset_open(first_0, states_0, momenta_0, here, pair, mark, V, K)
            tl.debug_barrier()
            key = load_rows(k, here, 0, K, K, SPAN, ROWS)
            out = tl.zeros([ROWS, V], tl.float32)
            if LAYERS > 1:
                for j in range(0, HIDDEN, BLOCK):
                    w_0 = tl.load(weights_0 + weight_places(here, j, 0, HIDDEN, K, BLOCK, K)).to(key.dtype)
                    z = tl.dot(key, tl.trans(w_0), input_precision=PRECISION)
                    if OFFSET:
                        z += tl.load(weights_0 + offset_places(here, j, HIDDEN, K, BLOCK))[None, :]
                    store_rows(pre, z, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    x = memory_activate_tile(z, numbers).to(key.dtype)
                    w_1 = tl.load(weights_1 + weight_places(here, 0, j, V, HIDDEN, V, BLOCK)).to(key.dtype)
                    out = tl.dot(x, tl.trans(w_1), acc=out, input_precision=PRECISION)
            else:
                w_0 = tl.load(weights_0 + weight_places(here, 0, 0, V, K, V, K)).to(key.dtype)
                out = tl.dot(key, tl.trans(w_0), input_precision=PRECISION)
            if OFFSET:
                if LAYERS > 1:
                    out += tl.load(weights_1 + offset_places(here, 0, V, HIDDEN, V))[None, :]
                else:
                    out += tl.load(weights_0 + offset_places(here, 0, V, K, V))[None, :]
            store_rows(outs, out, here, 0, V, V, SPAN, ROWS)
            value = load_rows(v, here, 0, V, V, SPAN, ROWS).to(tl.float32)
            threshold = load_gate(delta, here, 1.0, SPAN, ROWS)
            g = dense_cotangent(out, key, value, threshold[:, None], norm_weight, norm_bias, numbers)
            store_rows(g_1, g, here, 0, V, V, SPAN, ROWS)
            weight = load_gate(strength, here * SPAN + SPAN - 1, 0.0, SPAN, ROWS)
            total = tl.load(held + here * SPAN + SPAN - 1)
            push = weight
            arrived = total
            keep = total
            if MOMENTUM:
                push = load_gate(impulse, here, 0.0, SPAN, ROWS)
                arrived = tl.load(carried + here * SPAN + SPAN - 1)
                keep = tl.load(kept + here)
            if LAYERS > 1:
                tl.debug_barrier()
                for j in range(0, HIDDEN, BLOCK):
                    z = load_rows(pre, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    w_1 = tl.load(weights_1 + weight_places(here, 0, j, V, HIDDEN, V, BLOCK)).to(key.dtype)
                    g_pre = tl.dot(g.to(key.dtype), w_1, input_precision=PRECISION)
                    g_pre *= memory_activate_grad_tile(z, numbers)
                    store_rows(g_0, g_pre, here, j, HIDDEN, BLOCK, SPAN, ROWS)
                    dense_write(
                        states_0, momenta_0, here, after, j, 0, g_pre, weight, push, key, total, arrived, keep,
                        HIDDEN, K, BLOCK, K, PRECISION,
                    )  # fmt: skip
                    if OFFSET:
                        offset_write(
                            states_0, momenta_0, here, after, j, g_pre, weight, push, total, arrived, keep,
                            HIDDEN, K, BLOCK,
                        )  # fmt: skip
                    x = memory_activate_tile(z, numbers).to(key.dtype)
                    dense_write(
                        states_1, momenta_1, here, after, 0, j, g, weight, push, x, total, arrived, keep,
                        V, HIDDEN, V, BLOCK, PRECISION,
                    )  # fmt: skip
            else:
                dense_write(
                    states_0, momenta_0, here, after, 0, 0, g, weight, push, key, total, arrived, keep,
                    V, K, V, K, PRECISION,
                )  # fmt: skip
            if OFFSET:
                if LAYERS > 1:
                    offset_write(
                        states_1, momenta_1, here, after, 0, g, weight, push, total, arrived, keep, V, HIDDEN, V
                    )
                else:
                    offset_write(states_0, momenta_0, here, after, 0, g, weight, push, total, arrived, keep, V, K, V)
            tl.debug_barrier()
