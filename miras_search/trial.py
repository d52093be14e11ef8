"""One trial: a candidate trained on a task for a budget of tokens with a seed.

Shapes: `B` rows, `T` tokens a row, `V` symbols. A step is one batch of `B * T` tokens; a budget is cut to whole steps.

    trainer = Trainer(candidate, task, budget_tokens, seed)
    trainer.advance(trainer.budget)
    trainer.evaluate("validation")

Everything a step needs (weights, AdamW moments, data cursor, random state) is in the checkpoint: on a CPU a trial that
was killed gives the same curve, bit for bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from miras_search import checkpoint, disk, heads, op
from miras_search.candidate import Candidate
from miras_search.errors import DesignError, MatchError, TaskError
from miras_search.ledger import Record, Status, trial_key
from miras_search.optimiser import adamw, rate
from miras_search.space.settings import LrSearch
from miras_search.tasks import IGNORE

if TYPE_CHECKING:
    from miras_search.tasks import Batch, Task, TaskData, Totals

LOG = logging.getLogger(__name__)
Split = Literal["validation", "test"]
POINTS = 200
"""Lines of a full trial's steps.jsonl."""
CHECKPOINT_SECONDS = 30.0


class Progress(NamedTuple):
    """How far a trial is. `seconds` of training alone; `loss`: mean over the last batch's scored targets, nats."""

    tokens: int
    budget: int
    step: int
    steps: int
    loss: float
    seconds: float


Report = Callable[[Progress], bool]
"""Called after every step; False ends the call of `advance` there."""


class Diverged(ArithmeticError):
    """The loss or the gradient is no longer a finite number."""


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the tensors to come; elsewhere this does nothing.

    By default a tensor above 128 kB is mapped, zeroed page by page and unmapped again: up to a quarter of a step's time.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 2**31 - 1)


class Trainer:
    """A model in training.

    Args:
        candidate: what is trained.
        task: what it is trained on.
        budget_tokens: cut to whole batches, at least one.
        seed: of the weights and of the data order.
        folder: where steps.jsonl and the checkpoint go; None: nowhere.
        threads: of torch in this process; None: leave as it is.
        cache: folder for prepared data (a tokenizer, a corpus).
        device: default: cuda if there is one.

    Raises:
        TaskError: if the design's chunk is longer than a row of the task, or the data cannot be read.
    """

    def __init__(
        self,
        candidate: Candidate,
        task: Task,
        budget_tokens: int,
        seed: int,
        folder: Path | None = None,
        threads: int | None = None,
        *,
        cache: Path | None = None,
        device: str | None = None,
    ) -> None:
        refuse(candidate, task)
        if threads is not None:
            torch.set_num_threads(threads)
        keep_freed_memory()
        self.candidate, self.task, self.seed, self.folder, self.asked = candidate, task, seed, folder, budget_tokens
        self.data: TaskData = prepared(task, cache)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tokens_per_step = self.data.batch * self.data.context
        self.steps = max(1, budget_tokens // self.tokens_per_step)
        self.budget = self.steps * self.tokens_per_step
        torch.manual_seed(seed)
        self.model = heads.build(candidate, task, seed=seed).to(self.device)
        self.optimiser = adamw(self.model, candidate.optimiser)
        self.stream = self.data.train(seed)
        self.step, self.seconds, self.loss = 0, 0.0, math.nan
        self.rungs: list[dict[str, Any]] = []
        """Evaluations on the way, `{"tokens": ..., "metrics": {...}}`; kept in the checkpoint."""
        self.totals: Totals | None = None
        """Sums of the last evaluation, by class and by position (`loss_by_position`)."""
        self._before = op.calls(*candidate.memories)
        self._called = False
        self._taken: tuple[str, ...] = ("", "")
        self._every, self._saved_at = max(1, self.steps // POINTS), time.monotonic()

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self.tokens_per_step

    @property
    def progress(self) -> Progress:
        """Where the trial stands."""
        return Progress(self.tokens, self.budget, self.step, self.steps, self.loss, self.seconds)

    @property
    def parameters(self) -> int:
        """Trained numbers; a matrix used twice counts once."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def advance(self, tokens: int, report: Report | None = None) -> Progress:
        """Train until `tokens` (of the whole trial) are reached, the budget is, or `report` says stop.

        Raises:
            Diverged: if loss or gradient norm is not finite; names the step.
        """
        until = min(self.steps, math.ceil(tokens / self.tokens_per_step))
        self.model.train()
        while self.step < until:
            self._step()
            if self.folder and time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
                self.save()
            if report is not None and not report(self.progress):
                break
        return self.progress

    def _step(self) -> None:
        start = time.perf_counter()
        lr = rate(self.candidate.optimiser, self.step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        batch = next(self.stream)
        scored = self._score(batch)
        loss = scored.loss.sum() / (scored.targets != IGNORE).sum().clamp_min(1)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.candidate.optimiser.clip)
        value, size = torch.stack([loss.detach(), norm.detach()]).tolist()
        if not (math.isfinite(value) and math.isfinite(size)):
            what = f"loss is {value}" if not math.isfinite(value) else f"gradient norm is {size}"
            raise Diverged(f"{what} at step {self.step + 1} of {self.steps}")
        self.optimiser.step()
        self.step += 1
        self.loss = value
        self.seconds += time.perf_counter() - start
        if self.folder and (self.step % self._every == 0 or self.step in (1, self.steps)):
            line = {"step": self.step, "tokens": self.tokens, "loss": value, "lr": lr, "grad_norm": size}
            disk.append(self.folder / "steps.jsonl", line | {"seconds": round(self.seconds, 4)})

    def _score(self, batch: Batch) -> heads.Scored:
        found = heads.score(self.model, batch, self.device)
        if not self._called:
            self._called = True
            name = self.candidate.label or self.candidate.fingerprint
            LOG.info("%s on %s runs in %s", name, self.task.name, ": ".join(filter(None, self._path())))
        return found

    @torch.no_grad()
    def evaluate(self, split: Split = "validation") -> dict[str, float]:
        """Metrics of the task on the fixed batches of a split; trains nothing and draws no random numbers."""
        self.model.eval()
        totals = self.data.totals()
        for batch in self.data.validation() if split == "validation" else self.data.test():
            totals.add(*self._score(batch))
        self.model.train()
        totals.floor = self.data.floor(split)
        self.totals = totals
        return self.task.metrics_from(totals)

    def loss_by_position(self) -> list[float]:
        """Mean loss at every position of a row in the last evaluation, nats; NaN where nothing is scored.

        A model that uses its context has a falling curve; one without memory a flat one.
        """
        table = None if self.totals is None else self.totals.at
        return [] if table is None else (table[:, 1] / table[:, 0]).tolist()

    def save(self, *, final: bool = False) -> None:
        """Write the checkpoint; `final` (after the last step) leaves out what only further training needs.

        Raises:
            ValueError: for a trainer without a folder.
        """
        if self.folder is None:
            raise ValueError("a trainer without a folder has no checkpoint")
        tensors = checkpoint.pack(self.model, None if final else self.optimiser)
        checkpoint.write(
            self.folder,
            tensors,
            {
                **self._identity(),
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.seconds,
                "loss": self.loss,
                "rungs": self.rungs,
                "stream": self.stream.state(),
                "final": final,
                "vocab": self.data.vocab,
                "path": self._path(),
            },
        )
        self._saved_at = time.monotonic()

    def restore(self) -> bool:
        """Continue from the checkpoint in the folder, if there is one of this very trial; else start from zero.

        Lines of steps.jsonl beyond the checkpoint are cut, since those steps are taken again.
        """
        if self.folder is None:
            return False
        found = checkpoint.read(self.folder, device=str(self.device))
        if found is not None and any(found.meta[name] != value for name, value in self._identity().items()):
            found = None
        last = found.meta["step"] if found else 0
        disk.keep(self.folder / "steps.jsonl", lambda line: line["step"] <= last)
        if found is None:
            return False
        tensors, meta = found
        checkpoint.unpack(tensors, self.model, self.optimiser)
        self.stream.seek(meta["stream"])
        self.step, self.seconds, self.loss, self.rungs = meta["step"], meta["seconds"], meta["loss"], meta["rungs"]
        self._taken = tuple(meta["path"])
        return True

    def _path(self) -> tuple[str, ...]:
        """Path and reason, of the trial's own calls in this process; before the first one the checkpoint's word."""
        return op.path_taken(*self.candidate.memories, since=self._before) if self._called else self._taken

    def _identity(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate.model_dump(mode="json"),
            "task": self.task.model_dump(mode="json"),
            "seed": self.seed,
            "steps": self.steps,
        }

    def record(self, status: Status = "ok", cause: str = "", metrics: dict[str, float] | None = None) -> Record:
        """What is known of the trial now, as a row of the ledger."""
        path, reason = self._path()
        return blank(self.candidate, self.task, self.asked, self.seed).model_copy(
            update={
                "status": status,
                "cause": cause,
                "metrics": metrics or {},
                "rungs": self.rungs,
                "parameters": self.parameters,
                "tokens": self.tokens,
                "steps": self.step,
                "seconds": self.seconds,
                "tokens_per_second": self.tokens / self.seconds if self.seconds else 0.0,
                "path": path,
                "path_reason": reason,
                "hashes": dict(self.data.hashes),
            }
        )


def train(
    candidate: Candidate,
    task: Task,
    budget_tokens: int,
    seed: int,
    *,
    folder: Path | None = None,
    report: Report | None = None,
    threads: int | None = None,
    resume: bool = True,
    cache: Path | None = None,
    device: str | None = None,
) -> Record:
    """Train to the end of the budget and evaluate. What goes wrong in a trial is in the record, not raised.

    Args:
        candidate: what is trained.
        task: what it is trained on.
        budget_tokens: cut to whole batches, at least one.
        seed: of the weights and of the data order.
        folder: for steps.jsonl, the checkpoint and error.txt; None: nothing is written.
        report: called after every step; False cancels (with a checkpoint, if there is a folder).
        threads: of torch; None: leave as it is.
        resume: continue from the folder's checkpoint, if it is of this trial.
        cache: folder for prepared data.
        device: default: cuda if there is one.
    """
    trainer: Trainer | None = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            checkpoint.remove(folder)
    try:
        trainer = Trainer(candidate, task, budget_tokens, seed, folder, threads, cache=cache, device=device)
        trainer.restore()
        trainer.advance(trainer.budget, report)
        if trainer.step < trainer.steps:
            if folder is not None:
                trainer.save()
            return trainer.record("cancelled", "stopped by the caller")
        return finish(trainer)
    except Exception as error:
        return failed(error, trainer, blank(candidate, task, budget_tokens, seed), folder)


def finish(trainer: Trainer, *, test: bool = False) -> Record:
    """The record of a trainer that has spent its budget; leaves the final checkpoint.

    Args:
        trainer: at its end.
        test: evaluate on the test split as well, for the record's `test`.

    Raises:
        Diverged: if a metric is not a finite number.
    """
    metrics = trainer.evaluate(trainer.task.compared_on)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} after {trainer.step} steps")
    if trainer.folder is not None:
        trainer.save(final=True)
    record = trainer.record("ok", metrics=metrics)
    return record.model_copy(update={"test": trainer.evaluate("test")}) if test else record


def failed(error: BaseException, trainer: Trainer | None, known: Record, folder: Path | None) -> Record:
    """The record of a trial that raised; the traceback goes to error.txt.

    Args:
        error: what was raised.
        trainer: as far as it came; None if it could not be made.
        known: the row before training (see `blank`).
        folder: of the trial; None: nothing is written.
    """
    status, cause = verdict(error)
    if folder is not None and status in ("error", "oom"):
        with contextlib.suppress(OSError):
            (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    if trainer is None:
        return known.model_copy(update={"status": status, "cause": cause})
    return trainer.record(status, cause)


def verdict(error: BaseException) -> tuple[Status, str]:
    """Status and cause (one line) of what a trial raised."""
    if isinstance(error, Diverged):
        return "diverged", str(error)
    if isinstance(error, DesignError | MatchError | TaskError):
        return "invalid", " ".join(str(error).split())
    last = " ".join("".join(traceback.format_exception_only(error)).split())
    allocator = isinstance(error, RuntimeError) and ("not enough memory" in last or "can't allocate memory" in last)
    oom = isinstance(error, MemoryError | torch.OutOfMemoryError) or allocator
    return ("oom" if oom else "error", last[:400])


def refuse(candidate: Candidate, task: Task) -> None:
    """Refuse a design whose frozen gradient would span a whole row.

    Raises:
        TaskError: if its chunk is longer than the task's context. A chunk that changes nothing (online or state-free
            gradients) may be.
    """
    for design in candidate.memories:
        if design.chunked:
            task.check_chunk(design.algorithm.chunk_)


def blank(candidate: Candidate, task: Task, budget_tokens: int, seed: int, lr_search: LrSearch | None = None) -> Record:
    """A row of the ledger with what is known before training."""
    trained = task.trained(candidate)
    return Record(
        key=trial_key(candidate, task, budget_tokens, seed, lr_search),
        task=task.name,
        seed=seed,
        status="ok",
        candidate=candidate.model_dump(mode="json"),
        fingerprint=candidate.fingerprint,
        structure=candidate.structure,
        label=candidate.label,
        parameters=trained.parameters(task.vocab),
        state_bytes=trained.state_bytes(task.context),
        flops_per_token=trained.flops_per_token(task.context),
    )


@lru_cache(maxsize=4)
def prepared(task: Task, cache: Path | None) -> TaskData:
    """The task's data; a process that runs many trials reads them once."""
    return task.prepare(cache)
