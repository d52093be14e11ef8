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
from triton_cases.designs import DENSE, DESIGNS, FAMILIES, LINEAR, QUICK, STEPPED, design

from miras_search import bias, op, retention
from miras_search.algorithm import GradientDescent, Momentum, MultiStep, Muon, Newton
from miras_search.bias import L2, Huber, Lp
from miras_search.codegen import compiled
from miras_search.codegen.dialect import TORCH
from miras_search.codegen.emit import emit
from miras_search.codegen.stage import staged
from miras_search.codegen.triton_dialect import TRITON, has_kernels, lower_tiles, why_no_kernels
from miras_search.memory import Matrix, Mlp
from miras_search.named import NAMED
from miras_search.reference import Xp
from miras_search.retention import Bregman, ElasticNet, Kl, L2Retention, Lq, Sphere

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


def check_steps(found: dict[str, Any]) -> None:
    """A call a token: answers and state at the end."""
    worst, own = (max(found[kind].values()) for kind in ("steps", "steps float32"))
    assert worst < tolerance("triton factor") * own + tolerance("triton floor"), (found["steps"], own)
    assert {"y", "state_0"} <= found["steps"].keys()
    assert found["steps paths"] == {"triton": 19}


@pytest.mark.parametrize("name", STEPPED)
def test_steps_equal_the_reference(interpreted: dict[str, Any], name: str) -> None:
    check_steps(interpreted["studied"][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_all_kernels_equal_the_reference(interpreted_slowly: dict[str, Any], name: str) -> None:
    check_kernels(interpreted_slowly["studied"][name], "triton dense" if name in DENSE else "triton")
    if DESIGNS[name].retention.gated not in ("row", "outer"):
        check_steps(interpreted_slowly["studied"][name])
    assert interpreted_slowly["studied"][name]["same bits"]


@pytest.mark.parametrize("name", QUICK)
def test_emitted_text_computes_the_bits_of_the_skeleton(interpreted: dict[str, Any], name: str) -> None:
    assert interpreted["studied"][name]["same bits"]


def test_two_values_of_a_number_share_an_operator(interpreted: dict[str, Any]) -> None:
    assert max(interpreted["twins"]) < tolerance("triton")


@pytest.mark.parametrize("case", ["gla", "rwkv7", "decaying-fast-weights"])
def test_strong_decays_of_channels_neither_overflow_nor_lose_digits(interpreted: dict[str, Any], case: str) -> None:
    """Outputs and all gradients, those of the decays included."""
    errors, own = interpreted["strong"][case]
    assert max(errors.values()) < tolerance("triton factor") * max(own.values()) + tolerance("triton floor"), (
        errors,
        own,
    )


@pytest.mark.parametrize("family", [*FAMILIES, "decayed", "applied", "token"])
def test_opcheck(interpreted: dict[str, Any], family: str) -> None:
    assert set(interpreted["opcheck"][family].values()) == {"SUCCESS"}


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("triton")
    return run("operators.py", str(tmp_path_factory.mktemp("meeting")))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_train_under_what_torch_puts_around_them(wrapped: dict[str, Any], family: str) -> None:
    """One graph of torch.compile, activation checkpointing: the same bits; autocast: its dtype reaches the kernels."""
    found = wrapped["alone"][family]
    assert (found["compile"], found["checkpoint"]) == (0.0, 0.0)
    # The products of the channels' family are an operator by themselves.
    assert {name.split(".")[1] for name in found["operators"]} - {"decayed"} == {family}
    assert tolerance("triton") < found["autocast"] < tolerance("half")
    assert found["autocast dtype"] == "torch.float16"
    # Once plain, twice checkpointed, once under autocast; what is compiled is not counted.
    assert found["paths"] == {"triton": 4}


@pytest.mark.parametrize("family", FAMILIES)
def test_ddp_averages_the_gradients_of_two_processes(wrapped: dict[str, Any], family: str) -> None:
    found = wrapped["ddp"][family]
    assert found["ddp"] < tolerance("float32")
    assert found["paths"] == {"triton": 3}


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_continue_across_paths(interpreted: dict[str, Any], family: str) -> None:
    found = interpreted["continued"][family]
    assert found["deviation"] < tolerance("triton")
    # The delta rule has no chunks to be inside of.
    inside = {"triton": 3} if family in ("delta", "channels") else {"triton": 2, "the state is inside a chunk": 1}
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


def test_without_gpu_the_torch_path_runs_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    module = op.load(LINEAR["huber norm"])
    x = torch.randn(1, 20, 1, 16)
    gates = {"eta": torch.full((1, 20, 1), 0.1), "log_alpha": torch.zeros(1, 20, 1), "delta": torch.ones(1, 20, 1)}
    module.PATHS.clear()
    with caplog.at_level("INFO", module.__name__):
        for _ in range(2):
            y, _ = module.memory(x, x, x, gates, {"state_0": torch.zeros(1, 16, 16)})
    assert y.isfinite().all()
    reason = "triton is not installed" if module.triton is None else "tensors are on cpu, not on a GPU"
    assert dict(module.PATHS) == {reason: 2}
    assert caplog.messages == [f"the memory runs in torch, not in Triton: {reason}"]


def test_the_default_suite_meets_every_family_bias_and_mirror_map() -> None:
    quick = [DESIGNS[name].canonical() for name in QUICK]
    assert {has_kernels(chosen) for chosen in quick} == set(FAMILIES)
    assert {type(chosen.bias) for chosen in quick} == set(bias.VARIANTS)
    maps = {cls for cls in retention.VARIANTS if not cls().linear and has_kernels(design(L2(), cls()).canonical())}
    assert {type(chosen.retention) for chosen in quick if not chosen.retention.linear} == maps


def test_each_design_has_the_family_that_serves_it() -> None:
    outside = [
        design(L2(), L2Retention(gate="row"), Momentum()),
        design(L2(), L2Retention(gate="outer"), GradientDescent(gradient="online")),
        design(L2(), algorithm=Muon()),
        design(L2(), algorithm=MultiStep()),
        design(L2(), algorithm=Newton()),
        design(L2(), Sphere(), memory=Matrix(initial="learned")),
        design(L2(), L2Retention(gate="channel"), Momentum()),
        design(L2(), L2Retention(gate="channel"), memory=Mlp()),
        design(L2(), algorithm=GradientDescent(read_order="read_first")),
        design(L2(), algorithm=GradientDescent(read="stale")),
        design(L2(), algorithm=GradientDescent(chunk=128)),
        design(L2(), ElasticNet(), memory=Mlp(offset=True)),
        design(L2(), memory=Mlp(layers=3)),
        design(L2(), memory=Mlp(expansion=3)),
        NAMED["softmax-attention"].design,
    ]
    for chosen in outside:
        assert has_kernels(chosen.canonical()) == ""
        assert why_no_kernels(chosen.canonical())
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


@pytest.mark.parametrize(
    ("chosen", "flags"),
    [
        (Lq(), {"WHOLE": False, "TOTALS": True, "ROWWISE": False}),
        (Lq(map="mirror", norm="mean"), {"WHOLE": False, "TOTALS": True, "ROWWISE": False}),
        (Kl(), {"WHOLE": False, "TOTALS": False, "ROWWISE": True}),
        (Kl(axis="column"), {"WHOLE": True, "TOTALS": False, "ROWWISE": True}),
        (Kl(axis="matrix"), {"WHOLE": True, "TOTALS": False, "ROWWISE": True}),
        (Bregman(), {"WHOLE": False, "TOTALS": False, "ROWWISE": False}),
    ],
    ids=str,
)
def test_a_map_says_what_it_takes_of_a_matrix(chosen: Any, flags: dict[str, bool]) -> None:
    assert lower_tiles(design(L2(), chosen))[2] == flags


class Nested(Lq):
    """A total of a total, which one pass over tiles cannot give."""

    def power_sum(self, xp: Any, s: Any) -> Any:
        return xp.total(s * Lq.power_sum(self, xp, s))


class Deciding(Lq):
    """Another map from a value on."""

    def power_sum(self, xp: Any, s: Any) -> Any:
        return xp.total(s * s) if self.q > 3.0 else xp.total(s)


@pytest.mark.parametrize("chosen", [Nested(), Deciding(), Kl(axis="column")])
def test_what_has_no_two_passes(chosen: Any) -> None:
    assert staged(chosen, TRITON, False) is None


VERSIONS = ("3.6.0", "3.7.1", "3.9.0")
LIMITS = {
    (90, ""): {
        "channels_backward_state": (0, 0, 64),
        "decay_backward": (32, 0, 0),
        "dense_backward_scan": (384, 384, 448),
        "dense_backward_state": (64, 96, 128),
        "dense_backward_write": (160, 160, 96),
        "dense_step": (32, 32, 0),
    },
    (90, "matrix, softmax of columns"): {"dense_backward_scan": (1632, 3904, 128)},
    (80, ""): {
        "channels_backward_state": (96, 96, 96),
        "decay_backward": (32, 0, 0),
        "dense_backward_read": (0, 0, 32),
        "dense_backward_scan": (512, 544, 448),
        "dense_backward_state": (128, 128, 96),
        "dense_backward_write": (96, 96, 96),
        "dense_forward_scan": (0, 0, 32),
        "dense_forward_state": (64, 64, 32),
        "linear_backward_state": (160, 160, 128),
    },
    (80, "matrix, softmax of columns"): {"dense_backward_scan": (160, 192, 0)},
    (80, "ttt-linear"): {"dense_backward_state": (128, 384, 224)},
}
"""Bytes of stack a thread at head dimension 64 by (architecture, a design of its own limits or empty for the others) and kernel, for
Triton 3.6.0, 3.7.1 and 3.9.0; what is not here spills nothing. One layer is not taken in tiles; a map that transposes holds the
whole matrix in registers."""


@needs_triton
def test_what_changed_compiles_within_its_limits() -> None:
    """Every kernel of the table, by every version that has been at it; what the committed table lacks of this one is compiled."""
    import triton

    known = {version for entry in compiled.table().values() for version in entry["found"]}
    assert set(VERSIONS) <= known
    if triton.__version__ not in known:
        pytest.skip(f"no numbers of Triton {triton.__version__} yet: python tests/triton_cases/table.py")
    table = run("table.py", "--print")
    assert len(table) > 150
    for entry in table.values():
        own = (entry["arch"], entry["design"])
        limits = LIMITS.get(own, LIMITS[entry["arch"], ""]).get(entry["kernel"].split()[0], (0, 0, 0))
        assert triton.__version__ in entry["found"]
        for version, usage in entry["found"].items():
            limit = dict(zip(VERSIONS, limits, strict=True)).get(version, max(limits))
            assert usage["stack"] <= limit, (version, entry)
            assert usage["registers"] > 16, (version, entry)
            assert usage["shared"] <= (227 if entry["arch"] == 90 else 163) * 1024, (version, entry)


@needs_triton
def test_a_file_checks_its_kernels_in_the_interpreter() -> None:
    script = Path(__file__).parents[1] / "kernels" / "gated_deltanet.py"
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: the fast path equals the loop" in done.stdout
    assert "ok: the kernels deviate by" in done.stdout


@needs_triton
def test_the_table_says_what_the_compiler_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernels of one design, compiled anew."""
    import triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = {x.key: x.measure() for x in compiled.launches(op.load(LINEAR["huber norm"].canonical()), 90)}
    assert len(found) == 6
    assert all(usage["stack"] == 0 and usage["registers"] > 32 for usage in found.values()), found
    table = compiled.table()
    if triton.__version__ in VERSIONS:
        assert found == {key: table[key]["found"][triton.__version__] for key in found}
