"""The language model: decoding equals the whole, rows do not meet, and everything learns."""

from __future__ import annotations

import itertools

import pytest
import torch
from problems import gap
from tolerances import tolerance
from torch import Tensor

from miras_search import op
from miras_search.algorithm import GradientDescent
from miras_search.bias import L2, Bias, Huber
from miras_search.candidate import Backbone, Candidate
from miras_search.codegen.skeletons.convolution import short_convolution
from miras_search.design import Block
from miras_search.memory import Cache
from miras_search.model import LM, build
from miras_search.named import NAMED

VOCAB = 17


def model_of(name: str, seed: int = 0, **block: object) -> LM:
    design = NAMED[name].design
    design = design.model_copy(update={"block": design.block.model_copy(update=block)})
    return build(Candidate(design=design, backbone=Backbone(width=32, layers=2, heads=2)), VOCAB, seed=seed)


def tokens_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMED)
@torch.no_grad()
def test_prefill_and_steps_equal_the_whole(name: str) -> None:
    """Unequal rows with left padding, prefilled at once, then token by token; each row as if it were alone."""
    model = model_of(name, residual_conv=3)
    tokens = tokens_of(3, 40)
    pads = [0, 5, 18]
    valid = torch.arange(21) >= torch.tensor(pads)[:, None]
    logits, state = model.run(tokens[:, :21], valid=valid)
    parts = [logits]
    for t in range(21, 40):
        y, state = model.run(tokens[:, t : t + 1], state)
        parts.append(y)
    found = torch.cat(parts, 1)
    for row, pad in enumerate(pads):
        alone = model(tokens[row : row + 1, pad:])
        assert gap(found[row : row + 1, pad:], alone) <= tolerance("decode")


@pytest.mark.parametrize("name", NAMED)
@torch.no_grad()
def test_packed_documents_equal_separate_documents(name: str) -> None:
    """Resets inside rows at different places, and a document that goes on over two calls."""
    model = model_of(name, residual_conv=3)
    tokens = tokens_of(2, 33)
    starts = [[0, 7, 8, 24], [0, 16]]
    reset = torch.zeros(2, 33, dtype=torch.bool)
    for row, places in enumerate(starts):
        reset[row, places] = True
    whole = model(tokens, reset)
    first, state = model.run(tokens[:, :20], reset=reset[:, :20])
    second, _ = model.run(tokens[:, 20:], state, reset=reset[:, 20:])
    assert gap(torch.cat([first, second], 1), whole) <= tolerance("decode")
    for row, places in enumerate(starts):
        for a, b in zip(places, [*places[1:], 33], strict=True):
            alone = model(tokens[row : row + 1, a:b])
            assert gap(whole[row : row + 1, a:b], alone) <= tolerance("decode")


@torch.no_grad()
def test_padding_anywhere_is_seen_by_nothing() -> None:
    """Holes and right padding with resets beside them, and what the padded tokens are does not matter."""
    for name in ("yaad", "gated-deltanet", "softmax-attention", "retnet"):
        model = model_of(name, residual_conv=3)
        tokens = tokens_of(1, 24)
        valid = torch.ones(1, 24, dtype=torch.bool)
        valid[0, [3, 4, 11, 22, 23]] = False
        reset = torch.zeros(1, 24, dtype=torch.bool)
        reset[0, [4, 12]] = True  # the first on padding: it does not count
        logits, state = model.run(tokens, reset=reset, valid=valid)
        other, _ = model.run(torch.where(valid, tokens, 1), reset=reset, valid=valid)
        assert torch.equal(logits[valid], other[valid])
        kept = tokens[valid][None]
        alone = torch.zeros_like(kept, dtype=torch.bool)
        alone[0, 9] = True
        expected, short = model.run(kept, reset=alone)
        assert gap(logits[valid][None], expected) <= tolerance("decode")
        next_token = tokens_of(1, 1, seed=3)
        a, _ = model.run(next_token, state)
        b, _ = model.run(next_token, short)
        assert gap(a, b) <= tolerance("decode")


@pytest.mark.parametrize("name", [n for n, e in NAMED.items() if e.design.memory.parametric])
@torch.no_grad()
def test_decoding_memory_is_constant(name: str) -> None:
    model = model_of(name)

    def size(tokens: int) -> dict[str, torch.Size]:
        _, state = model.run(tokens_of(2, tokens))
        for t in range(3):
            _, state = model.run(tokens_of(2, 1, seed=t), state)
        return {f"{i} {n}": x.shape for i, layer in enumerate(state) for n, x in layer.items()}

    assert size(2) == size(50)


@torch.no_grad()
def test_a_window_bounds_the_cache() -> None:
    base = NAMED["softmax-attention"].design
    design = base.model_copy(update={"memory": Cache(window=5)})
    model = build(Candidate(design=design, backbone=Backbone(width=32, layers=1, heads=2)), VOCAB, seed=0)
    tokens = tokens_of(1, 30)
    whole = model(tokens)
    state = None
    for t in range(30):
        y, state = model.run(tokens[:, t : t + 1], state)
        assert state[0]["key"].shape[1] <= 4
        assert gap(y, whole[:, t : t + 1]) <= tolerance("decode")


@pytest.mark.parametrize("name", NAMED)
def test_every_parameter_learns(name: str) -> None:
    model = model_of(name, residual_conv=3)
    logits = model(tokens_of(4, 48))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens_of(4, 48, seed=1).flatten()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert silent == []
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_the_seed_alone_decides_the_weights() -> None:
    before = torch.random.get_rng_state()
    a = model_of("yaad", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.randn(3)
    b, c = model_of("yaad", seed=1), model_of("yaad", seed=2)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.embedding.weight, c.embedding.weight)
    assert not torch.equal(a.blocks[0].memory.qkv.weight, a.blocks[1].memory.qkv.weight)  # type: ignore[union-attr]


@torch.no_grad()
def test_the_zeroed_twin_differs_in_the_memory_alone() -> None:
    model, twin = model_of("yaad", residual_conv=3), model_of("yaad", residual_conv=3, output="zeroed")
    assert model.state_dict().keys() == twin.state_dict().keys()
    twin.load_state_dict(model.state_dict())
    tokens = tokens_of(1, 12)
    assert not torch.equal(model(tokens), twin(tokens))
    changed = tokens.clone()
    changed[0, 0] = (changed[0, 0] + 1) % VOCAB
    late = slice(9, 12)  # beyond the reach of two layers of convolutions of 3 taps
    assert torch.equal(twin(tokens)[:, late], twin(changed)[:, late])
    assert not torch.equal(model(tokens)[:, late], model(changed)[:, late])


@pytest.mark.parametrize(
    "bias", [L2(features="polynomial", window=3), L2(features="elu"), Huber(target="v-k", window=3)], ids=str
)
@torch.no_grad()
def test_the_token_structure_of_a_bias_decodes_as_it_trains(bias: Bias) -> None:
    """Features, a target and a window over the chunk's start."""
    base = NAMED["gated-deltanet"].design
    design = base.model_copy(update={"bias": bias, "algorithm": GradientDescent(chunk=4)})
    model = build(Candidate(design=design, backbone=Backbone(width=16, layers=1, heads=2)), VOCAB, seed=0)
    tokens = tokens_of(2, 13)
    first, state = model.run(tokens[:, :6])
    parts = [first]
    for t in range(6, 13):
        y, state = model.run(tokens[:, t : t + 1], state)
        parts.append(y)
    assert gap(torch.cat(parts, 1), model(tokens)) <= tolerance("decode")


@torch.no_grad()
def test_polynomial_features_are_a_kernel() -> None:
    """Of unit vectors at cosine c: c + c^2 / 2 at initialisation, relative to that of equal ones."""
    design = NAMED["gated-deltanet"].design.model_copy(update={"bias": L2(features="polynomial")})
    module = op.load(design)
    layer = module.Layer(12, 2).double()
    x, y = torch.nn.functional.normalize(torch.randn(2, 5, 2, 6, dtype=torch.float64), dim=-1)
    c = (x * y).sum(-1)
    found = (module.lift(x, layer.degrees) * module.lift(y, layer.degrees)).sum(-1)
    assert gap(found, c + 0.5 * c * c) <= tolerance("float32")  # a_2 is float32
    assert module.key_size(6) == design.bias.lifted(6) == module.lift(x, layer.degrees).shape[-1]


@torch.no_grad()
def test_shuffled_values_are_those_of_earlier_tokens_of_the_document() -> None:
    """Every value is one of the sixteen before it, never its own, and no place of the delay is preferred."""
    module = op.load(NAMED["gated-deltanet"].design.model_copy(update={"block": Block(values="shuffled")}))
    reset = torch.zeros(1, 400, dtype=torch.bool)
    reset[0, [150, 151]] = True
    age = module.document_age(400, torch.zeros(1, dtype=torch.long), reset)
    time = torch.arange(1.0, 401.0)
    past = torch.cat([torch.zeros(16), time])
    taken = module.earlier_values(past[None, :, None], age)[0, :, 0]
    assert bool((taken[age[0] == 0] == 0).all())
    back = (time - taken)[age[0] > 0]
    assert bool((back >= 1).all())
    assert bool((back <= age[0][age[0] > 0].clamp_max(16)).all())
    assert int(torch.bincount(back.long(), minlength=17)[1:].min()) > 400 / 16 / 3


@pytest.mark.parametrize("name", NAMED)
def test_a_layer_in_one_line(name: str) -> None:
    layer = op.layer(name, width=64)
    y, state = layer(torch.randn(2, 5, 64))
    assert y.shape == (2, 5, 64)
    assert all(x.shape[0] == 2 for x in state.values())
    y.sum().backward()


def test_a_layer_says_when_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="width 30 is not a multiple of heads 4"):
        op.layer("yaad", 30, 4)
    with pytest.raises(ValueError, match="heads of dimension 1 have no LayerNorm: width 6 needs fewer heads than 6"):
        op.layer("yaad", 6, 6)


@pytest.mark.parametrize(
    "changes",
    [{"conv": 0}, {"qk_norm": False}, {"rope": True}, {"output_gate": False}, {"conv": 1}, {"values": "shuffled"}],
)
@torch.no_grad()
def test_blocks_decode_as_they_train(changes: dict[str, object]) -> None:
    for name in ("gated-deltanet", "softmax-attention"):
        model = model_of(name, **changes)
        tokens = tokens_of(2, 9)
        first, state = model.run(tokens[:, :4])
        parts = [first]
        for t in range(4, 9):
            y, state = model.run(tokens[:, t : t + 1], state)
            parts.append(y)
        assert gap(torch.cat(parts, 1), model(tokens)) <= tolerance("decode")


def test_an_unwritable_cache_folder_is_replaced(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRAS_SEARCH_CACHE", "/proc/nowhere")
    path = op.write_module("VALUE = 7\n")
    assert path.read_text() == "VALUE = 7\n"
    assert op.import_module(path).VALUE == 7


def test_width_and_heads_of_any_size() -> None:
    """Head dimensions that are odd, or one where there is no LayerNorm."""
    for width, heads in ((5, 1), (6, 6), (15, 3)):
        for name in ("yaad", "retnet", "softmax-attention") if width > heads else ("retnet", "softmax-attention"):
            design = NAMED[name].design
            design = design.model_copy(update={"block": Block(conv=2, rope=True)})
            y, _ = op.layer(design, width, heads)(torch.randn(2, 7, width))
            assert bool(y.isfinite().all())


def test_short_convolution_is_torchs_document_by_document() -> None:
    """Blocks and documents of uneven length, a history, values and gradients, against `conv1d`."""
    source = torch.Generator().manual_seed(0)
    past, weight = (torch.randn(*shape, generator=source).double().requires_grad_() for shape in ((2, 303, 5), (4, 5)))
    cuts = (0, 100, 101, 260, 300)
    age = torch.cat([torch.arange(b - a) for a, b in itertools.pairwise(cuts)])
    age[:100] = 7 + torch.arange(100)  # the first goes on from the history
    y = short_convolution(past, weight, age.expand(2, -1))
    parts = [past[:, a + 3 if a else 0 : b + 3] for a, b in itertools.pairwise(cuts)]
    parts = [part if n == 0 else torch.nn.functional.pad(part, (0, 0, 3, 0)) for n, part in enumerate(parts)]
    z = torch.cat([torch.nn.functional.conv1d(x.mT, weight.flip(0).T[:, None], groups=5).mT for x in parts], 1)
    z = torch.nn.functional.silu(z)
    assert gap(y, z) <= tolerance("path")
    pull = torch.randn(y.shape, generator=source).double()
    for a, b in zip(*(torch.autograd.grad(x, (past, weight), pull) for x in (y, z)), strict=True):
        assert gap(a, b) <= tolerance("path")
    whole = torch.nn.functional.conv1d(past.mT, weight.flip(0).T[:, None], groups=5).mT
    assert gap(short_convolution(past, weight, None), torch.nn.functional.silu(whole)) <= tolerance("path")
