"""The verbs: what they print, what they leave on the disk, and how they end."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from miras_search import cli, named
from miras_search.candidate import Backbone, Candidate
from miras_search.cli import terminal
from miras_search.codegen.emit import emit, equations
from miras_search.ledger import Ledger, now
from miras_search.runs import RunFolder
from miras_search.space import Space
from miras_search.space.schema import json_schema
from miras_search.space.shipped import shipped

ROOT = Path(__file__).resolve().parent.parent
VERBS = (
    "validate",
    "schema",
    "designs",
    "explain",
    "tasks",
    "emit",
    "train",
    "sweep",
    "status",
    "results",
    "report",
    "compare",
    "diff",
    "export",
)

TINY = """
name: tiny
description: Two tasks, small enough for a test.
design:
  memory: matrix
  bias: [dot, l2]
  retention: [none, l2]
  algorithm: {kind: gradient_descent, chunk: 8, step: {log_float: [0.1, 1.0]}}
start_with: [deltanet, linear-attention]
backbone: {width: 8, layers: 1, heads: 1, ffn: 0}
optimiser: {lr: {log_float: [3e-3, 3e-2]}}
tasks:
  - {kind: mqar, pairs: 2, rewrites: 2, keys: 8, values: 8, gap: 4, batch: 4, validation: 32, test: 32}
  - {kind: text, source: SOURCE, context: 16, batch: 4, eval_tokens: 64}
budget: {tokens: 640}
objectives: [mqar.accuracy, text.bits_per_byte]
search: {sampler: tpe, trials: 4, parallel: 2, seed: 1}
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Cli:
    """Runs a command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: str) -> Said:
        self.capsys.readouterr()
        code = terminal.run(cli.app, args)
        out, err = self.capsys.readouterr()
        return Said(code, out, err)

    def ok(self, *args: str) -> str:
        said = self(*args)
        assert said.code == 0, said.err
        return said.out

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))


@pytest.fixture
def miras(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space, a text and a finished run."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 60)
    (folder / "tiny.yaml").write_text(TINY.replace("SOURCE", str(folder / "text.txt")))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert terminal.run(cli.app, ["sweep", "tiny.yaml", "--executor", "inline"]) == 0
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = f"""
import sys, time
from miras_search.cli import app
from miras_search.cli.terminal import run
for args in (["--help"], *([verb, "--help"] for verb in {VERBS!r})):
    assert run(app, args) == 0
heavy = {{"torch", "ray", "pandas", "numpy", "optuna", "transformers", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
assert time.process_time() < 1.0, time.process_time()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Example") == len(VERBS), "every verb shows one"
    assert set(re.findall(r"^  (\w+)  ", done.stdout.split("Commands:")[1].split("\n\n")[0], re.M)) == set(VERBS)


def test_looking_needs_no_torch(place: Path) -> None:
    script = """
import sys
from miras_search.cli import app
from miras_search.cli.terminal import run
for args in (["validate", "quickstart"], ["designs"], ["explain", "yaad"], ["tasks"], ["schema"], ["emit", "yaad"], ["emit", "tiny:"],
             ["status", "tiny"], ["results", "tiny"]):
    run(app, args)
    assert not {"torch", "ray"} & set(sys.modules), args
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=place, check=False)
    assert done.returncode == 0, done.stderr


def test_near_names_the_nearest_and_what_differs(miras: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{memory: mlp, bias: {kind: huber, form: norm}, retention: l2, algorithm: {kind: momentum, chunk: 8}}"
    )
    first = miras.json("designs", "--near", str(file))[0]
    assert first == {
        "name": "yaad-r",
        "distance": 4,
        "differences": [["algorithm.kind", "momentum", "gradient_descent"]],
    }
    text = miras.ok("designs", "--near", str(file))
    assert "yaad-r  1 choice away" in text
    assert "titans-lmm  1 choice and 1 field away" in text
    distances = [entry["distance"] for entry in miras.json("designs", "--near", "yaad-r")]
    assert distances == sorted(distances)
    assert distances[0] == 0
    file.write_text(named.get("memora").to_yaml())
    assert "memora  the same function" in miras.ok("designs", "--near", str(file))
    inside = {entry["name"] for entry in miras.json("designs", "--near", "quickstart") if not entry["distance"]}
    assert inside == {"deltanet", "gated-deltanet", "yaad-r", "moneta-r"}


def test_explain(miras: Cli, here: Path) -> None:
    size = Backbone(width=96, layers=4, heads=3)
    design, pattern = named.composition("yaad-h")
    text = miras.ok(
        "explain", "yaad-h", "--set", "backbone.width=96", "--set", "backbone.heads=3", "--set", "backbone.layers=4"
    )
    candidate = Candidate(design=design, backbone=size.over(pattern))
    costs = candidate.parameters(257), candidate.state_bytes(1024), candidate.flops_per_token(1024)
    assert all(f"{n:,}" in text for n in costs)
    assert "yaad-h, 2 of 4 layers: sliding-window-attention" in text
    about = miras.json("explain", "yaad", "--source")
    assert about["memories"][0]["source"] == emit(named.get("yaad"))
    assert about["memories"][0]["equations"] == equations(named.get("yaad").canonical()).splitlines()
    (here / "mine.yaml").write_text("{memory: matrix, bias: l2, retention: l2, algorithm: gradient_descent}")
    assert "Nearest published design: gated-deltanet; here algorithm." in miras.ok("explain", "mine.yaml")
    said = miras("explain", "yaad", "--set", "optimiser.lr={log_float: [1e-3, 1e-2]}")
    assert (said.code, "optimiser.lr is open" in said.err) == (2, True)


def test_the_entry_point(miras: Cli) -> None:
    assert miras.ok("--version").strip() == "0.1.0"
    assert miras.ok() == miras.ok("-h")
    text = (ROOT / "pyproject.toml").read_text()
    assert 'miras-search = "miras_search.cli:main"' in text


def test_validate(miras: Cli) -> None:
    text = miras.ok("validate", "quickstart")
    for part in (
        "10 open parameters",
        "bias[1].lp.p",
        "if bias is lp",
        "valid",
        "online-needs-delta-rule",
        "16 trials",
    ):
        assert part in text, part
    found = miras.json("validate", "quickstart", "--set", "bias=[l2]", "--set", "search.trials=6")
    assert found["name"] == "quickstart"
    assert found["size"]["valid_designs"] < found["size"]["designs"]
    assert found["excluded"][0]["code"] == "online-needs-delta-rule"
    assert found["space"]["search"]["trials"] == 6
    axes = {axis["path"]: axis for axis in found["axes"]}
    assert axes["memory"]["values"] == ["matrix", "mlp"]
    assert axes["memory[1].mlp.layers"]["condition"] == {"memory": "mlp"}
    assert axes["optimiser.lr"]["count"] is None


def test_every_shipped_space_validates(miras: Cli) -> None:
    for name in shipped():
        assert miras.json("validate", name)["size"]["valid"] != 0


def test_schema(miras: Cli, tmp_path: Path) -> None:
    assert json.loads(miras.ok("schema")) == json.loads(json.dumps(json_schema()))
    said = miras("schema", "-o", str(tmp_path / "a" / "s.json"))
    assert (said.code, said.out) == (0, "")
    assert (tmp_path / "a" / "s.json").read_text() == miras.ok("schema")


def test_designs_and_tasks(miras: Cli) -> None:
    text = miras.ok("designs")
    found = miras.json("designs")
    assert [entry["name"] for entry in found] == list(named.MODELS)
    for entry in found:
        assert entry["fidelity"] in text
        assert entry["paper"] in text
        if entry["name"] in named.HYBRIDS:
            assert f"{entry['name']}: layers of {' and '.join(entry['layers'])}" in text
            continue
        assert f"Verified by {entry['verified']}." in text
        assert "\n" not in entry["recurrence"]
        assert named.get(entry["name"]).fingerprint == entry["fingerprint"]
    tasks = {entry["kind"]: entry for entry in miras.json("tasks")}
    assert {"mqar", "text"} <= set(tasks)
    assert tasks["mqar"]["metrics"][0] == {"name": "accuracy", "goal": "max", "unit": ""}
    assert tasks["text"]["fields"]["context"] == 256
    assert "bits_per_byte" in miras.ok("tasks")


def test_emit_from_a_name_a_file_and_a_run(miras: Cli, here: Path, tmp_path: Path) -> None:
    source = miras.ok("emit", "yaad")
    assert source.startswith('"""yaad: a memory layer')
    compile(source, "yaad.py", "exec")
    (tmp_path / "my.yaml").write_text(named.get("yaad").to_yaml())
    assert miras.ok("emit", str(tmp_path / "my.yaml")) == source
    (tmp_path / "short.yaml").write_text("design: yaad\n")
    assert miras.ok("emit", str(tmp_path / "short.yaml")) == source
    said = miras("emit", "yaad", "-o", str(tmp_path / "yaad.py"))
    assert (said.code, said.out) == (0, "")
    assert (tmp_path / "yaad.py").read_text() == source
    row = Ledger(here / "runs" / "tiny").rows()[0]
    for key in (row.key, row.key[:6], row.fingerprint):
        assert miras.ok("emit", f"tiny:{key}") == miras.ok("emit", "deltanet")
    assert miras.json("emit", "yaad")["source"] == source


def test_sweep_tells_a_newcomer_what_came_out(miras: Cli, here: Path) -> None:
    said = miras("sweep", "tiny.yaml", "--resume", "--executor", "inline")
    assert said.code == 0, said.err
    for part in ("tiny: 4 trials", "4 ok", "mqar.accuracy", "higher is better", "text.bits_per_byte", "runs/tiny"):
        assert part in said.out, part
    commands = [line.strip().split("  ")[0] for line in said.out.splitlines() if line.startswith("  miras-search")]
    assert [line.split()[1] for line in commands] == ["results", "report", "export", "sweep"]
    assert miras.ok(*shlex.split(commands[0])[1:])
    assert commands[3] == "miras-search sweep --name tiny --resume --executor inline --trials 8"
    sessions = RunFolder.open(here / "runs" / "tiny").environment
    assert sessions["command"] == "miras-search sweep tiny.yaml --executor inline"
    assert sessions["resumed"][-1]["command"] == "miras-search sweep tiny.yaml --resume --executor inline"


def test_sweep_without_a_space_goes_on(miras: Cli, here: Path) -> None:
    found = miras.json("sweep", "--name", "tiny", "--resume", "--executor", "inline", "--trials", "6")
    assert (found["rows"], found["new"], found["state"]) in ((6, 2, "finished"), (6, 0, "finished"))
    assert miras.json("status", "tiny")["total"] == 6


def test_dry_run_writes_nothing(miras: Cli, here: Path) -> None:
    args = ("sweep", "tiny.yaml", "--name", "dry", "--trials", "10", "--executor", "inline", "--dry-run")
    found = miras.json(*args)
    assert (found["trials"], found["workers"]) == (10, 1)
    assert found["seconds"] > 0
    assert found["memory_bytes"] > 50e6
    assert 10 * 4 * 500 < found["disk_bytes"] < 10e6
    assert {probe["task"] for probe in found["probes"]} == {"mqar", "text"}
    assert not (here / "runs" / "dry").exists()
    text = miras.ok(*args)
    for part in ("10 of 5 candidates", "about", "one at a time", "tokens/s"):
        assert part in text, part
    left = miras.json("sweep", "--name", "tiny", "--resume", "--trials", "10", "--dry-run")
    assert left["trials"] == 10 - left["done"]
    assert left["done"] >= 4


def test_dry_run_halves(miras: Cli, here: Path) -> None:
    from miras_search.sweep.estimate import _share

    assert _share([0.5], 0.5) == pytest.approx(0.75)
    assert _share([0.25, 0.5], 0.5) == pytest.approx(0.25 + 0.125 + 0.125)
    small = ("bias=l2", "retention=none", "start_with=[]", "optimiser.lr=0.01", "design.algorithm.step=0.5")
    sets = [word for text in small for word in ("--set", text)]
    found = miras.json("sweep", "tiny.yaml", *sets, "--trials", "10", "--dry-run", "--set", "search.sampler=random")
    assert found["exhausted"], "one candidate is all there is"
    assert found["trials"] == 2


def test_dry_run_of_what_diverges_or_takes_too_long(miras: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that diverges is no rate; the dearest candidate is not begun where its FLOPs say that it would take for ever."""
    from miras_search.sweep import estimate

    small = ("bias=l2", "retention=none", "start_with=[]", "optimiser.lr=0.01", "search.sampler=random")
    sets = [word for text in small for word in ("--set", text)]
    line = ("sweep", "tiny.yaml", *sets, "--trials", "4", "--dry-run")
    wild = miras.json(*line, "--set", "design.algorithm.step=[0.5, 1e30]")
    assert wild["probes"], "the other one is timed"
    found = miras(*line, "--set", "design.algorithm.step=1e30")
    assert found.code == 2
    assert "every candidate that was probed diverges" in found.err
    assert "Traceback" not in found.err

    begun: list[int] = []
    real = estimate._time

    def timed(candidate: Candidate, *rest: Any) -> estimate.Probe | None:
        begun.append(candidate.flops_per_token(16))
        probe = real(candidate, *rest)
        return None if probe is None else replace(probe, tokens_per_second=1.0)

    monkeypatch.setattr(estimate, "_time", timed)
    space = Space.load("tiny.yaml", [*small, "design.algorithm.step=[0.3, 0.5]"])
    estimate.estimate(space, executor="inline")
    assert len(begun) == len(space.tasks), "one a task, and then none that would take an hour"


def test_train_and_keep(miras: Cli, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--task", "{kind: mqar, pairs: 2, keys: 8, values: 8, batch: 4}"]
    small += ["--set", "task.validation=16", "--set", "backbone={width: 8, layers: 1, heads: 1}", "--tokens", "600"]
    found = miras.json("train", "deltanet", *small, "--name", "one", "--seed", "3")
    assert (found["status"], found["label"], found["seed"]) == ("ok", "deltanet", 3)
    assert found["candidate"]["backbone"]["width"] == 8
    assert miras.json("status", "one")["state"] == "finished"
    again = miras("train", "--from", "one", found["key"][:5])
    assert (again.code, "the same again" in again.out) == (0, True), again.err
    assert len(pd.read_json(io.StringIO(miras.ok("results", "one", "--json")))) == 1
    text = miras.ok("train", "deltanet", *small)
    assert "deltanet on mqar, seed 0: ok" in text
    assert [path.name for path in Path("runs").iterdir()] == ["one"], "without --name nothing is kept"


def test_train_takes_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    from miras_search.sweep import single

    what = single.setup(named.get("yaad"), "text", [], None, 0)
    assert what.budget == 400 * what.task.tokens_per_step
    assert what.candidate.design == named.get("yaad")
    assert single.setup(named.get("yaad"), "mqar", ["budget.tokens=5e4"], None, 0).budget == 50_000
    assert single.setup(named.get("yaad"), "mqar", [], 1, 0).budget == 1


def test_the_same_trial_again(miras: Cli, here: Path) -> None:
    for row in {row.task: row for row in Ledger(here / "runs" / "tiny").rows()}.values():
        said = miras("train", "--from", "tiny", row.key)
        assert said.code == 0, said.out
        assert "differs" not in said.out
        assert said.out.count("equal") == 1 + len(row.metrics)
        assert repr(next(iter(row.metrics.values()))) in said.out


def test_another_result_is_told(miras: Cli, here: Path) -> None:
    row = Ledger(here / "runs" / "tiny").rows()[0]
    folder = RunFolder.create("runs/changed", (here / "runs" / "tiny" / "space.yaml").read_text())
    changed = row.model_copy(update={"metrics": {**row.metrics, "nll": 0.5}, "hashes": {"validation": "0"}})
    with folder.lock():
        folder.ledger.append(changed)
    said = miras("train", "--from", "changed", row.key)
    assert said.code == 1
    assert "NOT the same" in said.out
    assert re.search(r"mqar\.nll +0\.5 .*differs", said.out)
    assert "data validation is" in said.out
    found = json.loads(miras("train", "--from", "changed", row.key, "--json").out)
    assert found["equal"] is False
    assert found["now"]["metrics"] == row.metrics


def test_status(miras: Cli, here: Path, place: Path) -> None:
    text = miras.ok("status", "tiny")
    assert "finished" in text
    assert "mqar.accuracy" in text
    assert miras.ok("status", str(place / "runs" / "tiny")).replace(str(place) + "/", "") == text
    run = RunFolder.open("runs/tiny")
    with run.lock():
        assert miras.json("status", "tiny")["state"] == "running"
        assert f"process {os.getpid()}" in miras.ok("status", "tiny")


def test_status_of_a_run_that_was_stopped(miras: Cli, here: Path, tmp_path: Path) -> None:
    about = {"executor": "inline", "plugins": [str(here / "my.py")]}
    run = RunFolder.create("runs/stopped", (here / "tiny.yaml").read_text(), about=about)
    with run.lock():
        run.ledger.append(Ledger(here / "runs" / "tiny").rows()[0])
    folder = run.trial("f" * 16)
    folder.mkdir(parents=True)
    start = {"event": "start", "attempt": 1, "design": "yaad-r", "task": "mqar", "seed": 1, "budget": 128}
    (folder / "status.jsonl").write_text(json.dumps(start) + "\n")
    (folder / "steps.jsonl").write_text('{"step": 2, "tokens": 64, "loss": 2.5}\n{"torn')
    text = miras.ok("status", "stopped")
    assert "stopped, 1 of 4 trials" in text
    assert "go on with: miras-search sweep --name stopped --resume --executor inline --plugin my.py" in text
    assert re.search(r"left unfinished\n +f{16} +yaad-r +mqar, seed 1 +64 tokens +50% +loss 2.500", text)
    assert "left\n" not in text.splitlines()[0]
    with run.lock():  # from another terminal: a trial is half done, one was committed in this session
        run.ledger.append(Ledger(here / "runs" / "tiny").rows()[1].model_copy(update={"time": now()}))
        head = miras.ok("status", "stopped").splitlines()[0]
        assert re.search(r"running, 2 of 4 trials: 2 ok; about \d+ s left$", head), head
        assert "at work\n" in miras.ok("status", "stopped")
        assert miras.json("status", "stopped")["left"] > 0


def test_status_shows_what_is_best_of_several_objectives(miras: Cli, here: Path) -> None:
    text = miras.ok("status", "tiny")
    found = miras.json("status", "tiny")
    assert len(found["objectives"]) == 2
    assert found["front"]
    assert f"Pareto front, {len(found['front'])} of the candidates" in text
    values = [point["values"] for point in found["front"]]
    goals = [leader["goal"] for leader in found["best"]]
    for i, leader in enumerate(found["best"]):
        assert leader["value"] == (max if goals[i] == "max" else min)(v[i] for v in values)


def test_a_run_as_a_study_of_optuna(miras: Cli, here: Path, tmp_path: Path) -> None:
    import optuna

    path = tmp_path / "tiny.db"
    said = miras("results", "tiny", "-o", str(path))
    assert said.code == 0
    assert f"optuna-dashboard sqlite:///{path}" in said.err
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.load_study(study_name="tiny", storage=storage)
    assert len(study.trials) == len({row.n for row in Ledger(here / "runs" / "tiny").rows()})
    storage.engine.dispose()
    assert miras("results", "tiny", "-o", str(path), "--sort", "n").code == 2


def test_results_in_every_format(miras: Cli, here: Path, tmp_path: Path) -> None:
    rows = Ledger(here / "runs" / "tiny").rows()
    assert all(row.key in miras.ok("results", "tiny") for row in rows)
    picked = miras.json(
        "results", "tiny", "--query", "task == 'text'", "--columns", "key,bits_per_byte", "--sort", "-n"
    )
    mine = [row for row in rows if row.task == "text"][::-1]
    assert [row["key"] for row in picked] == [row.key for row in mine]
    assert picked[0]["bits_per_byte"] == pytest.approx(mine[0].metrics["bits_per_byte"])
    csv = pd.read_csv(io.StringIO(miras.ok("results", "tiny", "--format", "csv")))
    assert len(csv) == len(rows)
    assert "optimiser.lr" in csv
    markdown = miras.ok("results", "tiny", "--format", "markdown", "--columns", "key,accuracy").splitlines()
    assert markdown[:2] == ["| key | accuracy |", "| --- | ---: |"]
    for suffix in ("csv", "json", "md", "parquet"):
        file = tmp_path / f"t.{suffix}"
        said = miras("results", "tiny", "-o", str(file))
        assert (said.code, said.out) == (0, ""), said.err
        assert file.stat().st_size > 100
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == len(rows)
    assert miras("report", str(tmp_path / "t.parquet"), "-o", str(tmp_path / "r.html")).code == 0


def test_report(miras: Cli, here: Path, tmp_path: Path) -> None:
    said = miras("report", "tiny", "-o", str(tmp_path / "r.html"))
    assert (said.code, said.out) == (0, ""), said.err
    assert str(tmp_path / "r.html") in said.err
    page = (tmp_path / "r.html").read_text()
    assert "miras-search sweep tiny.yaml --executor inline" in page, "the command that made it"
    miras.ok("report", "tiny", "runs/tiny", "-o", str(tmp_path / "r.md"))
    assert (tmp_path / "r.md").read_text().startswith("# ")


def test_export_with_a_sample(miras: Cli, here: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    text = miras.ok("export", "tiny", "-o", str(tmp_path / "e"), "--sample", "the cat", "--tokens", "8")
    assert re.search(r"trial [0-9a-f]{16}, \S+ on text\n  why: best text.bits_per_byte", text)
    assert "the cat" in text.split("a sample after")[1]
    assert (tmp_path / "e" / "model.safetensors").is_file()
    said = miras("export", "tiny", "-o", str(tmp_path / "e"))
    assert said.code == 2
    assert "--overwrite" in said.err
    key = next(row.key for row in Ledger(here / "runs" / "tiny").rows() if row.task == "mqar")
    assert key in miras.ok("export", "tiny", "-o", str(tmp_path / "e"), "--overwrite", "--key", key[:8])
    assert [path.name for path in tmp_path.iterdir()] == ["e"], "nothing is left beside it"


def test_a_sample_cannot_steer_the_terminal() -> None:
    from miras_search.cli.tables import printable

    assert printable("a\x1b[2Jb\x07\tc\n\r") == "a\ufffd[2Jb\ufffd\tc\n\ufffd"


def test_the_commands_of_the_makefile(miras: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make quickstart`, with a smaller budget, and once more on what it left."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    recipe = (ROOT / "Makefile").read_text().split("quickstart: setup\n")[1].split("\n\n")[0]
    lines = [line.strip().removeprefix("$(VENV)/bin/miras-search ") for line in recipe.splitlines()]
    assert len(lines) == 3
    for turn in ("", "--resume"):
        for line in lines:
            args = shlex.split(re.sub(r"\$\(if .*,--resume\)", turn, line))
            if args[0] == "sweep":
                args += ["--executor", "inline", "--trials", "4", "--set", "budget.tokens=2048"]
                args += ["--set", "tasks[1].eval_tokens=256", "--set", "tasks[0].validation=32"]
            said = miras(*args)
            assert said.code == 0, said.err
        assert "The " in said.out
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
    assert (tmp_path / "runs" / "quickstart" / "exported" / "config.json").is_file()


def test_a_plugin_before_or_after_the_verb(miras: Cli, tmp_path: Path) -> None:
    plug = tmp_path / "cubic.py"
    plug.write_text(
        "from typing import Literal\n"
        "from miras_search.choice import register\n"
        "from miras_search.tasks import Mqar\n\n\n"
        "class Other(Mqar):\n"
        '    """A task of the user."""\n\n'
        '    kind: Literal["other_recall"] = "other_recall"\n\n\n'
        "VARIANTS = register(Other)\n"
    )
    script = """
import json, sys
from miras_search import cli
from miras_search.cli import terminal
sys.exit(terminal.run(cli.app, json.loads(sys.argv[1])))
"""
    for args in (["--plugin", str(plug), "tasks"], ["tasks", "--plugin", str(plug)]):
        call = [sys.executable, "-c", script, json.dumps(args)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "other_recall  A task of the user." in done.stdout
