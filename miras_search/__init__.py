"""Declarative architecture search over the Miras design space of online associative memories.

miras_search.layer("yaad", width=512)      a memory layer for any model
miras_search.load_results("runs/mine")     a sweep as a DataFrame
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Candidate": "candidate",
    "Design": "design",
    "MirasError": "errors",
    "Space": "space",
    "emit": "codegen.emit",
    "layer": "op",
    "load_results": "results",
    "load_steps": "results",
}
"""Public names and the modules that hold them; imported on first use, so that the package itself costs nothing."""

__all__ = ["Candidate", "Design", "MirasError", "Space", "__version__", "emit", "layer", "load_results", "load_steps"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"miras_search.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'miras_search' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
