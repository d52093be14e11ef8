"""A user's own variants and tasks: a Python file that ends, like ours, with `VARIANTS = register(...)`.

    miras-search sweep space.yaml --plugin my_bias.py

The file is run once a process; then its classes stand beside the built-in ones in spaces, schema and samplers. It is
run as code: load only files that you trust.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from miras_search import candidate, choice, design
from miras_search.algorithm import Algorithm
from miras_search.bias import Bias
from miras_search.choice import Choice
from miras_search.errors import DesignError, MirasError
from miras_search.memory import Memory
from miras_search.retention import Retention

_FOOT = "end the file with VARIANTS = register(MyClass), from miras_search.choice"
_BASES: dict[str, type[Choice]] = {c.role: c for c in (Memory, Bias, Retention, Algorithm)}
_loaded: dict[Path, tuple[str, ModuleType]] = {}


def load(path: str | Path) -> ModuleType:
    """Run a plug-in file and take in what it registers. The same unchanged file again does nothing.

    Args:
        path: a `.py` file.

    Returns:
        The module.

    Raises:
        DesignError: if the file cannot be read or run (with its line), registers nothing, or takes a kind that is
            taken. What it registered before failing is forgotten.
    """
    file = Path(path).expanduser().resolve()
    text = _text(file, str(path))
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    if file in _loaded:
        known, module = _loaded[file]
        if known == mark:
            return module
        raise DesignError("the plug-in changed after it was loaded", where=str(path), hint="start a new process")
    before = {role: dict(kinds) for role, kinds in choice._REGISTRY.items()}
    name = f"miras_search_plugin_{file.stem}_{mark}"
    try:
        module = _run(file, str(path), name)
        _check(before, str(path))
        _rebuild()
    except BaseException:
        choice._REGISTRY.clear()
        choice._REGISTRY.update(before)
        sys.modules.pop(name, None)
        _rebuild()
        raise
    _loaded[file] = (mark, module)
    return module


def _text(file: Path, shown: str) -> str:
    if file.is_dir():
        raise DesignError("is a folder, not a plug-in", where=shown, hint="name a .py file")
    if file.suffix != ".py":
        raise DesignError("is not a .py file", where=shown, hint=_FOOT)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DesignError("is not UTF-8 text", where=shown) from None
    except OSError as error:
        raise DesignError(f"cannot be read: {error.strerror}", where=shown) from None


def _run(file: Path, shown: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic and inspect look a class up by its module's name
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{shown}:{error.lineno}:{error.offset}"
        raise DesignError(f"is not Python: {error.msg}", where=where) from None
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        where = f"{shown}:{lines[-1]}" if lines else shown
        if isinstance(error, MirasError):
            raise DesignError(error.message, where=where, hint=error.hint) from None
        raise DesignError(f"{type(error).__name__}: {error}", where=where) from error
    return module


def _check(before: dict[str, dict[str, type[Choice]]], shown: str) -> None:
    """Refuse a file that added nothing, or something that is no variant."""
    added = [
        (role, kind, cls)
        for role, kinds in choice._REGISTRY.items()
        for kind, cls in kinds.items()
        if before.get(role, {}).get(kind) is not cls
    ]
    if not added:
        raise DesignError("the plug-in registers nothing", where=shown, hint=_FOOT)
    for role, kind, cls in added:
        if role == "task":
            continue
        if role not in _BASES:
            raise DesignError(
                f"{cls.__name__} has role {role!r}",
                where=shown,
                hint=f"derive it from {', '.join(b.__name__ for b in _BASES.values())} or Task",
            )
        if not issubclass(cls, _BASES[role]):
            base = _BASES[role]
            hint = f"derive it from {base.__module__}.{base.__name__}"
            raise DesignError(f"{role} {kind} is no {base.__name__}", where=shown, hint=hint)


def _rebuild() -> None:
    """Models that hold a variant learn of the new ones. Spaces look variants up when they are read."""
    design.rebuild()
    candidate.rebuild()
