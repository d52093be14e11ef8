# ruff: noqa: F401
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""One token of decoding, seen from torch: one operator, whose kernel does all of it.

Shape legend: B batch, H heads; tokens `[B, H, dim]`, states `[B, H, out, in]`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.chunk import empty_carry, state_names
from miras_search.codegen.skeletons.slots import CHUNK, CHUNKED, LAYERS, MOMENTUM, ONLINE, READ
from miras_search.codegen.skeletons.triton_dense import dense_height
from miras_search.codegen.skeletons.triton_slots import TILE_NUMBERS

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_step import delta_step, dense_step
    from miras_search.codegen.skeletons.triton_tiles import operator

    def step_forward(
        tokens: list[Tensor],
        norm: list[Tensor],
        first: list[Tensor],
        carry: list[Tensor],
        reset: Tensor | None,
        valid: Tensor | None,
        numbers: list[float],
    ) -> list[Tensor]:
        """The answers `[B, H, V]` and the carry after the token.

        Args:
            tokens: q, k, v `[B, H, dim]`, eta, log_alpha, log_mu, delta, erase `[B, H]`; what a design lacks is not read.
            norm: the LayerNorm's affine, `[H, V]` each, or nothing.
            first: states of a new document, `[H, out, in]`.
            carry: states, momenta, frozen weights and scales `[B, H, ...]` and the position `[B]`, as far as the design has them.
            reset: `[B]` uint8, a document starts.
            valid: `[B]` uint8, the token is none of padding.
            numbers: of the formulas.
        """
        out = step_shapes(tokens, norm, first, carry, reset, valid, numbers)
        q, k, v, eta, log_alpha, log_mu, delta, erase = tokens
        batch, heads, keys = k.shape
        values = v.shape[-1]
        strides = [n for x in (q, k, v) for n in x.stride()[:2]]
        masks = {"RESET": reset is not None, "VALID": valid is not None}
        some = [eta if x is None else x for x in (reset, valid)]
        with torch.cuda.device_of(k):
            if ONLINE:
                rows = min(values, 32)
                delta_step[(batch * heads, values // rows)](
                    q, k, v, eta, log_alpha, erase, *some, first[0], carry[0], *out, heads, *strides,
                    K=keys, V=values, HEIGHT=rows, **masks, num_warps=4, num_stages=1, enable_fp_fusion=True,
                )  # fmt: skip
            else:
                old, new = step_groups(carry), step_groups(out[1:])
                place, placed = eta, eta
                if CHUNKED:
                    place, placed = carry[-1], out[-1]
                hidden = first[0].shape[1]
                shapes = [(hidden, keys), (values, hidden)] if LAYERS > 1 else [(values, keys)]
                heights = {f"HEIGHT_{i}": dense_height(*shapes[-i]) for i in range(2)}
                pre, outs = (eta.new_empty(batch, heads, n, dtype=torch.float32) for n in (hidden, values))
                dense_step[(batch * heads,)](
                    q, k, v, eta, log_alpha, log_mu, delta, *(norm or [eta, eta]), place, *some, first[0], first[-1],
                    *old, out[0], *new, placed, pre, outs, tuple(numbers), heads, *strides,
                    K=keys, V=values, HIDDEN=hidden, SPAN=CHUNK, BLOCK=min(hidden, max(16, 4096 // max(keys, values))),
                    **heights, **masks, num_warps=8, num_stages=1, enable_fp_fusion=True,
                )  # fmt: skip
        return out

    def step_groups(carry: list[Tensor]) -> list[Tensor]:
        """First and last of states, momenta, frozen weights and scales; states in place of what a design lacks."""
        out: list[Tensor] = []
        for there in (True, MOMENTUM, CHUNKED, READ == "lagged"):
            group = carry[:LAYERS] if there else out[:2]
            out += [group[0], group[-1]]
            if there:
                carry = carry[LAYERS:]
        return out

    def step_shapes(tokens, norm, first, carry: list[Tensor], reset, valid, numbers) -> list[Tensor]:
        """Empty outputs of `step_forward`."""
        return [tokens[2].new_empty(tokens[2].shape), *(x.new_empty(x.shape) for x in carry)]

    TOKEN = operator("token", step_forward, step_shapes)


def triton_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    reset: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`memory` on one token, without gradients, for calls that `triton_refusal` does not refuse; same arguments and returns."""
    first = [initial[f"state_{i}"].float().contiguous() for i in range(LAYERS)]
    names = state_names()
    if state is None:
        carry = empty_carry([x.expand(k.shape[0], *x.shape) for x in first])
        if CHUNKED:
            carry.append(torch.zeros(k.shape[0], dtype=torch.long, device=k.device))
    else:
        carry = [state[name] for name in names]
        if CHUNKED:
            carry.append(state["position"])
    if CHUNKED:
        names.append("position")
    rows = [x[:, 0] if x.stride(-1) == 1 else x[:, 0].contiguous() for x in (q, k, v)]
    eta = gates["eta"]
    others = [gates.get(name, eta) for name in ("log_alpha", "log_mu", "delta", "erase")]
    tokens = [*rows, *(x[:, 0].contiguous() for x in (eta, *others))]
    norm = [initial[name].float().contiguous() for name in ("norm_weight", "norm_bias") if name in initial]
    masks = [None if x is None else x[:, 0].contiguous().view(torch.uint8) for x in (reset, valid)]
    y, *rest = TOKEN(tokens, norm, first, [x.contiguous() for x in carry], *masks, list(TILE_NUMBERS))
    return y[:, None], dict(zip(names, rest, strict=True))
