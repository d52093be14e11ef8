"""Which module may import which: only those above it. One list, read from top to bottom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "miras_search"

LAYERS = [
    ("errors",),
    ("disk",),
    ("choice",),
    ("memory", "bias", "retention", "algorithm"),
    ("rules",),
    ("design",),
    ("named",),
    ("candidate", "tasks"),
    ("match",),
    ("plugin",),
    ("space",),
    ("reference",),
    ("codegen",),
    ("op",),
    ("trust",),
    ("decode", "model"),
    ("heads",),
    ("ledger",),
    ("runs", "checkpoint", "optimiser"),
    ("trial",),
    ("rates",),
    ("search",),
    ("results",),
    ("statistics",),
    ("sweep",),
    ("report",),
    ("compare",),
    ("export",),
    ("cli",),
]
"""A module, or a package, in the order of the pipeline; those of one line do not import one another."""

INSIDE = {
    "space": (
        "marks",
        "domain",
        "fields",
        "settings",
        "shipped",
        "grammar",
        "counting",
        "reader",
        "schema",
        "space",
        "near",
        "merging",
    ),
    "search": (
        "outcomes",
        "leaders",
        "draws",
        "chance",
        "tpe",
        "genes",
        "evolution",
        "nsga2",
        "survey",
        "samplers",
        "halving",
        "search",
        "study",
    ),
    "results": ("columns", "filter", "frames"),
    "statistics": ("intervals", "effects", "shares", "shapley", "paired", "fronts", "ranks", "winners", "finals"),
    "sweep": (
        "progress",
        "job",
        "attempt",
        "reuse",
        "shelf",
        "loggers",
        "driver",
        "inline",
        "orphans",
        "ray_tune",
        "sweep",
        "estimate",
        "single",
    ),
    "report": ("numbers", "controls", "verdicts", "advice", "findings", "figures", "wording", "tables", "document"),
    "export": ("configuration_miras", "modeling_miras", "files", "card", "folder"),
    "cli": ("overview", "tables", "compared", "inputs", "terminal", "verbs", "__main__"),
}
"""The same inside a package, one after another."""

TORCH = {
    "reference",
    "codegen",
    "op",
    "trust",
    "decode",
    "model",
    "heads",
    "checkpoint",
    "optimiser",
    "trial",
    "rates",
    "sweep",
    "export",
}
"""The only ones that may import torch, by themselves or through another, when they are imported."""
RAY = "sweep.ray_tune"
HEAVY = ("torch", "ray", "optuna", "transformers", "datasets", "triton")


def modules() -> dict[str, Path]:
    return {str(p.relative_to(ROOT).with_suffix("")).replace("/", "."): p for p in ROOT.rglob("*.py")}


def unit(module: str) -> str:
    """The entry of the list that a module belongs to: itself, or its folder."""
    return module.split(".")[0]


def imported(path: Path, top: bool = False) -> set[str]:
    """Modules of this package (as `miras_search.x`) and others that a file imports, type checking apart.

    `top`: only what is imported when the file is.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for rest in child.orelse:
                    visit(rest)
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and top:
                continue
            elif isinstance(child, ast.Import):
                found.update(a.name for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: a relative import"
                base = child.module or ""
                found.update(f"{base}.{a.name}" for a in child.names)
            else:
                visit(child)

    visit(ast.parse(path.read_text()))
    return found


NAMES = sorted(modules())
PLACE = {name: level for level, names in enumerate(LAYERS) for name in names}


def test_every_module_has_its_place() -> None:
    assert {unit(m) for m in NAMES} - {"__init__"} == set(PLACE)
    assert len(PLACE) == sum(len(names) for names in LAYERS)


@pytest.mark.parametrize("module", [m for m in NAMES if m != "__init__"])
def test_imports_point_upwards(module: str) -> None:
    """Also those inside functions: so there are no cycles."""
    own = unit(module)
    known = {unit(m) for m in NAMES}
    for name in imported(modules()[module]):
        parts = name.split(".")
        if parts[0] == "miras_search" and parts[1] in known and parts[1] != own:
            assert PLACE[parts[1]] < PLACE[own], f"{module} imports {name}"


@pytest.mark.parametrize("package", INSIDE)
def test_imports_inside_a_package_point_upwards(package: str) -> None:
    order = INSIDE[package]
    files = {m.removeprefix(f"{package}."): p for m, p in modules().items() if unit(m) == package}
    assert set(files) == {*order, "__init__"}
    for module in order:
        mine = [i.split(".")[2] for i in imported(files[module]) if i.startswith(f"miras_search.{package}.")]
        assert set(mine) <= set(order[: order.index(module)]), f"{package}.{module} imports {mine}"


def test_one_module_imports_ray() -> None:
    users = {m for m, p in modules().items() if any(i.split(".")[0] == "ray" for i in imported(p))}
    assert users == {RAY}


def _reached(module: str) -> set[str]:
    """Everything outside this package that importing a module imports."""
    files = modules()
    outside: set[str] = set()
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for found in imported(files[name], top=True):
            first, *rest = found.split(".")
            if first != "miras_search":
                outside.add(first)
                continue
            # `from miras_search.a.b import c`: a and a.b are imported, and c too if it is a module.
            for stop in range(1, len(rest) + 1):
                path = ".".join(rest[:stop])
                waiting += [m for m in (path, f"{path}.__init__") if m in files]
    return outside


@pytest.mark.parametrize("module", [m for m in NAMES if unit(m) not in TORCH])
def test_torch_stays_out(module: str) -> None:
    found = sorted(_reached(module) & {"torch", "triton", "transformers", "datasets"})
    assert found == []


@pytest.mark.parametrize("module", [m for m in NAMES if m != RAY])
def test_optional_and_slow_packages_stay_out(module: str) -> None:
    found = sorted(_reached(module) & {"ray", "optuna", "datasets"})
    assert found == []


def test_this_test_can_fail() -> None:
    assert "torch" in _reached("reference")
    assert "torch" in _reached("op")
    assert "ray" in {i.split(".")[0] for i in imported(ROOT / "sweep" / "ray_tune.py")}


@pytest.mark.parametrize(
    "module", ["space", "space.schema", "results", "search", "sweep", "ledger", "named", "report", "cli"]
)
def test_a_process_that_imports_it_has_none_of_them(module: str) -> None:
    code = f"import sys, miras_search.{module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
