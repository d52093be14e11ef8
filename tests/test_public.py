"""The public surface, pinned; and what a bare import costs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import miras_search
from miras_search import errors


def test_all() -> None:
    assert miras_search.__all__ == [
        "Candidate",
        "Design",
        "MirasError",
        "Space",
        "__version__",
        "emit",
        "layer",
        "load_results",
        "load_steps",
    ]
    assert dir(miras_search) == sorted(miras_search.__all__)


@pytest.mark.parametrize("name", [n for n in miras_search.__all__ if n != "__version__"])
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    found = getattr(miras_search, name)
    assert (found.__doc__ or "").strip()


def test_the_wheel_holds_every_package() -> None:
    root = Path(__file__).resolve().parents[1]
    folders = {str(p.parent.relative_to(root)).replace("/", ".") for p in (root / "miras_search").rglob("*.py")}
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert listed == sorted(folders | {"miras_search.spaces"})


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'miras_search' has no attribute 'layers'"):
        _ = miras_search.layers


def test_the_version_is_that_of_the_distribution() -> None:
    assert miras_search.__version__ == version("miras-search")
    text = (Path(__file__).resolve().parents[1] / "CHANGELOG.md").read_text()
    assert re.search(rf"^## .*{re.escape(miras_search.__version__)}", text, re.MULTILINE)


def test_a_bare_import_loads_nothing_else() -> None:
    """Counted in modules, not in seconds: those of this package, and none from outside the standard library."""
    code = (
        "import sys; before = set(sys.modules); import miras_search; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(m for m in new if m not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['miras_search']"


def test_errors_are_one_tree_with_where_and_hint() -> None:
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.MirasError)]
    assert {e.__name__ for e in kinds} >= {"SpaceError", "DesignError", "MatchError", "TaskError", "RunError"}
    error = errors.SpaceError("no such key: 'biass'", where="a.yaml:3:5", hint="did you mean 'bias'?")
    assert str(error) == "a.yaml:3:5: no such key: 'biass'\n  did you mean 'bias'?"
    assert str(errors.MissingExtra("datasets", "hf")).endswith("pip install 'miras-search[hf]'")
    assert all(e.exit_code == 2 for e in kinds)
