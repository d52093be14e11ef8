"""A careless user: every mistake is one clear message with a remedy, exit code 2, no traceback, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic import record, write_run

from miras_search import cli, named, sweep
from miras_search.cli import terminal
from miras_search.runs import RunFolder
from miras_search.space import Space

GOOD = """\
design:
  memory: [matrix, mlp]
  bias: [l2, {kind: lp, p: 3}]
  retention: none
  algorithm: {kind: gradient_descent, chunk: 16}
tasks: [{kind: mqar, batch: 4}]
budget: {tokens: 640}
search: {trials: 2}
"""
WHOLE = Space.from_text(GOOD).to_yaml()
"""As a run keeps it."""


class Fails:
    """Runs a command line that must be refused; returns its one message."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: str, code: int = 2) -> str:
        self.capsys.readouterr()
        got = terminal.run(cli.app, args)
        out, err = self.capsys.readouterr()
        assert got == code, (got, err)
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("error: ") == 1, err
        assert "Traceback" not in err
        assert len(err.splitlines()) <= 6, err
        return err


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    monkeypatch.chdir(tmp_path)
    return Fails(capsys)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("{kind: lp, p: 3}", "{kind: hubre}", ["my.yaml:3:21", "hubre", "did you mean huber?", "^"]),
        ("p: 3", "p: 0.5", ["my.yaml:3:28", "p of lp is 0.5, must be >= 1", "1.0 <= p <= 8.0"]),
        ("chunk: 16", "chnk: 16", ["my.yaml:5:", "unknown field chnk", "did you mean chunk?"]),
        ("  retention: none", "  retention: none\n  retention: l2", ["my.yaml:5:3", "stands twice", "line 4"]),
        ("[matrix, mlp]", "cache", ["my.yaml:1:1", "cache-algorithm", "use algorithm: nonparametric"]),
        (
            "mqar, batch: 4",
            "mqar, pairs: 1, rewrites: 0, gap: 0",
            ["my.yaml:1:1", "4 tokens", "chunk 16", "use chunk: 4"],
        ),
        ("batch: 4", "batch: 0", ["my.yaml:6:29", "must be >= 1"]),
        ("budget: {tokens: 640}", "budget: 640", ["my.yaml:7:9", "not a mapping"]),
        ("tasks: [", "tasks: [[", ["my.yaml:", "not YAML"]),
        ("retention: none", "\tretention: none", ["my.yaml:4:", "indent with spaces"]),
    ],
)
def test_a_space_with_a_mistake(fails: Fails, tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    assert old in GOOD
    (tmp_path / "my.yaml").write_text(GOOD.replace(old, new))
    for args in (("validate", "my.yaml"), ("sweep", "my.yaml", "--executor", "inline")):
        text = fails(*args)
        for part in parts:
            assert part in text, (part, text)
    assert not Path("runs").exists(), "nothing is begun"


def test_a_file_that_is_no_space(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "comment.yaml").write_text("# later\n")
    (tmp_path / "binary.yaml").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    for name, part in {
        "empty.yaml": "the file is empty",
        "comment.yaml": "the file is empty",
        "binary.yaml": "is a binary file",
        "latin.yaml": "is not UTF-8 text",
        "list.yaml": "a space is a mapping",
        "emty.yaml": "did you mean empty.yaml?",
        "quickstrat": "did you mean quickstart?",
        ".": "is a folder",
    }.items():
        for verb in ("validate", "sweep"):
            text = fails(verb, name)
            assert part in text, (name, text)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"text\0text" * 99, "is a binary file"),
        (b"caf\xe9" * 99, "is not UTF-8 text"),
        (b"short", "needs 257"),
    ],
)
def test_a_text_that_cannot_be_read(fails: Fails, tmp_path: Path, content: bytes | None, part: str) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    (tmp_path / "my.yaml").write_text(GOOD.replace("{kind: mqar, batch: 4}", "{kind: text, source: text.txt}"))
    for args in (
        ("sweep", "my.yaml", "--executor", "inline"),
        ("sweep", "my.yaml", "--dry-run"),
        ("train", "yaad", "--task", "text", "--set", "task.source=text.txt"),
    ):
        text = fails(*args)
        assert part in text, (args, text)
        assert "text.txt" in text
    assert not Path("runs").exists()


def test_what_is_set_is_checked_like_the_file(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(GOOD)
    assert "did you mean tokens?" in fails("validate", "my.yaml", "--set", "budget.token=5")
    assert "write --set PATH=VALUE" in fails("validate", "my.yaml", "--set", "budget")
    assert "must be >= 1" in fails("validate", "my.yaml", "--set", "task.pairs=0")
    assert "--set changes one" in fails("sweep", "--name", "x", "--resume", "--set", "seeds=2")


def test_a_start_that_is_no_candidate(fails: Fails, tmp_path: Path) -> None:
    text = GOOD + "start_with: [yaad]\nbackbone: {width: 16, heads: 1}\nmatch: {parameters: 50, by: ffn}\n"
    (tmp_path / "my.yaml").write_text(text)
    assert "no ffn gives 50 parameters" in fails("validate", "my.yaml")


def test_a_run_that_exists_is_left_alone(fails: Fails, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "first", [record(named.get("yaad"), 0, 0, 0.5)], space=WHOLE)
    (tmp_path / "my.yaml").write_text(GOOD)
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    text = fails("sweep", "my.yaml", "--name", "first", "--executor", "inline")
    assert "runs/first: exists already" in text
    assert "--resume" in text
    other = ("--set", "search.seed=7")
    text = fails("sweep", "my.yaml", "--name", "first", "--resume", "--executor", "inline", *other)
    assert "was made from another space" in text
    text = fails("train", "yaad", "--name", "first")
    assert "choose another --name" in text
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


def test_a_second_driver_is_told_who_the_first_is(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(GOOD)
    run = RunFolder.create("runs/first", WHOLE)
    with run.lock():
        text = fails("sweep", "--name", "first", "--resume", "--executor", "inline")
    assert f"is being driven by process {os.getpid()}" in text
    assert "wait until it ends" in text


def test_a_folder_that_cannot_be_written(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(GOOD)
    write_run(tmp_path / "kept", [record(named.get("yaad"), 0, 0, 0.5)], space=WHOLE)
    (tmp_path / "runs").write_text("a file")
    assert "runs/x: cannot be written: a part of its path is a file" in fails(
        "sweep", "my.yaml", "--name", "x", "--executor", "inline"
    )
    for args in (
        ("report", "kept", "-o", "runs/r.html"),
        ("results", "kept", "-o", "runs/r.csv"),
        ("results", "kept", "-o", "runs/r.parquet"),
        ("schema", "-o", "runs/s.json"),
        ("emit", "yaad", "-o", "runs/yaad.py"),
    ):
        text = fails(*args)
        assert "cannot be written" in text, text
        assert "runs/" in text
    assert (tmp_path / "runs").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(GOOD)
    (tmp_path / "runs").mkdir(mode=0o500)
    assert "cannot be written: Permission denied" in fails("sweep", "my.yaml", "--name", "x", "--executor", "inline")


def test_an_unknown_run(fails: Fails, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "first", [record(named.get("yaad"), 0, 0, 0.5)], space=WHOLE)
    for args in (
        ("status", "frist"),
        ("results", "frist"),
        ("report", "frist", "-o", "r.html"),
        ("export", "frist", "-o", "e"),
        ("train", "--from", "frist", "ab"),
        ("emit", "frist:ab"),
        ("sweep", "--name", "frist", "--resume"),
    ):
        text = fails(*args)
        assert "there is no" in text, text
        assert "first" in text, text
    (tmp_path / "runs" / "empty").mkdir()
    assert "is no run" in fails("status", "empty")
    RunFolder.create("runs/new", WHOLE)
    assert "no trial has ended yet" in fails("train", "--from", "new", "ab")
    assert "has no finished trial yet" in fails("results", "new")


def test_an_unknown_trial(fails: Fails, tmp_path: Path) -> None:
    rows = [record(named.get("yaad"), 0, seed, 0.5) for seed in range(3)]
    rows.append(record(named.get("yaad"), 1, 9, None, status="pruned", cause="x", metrics={}))
    write_run(tmp_path / "runs" / "first", rows, space=WHOLE)
    text = fails("train", "--from", "first", "zzz")
    assert "no trial has the key 'zzz'" in text
    assert rows[0].key in text
    assert "no trial or design of key 'zzz'" in fails("emit", "first:zzz")
    assert "nothing to compare" in fails("train", "--from", "first", rows[-1].key)
    assert "no trial has key 'zzz'" in fails("export", "first", "-o", "e", "--key", "zzz")
    assert not Path("e").exists()


def test_an_unknown_verb_or_option(fails: Fails) -> None:
    assert "did you mean 'sweep'" in fails("swep").lower()
    assert "--nmae" in fails("sweep", "quickstart", "--nmae", "x")
    assert "miras-search sweep --help" in fails("sweep", "quickstart", "--trials", "many")
    assert "Missing argument" in fails("validate")
    assert "tune" in fails("sweep", "quickstart", "--executor", "tune")
    assert "name a space" in fails("sweep")
    assert "one of the two" in fails("train")
    assert "one of the two" in fails("train", "yaad", "--from", "a", "b")


def test_a_design_with_a_mistake(fails: Fails, tmp_path: Path) -> None:
    good = "memory: mlp\nbias: {kind: lp, p: 3}\nretention: none\nalgorithm: gradient_descent\n"
    for old, new, part in (
        ("p: 3", "p: 0.5", "my.yaml:2:21: p of lp is 0.5"),
        ("kind: lp, p: 3", "kind: pl", "unknown bias pl"),
        ("memory: mlp", "memory: cache", "cache-algorithm"),
        ("memory: mlp", "memory: [mlp, matrix]", "memory is open"),
        ("retention: none\n", "", "design lacks retention"),
        ("retention: none", "retention: none\nbias: l2", "stands twice"),
        (good, "yaad2\n", "a design is a mapping"),
        (good, "", "the file is empty"),
    ):
        (tmp_path / "my.yaml").write_text(good.replace(old, new))
        text = fails("emit", "my.yaml")
        assert part in text, text
        assert "my.yaml" in text
    assert "did you mean yaad" in fails("emit", "yad")
    assert "no such file" in fails("emit", "no.yaml").lower()
    assert "did you mean mqar?" in fails("train", "yaad", "--task", "mqra")
    text = fails("train", "yaad", *("--set", "task.pairs=1", "--set", "task.rewrites=0", "--set", "task.gap=0"))
    assert "4 tokens" in text
    assert "{" not in text, "not the text that the command line was made into"
    assert "is open" in fails("train", "yaad", "--set", "optimiser.lr=[0.1, 0.2]")
    assert "cannot be the name of a run" in fails("train", "yaad", "--name", "a/b")


def test_a_table_that_cannot_be_had(fails: Fails, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "first", [record(named.get("yaad"), 0, 0, 0.5)], space=WHOLE)
    assert "did you mean 'accuracy'?" in fails("results", "first", "--query", "acuracy > 0.5")
    assert "did you mean 'seconds'?" in fails("results", "first", "--columns", "key,secnds")
    assert "equality is `==`" in fails("results", "first", "--query", "seed = 0")
    assert "which format" in fails("results", "first", "-o", "table.doc")
    assert "name a file with -o" in fails("results", "first", "--format", "parquet")


def test_an_export_leaves_other_folders_alone(fails: Fails, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "first", [record(named.get("yaad"), 0, 0, 0.5)], space=WHOLE)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    assert "exists already" in fails("export", "first", "-o", "letters")
    assert "is no earlier export" in fails("export", "first", "-o", "letters", "--overwrite")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear"
    assert "no checkpoint" in fails("export", "first", "-o", "e")


def test_a_plugin_that_cannot_be_loaded(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = \n")
    assert "bad.py:1:" in fails("validate", "quickstart", "--plugin", "bad.py")
    assert "bad.py:1:" in fails("--plugin", "bad.py", "validate", "quickstart")
    assert "cannot be read" in fails("tasks", "--plugin", "none.py")


def test_an_error_inside_is_short(fails: Fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*args: Any, **more: Any) -> None:
        raise ZeroDivisionError("five\nlines")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("miras_search.cli.inputs.tasks", broken)
    text = fails("tasks", code=1)
    assert "inside miras-search: ZeroDivisionError: five" in text
    file = next(word for word in text.replace(";", " ").split() if word.endswith(".txt"))
    assert "in broken" in Path(file).read_text()
    fails.capsys.readouterr()
    assert terminal.run(cli.app, ["tasks", "--debug"]) == 1
    assert "Traceback" in fails.capsys.readouterr().err


def test_ctrl_c(fails: Fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*args: Any, **more: Any) -> None:
        raise sweep.SweepInterrupted(Path("runs/first"), 3, 24)

    def pressed(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "my.yaml").write_text(GOOD)
    monkeypatch.setattr(sweep, "run_sweep", stopped)
    assert terminal.run(cli.app, ["sweep", "my.yaml", "--name", "first", "--executor", "inline"]) == 130
    err = fails.capsys.readouterr().err
    assert "3 of 24 trials are in runs/first" in err
    assert "miras-search sweep --name first --resume --executor inline" in err
    monkeypatch.setattr(sweep, "run_sweep", pressed)
    assert terminal.run(cli.app, ["sweep", "my.yaml"]) == 130
    assert fails.capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_in_train_keeps_a_checkpoint(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from miras_search import trial

    plain, count = trial.Trainer._step, 0

    def step(self: trial.Trainer) -> None:
        nonlocal count
        plain(self)
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(trial.Trainer, "_step", step)
    task = "{kind: mqar, pairs: 2, keys: 8, values: 8, batch: 4, validation: 16}"
    args = ["train", "deltanet", "--task", task, "--tokens", "1000", "--name", "one"]
    args += ["--set", "backbone={width: 8, layers: 1, heads: 1}"]
    assert terminal.run(cli.app, args) == 130
    err = fails.capsys.readouterr().err
    assert "go on with the same command: miras-search train deltanet" in err
    assert list(Path("runs/one/trials").glob("*/checkpoint.safetensors"))
    assert terminal.run(cli.app, ["status", "one"]) == 0
    assert "stopped, 0 of 1" in fails.capsys.readouterr().out
    assert terminal.run(cli.app, args) == 0
    rows = RunFolder.open("runs/one").ledger.rows()
    assert [row.status for row in rows] == ["ok"]
    assert count == rows[0].steps, "no step twice"


def test_the_reader_goes_away() -> None:
    for verb in ("schema", "designs"):
        command = f"{sys.executable} -m miras_search.cli {verb} | head -n 1"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1
