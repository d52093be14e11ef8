"""The memory over a whole sequence: a loop over chunks, or spans of tiles, whose backward recomputes each from its start.

Only the states at these starts are kept, so memory grows with their number, not with that of the tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from miras_search.codegen.skeletons.chunk import empty_carry, open_chunk, run_chunk, state_names
from miras_search.codegen.skeletons.layout import (
    Layout,
    Span,
    full_precision,
    plan_layout,
    spans,
    split_groups,
    to_slots,
    to_tokens,
)
from miras_search.codegen.skeletons.slots import (
    ASCENT,
    CHUNK,
    CHUNKED,
    DECOUPLED,
    DERIVED,
    DIAGONAL,
    IMPLICIT,
    LAYERS,
    MOMENTUM,
    SHIFTED,
    SPAN,
    STEPPED,
    STEPS,
    THRESHOLDED,
    TILE,
    TILED,
    TRITON,
)
from miras_search.codegen.skeletons.step import memory_step, steps_alone
from miras_search.codegen.skeletons.tiled import run_tiles
from miras_search.codegen.skeletons.triton_channels import triton_channels
from miras_search.codegen.skeletons.triton_delta import triton_delta
from miras_search.codegen.skeletons.triton_dense import triton_dense
from miras_search.codegen.skeletons.triton_linear import triton_linear
from miras_search.codegen.skeletons.triton_paths import triton_takes, under_autocast
from miras_search.codegen.skeletons.triton_slots import KERNELS
from miras_search.codegen.skeletons.triton_token import triton_step
from miras_search.codegen.skeletons.walk import Walk


def together(tokens: list[Tensor]) -> list[Span]:
    """The chunks of a call, as many at once as their way through the memory allows."""
    if TILED and not DIAGONAL:
        batch, heads, slots, dim = tokens[0].shape
        return spans(slots, max(1, TILE // (batch * heads * CHUNK * dim)))
    return spans(tokens[0].shape[2], 1)


def advance(
    span: Span, layout: Layout, carry: list[Tensor], tokens: list[Tensor], initial: list[Tensor], norm: list[Tensor]
) -> list[Tensor]:
    """From `carry` and the tokens of a span to `[y, *carry]`."""
    if TILED:
        fresh = None if layout.fresh is None else layout.fresh[:, span.first : span.first + span.chunks]
        return run_tiles(span._replace(first=0), carry[0], initial[0], fresh, tokens, norm)
    n = span.first
    opens = None if layout.opens is None else layout.opens[:, n]
    fresh = None if layout.fresh is None else layout.fresh[:, n]
    filled = None if layout.filled is None else layout.filled[:, n * CHUNK : (n + 1) * CHUNK]
    return run_chunk(open_chunk(carry, initial, opens, fresh), tokens, norm, filled)


def window(x: Tensor, span: Span) -> Tensor:
    """The tokens of a span."""
    return x.narrow(2, span.first * CHUNK, span.chunks * span.length)


class Recurrence(torch.autograd.Function):
    """All chunks. Arguments after the layout: counts of the four groups, then carry, tokens `[B, H, S, ...]`, initial, norm."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, sizes: tuple[int, int, int, int], *flat: Tensor) -> tuple[Tensor, ...]:
        """Run the chunks and keep the carry at the start of each."""
        carry, tokens, initial, norm = split_groups(flat, sizes)
        starts, ys = [], []
        for span in together(tokens):
            starts += carry
            y, *carry = advance(span, layout, carry, [window(x, span) for x in tokens], initial, norm)
            ys.append(y)
        ctx.layout, ctx.sizes = layout, sizes
        ctx.save_for_backward(*starts, *flat[sizes[0] :])
        return (torch.cat(ys, 2), *carry)

    @staticmethod
    @full_precision
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, *dcarry: Tensor) -> tuple[Any, ...]:
        """Walk back over the chunks; each is recomputed and differentiated by itself."""
        layout, sizes, saved = ctx.layout, ctx.sizes, ctx.saved_tensors
        shared = sizes[1] + sizes[2] + sizes[3]
        tokens, initial, norm = split_groups(saved[-shared:], sizes[1:])
        dtokens = [torch.zeros_like(x) for x in tokens]
        dshared = [torch.zeros_like(x) for x in initial + norm]
        for n, span in reversed(list(enumerate(together(tokens)))):
            leaves = [x.detach() for x in saved[n * sizes[0] : (n + 1) * sizes[0]]]
            leaves += [window(x.detach(), span) for x in tokens] + [x.detach() for x in initial + norm]
            leaves = [x.requires_grad_() for x in leaves]
            with torch.enable_grad():
                carry, part, first, affine = split_groups(leaves, sizes)
                out = advance(span, layout, carry, part, first, affine)
            pairs = [(o, d) for o, d in zip(out, (window(dy, span), *dcarry), strict=True) if o.requires_grad]
            grads = torch.autograd.grad([o for o, _ in pairs], leaves, [d for _, d in pairs], allow_unused=True)
            filled = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]
            dcarry = tuple(filled[: sizes[0]])
            for d, g in zip(dtokens, filled[sizes[0] :], strict=False):
                window(d, span).copy_(g)
            for d, g in zip(dshared, filled[sizes[0] + sizes[1] :], strict=True):
                d += g
        return (None, None, *dcarry, *dtokens, *dshared)


# What all tokens share, beside the initial states.
SHARED = ("norm_weight", "norm_bias", "ridge")


def used_gates(k: Tensor, gates: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The gates with the steps that are taken: bounded by the key's length, or uphill."""
    if IMPLICIT:
        eta, key = gates["eta"], k.to(torch.promote_types(torch.float32, k.dtype))
        gates = {**gates, "eta": eta / (1.0 + eta * key.square().sum(-1))}
    if ASCENT:
        gates = {n: -g if n in ("eta", "erase") else g for n, g in gates.items()}
    return gates


def memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    reset: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The memory over a sequence: writes every (k, v), answers every q.

    Args:
        q: `[B, T, H, K]`; k the same, v `[B, T, H, V]`, or with n steps a token `[B, T, H, n, ...]`.
        k: keys.
        v: values.
        gates: by name, `[B, T, H]`: `eta`, and as the design has them `log_alpha`, `log_mu`, `delta`, `erase`.
        initial: `state_0`, ... `[H, out, in]`, the state of a new document, and `norm_weight`, `norm_bias` `[H, V]`; `ridge`
            `[H, K]` for least squares.
        state: what an earlier call returned.
        reset: `[B, T]` bool, true at the first token of a document.
        valid: `[B, T]` bool, false for padding.

    Returns:
        y `[B, T, H, V]` and the state, a dict of tensors with batch first.
    """
    if SHIFTED:
        v = v - k
    gates = used_gates(k, gates)
    if TRITON:
        query, key, value = (under_autocast(x) for x in (q, k, v))
        fits = triton_takes(query, key, value, state)
        if fits:
            if k.shape[1] == 1:
                y, out = triton_step(query, key, value, gates, initial, state, reset, valid)
            elif KERNELS == "linear":
                y, out = triton_linear(query, key, value, gates, initial, state, reset, valid)
            elif KERNELS == "delta":
                y, out = triton_delta(query, key, value, gates, initial, state, reset, valid)
            elif KERNELS == "channels":
                y, out = triton_channels(query, key, value, gates, initial, state, reset, valid)
            else:
                y, out = triton_dense(query, key, value, gates, initial, state, reset, valid)
            return y.to(v.dtype), out
    batch, time = k.shape[:2]
    if STEPPED:
        alone = steps_alone(time, state, reset, valid)
        if alone:
            assert state is not None
            return memory_step(q, k, v, gates, initial, state)
    kind = torch.promote_types(torch.float32, q.dtype)
    first = [initial[f"state_{i}"].to(kind).expand(batch, -1, -1, -1) for i in range(LAYERS)]
    norm = [initial[name].to(kind)[:, None] for name in SHARED if name in initial]
    position = torch.zeros(batch, dtype=torch.long, device=q.device)
    if CHUNKED and state is not None:
        position = state["position"]
    layout = plan_layout(time, position, reset, valid)
    eta = gates["eta"]
    one = eta
    if STEPS > 1:
        one = eta[..., 0]
    tokens = [
        q,
        k,
        v,
        gates.get("log_alpha", torch.zeros_like(one)),
        eta,
        gates["delta"] if THRESHOLDED else torch.ones_like(one),
    ]
    if MOMENTUM:
        tokens.append(gates["log_mu"])
    if DECOUPLED:
        tokens.append(gates["erase"])
    if SPAN > 1:
        tokens.append(gates["gamma"])
    tokens = [to_slots(x.to(kind), layout).transpose(1, 2) for x in tokens]
    carry = empty_carry(first) if state is None else [state[name] for name in state_names()]
    sizes = (len(carry), len(tokens), len(first), len(norm))
    with torch.autocast(q.device.type, enabled=False):
        if DERIVED:
            y, *carry = Walk.apply(layout, sizes, *carry, *tokens, *first, *norm)  # type: ignore[no-untyped-call]
        else:
            y, *carry = Recurrence.apply(layout, sizes, *carry, *tokens, *first, *norm)  # type: ignore[no-untyped-call]
    out = dict(zip(state_names(), carry, strict=True))
    if CHUNKED:
        out["position"] = layout.position
    return to_tokens(y.transpose(1, 2), layout, valid).to(v.dtype), out
