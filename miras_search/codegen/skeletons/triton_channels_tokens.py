# ruff: noqa: F401
"""What gates of channels make of the tokens of a tile, for the walk of `triton_channels`; all of it by torch, whose autograd it keeps.

- frozen chunks: seen and value are k and v, written_i = eta_i exp(l_C - l_i) k_i, pairs_ti = eta_i sum_c q_tc k_ic exp(l_tc - l_ic).
- the delta rule: -g are the writes u, and phi(r) = r. They solve a unit lower-triangular system; with R its inverse
  seen = R (erase exp(s) k) and value = R (eta v), s the decay that the error has seen.
- erasing by channels, W_t = W_{t-1} Diag(alpha_t) - p_t (erase_t * k_t)' + eta_t v_t k_t' with p_t = W~ k_t: a tile has twice as
  many writes as tokens. The p solve a system, seen and value are its solution; the writes of values, behind them, see nothing.

Shape legend: N tiles, P pairs of batch and head, C tokens a tile; tokens `[N, P, C, dim]`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.chunk import before_write
from miras_search.codegen.skeletons.slots import (
    DECAY_FIRST,
    DECOUPLED,
    ERASE_CHANNELS,
    GATE,
    ONLINE,
    READ_FIRST,
    THRESHOLDED,
)

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    from miras_search.codegen.skeletons.triton_decay import DECAYED


def decays_before(log_alpha: Tensor, lag: bool) -> Tensor:
    """What is left of a tile's start at each token `[N, P, C, ...]`; `lag`: before its own decay."""
    l = log_alpha.cumsum(-2)
    return (before_write(l, 0.0) if lag else l).exp()


def decays_after(log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """What is left at a tile's end of each token, and of the tile's start.

    Summed from the end, since a difference of sums, and its gradient, would leave the rounding of what cancels.
    """
    later = torch.nn.functional.pad(log_alpha[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)
    return later.exp(), log_alpha.sum(-2).exp()


def channels_tokens(
    query: Tensor, key: Tensor, value: Tensor, gates: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """What the kernels take of all tiles, as at `channels_forward`, but the marks: pairs, and the others."""
    eta, k = gates["eta"], key.float()
    if GATE in ("channel", "outer"):
        log_alpha = gates["log_alpha"][..., : k.shape[-1]]
    elif GATE == "scalar":
        log_alpha = gates["log_alpha"][..., None].expand(k.shape)
    else:
        log_alpha = torch.zeros_like(k)
    fade, total = decays_after(log_alpha)
    asked = query.float() * decays_before(log_alpha, READ_FIRST)
    pairs = DECAYED(query, key, log_alpha, int(READ_FIRST), READ_FIRST)
    threshold = gates["delta"] if THRESHOLDED else torch.ones_like(eta)
    if not ONLINE:
        return pairs * eta[..., None, :], [asked, key, value, threshold, eta[..., None] * k * fade, total]
    lag = int(not DECAY_FIRST)
    held = decays_before(log_alpha, not DECAY_FIRST) * k
    erase = eta
    if DECOUPLED:
        erase = gates["erase"]
    system = DECAYED(key, key, log_alpha, lag, True)
    if ERASE_CHANNELS:
        erased, write = erase * k, eta[..., None] * value
        right = torch.cat([-(system @ write), held], -1)
        solved = torch.linalg.solve_triangular(
            DECAYED(key, erased, log_alpha, lag, True), right, upper=False, unitriangular=True
        )
        base, seen = solved.split([value.shape[-1], k.shape[-1]], -1)
        pairs = torch.cat([DECAYED(query, erased, log_alpha, int(READ_FIRST), READ_FIRST), pairs], -1)
        seen, base = torch.cat([seen, torch.zeros_like(k)], -2), torch.cat([base, write], -2)
        threshold = torch.ones_like(pairs[..., 0, :])
        return pairs, [asked, seen, base, threshold, torch.cat([erased * fade, k * fade], -2), total]
    right = torch.cat([eta[..., None] * value, erase[..., None] * held], -1)
    solved = torch.linalg.solve_triangular(erase[..., None] * system, right, upper=False, unitriangular=True)
    base, seen = solved.split([value.shape[-1], k.shape[-1]], -1)
    return pairs, [asked, seen, base, threshold, k * fade, total]
