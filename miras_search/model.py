"""A causal language model around memory layers, in plain torch; an export copies `LM` as it stands.

Shape legend: B batch, T time, E width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from miras_search.candidate import Candidate

State = list[dict[str, Tensor]]


class FeedForward(nn.Module):
    """SwiGLU, `[B, T, E] -> [B, T, E]`: W_3 (silu(W_1 x) * W_2 x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        gate, value = self.up(x).chunk(2, -1)
        out: Tensor = self.down(F.silu(gate) * value)
        return out


class ResidualConv(nn.Module):
    """A causal depthwise convolution outside the memory, so that a model whose memory is zeroed still mixes tokens."""

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter((torch.rand(taps, width) * 2 - 1) / taps**0.5)

    def forward(
        self, x: Tensor, past: Tensor | None, reset: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`[B, T, E]` and the inputs of the tokens before (oldest first) -> the same, and the next call's inputs.

        Padding is expected at the end of rows (`LM` packs them so).
        """
        taps, time = self.weight.shape[0], x.shape[1]
        past = x.new_zeros(x.shape[0], taps - 1, x.shape[2]) if past is None else past
        whole = torch.cat([past, x], 1)
        age = torch.full((x.shape[0], time), taps, device=x.device)
        if reset is not None:
            t = torch.arange(time, device=x.device)
            age = t - torch.where(reset, t, -taps).cummax(1).values
        out = x * self.weight[0]
        for j in range(1, taps):
            out = out + whole[:, taps - 1 - j : taps - 1 - j + time] * self.weight[j] * (age >= j)[..., None]
        length = torch.full_like(age[:, 0], time) if valid is None else valid.sum(1)
        index = length[:, None] + torch.arange(taps - 1, device=x.device)
        kept = whole.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
        last = age.gather(1, (length - 1).clamp_min(0)[:, None])
        return out, kept * (torch.arange(taps - 2, -1, -1, device=x.device) <= last)[..., None]


class Block(nn.Module):
    """x + conv(x), then x + memory(x), then x + ffn(x), each on the RMS-normalised x; conv and ffn may be absent."""

    def __init__(self, layer: nn.Module, width: int, hidden: int, residual_conv: int) -> None:
        super().__init__()
        self.conv_norm = nn.RMSNorm(width, eps=1e-6) if residual_conv else None
        self.conv = ResidualConv(width, residual_conv) if residual_conv else None
        self.memory_norm = nn.RMSNorm(width, eps=1e-6)
        self.memory = layer
        self.ffn_norm = nn.RMSNorm(width, eps=1e-6) if hidden else None
        self.ffn = FeedForward(width, hidden) if hidden else None

    def forward(
        self, x: Tensor, state: dict[str, Tensor] | None, reset: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over a sequence, or go on from a state."""
        kept = {}
        if self.conv is not None and self.conv_norm is not None:
            past = None if state is None else state["residual_conv"]
            y, kept["residual_conv"] = self.conv(self.conv_norm(x), past, reset, valid)
            x = x + y
        y, out = self.memory(self.memory_norm(x), state, reset, valid)
        x = x + y
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x))
        return x, out | kept


def pack(
    x: Tensor, reset: Tensor | None, valid: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Bring the padding of rows to their ends, as blocks want it.

    Args:
        x: `[B, T, E]`.
        reset: `[B, T]` bool; padding starts no document.
        valid: `[B, T]` bool, false for padding; None: there is none.

    Returns:
        The three in the new order, and the order that brings them back.
    """
    if valid is None or (valid.shape[1] == 1 and bool(valid.all())):
        return x, reset, None, None
    order = torch.argsort((~valid).to(torch.int8), dim=1, stable=True)
    valid = valid.gather(1, order)
    reset = None if reset is None else reset.gather(1, order) & valid
    return take(x, order), reset, valid, torch.argsort(order, dim=1)


def take(x: Tensor, order: Tensor | None) -> Tensor:
    """`[B, T, E]` with its times in this order; None: as they are."""
    return x if order is None else x.gather(1, order[..., None].expand_as(x))


class LM(nn.Module):
    """Embedding, blocks, RMSNorm, and the embedding again as output, its logits scaled by E^-1/2.

    Embeddings start at variance 1, the scale of what the blocks add, so that a token stays visible beside it.

    Args:
        layers: the memory layers.
        vocab: V.
        width: E.
        hidden: hidden width of the SwiGLU; 0: none.
        residual_conv: width of the convolution outside the memory; 0: none.
    """

    def __init__(self, layers: list[nn.Module], vocab: int, width: int, hidden: int, residual_conv: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        nn.init.normal_(self.embedding.weight)
        self.blocks = nn.ModuleList(Block(layer, width, hidden, residual_conv) for layer in layers)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def run(
        self,
        tokens: Tensor,
        state: State | None = None,
        reset: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Logits and the state after the last token; memory use per token is constant, but for a cache.

        Args:
            tokens: `[B, T]` int64.
            state: what an earlier call returned; one dict a layer, batch first.
            reset: `[B, T]` bool, true at the first token of a new document inside a row.
            valid: `[B, T]` bool, false for padding, anywhere in a row; nothing sees it.

        Returns:
            logits `[B, T, V]` and the state.
        """
        x, reset, valid, back = pack(self.embedding(tokens), reset, valid)
        out: State = []
        for i, block in enumerate(self.blocks):
            x, kept = block(x, None if state is None else state[i], reset, valid)
            out.append(kept)
        x = take(self.norm(x), back)
        return F.linear(x * x.shape[-1] ** -0.5, self.embedding.weight), out

    def forward(self, tokens: Tensor, reset: Tensor | None = None) -> Tensor:
        """Logits `[B, T, V]` of whole rows."""
        return self.run(tokens, reset=reset)[0]


def build(candidate: Candidate, vocab: int, *, seed: int) -> LM:
    """The model of a candidate, initialised from the seed alone."""
    from miras_search import op

    candidate = candidate.canonical()
    size = candidate.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [op.layer(design, size.width, size.heads) for design in candidate.layers]
        return LM(layers, vocab, size.width, candidate.hidden, candidate.design.block.residual_conv)
