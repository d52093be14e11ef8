"""The Triton families on a machine without a GPU: in Triton's interpreter, through its compiler, and past it."""

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
from triton_cases.designs import DENSE, DESIGNS, FAMILIES, LINEAR, QUICK, design

from miras_search import op
from miras_search.algorithm import GradientDescent, MultiStep, Muon, Newton
from miras_search.bias import L2, Huber, Lp
from miras_search.codegen.dialect import TORCH
from miras_search.codegen.emit import emit
from miras_search.codegen.triton_dialect import TRITON, has_kernels, lower_tiles
from miras_search.memory import Matrix, Mlp
from miras_search.named import NAMED
from miras_search.reference import Xp
from miras_search.retention import L2Retention, Sphere

HELPERS = Path(__file__).parent / "triton_cases"
needs_triton = pytest.mark.skipif(op.load(LINEAR["l2"]).triton is None, reason="triton is not installed")


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


SLOW = sorted(DESIGNS.keys() - set(QUICK))


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("triton")
    return run("interpret.py", str(tmp_path_factory.mktemp("emitted")), *QUICK, "checks")


@pytest.fixture(scope="module")
def interpreted_slowly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("triton")
    return run("interpret.py", str(tmp_path_factory.mktemp("emitted")), *SLOW)


def check_kernels(found: dict[str, Any], limit: str) -> None:
    """Outputs, states, and gradients of all inputs: near the reference, and about as near as it is itself in float32."""
    for kind, plain, paths in (("accuracy", "float32", "paths"), ("masked", "masked float32", "masked paths")):
        errors, own = found[kind], found[plain]
        assert {"y", "state_0", "dq", "dk", "dv", "deta", "dstate_0"} <= errors.keys()
        worst = max(errors.values())
        assert worst < tolerance("triton factor") * max(own.values()) + tolerance("triton floor"), (kind, errors, own)
        assert worst < tolerance(limit), (kind, errors)
        assert found[paths] == {"triton": 1}


@pytest.mark.parametrize("name", QUICK)
def test_kernels_equal_the_reference(interpreted: dict[str, Any], name: str) -> None:
    check_kernels(interpreted["studied"][name], "triton dense" if name in DENSE else "triton")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_all_kernels_equal_the_reference(interpreted_slowly: dict[str, Any], name: str) -> None:
    check_kernels(interpreted_slowly["studied"][name], "triton dense" if name in DENSE else "triton")
    assert interpreted_slowly["studied"][name]["same bits"]


@pytest.mark.parametrize("name", QUICK)
def test_emitted_text_computes_the_bits_of_the_skeleton(interpreted: dict[str, Any], name: str) -> None:
    assert interpreted["studied"][name]["same bits"]


def test_two_values_of_a_number_share_an_operator(interpreted: dict[str, Any]) -> None:
    assert max(interpreted["twins"]) < tolerance("triton")


@pytest.mark.parametrize("family", FAMILIES)
def test_opcheck(interpreted: dict[str, Any], family: str) -> None:
    assert set(interpreted["opcheck"][family].values()) == {"SUCCESS"}


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_continue_across_paths(interpreted: dict[str, Any], family: str) -> None:
    found = interpreted["continued"][family]
    assert found["deviation"] < tolerance("triton")
    # The delta rule has no chunks to be inside of.
    inside = {"triton": 3} if family == "delta" else {"triton": 2, "the state is inside a chunk": 1}
    assert found["paths"] == inside


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
        ("inside", "inside a chunk"),
        ("mirror", "up to 64, not 128"),
    ],
)
def test_refusals_name_their_reason(interpreted: dict[str, Any], case: str, words: str) -> None:
    reason = interpreted["refusals"][case]
    assert words in reason
    assert bool(reason) == bool(words)


def test_without_gpu_the_torch_path_runs_and_is_counted() -> None:
    module = op.load(LINEAR["huber norm"])
    x = torch.randn(1, 20, 1, 16)
    gates = {"eta": torch.full((1, 20, 1), 0.1), "log_alpha": torch.zeros(1, 20, 1), "delta": torch.ones(1, 20, 1)}
    module.PATHS.clear()
    y, _ = module.memory(x, x, x, gates, {"state_0": torch.zeros(1, 16, 16)})
    assert y.isfinite().all()
    reason = "triton is not installed" if module.triton is None else "tensors are on cpu, not on a GPU"
    assert dict(module.PATHS) == {reason: 1}


def test_each_design_has_the_family_that_serves_it() -> None:
    outside = [
        design(L2(), L2Retention(gate="channel")),
        design(L2(), L2Retention(gate="row")),
        design(L2(), L2Retention(gate="outer")),
        design(L2(), algorithm=Muon()),
        design(L2(), algorithm=MultiStep()),
        design(L2(), algorithm=Newton()),
        design(L2(), Sphere(), memory=Matrix(initial="learned")),
        design(L2(), L2Retention(gate="channel"), GradientDescent(gradient="online")),
        design(L2(), algorithm=GradientDescent(read_order="read_first")),
        design(L2(), algorithm=GradientDescent(read="stale")),
        design(L2(), algorithm=GradientDescent(chunk=128)),
        design(L2(), memory=Mlp(offset=True)),
        design(L2(), memory=Mlp(layers=3)),
        design(L2(), memory=Mlp(expansion=3)),
        NAMED["softmax-attention"].design,
    ]
    for chosen in outside:
        assert has_kernels(chosen.canonical()) == ""
        assert "triton" not in emit(chosen)
    for family, designs in FAMILIES.items():
        assert {has_kernels(chosen.canonical()) for chosen in designs.values()} == {family}
    assert "triton_dense" not in emit(NAMED["retnet"].design)
    assert "triton_linear" not in emit(NAMED["yaad"].design)


@pytest.mark.parametrize("name", ["activate_grad", "activate_curve"])
def test_derivatives_of_the_activation(name: str) -> None:
    """Each is the derivative of the one before, by autograd."""
    z = torch.linspace(-6.0, 6.0, 101, dtype=torch.float64, requires_grad=True)
    memory, before = Mlp(), {"activate_grad": "activate", "activate_curve": "activate_grad"}[name]
    (expected,) = torch.autograd.grad(getattr(memory, before)(Xp, z).sum(), z)
    assert (getattr(memory, name)(Xp, z) - expected).abs().max() < tolerance("formula")


def test_the_dialects_have_the_same_words() -> None:
    assert TRITON.keys() == TORCH.keys()


def test_numbers_are_arguments() -> None:
    (text, numbers, _), (other, others, _) = (lower_tiles(design(Lp(p=p, cap="none"))) for p in (1.5, 1.7))
    assert text == other
    assert (numbers["BIAS_P"], others["BIAS_P"]) == (1.5, 1.7)
    _, none, _ = lower_tiles(design(Huber(form="norm", nu=3.0)))
    assert none == {}


def compile_kernels(folder: Path, name: str, arch: str = "90") -> dict[str, dict[str, int]]:
    """Registers, stack and shared memory of every kernel: bfloat16, head dimension 64."""
    path = folder / "emitted.py"
    path.write_text(emit(DESIGNS[name]))
    found: dict[str, dict[str, int]] = run(
        "compile.py", arch, "64", "bfloat16", str(path), TRITON_CACHE_DIR=str(folder / "cache")
    )
    return found


STACK = {"dense_backward_state": 128, "dense_backward_write": 128, "dense_backward_scan": 768}
"""Bytes of stack a thread that a kernel may use at head dimension 64; others: none."""
WHOLE_STACK = {"dense_backward_state": 1280, "dense_forward_scan": 512, "dense_backward_scan": 4608}
"""The same under a mirror map of the whole matrix, which a program holds in registers."""
STACK_80 = STACK | {"delta_backward_state": 32, "delta_backward_write": 96, "dense_backward_read": 128}
"""The same as `STACK` for sm_80, all else for sm_90."""


@needs_triton
@pytest.mark.slow
def test_what_changed_compiles_within_its_limits() -> None:
    """Every kernel of the table; only what the committed table lacks, or has of another Triton alone, is compiled."""
    import triton

    table = run("table.py", "--print")
    assert len(table) > 80
    for entry in table.values():
        limits = STACK_80 if entry["arch"] == 80 else STACK
        if entry["design"].startswith("moneta"):
            limits = WHOLE_STACK
        usage = entry["found"][triton.__version__]
        assert usage["stack"] <= limits.get(entry["kernel"].split()[0], 0), entry
        assert usage["registers"] > 16, entry
        assert usage["shared"] <= 227 * 1024, entry


@needs_triton
def test_a_file_checks_its_kernels_in_the_interpreter() -> None:
    script = Path(__file__).parents[1] / "kernels" / "gated_deltanet.py"
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: the fast path equals the loop" in done.stdout
    assert "ok: the kernels deviate by" in done.stdout


@needs_triton
def test_kernels_compile_for_sm90_without_spills(tmp_path: Path) -> None:
    found = compile_kernels(tmp_path, "huber norm")
    assert len(found) == 5
    assert all(usage["stack"] == 0 and usage["registers"] > 64 for usage in found.values()), found
    assert all(usage["shared"] < 64 * 1024 for usage in found.values()), found
