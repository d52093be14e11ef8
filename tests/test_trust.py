"""The trust card: that it passes what is right, finds what is wrong, and says what ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tolerances import tolerance

from miras_search import cli, named, op, trust
from miras_search.algorithm import GradientDescent
from miras_search.bias import L2
from miras_search.cli import terminal
from miras_search.codegen.emit import emit
from miras_search.design import Design
from miras_search.memory import Mlp
from miras_search.retention import L2Retention
from miras_search.trust import INTERPRETER, Card, verify

TRITON = op.load(named.get("retnet")).triton
needs_triton = pytest.mark.skipif(TRITON is None, reason="triton is not installed")


@needs_triton
def test_emit_verify_leaves_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gated.py"
    assert terminal.run(cli.app, ["emit", "gated-deltanet", "-o", str(out), "--verify"]) == 0
    text = capsys.readouterr().out
    card = Card.model_validate_json((tmp_path / "gated.trust.json").read_text())
    assert card.text() == text
    assert out.read_text() == emit(named.get("gated-deltanet"))
    assert card.name == "gated-deltanet"
    double, single, half, kernels = card.runs
    tensors = {"y", "state_0", "dq", "dk", "dv", "deta", "dlog_alpha", "dstate_0"}
    assert all(run.errors.keys() == tensors for run in card.runs)
    assert card.condition.keys() == card.float32.keys() == tensors
    assert max(double.errors.values()) < tolerance("path")
    assert (kernels.path, kernels.where, kernels.why) == ("triton", INTERPRETER, "")
    assert 0 < max(kernels.errors.values()) < tolerance("triton")
    assert (single.path, single.why) == ("torch", "tensors are on cpu, not on a GPU")
    assert max(half.errors.values()) > 100 * max(single.errors.values()), "bfloat16 was not rounded"
    # A rounding error of the inputs becomes one of about its own size: the delta rule at unit keys contracts.
    assert all(0.1 < x < 20 for x in card.condition.values()), card.condition
    assert {k.arch for k in card.kernels} == {80, 90}
    assert all(k.found["3.9.0"]["registers"] > 16 for k in card.kernels)
    assert " FAILED" not in text
    for word in ("dlog_alpha", "triton float32 (interpreter)", "delta_backward_state", "sm_90", "spilled bytes"):
        assert word in text


@needs_triton
@pytest.mark.parametrize(
    ("right", "wrong", "caught"),
    [
        ("tl.store(deta + token, d_step, ", "tl.store(deta + token, 1.001 * d_step, ", [True, True, False]),
        ("    return r\n", "    return 1.001 * r\n", [False, False, True]),
    ],
)
def test_what_is_wrong_is_found(right: str, wrong: str, caught: list[bool]) -> None:
    """A thousandth, in one gradient of a kernel, or in the bias of the torch path."""
    design = Design(memory="matrix", bias=L2(), retention=L2Retention(), algorithm=GradientDescent())
    source = emit(design)
    card = verify(design, source.replace(right, wrong, 1))
    assert not card.ok
    assert [run.ok for run in card.runs if run.allowed is not None] == caught
    assert "FAILED" in card.text()


def test_a_design_without_kernels_says_why() -> None:
    design = Design(memory=Mlp(layers=3), bias=L2(), retention=L2Retention(), algorithm=GradientDescent())
    card = verify(design)
    assert card.ok
    assert card.kernels == []
    assert card.no_kernels == "a memory of 3 layers"
    assert {run.path for run in card.runs} == {"torch"}
    assert "no kernels: a memory of 3 layers" in card.text()


def test_a_card_allows_what_the_suite_does() -> None:
    assert tolerance("path") == trust.EXACT
    assert (tolerance("triton factor"), tolerance("triton floor")) == (trust.FACTOR, trust.FLOOR)


def test_verify_wants_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.run(cli.app, ["emit", "yaad", "--verify"]) == 2
    assert "name the file with -o" in capsys.readouterr().err


def test_a_card_of_attention() -> None:
    card = verify(named.get("softmax-attention"))
    assert card.ok
    assert card.condition.keys() == {"y", "dq", "dk", "dv"}
    assert json.loads(card.model_dump_json())["no_kernels"] == "the memory is a cache"
