"""Chunks that start where documents start: padding, resets and half-filled chunks become an aligned grid.

Shape legend: B batch, T time, N chunks, C tokens a chunk, S = N * C slots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from miras_search.codegen.skeletons.slots import CHUNK


class Layout(NamedTuple):
    """Where each token sits. Slots without a token are padding: they neither decay nor write."""

    chunks: int
    source: Tensor | None  # [B, S] time of the token in a slot; None: slot = time
    filled: Tensor | None  # [B, S] bool; None: all
    slot: Tensor | None  # [B, T] slot of a token
    opens: Tensor | None  # [B, N] bool, the chunk starts here (else it goes on from the state); None: all
    fresh: Tensor | None  # [B, N] bool, a document starts here; None: none
    position: Tensor  # [B] tokens into the chunk, after the last token


def plan_layout(time: int, position: Tensor, reset: Tensor | None, valid: Tensor | None) -> Layout:
    """The grid of a call. `position` [B]: tokens already in the open chunk; `reset`, `valid` [B, T] bool."""
    if time == 1:
        live = torch.ones_like(position, dtype=torch.bool) if valid is None else valid[:, 0]
        starts = None if reset is None else reset[:, 0] & live
        place = position if starts is None else torch.where(starts, 0, position)
        after = torch.where(live, (place + 1) % CHUNK, place)
        fresh = None if starts is None else starts[:, None]
        return Layout(1, None, valid, None, ((place == 0) & live)[:, None], fresh, after)
    if reset is None and valid is None and not bool(position.any()):
        return Layout(-(-time // CHUNK), None, None, None, None, None, position + time % CHUNK)  # the last may be short
    batch, device = position.shape[0], position.device
    live = torch.ones(batch, time, dtype=torch.bool, device=device) if valid is None else valid
    count = live.cumsum(1)
    base = -position[:, None].expand(-1, time)
    starts = torch.zeros_like(live)
    if reset is not None:
        starts = reset & live
        base = torch.where(starts, count - 1, base).cummax(1).values
    place = (count - 1 - base) % CHUNK
    opening = live & (place == 0)
    index = opening.cumsum(1) - (position == 0).long()[:, None]
    slot = torch.where(live, index * CHUNK + place, 0)
    chunks = int((index.amax(1) + 1).amax().clamp_min(1))
    slots = chunks * CHUNK
    spill = torch.where(live, slot, slots)  # padding goes to one extra slot, cut off below
    source = torch.zeros(batch, slots + 1, dtype=torch.long, device=device)
    source.scatter_(1, spill, torch.arange(time, device=device).expand(batch, -1))
    filled = torch.zeros(batch, slots + 1, dtype=torch.bool, device=device).scatter_(1, spill, live)
    flags = torch.zeros(2, batch, slots + 1, dtype=torch.bool, device=device)
    flags[0].scatter_(1, spill, opening)
    flags[1].scatter_(1, spill, starts)
    opens, fresh = flags[:, :, :slots].view(2, batch, chunks, CHUNK).any(3)
    last = (count[:, -1] - base[:, -1]) % CHUNK
    return Layout(chunks, source[:, :slots], filled[:, :slots], slot, opens, None if reset is None else fresh, last)


def to_slots(x: Tensor, layout: Layout) -> Tensor:
    """`[B, T, ...]` -> `[B, S, ...]`, zero where no token sits."""
    if layout.filled is None:
        return x
    if layout.source is None:
        return x * layout.filled.view(*layout.filled.shape, *[1] * (x.ndim - 2))
    shape = (*layout.source.shape, *[1] * (x.ndim - 2))
    taken = x.gather(1, layout.source.view(shape).expand(*layout.source.shape, *x.shape[2:]))
    return taken * layout.filled.view(shape)


def to_tokens(y: Tensor, layout: Layout, valid: Tensor | None) -> Tensor:
    """`[B, S, ...]` -> `[B, T, ...]`, zero for padding."""
    if layout.slot is None:
        return y if valid is None else y * valid.view(*valid.shape, *[1] * (y.ndim - 2))
    shape = (*layout.slot.shape, *[1] * (y.ndim - 2))
    taken = y.gather(1, layout.slot.view(shape).expand(*layout.slot.shape, *y.shape[2:]))
    return taken if valid is None else taken * valid.view(shape)


class Span(NamedTuple):
    """Neighbouring chunks of one length."""

    first: int
    chunks: int
    length: int


def spans(slots: int, most: int) -> list[Span]:
    """The chunks of a sequence: full ones, at most so many together, and the last, if it is short."""
    whole, rest = divmod(slots, CHUNK)
    found = [Span(n, min(most, whole - n), CHUNK) for n in range(0, whole, most)]
    return [*found, Span(whole, 1, rest)] if rest else found


def blocks(x: Tensor, span: Span) -> Tensor:
    """`[B, H, S, ...]` -> `[N, B * H, C, ...]`, contiguous."""
    part = x.narrow(2, span.first * CHUNK, span.chunks * span.length)
    part = part.view(*x.shape[:2], span.chunks, span.length, *x.shape[3:]).movedim(2, 0)
    return part.reshape(span.chunks, x.shape[0] * x.shape[1], span.length, *x.shape[3:])


def unblock(into: Tensor, x: Tensor, span: Span) -> None:
    """The way back, into a part of `[B, H, S, ...]`."""
    part = into.narrow(2, span.first * CHUNK, span.chunks * span.length)
    part = part.view(*into.shape[:2], span.chunks, span.length, *into.shape[3:])
    part.copy_(x.view(span.chunks, *into.shape[:2], span.length, *into.shape[3:]).movedim(0, 2))


def split_groups(flat: Any, sizes: tuple[int, ...]) -> list[list[Tensor]]:
    """The flat arguments, in their groups."""
    groups, start = [], 0
    for size in sizes:
        groups.append(list(flat[start : start + size]))
        start += size
    return groups


def full_precision(backward: Callable[..., tuple[Any, ...]]) -> Any:
    """A backward that is called inside autocast computes as its forward did."""

    def run(ctx: Any, dy: Tensor, *rest: Tensor) -> tuple[Any, ...]:
        with torch.autocast(dy.device.type, enabled=False):
            return backward(ctx, dy, *rest)

    return run
