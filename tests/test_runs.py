"""The folder of a run: made whole or not at all, found by name, driven by one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_ledger import record

from miras_search import runs
from miras_search.errors import RunError
from miras_search.runs import RunFolder


def test_a_new_run_is_whole(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "first", "name: x\n", about={"executor": "inline"})
    assert sorted(p.name for p in run.path.iterdir()) == ["environment.json", "space.yaml", "trials"]
    assert run.space_yaml == "name: x\n"
    environment = run.environment
    assert environment["executor"] == "inline"
    assert environment["packages"]["pydantic"]
    assert environment["cpus"] >= 1
    assert [p.name for p in run.path.parent.iterdir()] == ["first"], "nothing is left beside it"
    opened = RunFolder.open(tmp_path / "runs" / "first")
    assert opened.ledger.rows() == []
    assert opened.trial("0" * 16) == run.path / "trials" / ("0" * 16)


def test_sessions_that_resume_are_noted(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", "")
    run.resumed({"executor": "ray"})
    run.resumed()
    assert [s.get("executor") for s in run.environment["resumed"]] == ["ray", None]
    assert run.environment["python"]
    (run.path / "environment.json").write_text("{")
    assert run.environment == {}


def test_an_existing_run_is_left_alone(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", "name: old\n")
    with pytest.raises(RunError, match="exists already") as caught:
        RunFolder.create(tmp_path / "r", "name: new\n")
    assert "--resume" in str(caught.value)
    assert caught.value.where == str(tmp_path / "r")
    assert run.space_yaml == "name: old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_something_else_in_the_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letters.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("folder", "file"):
        with pytest.raises(RunError, match="exists already") as caught:
            RunFolder.create(tmp_path / name, "")
        assert "another --name" in str(caught.value)
        assert "--resume" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", "x").space_yaml == "x"


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written: a part of its path is a file") as caught:
        RunFolder.create(tmp_path / "file" / "run", "")
    assert "another" in str(caught.value)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left") as caught:
        RunFolder.create(tmp_path / "run", "")
    assert "free some space" in str(caught.value)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"], "no half run"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="Permission denied"):
        RunFolder.create(tmp_path / "run", "")
    tmp_path.chmod(0o700)


def test_a_missing_run_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run") as caught:
        RunFolder.open(tmp_path / "quickstart")
    assert "holds no run" in str(caught.value)
    RunFolder.create(tmp_path / "quickstart", "")
    with pytest.raises(RunError, match="no such run") as caught:
        RunFolder.open(tmp_path / "quikstart")
    assert f"did you mean {tmp_path / 'quickstart'}?" in str(caught.value)
    with pytest.raises(RunError, match="no such run") as caught:
        RunFolder.open(tmp_path / "zzz")
    assert "quickstart" in str(caught.value)
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match=r"is no run: it has no space\.yaml"):
        RunFolder.open(tmp_path / "other")


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "r", "")
    assert run.write("designs/a.py", "one").read_text() == "one"

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        run.write("designs/a.py", "two")
    assert [p.read_text() for p in (run.path / "designs").iterdir()] == ["one"]


_DRIVER = """
import sys, time
from miras_search.runs import RunFolder
with RunFolder.open(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", "")
    assert run.driver() is None
    process = subprocess.Popen([sys.executable, "-c", _DRIVER, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    found = run.driver()
    assert found is not None
    assert found["pid"] == process.pid
    with pytest.raises(RunError, match=f"is being driven by process {process.pid} on ") as caught, run.lock():
        pytest.fail("two drivers")
    assert caught.value.hint
    assert run.ledger.rows() == [], "readers need no lock"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert run.driver() is None
    with run.lock():
        found = run.driver()
        assert found is not None
        assert found["pid"] == os.getpid()
    assert run.driver() is None


def test_the_lock_is_freed_when_the_driver_fails(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", "")

    def fail() -> None:
        run.ledger.append(record(0))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), run.lock():
        fail()
    with run.lock() as locked:
        locked.ledger.append(record(1))
    assert [r.n for r in run.ledger.rows()] == [0, 1]


def test_a_child_started_by_exec_does_not_keep_the_lock(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", "")
    with run.lock():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        with run.lock():  # waits for the moment that the kernel needs to close files in the child
            pass
        assert run.driver() is None
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_look_at_the_lock_does_not_stop_a_driver(tmp_path: Path) -> None:
    import fcntl
    import threading

    run = RunFolder.create(tmp_path / "r", "")
    with run.lock():
        pass
    file = (run.path / "lock").open()
    fcntl.flock(file, fcntl.LOCK_SH)
    threading.Timer(0.15, file.close).start()
    start = time.monotonic()
    with run.lock():
        assert time.monotonic() - start > 0.1


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "r", "")

    def none(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(RunError, match="cannot be locked") as caught, run.lock():
        pytest.fail("no lock")
    assert "local disk" in str(caught.value)


def test_a_holder_without_a_name(tmp_path: Path) -> None:
    import fcntl

    run = RunFolder.create(tmp_path / "r", "")
    with (run.path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="driven by another process"), run.lock():
            pytest.fail("two drivers")
        assert run.driver() == {}


def test_the_environment_is_json() -> None:
    json.dumps(runs.environment())
