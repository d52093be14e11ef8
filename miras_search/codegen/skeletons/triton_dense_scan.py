# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Exact reads of a dense memory under a mirror map: the state of every token is formed, in registers, and mapped.

A layer answers z_t = psi(S_t) x^q_t with S_t = held_t S - sum_{i <= t} strength_ti g_i x_i' + carried_t N: one product a token,
from the chunk's start, so that tokens need not wait for one another and nothing is divided by a decay. S is taken in tiles of
HEIGHT rows and WIDTH columns: twice, by one program, if psi takes totals of the matrix; in whole rows if it takes sums over
them; all at once if it looks at all of it. All in float32. Shapes as in `triton_dense_state`.
"""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_dense_read import load_input
    from miras_search.codegen.skeletons.triton_slots import (
        LAYERS,
        MOMENTUM,
        TOTALS,
        memory_activate_grad_tile,
        retention_psi_part_tile,
        retention_psi_tile,
        retention_psi_vjp_part_tile,
        retention_psi_vjp_tile,
        retention_totals_tile,
        retention_totals_vjp_tile,
    )
    from miras_search.codegen.skeletons.triton_tiles import (
        load_gate,
        load_rows,
        pair_places,
        store_gate,
        store_rows,
        weight_places,
    )

    @triton.jit
    def dense_state_at(
        states, momenta, place, held, carried, index, factor, x, g, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """Rows of the state of one token."""
        written = tl.dot(tl.trans(g * factor[:, None]), x, input_precision=PRECISION)
        state = tl.load(held + index) * tl.load(states + place) - written
        if MOMENTUM:
            state += tl.load(carried + index) * tl.load(momenta + place)
        return state

    @triton.jit
    def dense_scan_totals(
        query, x, g, states, momenta, strength, held, carried, d_z, numbers, here,
        IN: tl.constexpr, OUT: tl.constexpr, ACTIVATED: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PULLED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """The totals that psi takes of the state of every token, `[ROWS, 8]`; PULLED: and those of its pull-back."""
        totals = tl.zeros([ROWS, 8], tl.float32)
        for b in range(0, IN, WIDTH):
            seen = load_input(x, here, b, numbers, ACTIVATED, IN, WIDTH, SPAN, ROWS).to(tl.float32)
            for o in range(0, OUT, HEIGHT):
                cotangent = load_rows(g, here, o, OUT, HEIGHT, SPAN, ROWS)
                place = weight_places(here, o, b, OUT, IN, HEIGHT, WIDTH)
                for t in range(SPAN):
                    token = here * SPAN + t
                    factor = load_gate(strength, token, 0.0, SPAN, ROWS)
                    state = dense_state_at(
                        states, momenta, place, held, carried, token, factor, seen, cotangent, PRECISION
                    )
                    if PULLED:
                        ask = load_input(query, token, b, numbers, ACTIVATED, IN, WIDTH, 1, 1).to(tl.float32)
                        pull = tl.load(d_z + token * OUT + o + tl.arange(0, HEIGHT))[:, None]
                        part = retention_totals_vjp_tile(state, pull * ask, OUT * IN, numbers)
                    else:
                        part = retention_totals_tile(state, OUT * IN, numbers)
                    own = tl.arange(0, ROWS)[:, None] == t
                    totals += tl.where(own, part, 0.0)
        return totals

    @triton.jit
    def dense_scan_rows(
        query, x, g, states, momenta, strength, held, carried, z, numbers, here, o, totals,
        IN: tl.constexpr, OUT: tl.constexpr, ACTIVATED: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """Some outputs of all tokens; tiles of the same rows add to the answers one after another."""
        cotangent = load_rows(g, here, o, OUT, HEIGHT, SPAN, ROWS)
        for b in range(0, IN, WIDTH):
            seen = load_input(x, here, b, numbers, ACTIVATED, IN, WIDTH, SPAN, ROWS).to(tl.float32)
            place = weight_places(here, o, b, OUT, IN, HEIGHT, WIDTH)
            for t in range(SPAN):
                token = here * SPAN + t
                factor = load_gate(strength, token, 0.0, SPAN, ROWS)
                state = dense_state_at(states, momenta, place, held, carried, token, factor, seen, cotangent, PRECISION)
                ask = load_input(query, token, b, numbers, ACTIVATED, IN, WIDTH, 1, 1).to(tl.float32)
                if TOTALS:
                    own = tl.arange(0, ROWS)[:, None] == t
                    total = tl.sum(tl.where(own, totals, 0.0), axis=0, keep_dims=True)
                    answer = tl.sum(retention_psi_part_tile(state, total, OUT * IN, numbers) * ask, axis=1)
                else:
                    answer = tl.sum(retention_psi_tile(state, numbers) * ask, axis=1)
                target = token * OUT + o + tl.arange(0, HEIGHT)
                if b > 0:
                    answer += tl.load(z + target)
                tl.store(z + target, answer)
            if WIDTH < IN:
                tl.debug_barrier()

    @triton.jit
    def dense_forward_scan(
        query, x, g, states, momenta, strength, held, carried, z, numbers,
        IN: tl.constexpr, OUT: tl.constexpr, ACTIVATED: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for a chunk and some outputs of a layer; for all of them where psi takes totals."""
        here = tl.program_id(0).to(tl.int64)
        if TOTALS:
            totals = dense_scan_totals(
                query, x, g, states, momenta, strength, held, carried, z, numbers, here,
                IN, OUT, ACTIVATED, SPAN, ROWS, HEIGHT, WIDTH, False, PRECISION,
            )  # fmt: skip
            for o in range(0, OUT, HEIGHT):
                dense_scan_rows(
                    query, x, g, states, momenta, strength, held, carried, z, numbers, here, o, totals,
                    IN, OUT, ACTIVATED, SPAN, ROWS, HEIGHT, WIDTH, PRECISION,
                )  # fmt: skip
        else:
            dense_scan_rows(
                query, x, g, states, momenta, strength, held, carried, z, numbers, here, tl.program_id(1) * HEIGHT, 0.0,
                IN, OUT, ACTIVATED, SPAN, ROWS, HEIGHT, WIDTH, PRECISION,
            )  # fmt: skip

    @triton.jit
    def dense_backward_scan(
        query, x, g, states, momenta, strength, held, carried, d_z,
        d_query, d_x, d_g, d_states, m_read, d_strength, d_held, d_carried, numbers,
        IN: tl.constexpr, OUT: tl.constexpr, ACTIVATED: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
        HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for a chunk of a layer. The second layer comes first; the first adds to what the strengths got.

        `d_x` is the gradient of the input itself, `d_query` that of what the layer before put out. Tiles add to it and to `d_g`
        in memory, one after another: registers are short.
        """
        here = tl.program_id(0).to(tl.int64)
        rows = tl.arange(0, ROWS)
        store_rows(d_query, tl.zeros([ROWS, IN], tl.float32), here, 0, IN, IN, SPAN, ROWS)
        d_factors = tl.zeros([ROWS, ROWS], tl.float32)
        d_keep = tl.zeros([ROWS], tl.float32)
        if MOMENTUM:
            d_arrive = tl.zeros([ROWS], tl.float32)
        if TOTALS:
            totals = dense_scan_totals(
                query, x, g, states, momenta, strength, held, carried, d_z, numbers, here,
                IN, OUT, ACTIVATED, SPAN, ROWS, HEIGHT, WIDTH, True, PRECISION,
            )  # fmt: skip
        tl.debug_barrier()
        for b in range(0, IN, WIDTH):
            seen = load_input(x, here, b, numbers, ACTIVATED, IN, WIDTH, SPAN, ROWS).to(tl.float32)
            d_seen = tl.zeros([ROWS, WIDTH], tl.float32)
            for o in range(0, OUT, HEIGHT):
                cotangent = load_rows(g, here, o, OUT, HEIGHT, SPAN, ROWS)
                d_cotangent = tl.zeros([ROWS, HEIGHT], tl.float32)
                place = weight_places(here, o, b, OUT, IN, HEIGHT, WIDTH)
                d_start = tl.zeros([HEIGHT, WIDTH], tl.float32)
                if MOMENTUM:
                    d_flow = tl.zeros([HEIGHT, WIDTH], tl.float32)
                for t in range(SPAN):
                    token = here * SPAN + t
                    own = rows == t
                    factor = load_gate(strength, token, 0.0, SPAN, ROWS)
                    state = dense_state_at(
                        states, momenta, place, held, carried, token, factor, seen, cotangent, PRECISION
                    )
                    ask = load_input(query, token, b, numbers, ACTIVATED, IN, WIDTH, 1, 1).to(tl.float32)
                    pull = tl.load(d_z + token * OUT + o + tl.arange(0, HEIGHT))[:, None]
                    if TOTALS:
                        total = tl.sum(tl.where(own[:, None], totals, 0.0), axis=0, keep_dims=True)
                        d_ask = tl.sum(retention_psi_part_tile(state, total, OUT * IN, numbers) * pull, axis=0)
                        d_state = retention_psi_vjp_part_tile(state, pull * ask, total, OUT * IN, numbers)
                    else:
                        d_ask = tl.sum(retention_psi_tile(state, numbers) * pull, axis=0)
                        d_state = retention_psi_vjp_tile(state, pull * ask, numbers)
                    asked = token * IN + b + tl.arange(0, WIDTH)
                    tl.store(d_query + asked, tl.load(d_query + asked) + d_ask)
                    along = tl.dot(seen, tl.trans(d_state), input_precision=PRECISION)
                    d_factors -= tl.where(own[:, None], tl.sum(along * cotangent, axis=1)[None, :], 0.0)
                    d_cotangent -= factor[:, None] * along
                    d_seen -= factor[:, None] * tl.dot(cotangent, d_state, input_precision=PRECISION)
                    d_start += tl.load(held + token) * d_state
                    d_keep += tl.where(own, tl.sum(tl.sum(d_state * tl.load(states + place), axis=1), axis=0), 0.0)
                    if MOMENTUM:
                        d_flow += tl.load(carried + token) * d_state
                        along_flow = tl.sum(tl.sum(d_state * tl.load(momenta + place), axis=1), axis=0)
                        d_arrive += tl.where(own, along_flow, 0.0)
                tl.store(d_states + place, d_start)
                if MOMENTUM:
                    tl.store(m_read + place, d_flow)
                if b > 0:
                    d_cotangent += load_rows(d_g, here, o, OUT, HEIGHT, SPAN, ROWS)
                store_rows(d_g, d_cotangent, here, o, OUT, HEIGHT, SPAN, ROWS)
                tl.debug_barrier()
            store_rows(d_x, d_seen, here, b, IN, WIDTH, SPAN, ROWS)
        places, exist = pair_places(here, SPAN, ROWS)
        if LAYERS > 1:
            if ACTIVATED:
                d_asked = load_rows(d_query, here, 0, IN, IN, SPAN, ROWS)
                d_asked *= memory_activate_grad_tile(load_rows(query, here, 0, IN, IN, SPAN, ROWS), numbers)
                store_rows(d_query, d_asked, here, 0, IN, IN, SPAN, ROWS)
            else:
                d_factors += tl.load(d_strength + places, mask=exist, other=0.0)
                d_keep += load_gate(d_held, here, 0.0, SPAN, ROWS)
                if MOMENTUM:
                    d_arrive += load_gate(d_carried, here, 0.0, SPAN, ROWS)
        tl.store(d_strength + places, d_factors, mask=exist)
        store_gate(d_held, d_keep, here, SPAN, ROWS)
        if MOMENTUM:
            store_gate(d_carried, d_arrive, here, SPAN, ROWS)
