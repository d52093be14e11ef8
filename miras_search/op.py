"""From a design to running code: the emitted module, written to a content-addressed cache and imported from there.

What is trained is what is emitted: `layer` and `model` take their classes from here, and an export copies the same text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from torch import nn

from miras_search import disk, named
from miras_search.codegen.emit import emit
from miras_search.codegen.triton_dialect import why_no_kernels
from miras_search.design import Design


def cache_folder() -> Path:
    """Where emitted modules are kept: $MIRAS_SEARCH_CACHE, or the user's cache folder."""
    given = os.environ.get("MIRAS_SEARCH_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "miras-search"


def write_module(source: str) -> Path:
    """Write a module's text under the hash of its content; a second writer of the same text changes nothing.

    A cache folder that cannot be written is replaced by one in the temporary folder.
    """
    name = f"m{hashlib.sha256(source.encode()).hexdigest()[:16]}.py"
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = os.access(folder, os.W_OK)
    except OSError:
        probe = False
    if not probe:
        folder = Path(tempfile.gettempdir()) / f"miras-search-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if not path.exists() or path.read_text() != source:
        disk.replace(path, source)
    return path


def import_module(path: Path) -> ModuleType:
    """Import a file under a name made of its own, once a process."""
    name = f"miras_search_emitted_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def calls(*designs: Design) -> dict[Design, dict[str, int]]:
    """The calls of the designs' modules in this process so far, by path; designs without kernels count none."""
    return {design: dict(getattr(load(design.canonical()), "PATHS", {})) for design in designs}


def path_taken(*designs: Design, since: Mapping[Design, Mapping[str, int]] | None = None) -> tuple[str, str]:
    """Which path the calls of the designs' modules took in this process, and why not Triton.

    Args:
        designs: one or several.
        since: what `calls` said when the counting began; default: all calls count.

    Returns:
        `triton` (all of them) or `torch`; and the reasons, of several designs each with its name.
    """
    found = {design: _path(design, (since or {}).get(design, {})) for design in designs}
    path = "torch" if any(path == "torch" for path, _ in found.values()) else "triton"
    if len(found) == 1:
        return path, next(iter(found.values()))[1]
    told = (f"{named.label(d) or d.fingerprint}: {reason}" for d, (_, reason) in found.items() if reason)
    return path, "; ".join(told)


def _path(design: Design, before: Mapping[str, int]) -> tuple[str, str]:
    counts: dict[str, int] | None = getattr(load(design.canonical()), "PATHS", None)
    if counts is None:
        return "torch", f"no Triton kernels: {why_no_kernels(design.canonical())}"
    taken = {path for path, n in counts.items() if n > before.get(path, 0)} or {"no call was counted"}
    return ("triton" if "triton" in taken else "torch"), "; ".join(sorted(taken - {"triton"}))


def source(design: Design) -> str:
    """The text of the module that `load` imports."""
    file = load(design.canonical()).__file__
    assert file is not None
    return Path(file).read_text(encoding="utf-8")


@lru_cache(maxsize=256)
def load(design: Design) -> ModuleType:
    """The emitted module of a design: `memory` (or `memory_cache`), `Layer`, `self_check`."""
    return import_module(write_module(emit(design)))


def layer(design: Design | str, width: int, heads: int | None = None) -> nn.Module:
    """A memory layer, `[batch, time, width] -> ([batch, time, width], state)`.

    Args:
        design: a design, or the name of a published one ("yaad").
        width: model dimension.
        heads: memories side by side; default: of dimension 64.

    Raises:
        DesignError: if no design has that name.
    """
    known = named.get(design) if isinstance(design, str) else design
    module: nn.Module = load(known).Layer(width, heads)
    return module
