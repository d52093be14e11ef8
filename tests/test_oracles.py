"""Named designs against implementations that share no code with ours."""

from __future__ import annotations

import pytest
import torch
from oracles import CASES, compare
from problems import fast, slow
from tolerances import tolerance

from miras_search import op
from miras_search.named import NAMED, verified

pytest.importorskip("fla", reason="flash-linear-attention is for Linux: pip install 'miras-search[dev]'")


def test_every_named_design_has_an_oracle_and_its_measurement() -> None:
    """`python benchmarks/fidelity.py --write` writes what is missing."""
    assert list(CASES) == list(NAMED)
    assert list(verified()) == list(NAMED)


@pytest.mark.parametrize("run", [fast, slow], ids=["fast", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name: str, run: object) -> None:
    found = compare(CASES[name](), run)  # type: ignore[arg-type]
    assert found.source == verified()[name].source
    assert found.outputs <= tolerance("oracle"), found
    assert found.gradients <= tolerance("oracle" if found.exact_gradients else "differences"), found


def test_constant_decays_are_those_published() -> None:
    layer = op.layer("retnet", 32, 4)
    expected = torch.log1p(-(2.0 ** (-5.0 - torch.arange(4))))
    assert torch.equal(layer.log_decay, expected)  # type: ignore[arg-type]
    layer = op.layer("lightning-attention", 32, 4)
    expected = -(2.0 ** (-2.0 * torch.arange(1, 5)))
    assert torch.allclose(layer.log_decay, expected)  # type: ignore[arg-type]
