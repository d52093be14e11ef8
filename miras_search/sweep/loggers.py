"""Loss curves and results in the tools that people look at: `loggers: [csv, tensorboard, wandb, mlflow]` in a space.

    RUN/logs/csv/trials.csv, KEY.csv          results; the loss curve of a trial
    RUN/logs/tensorboard/KEY/                 tensorboard --logdir RUN/logs/tensorboard
    W&B                                       a project of the run's name, where the user's settings say; files in RUN/logs/wandb
    MLflow                                    an experiment of the run's name at MLFLOW_TRACKING_URI; default: RUN/logs/mlflow.db

The ledger stays the truth, and this a copy: a trial goes to a logger when it is committed, its curve (steps.jsonl) whole.
What has gone is noted in RUN/logs/NAME.jsonl. So a session first sends what an earlier one left out, and a kill in between
at most sends a trial twice, under one name. A logger that fails is switched off with a word, and the sweep goes on.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from miras_search import disk
from miras_search.errors import RunError
from miras_search.ledger import Record
from miras_search.results import load_results
from miras_search.runs import RunFolder

Line = dict[str, Any]
PACKAGES = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "wandb": ("wandb", "'miras-search[wandb]'"),
    "mlflow": ("mlflow", "'miras-search[mlflow]'"),
}
"""The module that a logger needs, and what installs it."""


class Logger(Protocol):
    """One place where results go."""

    def trial(self, record: Record, curve: Sequence[Line]) -> None:
        """A trial that was committed, and the lines of its steps.jsonl. The same one may come again."""
        ...

    def close(self) -> None:
        """The session is over."""
        ...


class Csv:
    """A table of the trials, written when a session ends, and a file a loss curve."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.folder = run, run.path / "logs" / "csv"
        self.folder.mkdir(parents=True, exist_ok=True)

    def trial(self, record: Record, curve: Sequence[Line]) -> None:
        """KEY.csv: step, tokens, loss, learning rate, norm of the gradient, seconds."""
        out = io.StringIO()
        writer = csv.DictWriter(out, ("step", "tokens", "loss", "lr", "grad_norm", "seconds"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)
        disk.replace(self.folder / f"{record.key}.csv", out.getvalue())

    def close(self) -> None:
        """trials.csv: the columns of `load_results`."""
        disk.replace(self.folder / "trials.csv", load_results(self.run.path).to_csv(index=False))


class TensorBoard:
    """A folder of event files a trial."""

    def __init__(self, run: RunFolder) -> None:
        self.folder = run.path / "logs" / "tensorboard"

    def trial(self, record: Record, curve: Sequence[Line]) -> None:
        """Scalars by step, results at the last one, the parameters as text."""
        from tensorboardX import SummaryWriter

        place = self.folder / record.key
        shutil.rmtree(place, ignore_errors=True)
        with SummaryWriter(str(place), write_to_disk=True) as writer:
            for line in curve:
                for name in ("loss", "lr", "grad_norm"):
                    writer.add_scalar(f"train/{name}", line[name], line["step"])
            for name, value in record.metrics.items():
                writer.add_scalar(f"{record.task}/{name}", value, record.steps)
            about = parameters(record)
            writer.add_text("trial", "\n".join(f"    {name}: {value}" for name, value in about.items()), record.steps)

    def close(self) -> None:
        """Nothing is open."""


class WandB:
    """A run of Weights & Biases a trial, under the trial's key."""

    def __init__(self, run: RunFolder) -> None:
        self.name, self.folder = run.path.resolve().name, run.path / "logs" / "wandb"
        self.folder.mkdir(parents=True, exist_ok=True)

    def trial(self, record: Record, curve: Sequence[Line]) -> None:
        """Scalars by step; results and status as the summary, parameters as the configuration."""
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        with wandb.init(
            project=self.name, id=record.key, name=title(record), group=f"suggestion {record.n}", resume="allow",
            dir=str(self.folder), config=parameters(record), settings=settings,
        ) as there:  # fmt: skip
            for line in curve:
                there.log({name: line[name] for name in ("loss", "lr", "grad_norm", "tokens")}, step=line["step"])
            there.summary.update({f"{record.task}/{name}": value for name, value in record.metrics.items()})
            there.summary.update({"status": record.status, "cause": record.cause})

    def close(self) -> None:
        """Nothing is open."""


class MlFlow:
    """A run of MLflow a trial, tagged with the trial's key."""

    def __init__(self, run: RunFolder) -> None:
        from mlflow import MlflowClient

        folder = run.path.resolve() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}")
        name = run.path.resolve().name
        known = self.client.get_experiment_by_name(name)
        self.experiment = known.experiment_id if known is not None else self.client.create_experiment(name)

    def trial(self, record: Record, curve: Sequence[Line]) -> None:
        """Scalars by step, results at the last one."""
        from mlflow.entities import Metric, Param

        for twice in self.client.search_runs([self.experiment], f"tags.`miras_search.key` = '{record.key}'"):
            self.client.delete_run(twice.info.run_id)
        tags = {"miras_search.key": record.key, "status": record.status, "cause": record.cause}
        there = self.client.create_run(self.experiment, tags=tags, run_name=title(record)).info.run_id
        metrics = [
            Metric(name, line[name], round(1000 * line["seconds"]), line["step"])
            for line in curve
            for name in ("loss", "lr", "grad_norm")
        ]
        metrics += [
            Metric(f"{record.task}/{name}", value, round(1000 * record.seconds), record.steps)
            for name, value in record.metrics.items()
        ]
        params = [Param(_plain(name), str(value)) for name, value in parameters(record).items()]
        for start in range(0, max(len(metrics), len(params)), 100):  # at most so many parameters a call
            part = slice(start, start + 100)
            self.client.log_batch(there, metrics[part], params[part])
        self.client.set_terminated(there, "FINISHED" if record.status in ("ok", "pruned") else "FAILED")

    def close(self) -> None:
        """Nothing is open."""


LOGGERS: dict[str, Callable[[RunFolder], Logger]] = {
    "csv": Csv,
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MlFlow,
}


def check(names: Sequence[str]) -> None:
    """Refuse a logger whose package is not installed.

    Raises:
        RunError: naming the line that mends it.
    """
    for name in names:
        module, package = PACKAGES.get(name, ("csv", ""))
        if importlib.util.find_spec(module) is None:
            raise RunError(f"logger {name} needs {module}, which is not installed", hint=f"pip install {package}")


class Logs:
    """All loggers of a session.

    Args:
        run: whose trials.
        names: of loggers.
        rows: what is committed; sent where an earlier session has not.
        say: takes a word about a logger that fails.
    """

    def __init__(
        self, run: RunFolder, names: Sequence[str], rows: Sequence[Record], say: Callable[[str], None]
    ) -> None:
        check(names)
        self.run, self.say = run, say
        self._open: dict[str, Logger] = {}
        for name in names:
            for made in self._try(name, lambda name=name: LOGGERS[name](run)):  # type: ignore[misc]
                self._open[name] = made
        for name in list(self._open):
            gone = {line["key"] for line in disk.lines(self._noted(name))}
            for row in rows:
                if row.key not in gone and name in self._open:
                    self._send(name, row)

    def trial(self, record: Record) -> None:
        """A trial is committed."""
        for name in list(self._open):
            self._send(name, record)

    def close(self) -> None:
        """The session is over."""
        for name, logger in list(self._open.items()):
            list(self._try(name, logger.close))

    def _noted(self, name: str) -> Path:
        return self.run.path / "logs" / f"{name}.jsonl"

    def _send(self, name: str, record: Record) -> None:
        curve = [line for line in disk.lines(self.run.trial(record.key) / "steps.jsonl") if _finite(line)]
        for _ in self._try(name, lambda: self._open[name].trial(record, curve)):
            disk.append(self._noted(name), {"key": record.key})

    def _try(self, name: str, work: Callable[[], Any]) -> Iterator[Any]:
        """What it gives; nothing if it fails, and the logger is then off for this session."""
        try:
            done = work()
        except Exception as error:  # whatever a tool raises must not end a sweep
            self._open.pop(name, None)
            self.say(
                f"logger {name} is off: {type(error).__name__}: {' '.join(str(error).split())[:200]}; --resume sends the rest"
            )
            return
        yield done


def parameters(record: Record) -> dict[str, Any]:
    """What was drawn, and what else tells trials apart."""
    known = {"n": record.n, "seed": record.seed, "task": record.task, "fingerprint": record.fingerprint}
    return known | {"parameters": record.parameters, "state_bytes": record.state_bytes} | record.assignment


def title(record: Record) -> str:
    """The name of a trial in a list of many."""
    return f"{record.n} {record.label or record.fingerprint} {record.task} seed {record.seed}"


def _plain(name: str) -> str:
    """With the characters that MLflow allows."""
    return name.replace("[", ".").replace("]", "")


def _finite(line: Line) -> bool:
    return all(math.isfinite(line[name]) for name in ("loss", "grad_norm"))
