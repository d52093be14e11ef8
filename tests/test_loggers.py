"""Where results go besides the ledger: read back from TensorBoard's and CSV files; sent once, whatever is killed in between."""

from __future__ import annotations

import csv
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_sweep import TINY, rows, space, sweep

from miras_search import disk
from miras_search.errors import RunError
from miras_search.ledger import Record
from miras_search.sweep import loggers

TRIALS = ("search.trials=2", "search.sampler=random")


def events(folder: Path) -> Iterator[Any]:
    """What TensorBoard reads: records of length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_curves_and_results_come_back(tmp_path: Path) -> None:
    sweep(tmp_path, space(TINY, *TRIALS, "loggers=[tensorboard, csv]"))
    run = tmp_path / "run"
    table = list(csv.DictReader((run / "logs" / "csv" / "trials.csv").read_text().splitlines()))
    assert [row["key"] for row in table] == [row.key for row in rows(run)]
    for row in rows(run):
        curve = disk.lines(run / "trials" / row.key / "steps.jsonl")
        assert len(curve) == row.steps == 10
        loss = [(line["step"], pytest.approx(line["loss"])) for line in curve]
        written = list(csv.DictReader((run / "logs" / "csv" / f"{row.key}.csv").read_text().splitlines()))
        assert [(int(line["step"]), float(line["loss"])) for line in written] == loss
        found = scalars(run / "logs" / "tensorboard" / row.key)
        assert found["train/loss"] == loss
        assert found["mqar/accuracy"] == [(10, pytest.approx(row.metrics["accuracy"]))]


def test_nothing_is_logged_by_default(tmp_path: Path) -> None:
    sweep(tmp_path, space(TINY, *TRIALS), trials=1)
    assert not (tmp_path / "run" / "logs").exists()


def test_a_session_sends_what_an_earlier_one_did_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    sweep(tmp_path, space(TINY, *TRIALS), trials=1)
    sweep(tmp_path, space(TINY, *TRIALS, "loggers=[csv, tensorboard]"), trials=2, resume=True)
    keys = {row.key for row in rows(run)}
    assert {path.name for path in (run / "logs" / "tensorboard").iterdir()} == keys
    assert {path.stem for path in (run / "logs" / "csv").iterdir()} == keys | {"trials"}
    assert [line["key"] for line in disk.lines(run / "logs" / "csv.jsonl")] == [row.key for row in rows(run)]
    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loggers.Csv, "trial", lambda self, record, curve: sent.append(record.key))
        sweep(tmp_path, None, trials=3, resume=True)
    assert sent == [rows(run)[-1].key], "and nothing twice"


def test_a_logger_that_fails_ends_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: loggers.Csv, record: Record, curve: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(loggers.Csv, "trial", fail)
    summary, out = sweep(tmp_path, space(TINY, *TRIALS, "loggers=[csv, tensorboard]"))
    assert summary.counts == {"ok": 2}
    assert out.count("logger csv is off: ConnectionError: no route to host") == 1
    assert len(list((tmp_path / "run" / "logs" / "tensorboard").iterdir())) == 2
    monkeypatch.undo()
    sweep(tmp_path, None, resume=True)
    assert len(disk.lines(tmp_path / "run" / "logs" / "csv.jsonl")) == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_named_before_anything_is_written(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, package = loggers.PACKAGES[name]
    plain = loggers.importlib.util.find_spec
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda n: None if n == module else plain(n))
    with pytest.raises(RunError, match=f"logger {name} needs {module}") as caught:
        sweep(tmp_path, space(TINY, f"loggers=[{name}]"))
    assert caught.value.hint == f"pip install {package}"
    assert list(tmp_path.iterdir()) == []


def apart(folder: Path, name: str, then: str) -> None:
    """Sweep with a logger in a process of its own, whose warnings are not ours, then look."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_sweep import TINY, rows, space, sweep\n"
        f"folder = Path({str(folder)!r})\n"
        f"sweep(folder, space(TINY, *{TRIALS!r}, 'loggers=[{name}]'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + then],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"WANDB_MODE": "offline"},
    )
    assert done.returncode == 0, done.stderr


def test_wandb_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs wandb: pip install 'miras-search[wandb]'")
    apart(tmp_path, "wandb", "")
    there = {
        path.name.rpartition("-")[2] for path in (tmp_path / "run" / "logs" / "wandb" / "wandb").glob("offline-run-*")
    }
    assert there == {row.key for row in rows(tmp_path / "run")}
    assert len(disk.lines(tmp_path / "run" / "logs" / "wandb.jsonl")) == 2


def test_mlflow_in_a_local_store(tmp_path: Path) -> None:
    """What it keeps is read back with its own client."""
    pytest.importorskip("mlflow", reason="needs mlflow: pip install 'miras-search[mlflow]'")
    then = (
        "from mlflow import MlflowClient\n"
        "client = MlflowClient(f'sqlite:///{folder}/run/logs/mlflow.db')\n"
        "there = client.search_runs([client.get_experiment_by_name('run').experiment_id])\n"
        "by = {run.data.tags['miras_search.key']: run for run in there}\n"
        "assert by.keys() == {row.key for row in rows(folder / 'run')} and len(there) == 2, by\n"
        "for row in rows(folder / 'run'):\n"
        "    run = by[row.key]\n"
        "    assert run.info.status == 'FINISHED' and run.data.metrics['mqar/accuracy'] == row.metrics['accuracy']\n"
        "    assert len(client.get_metric_history(run.info.run_id, 'loss')) == row.steps\n"
    )
    apart(tmp_path, "mlflow", then)
