"""Emitted modules: golden, self-contained, checked, and of one text whoever emits them."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from strategies import drawn

from miras_search import op
from miras_search.codegen import golden
from miras_search.codegen.emit import emit, flags
from miras_search.codegen.fold import static
from miras_search.design import Design
from miras_search.named import NAMED

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
DRAWN = [drawn(seed, blocks=True) for seed in range(12)]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """What the generator emits, by file name."""
    return golden.golden()


def test_kernels_are_current() -> None:
    """Byte for byte; if not: `make kernels`, look at the diff, commit."""
    assert golden.stale(KERNELS) == []


def test_kernels_say_where_they_come_from() -> None:
    first = (KERNELS / "README.md").read_text().splitlines()[0]
    assert "miras_search/codegen/skeletons" in first
    assert "make kernels" in first
    assert not list(KERNELS.glob("__init__.py")), "would shadow Hugging Face's `kernels`"
    assert all(path.stem.isidentifier() for path in KERNELS.glob("*.py"))


def test_golden_names_what_differs(texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are stale, missing, or of no design."""
    monkeypatch.setattr(golden, "golden", lambda: texts)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert golden.stale(tmp_path) == []
    (tmp_path / "yaad.py").write_text("# edited\n")
    (tmp_path / "moneta.py").unlink()
    (tmp_path / "mine.py").write_text("")
    assert golden.stale(tmp_path) == ["mine.py", "moneta.py", "yaad.py"]


def test_another_process_emits_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the hash seed is."""
    done = subprocess.run(
        [sys.executable, "-m", "miras_search.codegen.golden", "--check"],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _sources() -> list[pytest.param]:  # type: ignore[valid-type]
    named = [pytest.param(e.design, id=name) for name, e in NAMED.items()]
    return named + [pytest.param(d, id=f"drawn-{d.fingerprint}") for d in DRAWN]


@pytest.mark.parametrize("design", _sources())
def test_no_decision_is_left_to_run_time(design: Design) -> None:
    """Only torch and the standard library are imported; no test on flags alone is left, and no slot is undefined."""
    source = emit(design)
    tree = ast.parse(source)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert found <= {"torch", "triton"} | sys.stdlib_module_names
    if "triton" in found:
        assert "except ImportError:" in source
    constants = flags(design.canonical())
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.IfExp)) and not isinstance(node.test, ast.Constant):
            left = static(node.test, constants)
            assert left is None, ast.unparse(node.test)
    assert "miras_search" not in source.replace("miras_search_emitted", "")
    assert "xp." not in source
    assert "self.p" not in source


def test_emitted_text_is_clean(texts: dict[str, str], tmp_path: Path) -> None:
    """No name is undefined, unused or defined twice; lines are of readable length."""
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for design in DRAWN:
        (tmp_path / f"drawn_{design.fingerprint}.py").write_text(emit(design))
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    assert ruff is not None
    done = subprocess.run(
        [ruff, "check", "--isolated", "--select", "E4,E7,E9,F,W291,W293,W605", "--ignore", "E741", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for path in tmp_path.glob("*.py"):
        text = path.read_text()
        long = [line for line in text.splitlines() if len(line) > 130]
        assert long == [], f"{path.name}: {long}"
        assert "\n\n\n\n" not in text
        assert text.endswith("\n")
        assert not text.endswith("\n\n")


@pytest.mark.parametrize("name", NAMED)
def test_self_check_passes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = op.load(NAMED[name].design)
    assert module.self_check() is True
    assert "ok: the fast path equals the loop" in capsys.readouterr().out


@pytest.mark.parametrize("design", DRAWN[:6], ids=lambda d: d.fingerprint)
def test_self_check_of_drawn_designs(design: Design) -> None:
    assert op.load(design).self_check() is True


def test_self_check_can_fail(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A wrong sign in the fast path is found."""
    source = emit(NAMED["yaad"].design)
    wrong = source.replace("du.baddbmm_(weight, keys.x[i], alpha=-1)", "du.baddbmm_(weight, keys.x[i])")
    assert wrong != source
    path = tmp_path / "wrong_yaad.py"
    path.write_text(wrong)
    assert op.import_module(path).self_check() is False
    assert "FAILED" in capsys.readouterr().out


def test_a_kernel_needs_torch_alone(tmp_path: Path) -> None:
    """Pasted anywhere, run as a script, with every other package of this environment hidden."""
    path = tmp_path / "pasted.py"
    path.write_bytes((KERNELS / "yaad.py").read_bytes())
    hidden = (
        "miras_search",
        "pydantic",
        "pandas",
        "ray",
        "optuna",
        "triton",
        "transformers",
        "rich",
        "einops",
        "scipy",
    )
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({hidden!r})); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", code, str(path)],
        cwd=tmp_path,
        env={"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: the fast path equals the loop" in done.stdout
    assert done.stderr == ""


def _kernel(name: str) -> ModuleType:
    return op.import_module(KERNELS / f"{name}.py")


def test_a_kernel_is_the_layer_that_is_trained() -> None:
    for name in ("yaad", "gated_deltanet", "softmax_attention"):
        torch.manual_seed(0)
        pasted = _kernel(name).Layer(32, 2)
        torch.manual_seed(0)
        ours = op.layer(name.replace("_", "-"), 32, 2)
        x = torch.randn(2, 9, 32)
        assert torch.equal(pasted(x)[0], ours(x)[0])


def test_the_header_says_what_it_is() -> None:
    for name, entry in NAMED.items():
        module = _kernel(golden.identifier(name))
        text = module.__doc__ or ""
        assert text.startswith(f"{name}: a memory layer generated by miras-search")
        assert entry.design.fingerprint in text
        assert Design.model_validate(module.DESIGN) == entry.design.canonical()
        assert all(word in " ".join(text.split()) for word in entry.paper.split())


def test_modules_are_cached_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRAS_SEARCH_CACHE", str(tmp_path))
    a, b = op.write_module("X = 1\n"), op.write_module("X = 2\n")
    assert a != b
    assert op.write_module("X = 1\n") == a
    a.write_text("X = 3\n")  # a torn or edited file is written anew
    assert op.write_module("X = 1\n").read_text() == "X = 1\n"
    assert {p.name for p in tmp_path.iterdir()} == {a.name, b.name}
