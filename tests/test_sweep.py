"""A sweep end to end: rows, resume, extension, halving, failures as data, Ctrl-C, and the same on Ray."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from miras_search import checkpoint, plugin
from miras_search.disk import lines
from miras_search.errors import RunError, TaskError
from miras_search.ledger import Ledger, Record
from miras_search.results import load_results
from miras_search.space import Space
from miras_search.sweep import SweepInterrupted, run_sweep
from miras_search.sweep.driver import Summary

TINY = """
name: tiny
design:
  memory: matrix
  bias: [dot, l2]
  retention: [none, l2]
  algorithm: {kind: gradient_descent, chunk: 8, step: {log_float: [0.1, 1.0]}}
start_with: [deltanet]
backbone: {width: 8, layers: 1, heads: 1, ffn: 0}
optimiser: {lr: {log_float: [3e-3, 3e-2]}}
tasks:
  - {kind: mqar, pairs: 2, rewrites: 2, keys: 8, values: 8, gap: 4, batch: 4, validation: 32, test: 32}
budget: {tokens: 640}
objectives: [mqar.accuracy]
search: {sampler: tpe, trials: 4, parallel: 2, seed: 1}
"""

FAULTS = '''
"""Tasks that go wrong in training, for tests of the sweep."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Literal

import torch

from miras_search import trial
from miras_search.choice import register
from miras_search.tasks import Mqar, Stream

if "pytest" not in sys.modules:
    trial.CHECKPOINT_SECONDS = 0.0  # at every step, so that a kill finds one


class Faulty(Mqar):
    """MQAR that raises, wants a petabyte, hangs, is slow, or kills its process at the fifth step, always or once."""

    kind: Literal["faulty"] = "faulty"
    fault: Literal["none", "raise", "memory", "hang", "slow", "die", "die_once"] = "none"
    flag: str = ""

    def prepare(self, cache=None):
        data = super().prepare(cache)
        plain = data.train

        def train(seed):
            def batch(step):
                if self.flag:
                    with Path(self.flag + ".steps").open("a") as log:
                        print(step, file=log)
                stream = plain(seed)
                stream.seek({"step": step})
                if self.fault == "slow":
                    time.sleep(1.0)
                if step == 4:
                    if self.fault == "raise":
                        raise ZeroDivisionError("five")
                    if self.fault == "memory":
                        torch.empty(1 << 50)
                    if self.fault == "hang":
                        time.sleep(600)
                    if self.fault == "die" or (self.fault == "die_once" and not Path(self.flag).exists()):
                        Path(self.flag).touch() if self.flag else None
                        os.kill(os.getpid(), signal.SIGKILL)
                return next(stream)

            return Stream(batch)

        data.train = train
        return data


VARIANTS = register(Faulty)
'''

SCRIPT = """
import sys
from pathlib import Path
from miras_search import plugin
from miras_search.errors import MirasError
from miras_search.space import Space
from miras_search.sweep import SweepInterrupted, run_sweep

if __name__ == "__main__":
    folder, executor, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume"
    plugins = sorted(map(str, folder.glob("*.py")))
    for path in plugins:
        plugin.load(path)
    space = Space.load(folder / "space.yaml")
    try:
        print(run_sweep(space, "run", runs_dir=folder / "runs", executor=executor, resume=resume, plugins=plugins))
    except (MirasError, SweepInterrupted) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""


def space(text: str = TINY, *overrides: str) -> Space:
    return Space.from_text(text, "tiny.yaml", overrides)


def sweep(tmp_path: Path, what: Space | None, name: str = "run", **options: Any) -> tuple[Summary, str]:
    out = io.StringIO()
    console = Console(file=out, width=200)
    summary = run_sweep(what, name, runs_dir=tmp_path, executor="inline", console=console, **options)
    return summary, out.getvalue()


def rows(folder: Path) -> list[Record]:
    return Ledger(folder).rows()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def measured(record: Record) -> dict[str, Any]:
    return record.model_dump(exclude={"seconds", "tokens_per_second", "time", "attempts"})


def script(folder: Path, executor: str, *, resume: bool = False) -> subprocess.Popen[str]:
    (folder / "script").mkdir(exist_ok=True)
    (folder / "script" / "go.py").write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(folder / "script" / "go.py"), str(folder), executor, "resume" if resume else "new"],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("baseline")
    sweep(folder, space())
    return folder / "run"


def test_a_sweep_leaves_rows_and_folders(tmp_path: Path) -> None:
    summary, out = sweep(tmp_path, space(TINY, "seeds=2", "search.trials=6"))
    found = rows(tmp_path / "run")
    assert [(r.n, r.seed, r.task, r.status) for r in found] == [
        (n, s, "mqar", "ok") for n in range(3) for s in range(2)
    ]
    assert found[0].label == "deltanet"
    assert len({r.fingerprint for r in found}) == 3
    assert len({r.key for r in found}) == 6
    assert all(r.candidate and r.assignment and r.metrics and r.tokens == 640 for r in found)
    assert not found[1].rejected
    assert (summary.rows, summary.new, summary.counts, summary.exhausted) == (6, 6, {"ok": 6}, False)
    best = summary.best[0]
    means = [(found[i].metrics["accuracy"] + found[i + 1].metrics["accuracy"]) / 2 for i in (0, 2, 4)]
    assert best.value == pytest.approx(max(means))
    assert best.n == means.index(max(means))
    for row in found:
        trial = tmp_path / "run" / "trials" / row.key
        assert {"status.jsonl", "steps.jsonl", "checkpoint.safetensors", "checkpoint.json"} <= names(trial)
        assert (tmp_path / "run" / "designs" / f"{space().candidate(row.assignment).design.fingerprint}.py").exists()
    table = load_results(tmp_path / "run" / "results.parquet")
    pd.testing.assert_frame_equal(table, load_results(tmp_path / "run"))
    assert len(table) == 6
    assert len(out.splitlines()) == 6, "a line a trial where nobody watches"
    assert "[6/6] ok" in out
    assert "\x1b" not in out


def test_equal_settings_give_equal_rows(tmp_path: Path, baseline: Path) -> None:
    sweep(tmp_path, space())
    assert [*map(measured, rows(tmp_path / "run"))] == [*map(measured, rows(baseline))]


def test_a_longer_run_begins_like_a_shorter_one(tmp_path: Path, baseline: Path) -> None:
    sweep(tmp_path, space(), trials=2)
    before = (tmp_path / "run" / "ledger.jsonl").read_text()
    summary, _ = sweep(tmp_path, space(), trials=4, resume=True)
    assert (summary.rows, summary.new) == (4, 2)
    assert (tmp_path / "run" / "ledger.jsonl").read_text().startswith(before)
    assert [*map(measured, rows(tmp_path / "run"))] == [*map(measured, rows(baseline))]
    again, out = sweep(tmp_path, None, resume=True)
    assert (again.rows, again.new, out) == (4, 0, ""), "the run remembers how many it is to have"
    assert again.best == summary.best


def test_a_run_that_exists_is_refused_by_name(tmp_path: Path) -> None:
    sweep(tmp_path, space(), trials=1)
    with pytest.raises(RunError, match=r"run: exists already\n.*--resume"):
        sweep(tmp_path, space())
    with pytest.raises(RunError, match="made from another space: optimiser differ"):
        sweep(tmp_path, space(TINY, "optimiser.lr=0.01"), resume=True)
    with pytest.raises(RunError, match="no such run"):
        sweep(tmp_path, space(), "other", resume=True)
    with pytest.raises(RunError, match="cannot be the name"):
        sweep(tmp_path, space(), "../other")
    with pytest.raises(RunError, match="needs a space"):
        sweep(tmp_path, None, "other")
    assert names(tmp_path) == {"run"}


def test_without_ray_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"ray is not installed\n.*--executor inline"):
        run_sweep(space(), "run", runs_dir=tmp_path, executor="ray")


def test_missing_data_stop_a_sweep_before_it_begins(tmp_path: Path) -> None:
    task = f"tasks=[{{kind: text, source: {tmp_path}/none.txt, context: 32, batch: 2}}]"
    with pytest.raises(TaskError):
        sweep(tmp_path, space(TINY, task, "objectives=[text.bits_per_byte]"))
    assert names(tmp_path) == set()


def test_failures_are_rows_and_the_sweep_goes_on(tmp_path: Path) -> None:
    (tmp_path / "faults.py").write_text(FAULTS)
    plugin.load(tmp_path / "faults.py")
    common = "pairs: 2, rewrites: 2, keys: 8, values: 8, gap: 4, batch: 4, validation: 32, test: 32"
    text = TINY.replace("tasks:", f"tasks:\n  - {{kind: faulty, name: raises, fault: raise, {common}}}")
    text = text.replace("tasks:", f"tasks:\n  - {{kind: faulty, name: slow, fault: slow, {common}}}")
    text = text.replace("tasks:", f"tasks:\n  - {{kind: faulty, name: vast, fault: memory, {common}}}")
    what = space(text, "optimiser.lr=[1e-2, 1e30]", "search.trials=8", "search.sampler=random")
    summary, out = sweep(tmp_path, what, plugins=[tmp_path / "faults.py"], timeout=4.0)
    found = rows(tmp_path / "run")
    status = {(r.task, r.candidate["optimiser"]["lr"]): r.status for r in found}
    assert Counter(r.task for r in found) == {"vast": 2, "slow": 2, "raises": 2, "mqar": 2}
    for (task, lr), got in status.items():
        if lr > 1:
            assert got == "diverged"
        else:
            assert got == {"vast": "oom", "slow": "timeout", "raises": "error", "mqar": "ok"}[task]
    assert {lr > 1 for _, lr in status} == {True, False}, "the seed of this test draws both rates"
    error = next(r for r in found if r.status == "error")
    assert error.cause == "ZeroDivisionError: five"
    assert 'ZeroDivisionError("five")' in (tmp_path / "run" / "trials" / error.key / "error.txt").read_text()
    late = next(r for r in found if r.status == "timeout")
    assert late.cause == "not done after 4 s"
    assert 0 < late.steps < 8
    assert "at step" in next(r for r in found if r.status == "diverged").cause
    assert "ZeroDivisionError: five" in out
    assert any("ZeroDivisionError" in cause for cause in summary.causes)
    assert not any(
        (tmp_path / "run" / "trials" / r.key / "checkpoint.json").exists() for r in found if r.status != "ok"
    )
    again, _ = sweep(tmp_path, what, plugins=[tmp_path / "faults.py"], resume=True)
    assert again.new == 0, "failures are not tried again"


def test_a_hang_in_this_process_is_ended(tmp_path: Path) -> None:
    (tmp_path / "faults.py").write_text(FAULTS)
    plugin.load(tmp_path / "faults.py")
    common = "pairs: 2, rewrites: 2, keys: 8, values: 8, gap: 4, batch: 4, validation: 32, test: 32"
    text = TINY.replace("tasks:", f"tasks:\n  - {{kind: faulty, name: hangs, fault: hang, {common}}}")
    start = time.monotonic()
    sweep(tmp_path, space(text), plugins=[tmp_path / "faults.py"], timeout=1.0, trials=2)
    assert time.monotonic() - start < 1 + 10
    hung, fine = rows(tmp_path / "run")
    assert (hung.status, hung.cause, hung.steps) == ("timeout", "hung: stopped, not done after 1 s", 4)
    assert fine.status == "ok"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


HALVING = (
    "objectives=[mqar.nll]",
    "halving={rungs: [0.25, 0.5], keep: 0.5, trust: -1}",
    "search.trials=8",
    "search.sampler=random",
)


def test_halving_stops_the_worse_half(tmp_path: Path) -> None:
    summary, _ = sweep(tmp_path, space(TINY, *HALVING))
    found = rows(tmp_path / "run")
    assert set(summary.counts) == {"ok", "pruned"}
    for row in found:
        assert [r["tokens"] for r in row.rungs] == [192, 320][: len(row.rungs)]
        if row.status == "pruned":
            assert row.tokens == row.rungs[-1]["tokens"]
            assert row.metrics == row.rungs[-1]["metrics"]
            assert "rung" in row.cause
            assert not (tmp_path / "run" / "trials" / row.key / "checkpoint.json").exists()
        else:
            assert (row.tokens, len(row.rungs)) == (640, 2)
            whole = sweep(tmp_path, space(TINY, HALVING[0], *HALVING[2:]), f"whole{row.n}", trials=row.n + 1)[0]
            assert whole.counts == {"ok": row.n + 1}
            assert rows(tmp_path / f"whole{row.n}")[-1].metrics == row.metrics, (
                "an evaluation on the way changes nothing"
            )
            break


def test_an_exhausted_space_ends_the_sweep(tmp_path: Path) -> None:
    fixed = ("design.algorithm.step=0.5", "optimiser.lr=0.01", "start_with=[]", "search.sampler=grid")
    summary, _ = sweep(tmp_path, space(TINY, *fixed), trials=50)
    assert summary.exhausted
    assert summary.rows == 4
    assert "every point" in str(summary)
    again, _ = sweep(tmp_path, None, resume=True, trials=60)
    assert (again.exhausted, again.new) == (True, 0)


def test_a_full_disk_stops_the_sweep_and_loses_nothing(
    tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, count = Ledger.append, 0

    def append(self: Ledger, record: Record) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise RunError("trial was not recorded: No space left on device")
        plain(self, record)

    monkeypatch.setattr(Ledger, "append", append)
    with pytest.raises(RunError, match="No space left"):
        sweep(tmp_path, space())
    summary, _ = sweep(tmp_path, space(), resume=True)
    assert summary.new == 2
    found = rows(tmp_path / "run")
    assert [*map(measured, found)] == [*map(measured, rows(baseline))]
    assert found[2].attempts == 1, "the third had ended, and was only to be recorded"


def test_a_disk_that_was_full_for_one_checkpoint_costs_one_trial(
    tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, count = checkpoint.write, 0

    def write(*given: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(*given, **named)

    monkeypatch.setattr(checkpoint, "write", write)
    sweep(tmp_path, space(TINY, "search.sampler=random"))
    found = rows(tmp_path / "run")
    assert [r.status for r in found] == ["ok", "error", "ok", "ok"]
    assert found[1].cause == "OSError: [Errno 28] No space left on device"
    assert measured(found[0]) == measured(rows(baseline)[0])


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backwards by years at every look: limits are measured by a clock that cannot be set."""

    class Jumping(datetime):
        year_ = 2300

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            cls.year_ -= 3
            return datetime(cls.year_, 1, 1, tzinfo=tz)

    monkeypatch.setattr("miras_search.ledger.datetime", Jumping)
    monkeypatch.setattr(time, "time", lambda: float(Jumping.year_))
    sweep(tmp_path, space(), timeout=60.0)
    found = rows(tmp_path / "run")
    assert found[0].time > found[-1].time
    assert [*map(measured, found)] == [*map(measured, rows(baseline))]


def test_ctrl_c_ends_with_130_and_resume_completes(tmp_path: Path, baseline: Path) -> None:
    (tmp_path / "space.yaml").write_text(TINY)
    process = script(tmp_path, "inline")
    wait_for(lambda: len(rows(tmp_path / "runs" / "run")) >= 1, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    kept = rows(tmp_path / "runs" / "run")
    assert 1 <= len(kept) < 4
    sweep(tmp_path / "runs", None, resume=True)
    assert rows(tmp_path / "runs" / "run")[: len(kept)] == kept
    assert [*map(measured, rows(tmp_path / "runs" / "run"))] == [*map(measured, rows(baseline))]


def test_interrupt_is_told_to_the_caller(tmp_path: Path) -> None:
    def press(number: int, frame: object) -> None:
        raise AssertionError("the handler of the caller is not in force")

    old = signal.signal(signal.SIGINT, press)
    try:
        with pytest.MonkeyPatch.context() as patch:
            plain = Ledger.append

            def append(self: Ledger, record: Record) -> None:
                plain(self, record)
                os.kill(os.getpid(), signal.SIGINT)

            patch.setattr(Ledger, "append", append)
            with pytest.raises(SweepInterrupted, match=r"1 of 4 trials .*\n.*--name run --resume") as caught:
                sweep(tmp_path, space())
        assert caught.value.exit_code == 130
        assert isinstance(caught.value, KeyboardInterrupt)
        assert signal.getsignal(signal.SIGINT) is press
    finally:
        signal.signal(signal.SIGINT, old)


def test_the_table_of_a_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, height=40)
    run_sweep(space(), "run", runs_dir=tmp_path, executor="inline", console=console, trials=2)
    text = out.getvalue()
    for part in ("1 of 2 trials", "2 of 2 trials", "best mqar.accuracy", "deltanet", "tokens/s"):
        assert part in text, part


def wait_for(what: Any, process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "took too long"
        time.sleep(0.02)


def test_trials_share_gpus() -> None:
    from miras_search.sweep.ray_tune import resources

    assert resources(4, 2, 0) == {"cpu": 2}
    assert resources(4, 1, 1) == {"cpu": 1, "gpu": 0.25}
    assert resources(3, 1, 2) == {"cpu": 1, "gpu": 0.5}
    assert resources(2, 1, 8) == {"cpu": 1, "gpu": 1.0}


def test_ray_gives_the_same_rows_and_survives_its_workers(tmp_path: Path, baseline: Path) -> None:
    """One Ray session for all: equal rows, an error, a hang killed by the watchdog, a worker that is lost once."""
    common = "pairs: 2, rewrites: 2, keys: 8, values: 8, gap: 4, batch: 4, validation: 32, test: 32"
    faults = {"raises": "raise", "hangs": "hang", "dies": "die_once"}
    tasks = [f"  - {{kind: faulty, name: {n}, fault: {f}, flag: {tmp_path}/{n}, {common}}}" for n, f in faults.items()]
    text = TINY.replace("budget:", "\n".join([*tasks, "timeout_s: 4", "budget:"])).replace("trials: 4", "trials: 5")
    (tmp_path / "space.yaml").write_text(text)
    (tmp_path / "faults.py").write_text(FAULTS)
    process = script(tmp_path, "ray")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = rows(tmp_path / "runs" / "run")
    by = {(r.n, r.task): r for r in found}
    assert len(found) == len(by) == 5
    assert {r.task: r.status for r in found} == {"mqar": "ok", "raises": "error", "hangs": "timeout", "dies": "ok"}
    assert by[0, "raises"].cause == "ZeroDivisionError: five"
    hung = by[0, "hangs"]
    assert hung.cause.startswith("hung: killed")
    began = (tmp_path / "hangs.steps").stat().st_mtime  # the step that hangs is drawn last
    ended = datetime.fromisoformat(hung.time).timestamp()
    assert ended - began < 4 + 10, "within its limit and 10 s"
    history = lines(tmp_path / "runs" / "run" / "trials" / hung.key / "status.jsonl")
    assert [line["event"] for line in history][:2] == ["start", "gone"], "and not tried again"
    assert not (tmp_path / "runs" / "run" / "trials" / hung.key / checkpoint.WEIGHTS).exists()
    for n in (0, 1):
        assert measured(by[n, "mqar"]) == measured(rows(baseline)[n]), "as inline, bit for bit"
    dies = by[0, "dies"]
    assert dies.attempts == 2, "retried, from its own checkpoint"
    folder = tmp_path / "runs" / "run" / "trials" / dies.key
    assert [line["event"] for line in lines(folder / "status.jsonl")] == ["start", "lost", "start", "resume", "end"]
    assert lines(folder / "status.jsonl")[3]["step"] == 4
    assert [line["step"] for line in lines(folder / "steps.jsonl")] == list(range(1, 11))
    drawn = [*map(int, (tmp_path / "dies.steps").read_text().split())]
    assert drawn[:11] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    assert "5 trials" in out
    quiet = [line for line in err.splitlines() if line and not line.startswith(("[", "trial "))]
    assert quiet == [], "nothing of Ray's own"
    assert '"ray"' in (tmp_path / "runs" / "run" / "environment.json").read_text()
