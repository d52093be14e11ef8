"""The docs keep their word: links lead somewhere, files and verbs exist, snippets run, tables are those of the code."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tolerances import tolerance

from miras_search.space import Space

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("**/*.md"),
        *(ROOT / p / "README.md" for p in ("analysis", "kernels", "runs")),
    ]
)
PLUGIN = ROOT / "docs" / "examples" / "plugin_bias.py"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(
    r"(?<![\w./-])((?:miras_search|spaces|kernels|tests|benchmarks|docs|analysis|\.ci)(?:/[\w.-]+)+|[\w-]+\.toml|Makefile)(?![\w*])"
)
PLACEHOLDER = re.compile(r"NAME|KEY|\*")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(path.read_text(encoding="utf-8")) if found == language]


def python(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", code]
    return subprocess.run(
        command, cwd=folder or ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("path", DOCS, ids=ids)
def test_relative_links_lead_somewhere(path: Path) -> None:
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (path.parent / link.split("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCS, ids=ids)
def test_files_that_are_named_exist(path: Path) -> None:
    named = {
        name.rstrip(".") for name in FILE.findall(path.read_text(encoding="utf-8")) if not PLACEHOLDER.search(name)
    }
    missing = sorted(name for name in named if not (ROOT / name).exists() and not (path.parent / name).exists())
    assert not missing


def test_python_of_the_readme_runs() -> None:
    first, *rest = blocks(ROOT / "README.md", "python")
    assert all(block.startswith("# after the sweep") for block in rest), "a snippet that needs a run says so"
    same = f"whole, _ = layer(x)\nassert torch.allclose(torch.cat([y, z], 1), whole, atol={tolerance('decode')})\n"
    done = python(f"{first}\nassert y.shape == (2, 60, 512)\n{same}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "space.md"], ids=ids)
def test_spaces_in_the_docs_are_spaces(path: Path) -> None:
    texts = [text for text in blocks(path, "yaml") if "design:" in text]
    assert texts
    for text in texts:
        space = Space.from_text(text)
        assert space.size().valid
        assert space.tasks


def test_verbs_and_options_of_the_docs_exist() -> None:
    import typer
    from typer.main import get_command

    from miras_search.cli import app

    group = get_command(app)
    context = typer.Context(group)
    verbs = {name: group.get_command(context, name) for name in group.list_commands(context)}  # type: ignore[attr-defined]
    lines = [line for path in DOCS for block in blocks(path, "sh") for line in block.splitlines()]
    lines += [span for path in DOCS for span in re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8"))]
    used = [found.groups() for line in lines if (found := re.match(r"miras-search ([a-z]+)(.*)", line))]
    assert len(used) > 5
    assert {verb for verb, _ in used} <= verbs.keys()
    for verb, rest in used:
        known = {option for parameter in verbs[verb].params for option in parameter.opts}
        given = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest.split("#")[0]))
        assert given <= known | {"--help"}, f"{verb}: {given - known}"
    listed = (ROOT / "README.md").read_text(encoding="utf-8").split("The verbs are\n")[1].split("Each `--help`")[0]
    assert set(re.findall(r"`([a-z]+)`", listed)) == verbs.keys()


def test_make_targets_of_the_docs_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in DOCS:
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)) <= targets, (
            path
        )


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_code() -> None:
    module = tables()
    for name in module.FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert module.render(text) == text, f"{name} is out of date: run python docs/tables.py"
    used = [found[2] for path in DOCS for found in module.MARKED.finditer(path.read_text(encoding="utf-8"))]
    assert set(used) == set(module.TABLES)


def test_the_example_of_contributing_is_the_file() -> None:
    shown = next(block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if "class Cauchy" in block)
    assert shown in PLUGIN.read_text(encoding="utf-8")


PROOF = f"""
FORMULA = {tolerance("formula")}

import torch
from miras_search.reference import Xp

bias = type(design.bias)(c=0.7)
r, v, d = (torch.randn(5, 6, dtype=torch.float64, requires_grad=True) for _ in range(3))
delta = torch.ones(5, 1, dtype=torch.float64)
phi = bias.phi(Xp, r, v, delta)
(slope,) = torch.autograd.grad(bias.loss(Xp, r, v, delta).sum(), r)
(pulled,) = torch.autograd.grad(phi, r, d)
assert torch.allclose(phi, slope, rtol=0, atol=FORMULA)
assert torch.allclose(bias.phi_vjp(Xp, r, v, delta, d)[0], pulled, rtol=0, atol=FORMULA)
"""

TRAINED = """
from miras_search import Candidate
from miras_search.candidate import Backbone
from miras_search.tasks import Mqar
from miras_search.trial import train

task = Mqar(pairs=2, rewrites=2, keys=8, values=8, gap=4, batch=8, validation=64)
small = Candidate(design=design, backbone=Backbone(width=16, layers=1, heads=1))
record = train(small, task, 100 * task.tokens_per_step, 0, threads=1)
assert record.status == "ok", record.cause
assert record.candidate["design"]["bias"]["kind"] == "cauchy"
assert record.metrics["nll"] < 2.5, record.metrics
"""


def test_the_example_is_right_checks_itself_and_trains() -> None:
    shown = next(block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if "plugin.load" in block)
    done = python(shown + PROOF + TRAINED)
    assert done.returncode == 0, done.stderr
    assert "ok: the fast path equals the loop" in done.stdout


def test_the_example_comes_in_at_the_command_line(tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text(
        "design:\n  memory: [matrix, mlp]\n  bias: [l2, {kind: cauchy, c: [0.5, 1]}]\n  retention: l2\n"
        "  algorithm: gradient_descent\n"
        "tasks: [mqar]\nbudget: {tokens: 1e5}\n"
    )
    command = ["validate", str(space), "--plugin", str(PLUGIN), "--json"]
    done = python(f"import sys\nfrom miras_search.cli import main\nsys.argv[1:] = {command!r}\nmain()", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cauchy" in done.stdout
