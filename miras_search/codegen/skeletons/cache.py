"""Softmax attention as a memory: the set of all keys and values of the document, or of the last `WINDOW` tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.slots import WINDOW


def windowed_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to the last WINDOW tokens, `[B, T, H, dim]` each: WINDOW queries see their own block and the one before."""
    batch, time, heads, _ = q.shape
    more = -time % WINDOW
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, more)) for x in (q, k, v))

    def blocks(x: Tensor) -> Tensor:
        return x.reshape(-1, WINDOW, heads, x.shape[-1]).transpose(1, 2)

    def behind_the_last(x: Tensor) -> Tensor:
        own = x.view(batch, -1, WINDOW, heads, x.shape[-1])
        last = torch.nn.functional.pad(own[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        return torch.cat([last, own], 2).view(-1, 2 * WINDOW, heads, x.shape[-1]).transpose(1, 2)

    gap = torch.arange(WINDOW, device=q.device)[:, None] + WINDOW - torch.arange(2 * WINDOW, device=q.device)
    seen = (gap >= 0) & (gap < WINDOW)
    first = seen & (torch.arange(2 * WINDOW, device=q.device) >= WINDOW)
    masks = seen.expand(batch, (time + more) // WINDOW, 1, WINDOW, 2 * WINDOW).clone()
    masks[:, 0] = first
    y = torch.nn.functional.scaled_dot_product_attention(
        blocks(q), behind_the_last(k), behind_the_last(v), attn_mask=masks.flatten(0, 1)
    )
    return y.transpose(1, 2).reshape(batch, time + more, heads, -1)[:, :time]


def memory_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    reset: Tensor | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Stores every (k, v), answers every q by softmax attention over what its document has stored.

    Args and returns as any memory's; the state is `key`, `value` `[B, L, H, dim]` and `mask` `[B, L]`, L growing with time, or at
    most WINDOW.
    """
    batch, time = k.shape[:2]
    live = torch.ones(batch, time, dtype=torch.bool, device=q.device) if valid is None else valid
    alone = state is None and reset is None and valid is None
    plain = alone and WINDOW == 0
    if state is not None:
        k, v = torch.cat([state["key"], k], 1), torch.cat([state["value"], v], 1)
        live = torch.cat([state["mask"], live], 1)
    past = k.shape[1] - time
    seen = None
    mask = live
    y: Tensor | None = None
    if WINDOW > 0 and alone and time > 2 * WINDOW:
        y = windowed_attention(q, k, v)
    if not plain and y is None:
        # An index over stored tokens counts the valid ones only; a document number keeps documents apart.
        count = live.cumsum(1)
        seen = live[:, None, :] & (count[:, None, :] <= count[:, past:, None])
        seen &= torch.ones_like(seen).tril(past)
        if WINDOW > 0:
            seen &= count[:, past:, None] - count[:, None, :] < WINDOW
        if reset is not None:
            document = torch.nn.functional.pad((reset & live[:, past:]).cumsum(1), (past, 0))
            seen &= document[:, past:, None] == document[:, None, :]
            mask = live & (document == document[:, -1:])
        seen |= ~seen.any(-1, keepdim=True)  # a query without keys is padding; its answer is dropped below
        seen = seen[:, None]
    if y is None:
        y = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen, is_causal=plain
        ).transpose(1, 2)
    if valid is not None:
        y = y * valid[:, :, None, None]
    if not plain:
        needed = mask
        if WINDOW > 0:
            count = mask.cumsum(1)
            needed = mask & (count[:, -1:] - count < WINDOW - 1)
        start = int((needed.cumsum(1) == 0).all(0).sum())  # what no row will ask for again
        k, v, mask = k[:, start:], v[:, start:], mask[:, start:] & needed[:, start:]
    return y, {"key": k, "value": v, "mask": mask}
