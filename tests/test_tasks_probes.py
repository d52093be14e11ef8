"""Probes: rows against their definition, baselines against closed forms, and that each separates its choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tolerances import tolerance

from miras_search import heads, named
from miras_search.algorithm import GradientDescent
from miras_search.bias import L2, Huber
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.design import Design
from miras_search.errors import TaskError
from miras_search.memory import Matrix
from miras_search.retention import NoRetention
from miras_search.tasks import Capacity, Drift, IllConditioned, Outliers
from miras_search.tasks.base import TRAIN
from miras_search.tasks.draws import Draws
from miras_search.tasks.probes import Probe, filtered
from miras_search.trial import Trainer, train

PROBES = [Capacity(), Outliers(), Drift(), Drift(change="all"), IllConditioned()]
IDS = [f"{p.kind}{i}" for i, p in enumerate(PROBES)]


def drawn(task: Probe, rows: int = 6) -> tuple[np.ndarray, ...]:
    inputs, targets = task.draw(Draws(3, TRAIN, 1), rows)
    assert inputs.dtype == targets.dtype == np.float32
    assert inputs.shape == (rows, task.context, 3, task.dim)
    return (*(inputs[:, :, i].astype(np.float64) for i in range(3)), targets.astype(np.float64))


@pytest.mark.parametrize("task", PROBES, ids=IDS)
def test_keys_have_unit_length_and_targets_unit_variance(task: Probe) -> None:
    q, k, v, targets = drawn(task, 200)
    assert np.abs(np.linalg.norm(k, axis=-1) - 1).max() < tolerance("float32")
    assert np.abs(np.linalg.norm(q, axis=-1) - 1).max() < tolerance("float32")
    assert abs(np.square(targets).mean() - 1) < 0.05
    assert np.abs(targets.mean()) < 0.05
    assert np.isfinite(v).all()


def test_targets_of_capacity_are_the_values_of_their_keys() -> None:
    q, k, v, targets = drawn(Capacity(length=20))
    for row, t in itertools.product(range(len(q)), range(20)):
        found = [i for i in range(t + 1) if (k[row, i] == q[row, t]).all()]
        assert any((v[row, i] == targets[row, t]).all() for i in found)
    assert {int(x) for x in np.unique(targets)} == {-1, 1}


@pytest.mark.parametrize("task", [Outliers(scale=0.0), IllConditioned(), IllConditioned(condition=1.0)])
def test_one_map_explains_a_row(task: Probe) -> None:
    """Least squares on the written pairs gives the targets of the queries."""
    q, k, v, targets = drawn(task)
    for row in range(len(q)):
        table = np.linalg.lstsq(k[row], v[row], rcond=None)[0]
        assert np.abs(q[row] @ table - targets[row]).max() < 100 * tolerance("float32")


def test_condition_of_the_keys() -> None:
    for condition in (1.0, 16.0, 256.0):
        _, k, _, _ = drawn(IllConditioned(condition=condition, length=2000), 1)
        values = np.linalg.eigvalsh(k[0].T @ k[0])
        assert values[-1] / values[0] == pytest.approx(condition, rel=0.4)


def test_tails_of_the_outliers() -> None:
    """P(|n| >= scale 2^m) = 2^(-m tail)."""
    for tail in (1, 2):
        quiet, loud = (drawn(Outliers(tail=tail, scale=s), 400)[2] for s in (0.0, 0.5))
        size = np.abs(loud - quiet) / 0.5
        for m in range(4):
            assert (size > 2.0**m * 0.99).mean() == pytest.approx(2.0 ** (-m * tail), rel=0.05)


@pytest.mark.parametrize("change", ["all", "entries"])
def test_correlations_of_a_drifting_map(change: str) -> None:
    """cov(W_t, W_(t-n)) = (1 - rate)^n, read off noiseless values of equal keys."""
    task = Drift(rate=0.2, noise=0.0, length=8, change=change)  # type: ignore[arg-type]
    q, k, v, targets = drawn(task, 3000)
    same = np.einsum("rti,rsi->rts", q, k)
    agree = np.einsum("rti,rsi->rts", targets, v) / task.dim
    for lag in range(4):
        x, y = (np.concatenate([m[:, t, t - lag] for t in range(lag, 8)]) for m in (same, agree))
        assert (x @ y) / (x @ x) == pytest.approx(0.8**lag, abs=0.05)


def test_the_filter_is_ridge_regression_and_the_gaussian_posterior() -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 9, 8))
    ridge = filtered(q, k, v, noise=0.3)
    decay, kalman = 0.9, filtered(q, k, v, noise=0.3, decay=0.9)
    for row, t in itertools.product(range(2), range(9)):
        seen, values = k[row, : t + 1], v[row, : t + 1]
        table = np.linalg.solve(seen.T @ seen + 0.3 * np.eye(8), seen.T @ values)
        assert np.abs(q[row, t] @ table - ridge[row, t]).max() < tolerance("path")
        # a stationary process: cov(w_s, w_t) = decay^|s - t| I
        age = np.arange(t + 1)
        inside = seen @ seen.T * decay ** np.abs(age[:, None] - age) + 0.3 * np.eye(t + 1)
        across = (seen @ q[row, t]) * decay ** (t - age)
        assert np.abs(np.linalg.solve(inside, across) @ values - kalman[row, t]).max() < tolerance("path")


def bare(name: str) -> heads.BareMemory:
    module = heads.build(Candidate(design=named.get(name)), Capacity(), seed=0)
    assert isinstance(module, heads.BareMemory)
    return module


def test_a_bare_memory_is_the_memory_alone() -> None:
    x = torch.randn(2, 9, 3, 16)
    q, k, v = x.unbind(2)
    linear = bare("linear-attention")
    assert [n for n, p in linear.named_parameters() if p.requires_grad] == ["log_scale", "size"]
    weights = torch.einsum("bti,bsi->bts", q, k).tril()
    assert torch.allclose(linear(x) / linear.layer.step, weights @ v, atol=tolerance("float32"))
    attention = bare("softmax-attention")
    mask = torch.ones(9, 9).tril() == 0
    logits = (torch.einsum("bti,bsi->bts", q, k) / 4).masked_fill(mask, -torch.inf)
    assert torch.allclose(attention(x), logits.softmax(-1) @ v, atol=tolerance("float32"))
    trained = {n for n, p in bare("gated-deltanet").named_parameters() if p.requires_grad}
    assert trained == {"log_scale", "size", "layer.eta.bias", "layer.alpha.bias"}
    with torch.no_grad():
        module = bare("titans-lmm")
        answers = module(x)
        x[:, 5] += 1.0
        assert torch.equal(module(x)[:, :5], answers[:, :5])


def error(design: Design, task: Probe, steps: int) -> float:
    candidate = Candidate(design=design, optimiser=Optimiser(lr=1e-1, weight_decay=0.0))
    trainer = Trainer(candidate, task, steps * task.tokens_per_step, 0)
    trainer.advance(trainer.budget)
    found = trainer.evaluate()
    assert found["excess"] == pytest.approx(found["error"] - trainer.data.floor("validation"))
    return found["error"]


def test_drift_separates_retention() -> None:
    task = Drift(validation=64, length=64)
    gated, plain = (error(named.get(n), task, 50) for n in ("gated-deltanet", "deltanet"))
    assert task.prepare().floor("validation") < gated < plain - 0.02


@pytest.mark.slow
def test_outliers_separate_the_bias() -> None:
    """Measured, 60 steps, seed 0: l2 .476, Huber .352; ridge regression .453."""
    task = Outliers()
    squared, robust = (
        error(Design(memory=Matrix(), bias=b, retention=NoRetention(), algorithm=GradientDescent(chunk=1)), task, 60)
        for b in (L2(), Huber(form="norm"))
    )
    assert robust < squared - 0.05
    assert robust < task.prepare().floor("validation") < squared + 0.05


def test_more_state_holds_more_pairs() -> None:
    """Attention keeps every pair: below the best matrix at a load of 8 D; a memory that answers zero errs by 1."""
    task = Capacity(dim=8, length=64, validation=64)
    attention, delta = (error(named.get(n), task, 80) for n in ("softmax-attention", "deltanet"))
    assert attention < task.prepare().floor("validation") < delta
    design = named.get("deltanet")
    zeroed = design.model_copy(update={"block": design.block.model_copy(update={"output": "zeroed"})})
    trainer = Trainer(Candidate(design=zeroed), task, 0, 0)
    assert trainer.evaluate()["error"] == pytest.approx(1.0)


def test_the_record_tells_of_the_bare_memory(tmp_path) -> None:  # type: ignore[no-untyped-def]
    task = Drift(length=16, validation=8, batch=4)
    candidate = Candidate(design=named.get("gated-deltanet"), backbone=Backbone(width=64, layers=2, heads=4))
    record = train(candidate, task, 128, 0, folder=tmp_path)
    assert record.status == "ok"
    assert record.state_bytes == 4 * 16 * 16
    assert record.parameters == 4
    assert set(record.metrics) == {"error", "excess"}
    shuffled = candidate.design.block.model_copy(update={"values": "shuffled"})
    other = candidate.model_copy(update={"design": candidate.design.model_copy(update={"block": shuffled})})
    assert train(other, task, 128, 0).status == "invalid"
    several = Design.model_validate({"memory": "matrix", "bias": "l2", "retention": "l2", "algorithm": "multi_step"})
    for design in (other.design, several):
        with pytest.raises(TaskError, match="bare memory"):
            heads.build(candidate.model_copy(update={"design": design}), task, seed=0)
