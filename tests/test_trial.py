"""A trial: the same curve after a kill, the schedule, and what becomes of a trial that fails."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from miras_search import checkpoint, model, named, op, trial
from miras_search.algorithm import GradientDescent
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.disk import lines
from miras_search.ledger import Record, trial_key
from miras_search.optimiser import rate
from miras_search.tasks import Mqar
from miras_search.trial import Progress, Trainer, train

TASK = Mqar(pairs=2, rewrites=2, keys=8, values=8, gap=4, batch=4, validation=32, test=32)
STEPS = 24
BUDGET = STEPS * TASK.batch * TASK.context


def candidate(name: str = "gated-deltanet", **optimiser: float) -> Candidate:
    small = Backbone(width=16, layers=1, heads=1, ffn=1.0)
    return Candidate(design=named.get(name), backbone=small, optimiser=Optimiser(**optimiser))


def curve(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(folder / "steps.jsonl")]


def measured(record: Record) -> dict[str, Any]:
    return record.model_dump(exclude={"seconds", "tokens_per_second", "time", "attempts"})


class Broken(nn.Module):
    """A model that goes wrong at its third call."""

    path, path_reason = "torch", "test"

    def __init__(self, vocab: int, fault: BaseException | float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab, vocab)
        self.fault, self.calls = fault, 0

    def forward(self, tokens: torch.Tensor, reset: torch.Tensor | None = None) -> torch.Tensor:
        self.calls += 1
        out: torch.Tensor = self.table(tokens)
        if self.calls >= 3:
            if isinstance(self.fault, BaseException):
                raise self.fault
            out = out * self.fault
        return out


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(fault: BaseException | float) -> None:
        def build(candidate: Candidate, vocab: int, *, seed: int) -> Broken:
            return Broken(vocab, fault)

        monkeypatch.setattr(model, "build", build)

    return install


def test_record_says_what_was_trained(tmp_path: Path) -> None:
    record = train(candidate(), TASK, BUDGET, 3, folder=tmp_path, threads=1)
    assert (record.status, record.cause, record.task, record.seed) == ("ok", "", "mqar", 3)
    assert record.key == trial_key(candidate(), TASK, BUDGET, 3)
    assert (record.steps, record.tokens, record.label) == (STEPS, BUDGET, "gated-deltanet")
    assert record.parameters == candidate().parameters(TASK.vocab)
    assert set(record.metrics) == {metric.name for metric in TASK.metrics}
    assert 0 < record.seconds < 60
    assert record.tokens_per_second == pytest.approx(record.tokens / record.seconds)
    assert record.path in ("torch", "triton")
    assert record.hashes
    assert record.state_bytes == candidate().state_bytes(TASK.context)
    assert [line["step"] for line in curve(tmp_path)] == list(range(1, STEPS + 1))
    assert set(curve(tmp_path)[0]) == {"step", "tokens", "loss", "lr", "grad_norm"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gated-deltanet", "tensors are on cpu, not on a GPU"),
        ("mesanet", "no Triton kernels: the memory is the solution of a regression"),
    ],
)
def test_the_path_is_that_of_the_trials_own_calls(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not of an earlier trial in this process, which ran on a GPU; once in the log, and in the record."""
    module = op.load(named.get(name))
    if name == "gated-deltanet":
        monkeypatch.setitem(module.PATHS, "triton", 5)
        reason = reason if module.triton else "triton is not installed"
    trainer = Trainer(candidate(name), TASK, BUDGET, 0, threads=1, device="cpu")
    with caplog.at_level("INFO", "miras_search.trial"):
        trainer.advance(3 * trainer.tokens_per_step)
    record = trainer.record()
    assert (record.path, record.path_reason) == ("torch", reason)
    said = [line.getMessage() for line in caplog.records if line.name == "miras_search.trial"]
    assert said == [f"{name} on mqar runs in torch: {reason}"]


def test_a_seed_decides_everything() -> None:
    first, again, other = (train(candidate(), TASK, BUDGET, seed, threads=1) for seed in (0, 0, 1))
    assert measured(first) == measured(again)
    assert first.metrics["nll"] != other.metrics["nll"]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    train(candidate("softmax-attention"), TASK, 10 * BUDGET, 0, folder=tmp_path, threads=1)
    losses = [line["loss"] for line in curve(tmp_path)]
    assert sum(losses[-20:]) < 0.95 * sum(losses[:20])


@pytest.mark.parametrize("stop", [1, 7, STEPS - 1])
def test_a_cancelled_trial_goes_on_bit_for_bit(tmp_path: Path, stop: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = train(candidate(), TASK, BUDGET, 0, folder=whole, threads=1)
    first = train(candidate(), TASK, BUDGET, 0, folder=cut, report=lambda p: p.step < stop, threads=1)
    assert (first.status, first.steps) == ("cancelled", stop)
    torch.manual_seed(99)  # other work of the process must not matter
    second = train(candidate(), TASK, BUDGET, 0, folder=cut, threads=1)
    assert measured(second) == measured(expected)
    assert curve(cut) == curve(whole)


def test_a_final_checkpoint_evaluates_to_the_same(tmp_path: Path) -> None:
    first = train(candidate(), TASK, BUDGET, 0, folder=tmp_path, threads=1)
    again = train(candidate(), TASK, BUDGET, 0, folder=tmp_path, threads=1)
    assert measured(again) == measured(first)
    assert again.seconds == first.seconds
    found = checkpoint.read(tmp_path)
    assert found is not None
    assert not any(name.startswith("optimiser.") for name in found.tensors)
    fresh = model.build(candidate(), TASK.vocab, seed=7)
    fresh.load_state_dict(found.model())
    assert json.loads((tmp_path / "checkpoint.json").read_text()) == found.meta


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_trial as t
t.trial.CHECKPOINT_SECONDS = 0.05
t.train(t.candidate(), t.TASK, 20 * t.BUDGET, 0, folder=Path(sys.argv[1]), threads=1)
"""


def test_a_killed_trial_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(killed), str(Path(__file__).parent)])
    until = time.monotonic() + 120
    while not len(lines(killed / "steps.jsonl")) > 20 and time.monotonic() < until:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    last = lines(killed / "steps.jsonl")[-1]["step"]
    assert 0 < last < 20 * STEPS
    with (killed / "steps.jsonl").open("ab") as file:
        file.write(b'{"step": 9')
    seen: list[int] = []
    budget = 20 * BUDGET  # the schedule is that of the whole budget; some steps beyond the kill are enough

    def some(progress: Progress) -> bool:
        seen.append(progress.step)
        return progress.step < last + 30

    again = train(candidate(), TASK, budget, 0, folder=killed, report=some, threads=1)
    assert 2 < seen[0] <= last + 2, "it started from a checkpoint"
    train(candidate(), TASK, budget, 0, folder=whole, report=lambda p: p.step < again.steps, threads=1)
    assert curve(killed) == curve(whole)


def test_a_restored_trial_knows_its_path_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(candidate(), TASK, BUDGET, 0, folder=tmp_path, report=lambda p: p.step < 5, threads=1)
    trainer = Trainer(candidate(), TASK, BUDGET, 0, tmp_path, 1)
    assert trainer.record().path == ""
    trainer.restore()
    assert (trainer.record().path, trainer.record().path_reason) == trial.op.path_taken(candidate().design)
    monkeypatch.setattr(trial.op, "path_taken", lambda design: ("torch", "other calls of this process"))
    assert trainer.record().path_reason != "other calls of this process"


def test_checkpoint_of_another_trial_is_not_used(tmp_path: Path) -> None:
    train(candidate(), TASK, BUDGET, 0, folder=tmp_path, report=lambda p: p.step < 5, threads=1)
    for other in (
        Trainer(candidate(), TASK, BUDGET, 1, tmp_path),
        Trainer(candidate(lr=0.02), TASK, BUDGET, 0, tmp_path),
        Trainer(candidate(), TASK, 2 * BUDGET, 0, tmp_path),
        Trainer(candidate(), TASK.model_copy(update={"gap": 3}), BUDGET, 0, tmp_path),
    ):
        assert not other.restore()
        assert other.step == 0
    assert lines(tmp_path / "steps.jsonl") == []


def test_resume_false_starts_again(tmp_path: Path) -> None:
    train(candidate(), TASK, BUDGET, 0, folder=tmp_path, report=lambda p: p.step < 5, threads=1)
    steps: list[int] = []
    train(candidate(), TASK, BUDGET, 0, folder=tmp_path, report=lambda p: steps.append(p.step) is None, resume=False)
    assert steps[0] == 1


def test_damaged_checkpoint_is_an_error_row(tmp_path: Path) -> None:
    (tmp_path / checkpoint.WEIGHTS).write_bytes(b"garbage")
    record = train(candidate(), TASK, BUDGET, 0, folder=tmp_path, threads=1)
    assert record.status == "error"
    assert "checkpoint.safetensors is no checkpoint" in record.cause


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(candidate(), TASK, BUDGET, 0, tmp_path, 1)
    trainer.advance(3 * trainer.tokens_per_step)
    trainer.save()
    trainer.advance(5 * trainer.tokens_per_step)

    def fail(_: int) -> None:
        raise OSError("disk")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk"):
        trainer.save()
    monkeypatch.undo()
    again = Trainer(candidate(), TASK, BUDGET, 0, tmp_path, 1)
    assert again.restore()
    assert again.step == 3


@pytest.mark.parametrize(("factor", "word"), [(math.nan, "loss is nan"), (math.inf, "loss is")])
def test_divergence_names_the_step(tmp_path: Path, broken: Any, factor: float, word: str) -> None:
    broken(factor)
    record = train(candidate(), TASK, BUDGET, 0, folder=tmp_path)
    assert record.status == "diverged"
    assert word in record.cause
    assert f"at step 3 of {STEPS}" in record.cause
    assert (record.steps, record.metrics) == (2, {})
    assert [line["step"] for line in curve(tmp_path)] == [1, 2]


def test_a_rate_that_is_too_high_diverges_in_the_real_model() -> None:
    record = train(candidate(lr=1e30), TASK, BUDGET, 0, threads=1)
    assert record.status == "diverged"


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (ZeroDivisionError("by\nzero"), "error"),
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "oom"),
    ],
)
def test_exceptions_become_rows(tmp_path: Path, broken: Any, fault: Exception, status: str) -> None:
    broken(fault)
    record = train(candidate(), TASK, BUDGET, 0, folder=tmp_path)
    assert record.status == status
    assert type(fault).__name__ in record.cause
    assert "\n" not in record.cause
    assert "Traceback" in (tmp_path / "error.txt").read_text()


def test_a_task_shorter_than_the_chunk_is_refused_before_training(broken: Any) -> None:
    broken(AssertionError("built"))
    design = named.get("yaad").model_copy(update={"algorithm": GradientDescent(chunk=64)})
    record = train(candidate().model_copy(update={"design": design}), TASK, BUDGET, 0)
    assert (record.status, record.steps) == ("invalid", 0)
    assert "chunk" in record.cause
    assert "64" in record.cause
    # where the chunk changes nothing it may be longer than a row
    trial.refuse(Candidate(design=named.get("linear-attention")), TASK.model_copy(update={"gap": 0}))
    trial.refuse(Candidate(design=named.get("softmax-attention")), TASK)


def test_keyboard_interrupt_is_not_swallowed(broken: Any) -> None:
    broken(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(candidate(), TASK, BUDGET, 0)


def test_schedule() -> None:
    settings = Optimiser(lr=0.1, warmup=0.1, final=0.05)
    rates = [rate(settings, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (i + 1) for i in range(10)])
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.005)
    assert [rate(Optimiser(lr=0.1, warmup=0.0), step, 1) for step in range(1)] == pytest.approx([0.1])


@pytest.mark.parametrize("name", ["titans-lmm", "yaad", "softmax-attention"])
def test_decay_acts_on_matrices_of_the_outer_model_only(name: str) -> None:
    trainer = Trainer(candidate(name), TASK, BUDGET, 0)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    decayed, free = ([names[id(p)] for p in group["params"]] for group in trainer.optimiser.param_groups)
    assert [group["weight_decay"] for group in trainer.optimiser.param_groups] == [0.1, 0.0]
    matrices = {"embedding", "qkv", "gate", "out", "up", "down"}
    assert {name.split(".")[-2] for name in decayed} == matrices
    assert not any(name.split(".")[-2] in matrices for name in free)
    assert len(decayed) + len(free) == len(names)


def test_evaluation_disturbs_nothing(tmp_path: Path) -> None:
    plain, watched = (Trainer(candidate(), TASK, BUDGET, 0, threads=1) for _ in range(2))
    plain.advance(BUDGET)
    for tokens in range(0, BUDGET + 1, 3 * plain.tokens_per_step):
        watched.advance(tokens)
        watched.evaluate("test" if tokens % 2 else "validation")
    watched.advance(BUDGET)
    assert plain.evaluate() == watched.evaluate()
    assert plain.evaluate("test") != plain.evaluate("validation")


def test_advance_counts_tokens() -> None:
    trainer = Trainer(candidate(), TASK, BUDGET + 5, 0)
    per_step = TASK.batch * TASK.context
    assert (trainer.budget, trainer.steps, trainer.tokens) == (BUDGET, STEPS, 0)
    assert trainer.advance(1).tokens == per_step
    assert trainer.advance(2 * per_step).tokens == 2 * per_step
    assert trainer.advance(10**9).tokens == BUDGET
    assert Trainer(candidate(), TASK, 1, 0).steps == 1
    with pytest.raises(ValueError, match="without a folder"):
        trainer.save()
