# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The online delta rule in Triton, in its WY form: either order, tied, decoupled or implicit strengths.

W_t = alpha_t W_{t-1} + u_t k_t' with u_t = eta_t v_t - erase_t (W~ k_t). Within a tile the u solve a unit lower-triangular system
that does not depend on the state S at its start: with R its inverse and s_t the decay that W~ has seen,

    u = R (eta v) - R (erase exp(s) k) S' = base - seen S',   S' = exp(l_C) S + sum_i exp(l_C - l_i) u_i k_i'

torch solves the system, and makes `base`, `seen` and all decays, whose autograd it keeps. The kernels walk over the tiles;
reads are those of the dense family, for writes -u.

Shape legend: N tiles, P pairs of batch and head, C = SPAN tokens a tile; tokens `[N, P, C, dim]`, states `[N + 1, P, V, K]`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.decay import lower_decay
from miras_search.codegen.skeletons.slots import DECAY_FIRST, DECOUPLED, READ_FIRST
from miras_search.codegen.skeletons.triton_tiles import from_tiles, plan_tiles, to_tiles

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_dense_read import dense_backward_read, dense_forward_read
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
    def delta_forward_state(
        k, base, seen, fade, total, marks, first, states, g, P, N,
        K: tl.constexpr, V: tl.constexpr, HEIGHT: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program for a pair and some rows of its state: the states at all tile starts, and the writes -u."""
        pair = tl.program_id(0).to(tl.int64)
        o = tl.program_id(1) * HEIGHT
        own = weight_places(pair, o, 0, V, K, HEIGHT, K)
        state = tl.load(states + own)
        for n in range(N):
            here = n * P + pair
            fresh = tl.load(marks + here) > 0
            state = tl.where(fresh, tl.load(first + own), state)
            tl.store(states + weight_places(here, o, 0, V, K, HEIGHT, K), state)
            key = load_rows(k, here, 0, K, K, SPAN, ROWS)
            erased = load_rows(seen, here, 0, K, K, SPAN, ROWS).to(key.dtype)
            u = load_rows(base, here, o, V, HEIGHT, SPAN, ROWS)
            u -= tl.dot(erased, tl.trans(state).to(key.dtype), input_precision=PRECISION)
            store_rows(g, -u, here, o, V, HEIGHT, SPAN, ROWS)
            late = (u * load_gate(fade, here, 0.0, SPAN, ROWS)[:, None]).to(key.dtype)
            state = tl.load(total + here) * state + tl.dot(tl.trans(late), key, input_precision=PRECISION)
        tl.store(states + weight_places(N * P + pair, o, 0, V, K, HEIGHT, K), state)

    @triton.jit
    def delta_backward_state(
        k, seen, fade, total, marks, d_g, d_read, d_final, d_next, d_base, d_carry, d_first, P, N,
        K: tl.constexpr, V: tl.constexpr, HEIGHT: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """The same from the last tile to the first: the gradients of the state after each tile, and of u."""
        pair = tl.program_id(0).to(tl.int64)
        o = tl.program_id(1) * HEIGHT
        own = weight_places(pair, o, 0, V, K, HEIGHT, K)
        d_state = tl.load(d_final + own)
        d_start = tl.zeros([HEIGHT, K], tl.float32)
        for i in range(N):
            here = (N - 1 - i) * P + pair
            place = weight_places(here, o, 0, V, K, HEIGHT, K)
            tl.store(d_next + place, d_state)
            key = load_rows(k, here, 0, K, K, SPAN, ROWS)
            d_u = tl.dot(key, tl.trans(d_state).to(key.dtype), input_precision=PRECISION)
            d_u *= load_gate(fade, here, 0.0, SPAN, ROWS)[:, None]
            d_u -= load_rows(d_g, here, o, V, HEIGHT, SPAN, ROWS)
            store_rows(d_base, d_u, here, o, V, HEIGHT, SPAN, ROWS)
            erased = load_rows(seen, here, 0, K, K, SPAN, ROWS).to(key.dtype)
            d_state = tl.load(total + here) * d_state + tl.load(d_read + place)
            d_state -= tl.dot(tl.trans(d_u.to(key.dtype)), erased, input_precision=PRECISION)
            fresh = tl.load(marks + here) > 0
            d_start += tl.where(fresh, d_state, 0.0)
            d_state = tl.where(fresh, 0.0, d_state)
        tl.store(d_carry + own, d_state)
        tl.store(d_first + own, d_start)

    @triton.jit
    def delta_backward_write(
        k, fade, g, states, d_next, d_base, d_k_read, d_k, d_seen, d_fade, d_total,
        K: tl.constexpr, V: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """A program a tile: what the gradient of the state after it says to its keys and decays."""
        here = tl.program_id(0).to(tl.int64)
        place = weight_places(here, 0, 0, V, K, V, K)
        key = load_rows(k, here, 0, K, K, SPAN, ROWS)
        after = tl.load(d_next + place)
        state = tl.load(states + place)
        tl.store(d_total + here, tl.sum(tl.sum(state * after, axis=1), axis=0))
        d_u = load_rows(d_base, here, 0, V, V, SPAN, ROWS).to(key.dtype)
        d_erased = -tl.dot(d_u, state.to(key.dtype), input_precision=PRECISION)
        store_rows(d_seen, d_erased, here, 0, K, K, SPAN, ROWS)
        write = load_rows(g, here, 0, V, V, SPAN, ROWS).to(key.dtype)
        d_late = -tl.dot(write, after.to(key.dtype), input_precision=PRECISION)
        store_gate(d_fade, tl.sum(d_late * key.to(tl.float32), axis=1), here, SPAN, ROWS)
        d_key = d_late * load_gate(fade, here, 0.0, SPAN, ROWS)[:, None]
        d_key += load_rows(d_k_read, here, 0, K, K, SPAN, ROWS)
        store_rows(d_k, d_key, here, 0, K, K, SPAN, ROWS)

    def delta_options(k: Tensor, base: Tensor):
        """What the kernels on states take at compile time, and what those on reads take."""
        span, key, value = k.shape[2], k.shape[3], base.shape[3]
        sizes: dict[str, object] = {
            "SPAN": span,
            "ROWS": rows_of(span),
            "PRECISION": precision(),
            "num_warps": 8 if key * value > 64 * 64 else 4,
            "num_stages": 1,
            "enable_fp_fusion": True,
        }
        blocks = {"BLOCK_IN": min(key, 32), "BLOCK_OUT": min(value, 32)}
        return sizes | {"K": key, "V": value}, sizes | {"IN": key, "OUT": value, "ACTIVATED": False, **blocks}

    def delta_split(base: Tensor) -> tuple[tuple[int, int], dict[str, object]]:
        """Programs of the kernels on states, and rows of a state that each takes."""
        height = min(base.shape[3], 64)
        return (base.shape[1], base.shape[3] // height), {"HEIGHT": height}

    def delta_forward(tokens: list[Tensor], carry: Tensor, first: Tensor) -> list[Tensor]:
        """The answers, the state after the call, and what the backward needs: states at tile starts and writes.

        Args:
            tokens: q, k, base, seen, strength, held, fade, total, marks (1: a document starts).
            carry: the state before the call, `[P, V, K]`.
            first: the state of a new document.
        """
        q, k, base, seen, strength, held, fade, total, marks = (x.contiguous() for x in tokens)
        z, final, states, g = delta_shapes(tokens, carry, first)
        tiles, pairs = k.shape[:2]
        states = torch.cat([states, final[None]])
        states[0] = carry
        own, reads = delta_options(k, base)
        grid, split = delta_split(base)
        with torch.cuda.device_of(q):  # Triton launches on the current device, whatever the tensors' is
            delta_forward_state[grid](
                k, base, seen, fade, total, marks, first.contiguous(), states, g, pairs, tiles, **own, **split
            )
            dense_forward_read[(tiles * pairs, base.shape[3] // reads["BLOCK_OUT"])](
                q, k, g, states, states, held, strength, held, held, z, k, (0.0,), **reads
            )
        return [z, states[-1].clone(), states[:-1].clone(), g]

    def delta_shapes(tokens: list[Tensor], carry: Tensor, first: Tensor) -> list[Tensor]:
        """Empty outputs of `delta_forward`."""
        base = tokens[2]
        states = carry.new_empty(base.shape[0], *carry.shape)
        return [base.new_empty(base.shape), carry.new_empty(carry.shape), states, base.new_empty(base.shape)]

    def delta_backward(tokens: list[Tensor], states: Tensor, g: Tensor, dz: Tensor, dfinal: Tensor) -> list[Tensor]:
        """Gradients of all tokens but the marks, of carry and of first."""
        q, k, base, seen, strength, held, fade, total, marks = (x.contiguous() for x in tokens)
        found = delta_gradient_shapes(tokens, states, g, dz, dfinal)
        dq, dk, dbase, dseen, dstrength, dheld, dfade, dtotal, dcarry, dfirst = found
        tiles, pairs = k.shape[:2]
        dread, dnext = torch.empty_like(states), torch.empty_like(states)
        dk_read, dg = torch.empty_like(k, dtype=torch.float32), torch.empty_like(g)
        own, reads = delta_options(k, base)
        grid, split = delta_split(base)
        with torch.cuda.device_of(q):
            dense_backward_read[(tiles * pairs,)](
                q, k, g, states, states, held, strength, held, held, dz.contiguous(), k, dq, dk_read, dg, dread, dread,
                dheld, dstrength, dheld, dheld, (0.0,), **reads,
            )  # fmt: skip
            delta_backward_state[grid](
                k, seen, fade, total, marks, dg, dread, dfinal.contiguous(), dnext, dbase, dcarry, dfirst, pairs, tiles,
                **own, **split,
            )  # fmt: skip
            delta_backward_write[(tiles * pairs,)](
                k, fade, g, states, dnext, dbase, dk_read, dk, dseen, dfade, dtotal, **own
            )
        return found

    def delta_gradient_shapes(tokens, states: Tensor, g, dz, dfinal: Tensor) -> list[Tensor]:
        """Empty outputs of `delta_backward`."""
        return [x.new_empty(x.shape) for x in (*tokens[:8], dfinal, dfinal)]

    def delta_setup(ctx, inputs, output) -> None:
        """Keep the inputs, the states at tile starts and the writes."""
        ctx.save_for_backward(*inputs[0], *output[2:])
        ctx.shapes = [x.shape for x in output[:2]]
        ctx.set_materialize_grads(False)

    def delta_autograd(ctx, grads):
        """From the gradients of the outputs to those of the inputs."""
        *tokens, states, g = ctx.saved_tensors
        dz, dfinal = (g.new_zeros(s) if d is None else d for d, s in zip(grads[:2], ctx.shapes, strict=True))
        *found, dcarry, dfirst = DELTA_BACKWARD(tokens, states, g, dz, dfinal)
        return [*found, None], dcarry, dfirst

    DELTA_BACKWARD = operator("delta_backward", delta_backward, delta_gradient_shapes)
    DELTA = operator("delta", delta_forward, delta_shapes, delta_autograd, delta_setup)


def triton_delta(
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
        return delta_call(q, k, v, gates, initial, state, reset, valid)


def delta_call(
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
    batch, heads = k.shape[0], k.shape[2]
    layout, span, marks = plan_tiles(k, free_tile(k), reset, valid)

    def arrange(x: Tensor) -> Tensor:
        return to_tiles(x, layout, marks.shape[0], span)

    query, key, value = arrange(q), arrange(k), arrange(v).float()
    eta = arrange(gates["eta"].float())
    k32 = key.float()
    erase = eta
    if DECOUPLED:
        erase = arrange(gates["erase"].float())
    log_alpha = arrange(gates["log_alpha"].float()) if "log_alpha" in gates else torch.zeros_like(eta)
    l = log_alpha.cumsum(-1)
    if DECAY_FIRST:
        seen = l
    else:
        seen = l - log_alpha
    if READ_FIRST:
        asked = l - log_alpha
        strength = lower_decay(asked, l, strict=1)
    else:
        asked = l
        strength = lower_decay(asked, l)
    system = erase[..., None] * (k32 @ k32.mT) * lower_decay(seen, l, strict=1)
    right = torch.cat([eta[..., None] * value, (erase * seen.exp())[..., None] * k32], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    base, erased = solved.split([v.shape[-1], k.shape[-1]], -1)
    fade, total = (l[..., -1:] - l).exp(), l[..., -1].exp()
    first = initial["state_0"].float().expand(batch, *initial["state_0"].shape[-3:]).flatten(0, 1).contiguous()
    carry = first if state is None else state["state_0"].float().flatten(0, 1)
    tokens = [query, key, base, erased, strength, asked.exp(), fade, total, marks]
    z, final, _, _ = DELTA(tokens, carry, first)
    return from_tiles(z, v, layout, valid), {"state_0": final.unflatten(0, (batch, heads))}
