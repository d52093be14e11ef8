"""What of a run stays on the disk: weights by rank, a cap that is kept at every moment, leftovers of kills."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import test_sweep
from test_sweep import TINY, rows, space, sweep

from miras_search import checkpoint, disk
from miras_search.errors import ExportError
from miras_search.export import export
from miras_search.ledger import Record
from miras_search.runs import RunFolder
from miras_search.search import Outcome
from miras_search.sweep.shelf import GB, Shelf

TRIALS = ("search.trials=6", "search.sampler=random")


def weights(run: Path) -> set[int]:
    """Suggestions whose weights are there."""
    return {row.n for row in rows(run) if (run / "trials" / row.key / checkpoint.WEIGHTS).exists()}


def ranked(run: Path) -> list[int]:
    """Suggestions, the best first; of equal ones the earliest."""
    return [row.n for row in sorted(rows(run), key=lambda row: (row.metrics["nll"], row.n))]


def test_the_best_keep_their_weights(tmp_path: Path) -> None:
    nll = "objectives=[mqar.nll]"
    summary, _ = sweep(tmp_path, space(TINY, *TRIALS, nll, "checkpoints={keep: 2}"))
    run = tmp_path / "run"
    assert weights(run) == set(ranked(run)[:2])
    assert summary.evicted == 4
    assert "weights of 4 trials were let go" in str(summary)
    gone = next(row for row in rows(run) if row.n == ranked(run)[-1])
    assert disk.lines(run / "trials" / gone.key / "status.jsonl")[-1] == {
        "event": "evicted",
        "cause": "checkpoints: not among the best 2",
    }
    assert gone.status == "ok", "the row stays as it is"
    with pytest.raises(ExportError, match="has no checkpoint"):
        export(run, tmp_path / "out", gone.key)
    more, _ = sweep(tmp_path, space(TINY, nll, "search.sampler=random", "checkpoints={keep: 1}"), trials=8, resume=True)
    assert weights(run) == set(ranked(run)[:1]), "another session, another rule"
    assert more.rows == 8


def test_the_cap_holds_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miras_search.trial.CHECKPOINT_SECONDS", 0.0)
    run, plain, seen = tmp_path / "run", disk.replace, 0

    def taken() -> int:
        return sum(f.stat().st_size for f in run.glob("trials/*/*") if f.name.startswith(("checkpoint", ".checkpoint")))

    def replace(path: Path, content: bytes | str) -> None:
        nonlocal seen
        if path.name == checkpoint.WEIGHTS:  # while the new one lies beside the old one
            seen = max(seen, taken() + len(content))
        plain(path, content)

    monkeypatch.setattr(disk, "replace", replace)
    wide = (*TRIALS, "backbone.width=64", "search.parallel=1", "objectives=[mqar.nll]")
    first = space(TINY, *wide)
    shelf = Shelf(RunFolder(run), first, [], [])
    need = shelf.need(Record.model_validate(blank(first)))
    cap = 1.4 * need
    sweep(tmp_path, space(TINY, *wide, f"checkpoints={{max_gb: {cap / GB}}}"))
    assert 0 < seen <= cap
    assert 0 < len(weights(run)) < 6
    assert {row.status for row in rows(run)} == {"ok"}
    kept = weights(run)
    assert ranked(run)[0] in kept, "the best goes last"
    notes = [e for p in run.glob("trials/*/status.jsonl") for e in disk.lines(p) if e["event"] == "evicted"]
    assert all(note["cause"].startswith("checkpoints: max_gb") for note in notes)
    assert len(notes) == 6 - len(kept)


def blank(what: object) -> dict[str, object]:
    from miras_search.space import Space
    from miras_search.trial import blank as row

    assert isinstance(what, Space)
    candidate = what.candidate(what.starts()[0])
    return row(candidate, what.tasks[0], 640, 0).model_dump()


def test_a_trial_beyond_its_part_is_refused_and_the_sweep_goes_on(tmp_path: Path) -> None:
    wide = space(
        TINY, *TRIALS, "backbone={width: [8, 64], layers: 1, heads: 1, ffn: 0}", "checkpoints={max_gb: 0.0006}"
    )
    sweep(tmp_path, wide)
    found = rows(tmp_path / "run")
    assert {(row.candidate["backbone"]["width"], row.status) for row in found} == {(8, "ok"), (64, "invalid")}
    refused = next(row for row in found if row.status == "invalid")
    assert refused.cause.startswith("checkpoints: it may take")
    assert refused.tokens == 0
    assert not (tmp_path / "run" / "trials" / refused.key).exists()


def test_a_reused_trial_is_let_go_here_alone(tmp_path: Path) -> None:
    sweep(tmp_path, space(TINY, *TRIALS), "first")
    before = weights(tmp_path / "first")
    logs = {p: p.read_text() for p in (tmp_path / "first").glob("trials/*/status.jsonl")}
    summary, _ = sweep(tmp_path, space(TINY, *TRIALS, "checkpoints={keep: 0}"), "second", reuse=["first"])
    assert {row.reused for row in rows(tmp_path / "second")} == {"first"}
    assert summary.evicted == 6
    assert weights(tmp_path / "second") == set()
    assert weights(tmp_path / "first") == before
    assert {p: p.read_text() for p in logs} == logs, "a link to another run's log is not written to"


def test_finalists_stay_and_failed_candidates_go_first(tmp_path: Path) -> None:
    on = space(TINY, "seeds=2", "checkpoints={keep: 1}")
    run = RunFolder.create(tmp_path / "run", on.to_yaml())
    base = Record.model_validate(blank(on))

    def put(n: int, seed: int, **more: object) -> Record:
        row = base.model_copy(update={"n": n, "seed": seed, "key": f"{n:08x}{seed:08x}"} | more)
        run.trial(row.key).mkdir(parents=True)
        (run.trial(row.key) / checkpoint.WEIGHTS).write_bytes(b"x" * 100)
        return row

    first = [put(0, 0), put(0, 1)]
    second = [put(1, 0)]  # its other seed has failed
    final = [put(0, 2, stage="final")]
    done = [Outcome(0, {}, "ok", (0.5,)), Outcome(1, {}, "error", None)]
    shelf = Shelf(run, on, [*first, *second, *final], done)
    shelf.settle([])
    there = {row.key for row in (*first, *second, *final) if (run.trial(row.key) / checkpoint.WEIGHTS).exists()}
    assert there == {row.key for row in (*first, *final)}
    assert shelf.evicted == 1


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    sweep(tmp_path, space(), trials=1)
    run = tmp_path / "run"
    key = rows(run)[0].key
    (run / "ledger.jsonl").write_text("")
    shutil.rmtree(run / "trials" / key)
    (run / "trials" / key).mkdir()
    (run / "trials" / key / f".{checkpoint.WEIGHTS}.ab12.tmp").write_bytes(b"half")
    sweep(tmp_path, None, trials=1, resume=True)
    assert not list((run / "trials" / key).glob(".*.tmp"))
    assert test_sweep.names(run / "trials" / key) >= {checkpoint.WEIGHTS}
