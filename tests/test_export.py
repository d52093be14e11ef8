"""Exports load and behave without this package, in a process of their own; what is exported is what was trained."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from miras_search import checkpoint, model, named, trial
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.codegen.emit import emit
from miras_search.design import Block
from miras_search.errors import ExportError, RunError
from miras_search.export import PROVENANCE, choose, export, export_model, sample, tokenizer
from miras_search.ledger import Record, trial_key
from miras_search.runs import RunFolder
from miras_search.space import Space
from miras_search.tasks import Text
from miras_search.tasks.tokenizer import byte_tokenizer

VOCAB = 257
PROBED = ["moneta-h", "softmax-attention", "gated-deltanet", "yaad", "titans-lmm", "moneta-r", "memora"]
SPECIAL = "documents"
"""A further export: it starts afresh at token 0, has a convolution outside the memory, and no tokenizer."""


def tiny(name: str, **block: Any) -> Candidate:
    design, pattern = named.composition(name)
    design = design.model_copy(update={"block": Block(**(design.block.model_dump() | block))})
    return Candidate(design=design, backbone=Backbone(width=16, layers=2, heads=2, ffn=2.0, pattern=pattern))


def shaken(candidate: Candidate, seed: int) -> model.LM:
    """A model whose every weight, gates and initial states included, is off its initial value."""
    built = model.build(candidate, VOCAB, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return built


def put(out: Path, candidate: Candidate, seed: int, *, reset: bool = False, text: bool = True) -> Path:
    """An export and, beside it, what the model in this process says."""
    built = shaken(candidate, seed)
    known = byte_tokenizer().json if text else None
    export_model(
        candidate, VOCAB, built.state_dict(), known, out, provenance={"context": 64}, document=0 if reset else None
    )
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCAB, (2, 41), generator=draw)
    if reset:
        tokens[0, 11] = tokens[1, 30] = tokens[1, 20] = 0
    with torch.no_grad():
        logits = built(tokens, reset=tokens == 0 if reset else None)
    torch.save({"tokens": tokens, "logits": logits, "reset": reset}, out / "expected.pt")
    return out


def probe(folders: list[Path], home: Path, extent: str = "quick") -> dict[str, Any]:
    """Run `export_probe.py`: no site hooks (so no editable install), no network, a Hugging Face home of its own."""
    site = str(Path(torch.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON", "MIRAS"))}
    environment = kept | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("export_probe.py")
    command = [sys.executable, "-I", "-S", str(script), site, extent, *map(str, folders)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert found, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(found[0].removeprefix("RESULT"))
    return result


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exports")
    for seed, name in enumerate(PROBED):
        put(root / name, tiny(name), seed)
    put(root / SPECIAL, tiny("gated-deltanet", residual_conv=3), 9, reset=True, text=False)
    return root


@pytest.fixture(scope="module")
def probed(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return probe([exports / name for name in [*PROBED, SPECIAL]], tmp_path_factory.mktemp("home"))


def test_nothing_of_ours_is_there(probed: dict[str, Any]) -> None:
    assert probed["absent"] == [True, True]
    assert probed["loaded"] == []


def test_plain_torch_as_the_card_says(probed: dict[str, Any]) -> None:
    assert probed["plain torch"] == 0.0


@pytest.mark.parametrize("name", [*PROBED, SPECIAL])
def test_logits(probed: dict[str, Any], name: str) -> None:
    found = probed["folders"][name]
    assert found["dtype"] == "torch.float32"
    exact = ["full", "base", "keep", "tuple", "again"] + (["embeds"] if name != SPECIAL else [])
    assert {key: found[key] for key in exact} == pytest.approx(dict.fromkeys(exact, 0.0), abs=2e-6)
    assert found["hidden"] == [3, pytest.approx(0.0, abs=2e-6)]


@pytest.mark.parametrize("name", [*PROBED, SPECIAL])
def test_steps_and_padding(probed: dict[str, Any], name: str) -> None:
    found = probed["folders"][name]
    keys = ["steps", "pad left", "pad right", "pad middle"]
    assert {key: found[key] for key in keys} == pytest.approx(dict.fromkeys(keys, 0.0), abs=1e-4)
    assert found["cache"] == ["MirasCache", 41, 2]


@pytest.mark.parametrize("name", [*PROBED, SPECIAL])
def test_generation(probed: dict[str, Any], name: str) -> None:
    found = probed["folders"][name]
    assert found["cache equals none"]
    assert found["beams"]
    assert found["sampling"] == [[6, 34], True]
    assert found["left padding"]
    assert found["continued"]
    assert "stateful" in found["assisted"]
    assert "cannot be cropped" in found["crop"]


@pytest.mark.parametrize("name", [*PROBED, SPECIAL])
def test_training(probed: dict[str, Any], name: str) -> None:
    found = probed["folders"][name]
    assert found["loss"] == pytest.approx(0.0, abs=1e-5)
    assert found["aligned loss"] == pytest.approx(0.0, abs=1e-5)
    assert found["checkpointing"] <= 1e-6


@pytest.mark.parametrize("name", [*PROBED, SPECIAL])
def test_saved_again_halved_and_fresh(probed: dict[str, Any], name: str) -> None:
    found = probed["folders"][name]
    code = {f"{part}_miras.py" for part in ("configuration", "modeling", "lm", "memory")}
    code |= {"memory_miras_2.py"} if name in named.HYBRIDS else set()
    assert code | {"config.json", "generation_config.json", "model.safetensors"} == set(found["files again"])
    dtype, gap, kept = found["half"]
    assert dtype == "torch.bfloat16"
    assert gap < 0.5
    assert set(kept) <= {"torch.float32"}
    assert set(found["half state"]) <= {"torch.float32"}
    assert found["half generates"] == [2, 30]
    assert found["resized"] == [[VOCAB + 3], True]
    assert "lacks weights of a RMSNorm" in found["incomplete"]
    assert found["tied"]
    assert "lm_head.weight" not in found["keys"]


def test_gates_of_a_new_model_start_where_ours_do(probed: dict[str, Any]) -> None:
    assert probed["folders"]["yaad"]["fresh"] == {"alpha": [[6.0], [6.0]], "eta": [[0.0], [0.0]]}


def test_tokenizer_in_the_folder(probed: dict[str, Any]) -> None:
    for name in PROBED:
        found = probed["folders"][name]["text"]
        assert found["names"] == ["input_ids", "attention_mask"]
        assert found["ids"] == found["bytes"]
        assert found["round trip"]
        assert found["left"]
        assert found["pad"] == ["<|endoftext|>", "<|endoftext|>", 0]
        assert found["generates"] == [2, 18]
        assert found["stops"] == 0
    assert "text" not in probed["folders"][SPECIAL]


def test_code_is_what_was_trained(exports: Path) -> None:
    folder = exports / "yaad"
    candidate = tiny("yaad").canonical()
    assert (folder / "memory_miras.py").read_text() == emit(candidate.design)
    first, second = tiny("moneta-h").layers
    assert (exports / "moneta-h" / "memory_miras.py").read_text() == emit(first)
    assert (exports / "moneta-h" / "memory_miras_2.py").read_text() == emit(second)
    ours, theirs = Path(str(model.__file__)).read_text(), (folder / "lm_miras.py").read_text()
    for part in ours.split("\n\n\nclass ")[1:]:
        assert "class " + part.split("\n\n\ndef build")[0].rstrip() in theirs
    for file in folder.glob("*.py"):
        assert "miras_search" not in "\n".join(
            line for line in file.read_text().splitlines() if line.startswith(("import", "from"))
        )
        compile(file.read_text(), str(file), "exec")


def test_files_say_what_loaders_need(exports: Path) -> None:
    folder = exports / "yaad"
    assert "max_new_tokens" not in (folder / "generation_config.json").read_text()
    words = json.loads((folder / "tokenizer_config.json").read_text())
    assert words["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "backend" not in words
    assert words["model_input_names"] == ["input_ids", "attention_mask"]
    known = json.loads((folder / PROVENANCE).read_text())
    for name, digest in known["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert known["parameters"] == sum(
        t.numel() for n, t in load_file(folder / "model.safetensors").items() if ".step" not in n
    )
    assert not (exports / SPECIAL / "tokenizer.json").exists()
    assert "shift_labels" in (exports / SPECIAL / "README.md").read_text()


def test_weights_of_another_candidate_are_refused(tmp_path: Path) -> None:
    state = shaken(tiny("yaad"), 0).state_dict()
    with pytest.raises(ExportError, match=r"embedding.weight is \[257, 16\], should be \[99, 16\]"):
        export_model(tiny("yaad"), 99, state, None, tmp_path / "a", provenance={})
    with pytest.raises(ExportError, match=r"is .*, should be nothing"):
        export_model(tiny("titans-lmm"), VOCAB, state, None, tmp_path / "a", provenance={})
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    state = shaken(tiny("retnet"), 0).state_dict()

    def go(out: Path) -> Path:
        return export_model(tiny("retnet"), VOCAB, state, None, out, provenance={})

    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="exists already and is no folder"):
        go(tmp_path / "file")
    with pytest.raises(ExportError, match="cannot be written"):
        go(tmp_path / "file" / "below")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ExportError, match="exists already and is not empty") as caught:
        go(tmp_path / "full")
    assert "-o" in str(caught.value)
    (tmp_path / "empty").mkdir()
    assert go(tmp_path / "empty" / "deep" / "er").is_dir()
    (tmp_path / "blank").mkdir()
    assert (go(tmp_path / "blank") / "config.json").is_file()


def test_an_earlier_export_is_replaced_only_when_asked(tmp_path: Path) -> None:
    state = shaken(tiny("retnet"), 0).state_dict()

    def go(out: Path, why: str, overwrite: bool) -> None:
        export_model(tiny("retnet"), VOCAB, state, None, out, provenance={"reason": why}, overwrite=overwrite)

    out = tmp_path / "out"
    go(out, "first", overwrite=True)
    with pytest.raises(ExportError, match="not empty") as caught:
        go(out, "second", overwrite=False)
    assert "--overwrite" in str(caught.value)
    go(out, "third", overwrite=True)
    assert json.loads((out / PROVENANCE).read_text())["reason"] == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / PROVENANCE).unlink()
    with pytest.raises(ExportError, match="is no earlier export"):
        go(out, "fourth", overwrite=True)


# A run, as a sweep leaves it.

SPACE = """
name: run
design: {{memory: matrix, bias: l2, retention: l2, algorithm: {{kind: gradient_descent, gradient: online}}}}
backbone: {{width: 16, layers: 1, heads: 1}}
tasks:
  - {{kind: mqar, pairs: 2, keys: 4, values: 4, batch: 4}}
  - {{kind: text, source: "{text}", context: 32, batch: 4, eval_tokens: 64, reset: true{more}}}
budget: {{tokens: 256}}
objectives: [mqar.accuracy, text.bits_per_byte]
"""
Make = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("words") / "text.txt"
    file.write_text("".join(f"Line {n} is not the line before, which was {n - 1}.\n" for n in range(400)))
    return file


@pytest.fixture
def make(tmp_path: Path, words: Path) -> Make:
    """A run with these statuses, a trial each; those that are ok are trained for a few steps."""

    def made(*rows: tuple[str, str], more: str = "", keep: bool = True) -> RunFolder:
        space = Space.from_text(SPACE.format(text=words, more=more))
        run = RunFolder.create(tmp_path / "runs" / "first", space.to_yaml())
        tasks = {task.name: task for task in space.tasks}
        for seed, (task, status) in enumerate(rows):
            candidate = Candidate(
                design=named.get("gated-deltanet"),
                backbone=Backbone(width=16, layers=1, heads=1),
                optimiser=Optimiser(lr=0.02 if seed else 0.0001),
            )
            if status == "ok":
                key = trial_key(candidate, tasks[task], 256, seed)
                record = trial.train(candidate, tasks[task], 256, seed, folder=run.trial(key))
                assert record.status == "ok", record.cause
                if not keep:
                    checkpoint.remove(run.trial(record.key))
                run.write(f"designs/{candidate.design.fingerprint}.py", emit(candidate.design) + "# of the run\n")
            else:
                record = trial.blank(candidate, tasks[task], 256, seed)
                record = record.model_copy(update={"status": status, "cause": "because"})
            run.ledger.append(record)
        run.ledger.close()
        return run

    return made


def rows(run: RunFolder) -> list[Record]:
    return run.ledger.rows()


def space_of(run: RunFolder) -> Space:
    return Space.from_text(run.space_yaml)


def test_best_is_a_text_trial(make: Make, tmp_path: Path) -> None:
    run = make(("text", "ok"), ("text", "ok"), ("mqar", "ok"), ("text", "diverged"))
    found = rows(run)
    best = min(found[:2], key=lambda r: r.metrics["bits_per_byte"])
    out = export(run.path, tmp_path / "out")
    known = json.loads((out / PROVENANCE).read_text())
    assert known["trial"]["key"] == best.key
    assert known["reason"].startswith("best text.bits_per_byte (")
    assert "of 2 finished trials; text before other tasks" in known["reason"]
    assert (out / "memory_miras.py").read_text().endswith("# of the run\n")
    card = (out / "README.md").read_text()
    for word in (
        best.key,
        known["reason"],
        "gated-deltanet",
        best.hashes["train"],
        "torch ",
        "trust_remote_code=True",
        "256 tokens",
    ):
        assert word in card
    assert json.loads((out / "config.json").read_text())["document_token_id"] == 0
    saved = checkpoint.read(run.trial(best.key))
    assert saved is not None
    weights = load_file(out / "model.safetensors")
    for name, value in saved.model().items():
        assert torch.equal(weights[f"model.{name}"], value)


def test_by_key_and_by_its_first_digits(make: Make, tmp_path: Path) -> None:
    run = make(("text", "ok"), ("mqar", "ok"), ("text", "timeout"))
    _, other, late = rows(run)
    out = export(run.path, tmp_path / "out", key=other.key[:9])
    assert json.loads((out / PROVENANCE).read_text())["trial"]["key"] == other.key
    assert not (out / "tokenizer.json").exists()
    assert json.loads((out / "generation_config.json").read_text()) == {}
    with pytest.raises(ExportError, match="did not finish \\(timeout: because\\)"):
        export(run.path, tmp_path / "no", key=late.key)
    with pytest.raises(ExportError, match="no trial has key 'zz'") as caught:
        export(run.path, tmp_path / "no", key="zz")
    assert other.key in str(caught.value)
    with pytest.raises(ExportError, match="3 trials have key ''"):
        export(run.path, tmp_path / "no", key="")
    assert not (tmp_path / "no").exists()


def test_best_of_a_task_without_text(make: Make) -> None:
    run = make(("mqar", "ok"), ("mqar", "ok"), ("text", "error"))
    record, reason = choose(run, space_of(run))
    assert record.metrics["accuracy"] == max(r.metrics["accuracy"] for r in rows(run)[:2])
    assert "mqar.accuracy" in reason
    assert "text before" not in reason


def test_second_best_if_the_best_is_gone(make: Make) -> None:
    run = make(("text", "ok"), ("text", "ok"))
    best, _ = choose(run, space_of(run))
    checkpoint.remove(run.trial(best.key))
    second, reason = choose(run, space_of(run))
    assert second.key != best.key
    assert "1 better have no checkpoint" in reason
    with pytest.raises(ExportError, match="has no checkpoint"):
        export(run.path, run.path / "out", key=best.key)


def test_nothing_to_export(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        export(tmp_path / "none", tmp_path / "out")
    run = make()
    with pytest.raises(ExportError, match="no trial has ended yet"):
        export(run.path, tmp_path / "out")


def test_no_trial_finished(make: Make, tmp_path: Path) -> None:
    run = make(("text", "diverged"), ("text", "oom"), ("mqar", "oom"))
    with pytest.raises(ExportError, match="none of its 3 trials finished \\(1 diverged, 2 oom\\)"):
        export(run.path, tmp_path / "out")


def test_no_checkpoint_is_left(make: Make, tmp_path: Path) -> None:
    run = make(("text", "ok"), keep=False)
    with pytest.raises(ExportError, match="no checkpoint of its 1 finished trials is left") as caught:
        export(run.path, tmp_path / "out")
    assert "trials/KEY" in str(caught.value)


def test_a_damaged_checkpoint(make: Make, tmp_path: Path) -> None:
    run = make(("text", "ok"))
    (run.trial(rows(run)[0].key) / checkpoint.WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ExportError, match="is no checkpoint"):
        export(run.path, tmp_path / "out")


def test_the_tokenizer_of_the_trial(make: Make, words: Path) -> None:
    run = make(("text", "ok"), more=", tokenizer: bpe, bpe_vocab: 300")
    task = next(t for t in space_of(run).tasks if isinstance(t, Text))
    record = rows(run)[0]
    known = tokenizer(task, record)
    assert known is not None
    assert hashlib.sha256(known.encode()).hexdigest()[:16] == record.hashes["tokenizer"]
    changed = task.model_copy(update={"bpe_vocab": 290})
    with pytest.raises(ExportError, match="not the one that the trial was trained with"):
        tokenizer(changed, record)


def test_bytes_need_no_text() -> None:
    assert tokenizer(Text(source="/gone.txt")) == byte_tokenizer().json


def test_sample_needs_a_text_export(exports: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is no exported model"):
        sample(tmp_path, "a", 1)
    with pytest.raises(ExportError, match="has no tokenizer"):
        sample(exports / SPECIAL, "a", 1)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(6))
def test_every_named_design(batch: int, tmp_path: Path) -> None:
    names = list(named.MODELS)[batch::6]
    found = probe([put(tmp_path / name, tiny(name), 3) for name in names], tmp_path, "all")
    for name in names:
        result = found["folders"][name]
        assert max(result[key] for key in ("full", "steps", "pad left", "pad right", "pad middle", "again")) < 1e-4, (
            name
        )
        assert result["cache equals none"], name
        assert result["beams"], name
        assert result["text"]["pipeline"], name
        assert result["left padding"], name
        assert result["checkpointing"] <= 1e-6, name


@pytest.mark.slow
def test_sample_writes_text(exports: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom miras_search.export import sample\n"
        "one, two = (sample(sys.argv[1], 'a b', 20, seed=s) for s in (0, 0))\n"
        "assert one == two and one.startswith('a b') and len(one) > 3, (one, two)\n"
        "assert sample(sys.argv[1], 'a b', 20, temperature=0).startswith('a b')\n"
        "assert isinstance(sample(sys.argv[1], '', 5), str)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(exports / "yaad")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
