# ruff: noqa: SIM102 (flags fold where a test has nothing else)
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Reads of a dense memory in their dual, attention-like form: all chunks and layers at once, no weights formed.

A layer answers x^q_t with z_t = held_t W x^q_t - c sum_{i <= t} strength_ti (x^q_t . x_i) g_i + c carried_t N x^q_t, where W are the
frozen weights, N the momentum at the chunk's start, and c is 1, or under a lagged read the number with which psi
multiplies the state at the chunk's start. Where layers have offsets, an input is followed by a 1, so that its products grow by 1.
Shapes as in `triton_dense_state`.
"""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_slots import (
        LAYERS,
        MOMENTUM,
        OFFSET,
        READ,
        memory_activate_grad_tile,
        memory_activate_tile,
    )
    from miras_search.codegen.skeletons.triton_tiles import (
        load_gate,
        load_rows,
        offset_places,
        pair_places,
        store_gate,
        store_rows,
        weight_places,
    )

    @triton.jit
    def load_input(
        x, chunk, first, numbers, ACTIVATED: tl.constexpr,
        SIZE: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
    ):  # fmt: skip
        """Inputs of a layer; those of the second are kept as the outputs of the first, before the activation."""
        rows = load_rows(x, chunk, first, SIZE, WIDTH, SPAN, ROWS)
        if LAYERS > 1:
            if ACTIVATED:
                rows = memory_activate_tile(rows, numbers)
        return rows

    @triton.jit
    def dense_forward_read(
        query, x, g, weights, momenta, scales, strength, held, carried, z, like, numbers,
        IN: tl.constexpr, OUT: tl.constexpr, ACTIVATED: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for a chunk and some outputs of a layer. `like`: any tensor of the type that is multiplied."""
        KIND: tl.constexpr = like.dtype.element_ty
        here = tl.program_id(0).to(tl.int64)
        o = tl.program_id(1) * BLOCK_OUT
        products = tl.zeros([ROWS, ROWS], tl.float32)
        answer = tl.zeros([ROWS, BLOCK_OUT], tl.float32)
        if MOMENTUM:
            flow = tl.zeros([ROWS, BLOCK_OUT], tl.float32)
        for b in range(0, IN, BLOCK_IN):
            ask = load_input(query, here, b, numbers, ACTIVATED, IN, BLOCK_IN, SPAN, ROWS).to(KIND)
            seen = load_input(x, here, b, numbers, ACTIVATED, IN, BLOCK_IN, SPAN, ROWS).to(KIND)
            products = tl.dot(ask, tl.trans(seen), acc=products, input_precision=PRECISION)
            place = weight_places(here, o, b, OUT, IN, BLOCK_OUT, BLOCK_IN)
            w = tl.load(weights + place).to(KIND)
            answer = tl.dot(ask, tl.trans(w), acc=answer, input_precision=PRECISION)
            if MOMENTUM:
                m = tl.load(momenta + place).to(KIND)
                flow = tl.dot(ask, tl.trans(m), acc=flow, input_precision=PRECISION)
        if OFFSET:
            products += 1.0
            beside = offset_places(here, o, OUT, IN, BLOCK_OUT)
            answer += tl.load(weights + beside)[None, :]
            if MOMENTUM:
                flow += tl.load(momenta + beside)[None, :]
        answer *= load_gate(held, here, 0.0, SPAN, ROWS)[:, None]
        place, exists = pair_places(here, SPAN, ROWS)
        products *= tl.load(strength + place, mask=exists, other=0.0)
        cotangent = load_rows(g, here, o, OUT, BLOCK_OUT, SPAN, ROWS).to(KIND)
        written = tl.dot(products.to(KIND), cotangent, input_precision=PRECISION)
        if MOMENTUM:
            written -= load_gate(carried, here, 0.0, SPAN, ROWS)[:, None] * flow
        if READ == "lagged":
            written *= tl.load(scales + here)
        store_rows(z, answer - written, here, o, OUT, BLOCK_OUT, SPAN, ROWS)

    @triton.jit
    def dense_backward_read(
        query, x, g, weights, momenta, scales, strength, held, carried, d_z, like,
        d_query, d_x, d_g, d_weights, m_read, d_scales, d_strength, d_held, d_carried, numbers,
        IN: tl.constexpr, OUT: tl.constexpr, ACTIVATED: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for a chunk of a layer: all that follows from the answers alone, whatever comes later.

        The second layer comes first and stores what the strengths get; the first layer adds to it. `d_x` is the gradient of
        the input itself, `d_query` that of what the layer before put out.
        """
        KIND: tl.constexpr = like.dtype.element_ty
        here = tl.program_id(0).to(tl.int64)
        pairs, exists = pair_places(here, SPAN, ROWS)
        factor = tl.load(strength + pairs, mask=exists, other=0.0)
        if READ == "lagged":
            scale = tl.load(scales + here)
        else:
            scale = 1.0
        products = tl.zeros([ROWS, ROWS], tl.float32)
        for b in range(0, IN, BLOCK_IN):
            ask = load_input(query, here, b, numbers, ACTIVATED, IN, BLOCK_IN, SPAN, ROWS).to(KIND)
            seen = load_input(x, here, b, numbers, ACTIVATED, IN, BLOCK_IN, SPAN, ROWS).to(KIND)
            products = tl.dot(ask, tl.trans(seen), acc=products, input_precision=PRECISION)
        if OFFSET:
            products += 1.0
        d_products = tl.zeros([ROWS, ROWS], tl.float32)
        for o in range(0, OUT, BLOCK_OUT):
            pull = load_rows(d_z, here, o, OUT, BLOCK_OUT, SPAN, ROWS).to(KIND)
            cotangent = load_rows(g, here, o, OUT, BLOCK_OUT, SPAN, ROWS).to(KIND)
            d_products = tl.dot(pull, tl.trans(cotangent), acc=d_products, input_precision=PRECISION)
            back = tl.dot(tl.trans((products * factor).to(KIND)), pull, input_precision=PRECISION)
            store_rows(d_g, -scale * back, here, o, OUT, BLOCK_OUT, SPAN, ROWS)
        d_factor = -scale * d_products * products
        if READ == "lagged":
            lost = tl.sum(tl.sum(d_factor * factor, axis=1), axis=0)
        if LAYERS > 1:
            if not ACTIVATED:
                d_factor += tl.load(d_strength + pairs, mask=exists, other=0.0)
        tl.store(d_strength + pairs, d_factor, mask=exists)
        d_products = (-scale * d_products * factor).to(KIND)
        keep = load_gate(held, here, 0.0, SPAN, ROWS)
        d_keep = tl.zeros([ROWS], tl.float32)
        if MOMENTUM:
            arrive = scale * load_gate(carried, here, 0.0, SPAN, ROWS)
            d_arrive = tl.zeros([ROWS], tl.float32)
        if OFFSET:
            for o in range(0, OUT, BLOCK_OUT):
                pull = load_rows(d_z, here, o, OUT, BLOCK_OUT, SPAN, ROWS)
                beside = offset_places(here, o, OUT, IN, BLOCK_OUT)
                d_keep += tl.sum(pull * tl.load(weights + beside)[None, :], axis=1)
                tl.store(d_weights + beside, tl.sum(pull * keep[:, None], axis=0))
                if MOMENTUM:
                    d_arrive += tl.sum(pull * tl.load(momenta + beside)[None, :], axis=1)
                    tl.store(m_read + beside, tl.sum(pull * arrive[:, None], axis=0))
        for b in range(0, IN, BLOCK_IN):
            ask = load_input(query, here, b, numbers, ACTIVATED, IN, BLOCK_IN, SPAN, ROWS).to(KIND)
            d_seen = tl.dot(tl.trans(d_products), ask, input_precision=PRECISION)
            store_rows(d_x, d_seen, here, b, IN, BLOCK_IN, SPAN, ROWS)
            answered = tl.zeros([ROWS, BLOCK_IN], tl.float32)
            if MOMENTUM:
                flow = tl.zeros([ROWS, BLOCK_IN], tl.float32)
            for o in range(0, OUT, BLOCK_OUT):
                pull = load_rows(d_z, here, o, OUT, BLOCK_OUT, SPAN, ROWS)
                place = weight_places(here, o, b, OUT, IN, BLOCK_OUT, BLOCK_IN)
                w = tl.load(weights + place).to(KIND)
                answered = tl.dot(pull.to(KIND), w, acc=answered, input_precision=PRECISION)
                d_w = tl.dot(tl.trans((pull * keep[:, None]).to(KIND)), ask, input_precision=PRECISION)
                tl.store(d_weights + place, d_w)
                if MOMENTUM:
                    m = tl.load(momenta + place).to(KIND)
                    flow = tl.dot(pull.to(KIND), m, acc=flow, input_precision=PRECISION)
                    d_m = tl.dot(tl.trans((pull * arrive[:, None]).to(KIND)), ask, input_precision=PRECISION)
                    tl.store(m_read + place, d_m)
            d_keep += tl.sum(answered * ask.to(tl.float32), axis=1)
            d_ask = keep[:, None] * answered
            if MOMENTUM:
                d_arrive += tl.sum(flow * ask.to(tl.float32), axis=1)
                d_ask += arrive[:, None] * flow
            seen = load_input(x, here, b, numbers, ACTIVATED, IN, BLOCK_IN, SPAN, ROWS).to(KIND)
            d_ask = tl.dot(d_products, seen, acc=d_ask, input_precision=PRECISION)
            if LAYERS > 1:
                if ACTIVATED:
                    before = load_rows(query, here, b, IN, BLOCK_IN, SPAN, ROWS)
                    d_ask *= memory_activate_grad_tile(before, numbers)
            store_rows(d_query, d_ask, here, b, IN, BLOCK_IN, SPAN, ROWS)
        if MOMENTUM:
            d_arrive *= scale
            if READ == "lagged":
                lost += tl.sum(d_arrive * load_gate(carried, here, 0.0, SPAN, ROWS), axis=0)
        if READ == "lagged":
            tl.store(d_scales + here, lost / scale)
        if LAYERS > 1:
            if not ACTIVATED:
                d_keep += load_gate(d_held, here, 0.0, SPAN, ROWS)
                if MOMENTUM:
                    d_arrive += load_gate(d_carried, here, 0.0, SPAN, ROWS)
        store_gate(d_held, d_keep, here, SPAN, ROWS)
        if MOMENTUM:
            store_gate(d_carried, d_arrive, here, SPAN, ROWS)
