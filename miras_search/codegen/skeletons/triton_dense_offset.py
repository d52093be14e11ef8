# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Offsets of the layers of a dense memory, one a unit: a column of the weights whose input is 1.

What `triton_dense_state` does to a tile of a matrix, done to that column. A state holds every matrix `[OUT, IN]` without its
offsets, and they behind it. There is no mirror map beside them. Shapes as in `triton_dense_state`.
"""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_slots import MOMENTUM
    from miras_search.codegen.skeletons.triton_tiles import offset_places

    @triton.jit
    def offset_open(first, states, momenta, here, pair, mark, OUT: tl.constexpr, IN: tl.constexpr):
        """A document that begins takes the initial offsets."""
        if mark % 2 == 1:
            place = offset_places(here, 0, OUT, IN, OUT)
            start = tl.load(first + offset_places(pair, 0, OUT, IN, OUT))
            tl.store(states + place, start)
            if MOMENTUM:
                tl.store(momenta + place, tl.zeros_like(start))

    @triton.jit
    def offset_write(
        states, momenta, here, after, out, g, weight, push, total, arrived, kept,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr,
    ):  # fmt: skip
        """From the start of a chunk to its end."""
        place = offset_places(here, out, OUT, IN, HEIGHT)
        target = offset_places(after, out, OUT, IN, HEIGHT)
        new = total * tl.load(states + place) - tl.sum(g * weight[:, None], axis=0)
        if MOMENTUM:
            momentum = tl.load(momenta + place)
            new += arrived * momentum
            tl.store(momenta + target, kept * momentum - tl.sum(g * push[:, None], axis=0))
        tl.store(states + target, new)

    @triton.jit
    def offset_written(
        d_states, d_momenta, after, out, weight, push, OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr
    ):
        """What the gradients after a chunk say to its writes."""
        target = offset_places(after, out, OUT, IN, HEIGHT)
        d = weight[:, None] * tl.load(d_states + target)[None, :]
        if MOMENTUM:
            d += push[:, None] * tl.load(d_momenta + target)[None, :]
        return d

    @triton.jit
    def offset_unwrite(
        d_states, d_momenta, d_read, m_read, here, after, out, d, total, arrived, kept,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr,
    ):  # fmt: skip
        """The gradient from the end of a chunk to its start; d: that of the layer's output, token by token."""
        place = offset_places(here, out, OUT, IN, HEIGHT)
        target = offset_places(after, out, OUT, IN, HEIGHT)
        d_next = tl.load(d_states + target)
        tl.store(d_states + place, total * d_next + tl.sum(d, axis=0) + tl.load(d_read + place))
        if MOMENTUM:
            pulled = kept * tl.load(d_momenta + target) + arrived * d_next
            tl.store(d_momenta + place, pulled + tl.load(m_read + place))

    @triton.jit
    def offset_close(
        d_states, d_momenta, d_opened, d_first, here, pair, mark, OUT: tl.constexpr, IN: tl.constexpr
    ):  # fmt: skip
        """Back through the start of a chunk."""
        if mark > 0:
            place = offset_places(here, 0, OUT, IN, OUT)
            own = offset_places(pair, 0, OUT, IN, OUT)
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
    def offset_layer_write(
        g, d_states, d_momenta, states, momenta, here, after, out,
        OUT: tl.constexpr, IN: tl.constexpr, HEIGHT: tl.constexpr,
    ):  # fmt: skip
        """The part in the gradients of weight, push, total, arrived, kept."""
        place = offset_places(here, out, OUT, IN, HEIGHT)
        target = offset_places(after, out, OUT, IN, HEIGHT)
        d_next = tl.load(d_states + target)
        d_weight = -tl.sum(g * d_next[None, :], axis=1)
        d_total = tl.sum(d_next * tl.load(states + place), axis=0)
        d_push = d_weight
        d_arrived = d_total
        d_kept = d_total
        if MOMENTUM:
            momentum = tl.load(momenta + place)
            m_next = tl.load(d_momenta + target)
            d_push = -tl.sum(g * m_next[None, :], axis=1)
            d_arrived = tl.sum(d_next * momentum, axis=0)
            d_kept = tl.sum(m_next * momentum, axis=0)
        return d_weight, d_push, d_total, d_arrived, d_kept
