"""SIGKILL of a sweep at any moment, then resume: nothing finished is lost or repeated, the rest is as undisturbed.

Children are forked from a process that has imported torch already (`main` below), so that a dozen kills take seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPACE = """
name: killed
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
  - {kind: mqar, name: plain, pairs: 2, rewrites: 0, keys: 8, values: 8, gap: 4, batch: 4, validation: 32, test: 32}
budget: {tokens: 640}
objectives: [mqar.accuracy, plain.nll]
search: {sampler: tpe, trials: 6, parallel: 2, seed: 1}
halving: {rungs: [0.25, 0.5], keep: 0.5, trust: -1}
"""


def rows(folder: Path) -> list[dict[str, Any]]:
    """What a ledger says, torn last line left out, timings left out."""
    path = folder / "ledger.jsonl"
    text = path.read_text() if path.exists() else ""
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    timing = {"seconds", "tokens_per_second", "time", "attempts"}
    return [{k: v for k, v in row.items() if k not in timing} for row in found]


def main(folder: Path, kills: int) -> None:
    """Run undisturbed once; then kill at writes of every kind and at random times, and resume until done."""
    from rich.console import Console

    from miras_search import disk, trial
    from miras_search.candidate import Candidate
    from miras_search.ledger import Ledger
    from miras_search.space import Space
    from miras_search.sweep import run_sweep

    trial.CHECKPOINT_SECONDS = 0.02
    space = Space.from_text(SPACE)
    rng = random.Random(7)

    def go(name: str) -> None:
        resume = (folder / name / "space.yaml").exists()
        with Path(os.devnull).open("w") as null:
            run_sweep(space, name, runs_dir=folder, executor="inline", resume=resume, console=Console(file=null))

    def child(work: Callable[[], None], seconds: float | None = None) -> int:
        """Exit status of a forked child; killed after that long."""
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]

    def dying(name: str, at: int, half: bool) -> Callable[[], None]:
        """Die at the at-th durable write, before it or (`half`) in the middle of it."""

        def work() -> None:
            left = at

            def tick() -> bool:
                nonlocal left
                left -= 1
                return left < 0

            def die() -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            replace, append, commit = disk.replace, disk.append, Ledger.append

            def replace_(path: Path, content: bytes | str) -> None:
                if tick():
                    if half:
                        whole = content.encode() if isinstance(content, str) else content
                        path.with_name(f".{path.name}.0.tmp").write_bytes(whole[: len(whole) // 2])
                    die()
                replace(path, content)

            def append_(path: Path, line: dict[str, Any], *, sync: bool = False) -> None:
                if tick():
                    if half:
                        with path.open("ab") as file:
                            file.write(json.dumps(line).encode()[:9])
                    die()
                append(path, line, sync=sync)

            def commit_(self: Ledger, record: Any) -> None:
                if tick():
                    if half:
                        with self.path.open("ab") as file:
                            file.write(record.model_dump_json().encode()[:50])
                    die()
                commit(self, record)

            disk.replace, disk.append = replace_, append_
            Ledger.append = commit_  # type: ignore[method-assign]
            go(name)

        return work

    assert child(lambda: go("whole")) == 0
    whole = rows(folder / "whole")
    assert len(whole) == 6
    assert {"ok", "pruned"} == {row["status"] for row in whole}
    for row in whole:  # imports and emitted modules, so that children have them
        trial.Trainer(Candidate.model_validate(row["candidate"]), space.tasks[0], 640, 0)
    start = time.monotonic()
    assert child(lambda: go("warm")) == 0
    duration = time.monotonic() - start
    assert rows(folder / "warm") == whole
    told: list[str] = []
    for i in range(kills):
        name = f"run{i}"
        run = folder / name
        for _ in range(40):
            before = rows(run)
            if rng.random() < 0.5:
                status = child(lambda: go(name), rng.uniform(0.0, duration))  # noqa: B023 (called at once)
            else:
                status = child(dying(name, rng.randrange(60), rng.random() < 0.5))
            after = rows(run)
            assert after[: len(before)] == before, "what is finished stays"
            for row, expected in zip(after, whole, strict=False):
                differ = {k: (row[k], expected[k]) for k in expected if row[k] != expected[k]}
                assert not differ, f"as undisturbed: {differ}, after {told}"
            told.append(f"{i}: {len(before)} -> {len(after)} ({status})")
            if status == 0:
                break
        else:
            assert child(lambda: go(name)) == 0  # noqa: B023
        assert rows(run) == whole, "nothing is missing, nothing twice"
    killed = sum("(9)" in line for line in told)
    print(json.dumps({"killed": killed, "told": told, "seconds": duration}))


def test_killed_inline_sweeps_end_as_undisturbed(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, __file__, str(tmp_path), "4"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["killed"] >= 4, result.stdout


def kills(folder: Path, *options: str, seconds: float) -> list[str]:
    """Lines of `benchmarks/kills.py`, which asserts what is to hold."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--folder", str(folder), *options],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_node_that_is_lost(tmp_path: Path) -> None:
    """Of three; its trial is trained elsewhere from its checkpoint, and all is as if nothing had been."""
    (line,) = kills(tmp_path, "--kinds", "node", "--times", "1", "--trials", "6", seconds=300)
    assert line.startswith("node      1 kills, 1 runs, 6 trials: none lost, none repeated")
    assert "; 1 losses laid to the node;" in line


@pytest.mark.slow
def test_sixty_kills(tmp_path: Path) -> None:
    """Of driver, worker and node, twenty each."""
    lines = kills(tmp_path, "--times", "20", seconds=3000)
    print("\n".join(lines))
    assert [line.split()[:3] for line in lines] == [[kind, "20", "kills,"] for kind in ("driver", "worker", "node")]


def marked(mark: str) -> list[int]:
    """Processes that have inherited a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_nothing_of_ray_outlives_a_driver_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import test_sweep

    mark = f"MIRAS_SEARCH_TEST={tmp_path.name}{os.getpid()}"
    monkeypatch.setenv(*mark.split("="))
    (tmp_path / "space.yaml").write_text(RAY.replace("640", "64000"))
    process = test_sweep.script(tmp_path, "ray")
    test_sweep.wait_for(lambda: list((tmp_path / "runs").glob("run/trials/*/status.jsonl")), process)
    assert len(marked(mark)) > 5
    process.kill()
    process.communicate()
    until = time.monotonic() + 15
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []


RAY = SPACE.replace("halving: {rungs: [0.25, 0.5], keep: 0.5, trust: -1}", "").replace("trials: 6", "trials: 8")


def ray_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows by key; on two workers their order may differ."""
    found = rows(folder)
    assert len({row["key"] for row in found}) == len(found)
    return {row["key"]: row for row in found}


@pytest.mark.slow
def test_a_killed_ray_sweep_goes_on(tmp_path: Path) -> None:
    """Random suggestions, so that the set of rows does not depend on the order of two workers."""
    import test_sweep

    (tmp_path / "space.yaml").write_text(RAY.replace("sampler: tpe", "sampler: random").replace("640", "3200"))
    (tmp_path / "faults.py").write_text(test_sweep.FAULTS)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    (undisturbed / "space.yaml").write_text((tmp_path / "space.yaml").read_text())
    process = test_sweep.script(undisturbed, "inline")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    expected = ray_rows(undisturbed / "runs" / "run")
    rng = random.Random(3)
    run = tmp_path / "runs" / "run"
    for wanted in (0, 2, 5):
        before = rows(run)
        process = test_sweep.script(tmp_path, "ray", resume=(run / "space.yaml").exists())
        test_sweep.wait_for(lambda: len(rows(run)) >= wanted and (run / "space.yaml").exists(), process)  # noqa: B023
        time.sleep(rng.uniform(0.0, 5.0))
        process.kill()
        process.communicate()
        after = rows(run)
        assert after[: len(before)] == before
    process = test_sweep.script(tmp_path, "ray", resume=True)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert rows(run)[: len(after)] == after
    assert ray_rows(run) == expected


@pytest.mark.slow
def test_ctrl_c_of_a_ray_sweep(tmp_path: Path) -> None:
    """The signal goes to the whole group, as from a terminal: workers must not die of it."""
    import test_sweep

    (tmp_path / "space.yaml").write_text(RAY.replace("640", "25600"))
    process = test_sweep.script(tmp_path, "ray")
    run = tmp_path / "runs" / "run"

    def at_work() -> list[Path]:
        """Without a row, and without an end whose row was still to be written."""
        done = {row["key"] for row in rows(run)}
        began = [path.parent for path in run.glob("trials/*/steps.jsonl") if path.parent.name not in done]
        return [path for path in began if '"event": "end"' not in (path / "status.jsonl").read_text()]

    test_sweep.wait_for(lambda: rows(run) and at_work(), process)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    assert time.monotonic() - start < 30
    before = rows(run)
    left = at_work()
    assert left
    assert all((path / "checkpoint.json").exists() for path in left), "trials at work leave a checkpoint"
    process = test_sweep.script(tmp_path, "ray", resume=True)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert rows(run)[: len(before)] == before
    assert len(ray_rows(run)) == 8
    for path in left:
        assert (path / "status.jsonl").read_text().count('"start"') == 2


@pytest.mark.slow
def test_a_worker_that_always_dies_is_given_up(tmp_path: Path) -> None:
    import test_sweep

    text = RAY.replace("kind: mqar, name: plain,", "kind: faulty, name: plain, fault: die,").replace(
        "trials: 8", "trials: 3"
    )
    (tmp_path / "space.yaml").write_text(text)
    (tmp_path / "faults.py").write_text(test_sweep.FAULTS)
    process = test_sweep.script(tmp_path, "ray")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = [json.loads(line) for line in (tmp_path / "runs" / "run" / "ledger.jsonl").read_text().splitlines()]
    assert sorted((row["task"], row["status"], row["attempts"]) for row in found) == [
        ("mqar", "ok", 1),
        ("mqar", "ok", 1),
        ("plain", "crashed", 3),
    ]
    assert "die" in next(row["cause"] for row in found if row["task"] == "plain")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
