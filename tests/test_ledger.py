"""The ledger: what is committed stays, what is torn goes, what is damaged is named."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from miras_search import named
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.choice import Frozen
from miras_search.errors import RunError
from miras_search.ledger import LEDGER, Ledger, Record, parse, trial_key


class Spec(Frozen):
    kind: str = "recall"
    keys: int = 8


def record(i: int, **fields: Any) -> Record:
    candidate = Candidate(design=named.get("deltanet"), optimiser=Optimiser(lr=1e-3 * (i + 1)))
    return Record(
        **{
            "key": trial_key(candidate, Spec(), 1000, i),
            "n": i,
            "task": "mqar",
            "seed": i,
            "status": "ok",
            "candidate": candidate.model_dump(mode="json"),
            "assignment": {"optimiser.lr": 1e-3 * (i + 1), "bias": "l2"},
            "fingerprint": candidate.fingerprint,
            "structure": candidate.design.structure,
            "metrics": {"accuracy": 0.5 + 0.01 * i},
            "rungs": [{"tokens": 250, "metrics": {"accuracy": 0.25}}],
        }
        | fields
    )


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [record(i) for i in range(3)]
    with Ledger(tmp_path) as ledger:
        assert ledger.rows() == []
        for i, row in enumerate(rows):
            ledger.append(row)
            assert ledger.rows() == rows[: i + 1]
    assert Ledger(tmp_path).rows() == rows
    lines = (tmp_path / LEDGER).read_text().splitlines()
    assert [json.loads(line)["schema_version"] for line in lines] == [1, 1, 1]


def test_numbers_that_are_not_finite_are_valid_json_and_come_back(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append(record(0, metrics={"nll": math.nan, "perplexity": math.inf}))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads((tmp_path / LEDGER).read_text(), parse_constant=refuse)
    metrics = Ledger(tmp_path).rows()[0].metrics
    assert math.isnan(metrics["nll"])
    assert metrics["perplexity"] == math.inf


def test_every_field_of_a_row_is_described() -> None:
    assert [name for name, field in Record.model_fields.items() if not field.description] == ["schema_version"]


def test_a_line_cut_anywhere_is_ignored_by_readers_and_cut_by_the_writer(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for i in range(2):
            ledger.append(record(i))
    path = tmp_path / LEDGER
    whole = path.read_bytes()
    last = whole.index(b"\n") + 1
    for size in range(last, len(whole), 37):
        path.write_bytes(whole[:size])
        assert [r.n for r in Ledger(tmp_path).rows()] == [0]
        assert path.stat().st_size == size, "a reader changes nothing"
        with Ledger(tmp_path) as ledger:
            ledger.append(record(2))
            assert [r.n for r in ledger.rows()] == [0, 2]
        assert [r.n for r in Ledger(tmp_path).rows()] == [0, 2]
    path.write_bytes(whole[:-1])  # all but the line feed: the sync had not returned
    assert [r.n for r in Ledger(tmp_path).rows()] == [0]


def test_only_a_torn_line_in_the_file(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(b'{"schema_version":1,"key":' + b"x" * 200_000)
    assert Ledger(tmp_path).rows() == []
    with Ledger(tmp_path) as ledger:
        ledger.append(record(0))
    assert len(Ledger(tmp_path).rows()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{]", "is no JSON"),
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"\0" * 100, "is no JSON"),
        (b"[1]", "is no record but list"),
        (b'{"schema_version": 1}', "key: Field required"),
        (b'{"schema_version": 2, "news": 1}', "newer miras-search \\(ledger schema 2; this one reads 1\\)"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    with Ledger(tmp_path) as ledger:
        for i in range(2):
            ledger.append(record(i))
    path = tmp_path / LEDGER
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + line + b"\n" + second + b"\n")
    with pytest.raises(RunError, match=message) as caught:
        Ledger(tmp_path).rows()
    assert caught.value.where == f"{path}:2"
    assert caught.value.hint


def test_an_unknown_field_or_status_is_damage() -> None:
    data = record(0).model_dump(mode="json")
    for bad in ({"mood": "good"}, {"status": "fine"}, {"key": "12"}):
        with pytest.raises(RunError, match=next(iter(bad))):
            parse(json.dumps(data | bad), "x:1")


def test_a_full_disk_is_a_run_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(record(0))
    real = os.write

    def half(fd: int, data: memoryview) -> int:
        if len(data) > 100:
            return real(fd, data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(RunError, match="No space left") as caught:
        ledger.append(record(1))
    assert "free some space" in str(caught.value)
    assert "--resume" in str(caught.value)
    monkeypatch.undo()
    assert (tmp_path / LEDGER).read_bytes().endswith(b"\n")
    ledger.append(record(2))
    assert [r.n for r in ledger.rows()] == [0, 2]
    ledger.close()


def test_a_sync_that_fails_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(record(0))

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="was not recorded"):
        ledger.append(record(1))
    assert [r.n for r in ledger.rows()] == [0]
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: fail(fd))
    with pytest.raises(RunError, match="was not recorded"):
        ledger.append(record(2))
    monkeypatch.undo()
    ledger.append(record(3))
    assert ledger.rows()[-1].n == 3
    ledger.close()


def test_a_real_full_device() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    ledger = Ledger("/dev")
    ledger.path = Path("/dev/full")
    with pytest.raises(RunError, match="No space left"):
        ledger.append(record(0))
    ledger.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="was not recorded"):
        Ledger(tmp_path / "file").append(record(0))
    (tmp_path / LEDGER).mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        Ledger(tmp_path).rows()


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    reader = Ledger(tmp_path)
    with Ledger(tmp_path) as writer:
        for i in range(4):
            assert len(reader.rows()) == i
            writer.append(record(i))
    assert len(reader.rows()) == 4
    (tmp_path / LEDGER).unlink()
    assert reader.rows() == []
    with Ledger(tmp_path) as writer:
        writer.append(record(7))
    assert [r.n for r in reader.rows()] == [7]
    first = reader.rows()
    first.clear()
    assert len(reader.rows()) == 1, "a caller's list is the caller's"


_WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_ledger import Ledger, record
ledger = Ledger({folder!r})
for i in range(10_000):
    ledger.append(record(i))
    print(i, flush=True)
"""


def test_sigkill_while_writing_keeps_every_commit(tmp_path: Path) -> None:
    for round_ in range(3):
        folder = tmp_path / str(round_)
        folder.mkdir()
        code = _WRITER.format(tests=str(Path(__file__).parent), folder=str(folder))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 * (round_ + 1))
        process.kill()
        committed = 1 + len(process.stdout.read().splitlines())
        process.wait()
        process.stdout.close()
        rows = Ledger(folder).rows()
        assert [r.n for r in rows] == list(range(len(rows)))
        assert committed <= len(rows) <= committed + 1  # the last may not have been reported


def test_ten_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    line = record(0).model_dump_json() + "\n"
    (tmp_path / LEDGER).write_text(line * 10_000)
    start = time.perf_counter()
    ledger = Ledger(tmp_path)
    assert len(ledger.rows()) == 10_000
    assert time.perf_counter() - start < 10
    start = time.perf_counter()
    ledger.rows()
    assert time.perf_counter() - start < 0.5, "a second look reads nothing"


def test_the_key_names_the_computation() -> None:
    base = Candidate(design=named.get("deltanet"))
    key = trial_key(base, Spec(), 1000, 0)
    assert len(key) == 16
    assert int(key, 16) >= 0
    algorithm = base.design.algorithm.model_copy(update={"chunk": 32})
    same = base.model_copy(update={"design": base.design.model_copy(update={"algorithm": algorithm})})
    assert same != base
    assert trial_key(same, Spec(), 1000, 0) == key, "the online rule does not depend on the chunk"
    others = {
        trial_key(base, Spec(), 1000, 1),
        trial_key(base, Spec(), 1001, 0),
        trial_key(base, Spec(keys=9), 1000, 0),
        trial_key(base.model_copy(update={"backbone": Backbone(width=32)}), Spec(), 1000, 0),
        trial_key(base.model_copy(update={"optimiser": Optimiser(lr=0.02)}), Spec(), 1000, 0),
    }
    assert len(others | {key}) == 6


def test_the_key_is_the_same_in_another_process() -> None:
    code = (
        "from miras_search import named\n"
        "from miras_search.candidate import Candidate\n"
        "from miras_search.choice import Frozen\n"
        "from miras_search.ledger import trial_key\n"
        "class Spec(Frozen):\n    kind: str = 'recall'\n    keys: int = 8\n"
        "print(trial_key(Candidate(design=named.get('moneta')), Spec(), 4096, 3))"
    )
    env = os.environ | {"PYTHONHASHSEED": "7"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert found.stdout.strip() == trial_key(Candidate(design=named.get("moneta")), Spec(), 4096, 3)
