"""The linear Triton family on a machine without a GPU: in Triton's interpreter, through its compiler, and past it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tolerances import tolerance
from triton_linear.designs import DESIGNS, design

from miras_search import op
from miras_search.algorithm import GradientDescent, Momentum
from miras_search.bias import L2, Huber, Lp
from miras_search.codegen.dialect import TORCH
from miras_search.codegen.emit import emit
from miras_search.codegen.triton_dialect import TRITON, has_kernels, lower_bias
from miras_search.design import Design
from miras_search.memory import Mlp
from miras_search.named import NAMED
from miras_search.retention import Kl, L2Retention

HELPERS = Path(__file__).parent / "triton_linear"
needs_triton = pytest.mark.skipif(op.load(DESIGNS["l2"]).triton is None, reason="triton is not installed")

SPILLS = {
    ("lp potential, cap", "linear_backward_write"): 32,
    ("lp surrogate, cap, factor", "linear_backward_state"): 32,
    ("lp surrogate, cap, factor", "linear_backward_write"): 160,
}
"""Bytes of stack a thread that a kernel may use on sm_90 (measured 8, 8 and 104 with triton 3.9); all others: none."""


def run(script: str, *arguments: str, **environment: str) -> Any:
    """A helper in a process of its own; what it prints as JSON."""
    result = subprocess.run(
        [sys.executable, str(HELPERS / script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("triton")
    return run("interpret.py", str(tmp_path_factory.mktemp("emitted")))


@pytest.mark.parametrize("name", DESIGNS)
def test_kernels_equal_the_reference(interpreted: dict[str, Any], name: str) -> None:
    found = interpreted["accuracy"][name]
    assert interpreted["paths"][name] == {"triton": 1}
    assert {"y", "final", "dq", "dk", "dv", "deta", "dstate_0"} <= found.keys()
    assert max(found.values()) < tolerance("triton"), found


@pytest.mark.parametrize("name", DESIGNS)
def test_emitted_text_computes_the_bits_of_the_skeleton(interpreted: dict[str, Any], name: str) -> None:
    assert interpreted["same bits"][name]


def test_two_values_of_a_number_share_an_operator(interpreted: dict[str, Any]) -> None:
    assert max(interpreted["twins"]) < tolerance("triton")


def test_opcheck(interpreted: dict[str, Any]) -> None:
    assert set(interpreted["opcheck"].values()) == {"SUCCESS"}


def test_calls_continue_across_paths(interpreted: dict[str, Any]) -> None:
    assert interpreted["continued"]["deviation"] < tolerance("triton")
    assert interpreted["continued"]["paths"] == {"triton": 2, "the state is inside a chunk": 1}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("nothing", ""),
        ("boundary", ""),
        ("bfloat16", "interpreter"),
        ("float64", "float64"),
        ("mixed", "differ in dtype"),
        ("dimension", "24 and 32"),
        ("step", "one token"),
        ("reset", "reset"),
        ("valid", "padding"),
        ("inside", "inside a chunk"),
    ],
)
def test_refusals_name_their_reason(interpreted: dict[str, Any], case: str, words: str) -> None:
    reason = interpreted["refusals"][case]
    assert words in reason
    assert bool(reason) == bool(words)


def test_without_gpu_the_torch_path_runs_and_is_counted() -> None:
    module = op.load(DESIGNS["huber norm"])
    x = torch.randn(1, 20, 1, 16)
    gates = {"eta": torch.full((1, 20, 1), 0.1), "log_alpha": torch.zeros(1, 20, 1), "delta": torch.ones(1, 20, 1)}
    module.PATHS.clear()
    y, _ = module.memory(x, x, x, gates, {"state_0": torch.zeros(1, 16, 16)})
    assert y.isfinite().all()
    reason = "triton is not installed" if module.triton is None else "tensors are on cpu, not on a GPU"
    assert dict(module.PATHS) == {reason: 1}


def test_designs_outside_the_family_hold_no_triton() -> None:
    outside = [
        design(L2(), L2Retention(gate="channel")),
        design(L2(), algorithm=Momentum()),
        design(L2(), algorithm=GradientDescent(gradient="online")),
        design(L2(), algorithm=GradientDescent(read="stale")),
        design(L2(), algorithm=GradientDescent(chunk=128)),
        design(L2(), Kl()),
        Design(memory=Mlp(), bias=L2(), retention=L2Retention(), algorithm=GradientDescent()),
    ]
    assert not any(has_kernels(chosen.canonical()) for chosen in outside)
    for chosen in (outside[0], NAMED["softmax-attention"].design, NAMED["retnet"].design):
        assert ("triton" in emit(chosen)) == has_kernels(chosen.canonical())
    assert all(has_kernels(chosen.canonical()) for chosen in DESIGNS.values())


def test_the_dialects_have_the_same_words() -> None:
    assert TRITON.keys() == TORCH.keys()


def test_numbers_are_arguments() -> None:
    (text, numbers), (other, others) = (lower_bias(Lp(p=p, cap="none")) for p in (1.5, 1.7))
    assert text == other
    assert (numbers["BIAS_P"], others["BIAS_P"]) == (1.5, 1.7)
    _, none = lower_bias(Huber(form="norm", nu=3.0))
    assert none == {}


def compile_kernels(folder: Path, name: str) -> dict[str, dict[str, int]]:
    """Registers, stack and shared memory of every kernel for sm_90: bfloat16, K = V = chunk = 64, 4 warps."""
    path = folder / "emitted.py"
    path.write_text(emit(DESIGNS[name]))
    found: dict[str, dict[str, int]] = run("compile.py", str(path), TRITON_CACHE_DIR=str(folder / "cache"))
    return found


def over_limit(name: str, found: dict[str, dict[str, int]]) -> dict[str, int]:
    return {k: usage["stack"] for k, usage in found.items() if usage["stack"] > SPILLS.get((name, k), 0)}


@needs_triton
def test_kernels_compile_for_sm90_without_spills(tmp_path: Path) -> None:
    found = compile_kernels(tmp_path, "huber norm")
    assert len(found) == 5
    assert not over_limit("huber norm", found)
    assert all(usage["registers"] > 64 and usage["shared"] < 64 * 1024 for usage in found.values()), found


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DESIGNS.keys() - {"huber norm", "l2 without gate", "l2 in chunks of 12"}))
def test_every_bias_compiles_for_sm90_within_its_limit(tmp_path: Path, name: str) -> None:
    assert not over_limit(name, compile_kernels(tmp_path, name))
