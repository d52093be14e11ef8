"""Compiled steps of decoding against the layer itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from problems import gap
from tolerances import tolerance
from torch import Tensor

from miras_search import op
from miras_search.candidate import Backbone, Candidate
from miras_search.codegen.emit import stepped
from miras_search.decode import CompiledStep, compile_steps
from miras_search.errors import DesignError, MirasError
from miras_search.model import build
from miras_search.named import NAMED

STEPPED = [name for name in NAMED if stepped(NAMED[name].design.canonical())]


def _row(layer: torch.nn.Module, x: Tensor, cuts: list[int], reset: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The layer over a sequence, cut at these places."""
    ys, state = [], None
    with torch.no_grad():
        for a, b in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
            y, state = layer(x[:, a:b], state, None if reset is None else reset[:, a:b])
            ys.append(y)
    assert state is not None
    return torch.cat(ys, 1), state


def _check(name: str) -> CompiledStep:
    """Prefill, then steps over two chunk ends, with a reset that sets rows at different places of a chunk, are the whole."""
    torch.manual_seed(0)
    layer = op.layer(NAMED[name].design, 12, 2).double()
    x = torch.randn(2, 45, 12, dtype=torch.float64)
    reset = torch.zeros(2, 45, dtype=torch.bool)
    reset[1, 20] = True
    y, state = _row(layer, x, [], reset)
    names = list(layer.state_dict())
    (step,) = compile_steps(layer, batch=2)
    assert list(layer.state_dict()) == names
    z, after = _row(layer, x, list(range(5, 45)), reset)
    assert gap(z, y) <= tolerance("path")
    for key in state:
        if not key.startswith(("frozen", "scale")) or "position" not in state or bool((state["position"] > 0).all()):
            assert gap(after[key].double(), state[key].double()) <= tolerance("path"), key
    assert (step.compiled, step.plain) == (39, 2)
    return step


def test_compiled_steps_are_the_whole() -> None:
    """One design here, all of them below. What was compiled is found on disk, and serves other weights."""
    step = _check("ttt-linear")
    assert step.seconds > 0
    again = _check("ttt-linear")
    assert (again.path, again.seconds) == (step.path, 0.0)


def test_weights_are_read_at_every_step_and_gradients_take_the_plain_path() -> None:
    torch.manual_seed(0)
    layer = op.layer("ttt-linear", 12, 2).double()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    (step,) = compile_steps(layer, batch=2)
    other = op.layer("ttt-linear", 12, 2).double()
    layer.load_state_dict(other.state_dict(), assign=True)
    z, _ = _row(layer, x, list(range(1, 9)), None)
    y, state = _row(other, x, [], None)
    assert gap(z, y) <= tolerance("path")
    assert (step.compiled, step.plain) == (8, 1)
    _, state = layer(x[:, :1].requires_grad_(), state)
    assert state["state_0"].requires_grad
    assert step.plain == 2


def test_what_has_no_compiled_step_says_so() -> None:
    with pytest.raises(DesignError, match="no memory layer"):
        compile_steps(torch.nn.Linear(2, 2))
    with pytest.raises(DesignError, match="cannot be compiled"):
        compile_steps(op.layer("softmax-attention", 8))
    with pytest.raises(MirasError, match="meta"):
        compile_steps(op.layer("yaad", 8).to("meta"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPPED)
def test_named_compiled_steps_are_the_whole(name: str) -> None:
    _check(name)


@pytest.mark.slow
def test_a_model_decodes_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of one text share one function."""
    monkeypatch.setenv("MIRAS_SEARCH_CACHE", str(tmp_path))
    candidate = Candidate(design=NAMED["yaad"].design, backbone=Backbone(width=16, layers=2, heads=2, ffn=2))
    model = build(candidate, 11, seed=0).double()
    tokens = torch.randint(11, (1, 24))
    with torch.no_grad():
        y, _ = model.run(tokens)
        steps = compile_steps(model)
        state, zs = None, []
        for t in range(24):
            z, state = model.run(tokens[:, t : t + 1], state)
            zs.append(z)
    assert gap(torch.cat(zs, 1), y) <= tolerance("path")
    assert [s.compiled for s in steps] == [23, 23]
    assert steps[0].path == steps[1].path
    assert steps[1].seconds == 0
