"""From skeletons, a design's flags and its lowered formulas to one self-contained text.

Takes source segments as they stand (comments kept), decides what the flags decide, and keeps what is reachable from the entries.
Deterministic: the same inputs give the same bytes. What is read of a skeleton is read once a process: a search links it anew for
every candidate.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from miras_search.codegen.fold import fold

GUARD = "triton is not None"
"""The one test under which a skeleton may define things."""


class Definition(NamedTuple):
    """A top-level function, class or assignment; `guarded` if it stands under `if triton is not None:`."""

    name: str
    text: str
    guarded: bool = False


@lru_cache(maxsize=256)
def definitions(source: str) -> tuple[Definition, ...]:
    """The functions, classes and assignments of a module, in their order, each with the comments above it."""
    lines = source.split("\n")
    found = []
    statements: list[tuple[ast.stmt, bool]] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == GUARD:
            statements += [(inner, True) for inner in node.body]
        else:
            statements.append((node, False))
    for node, guarded in statements:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            start = min([node.lineno, *[d.lineno for d in node.decorator_list]]) - 1
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            start, name = node.lineno - 1, node.targets[0].id
        else:
            continue
        while start and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        text = "\n".join(lines[start : node.end_lineno]).replace("  # fmt: skip", "")
        found.append(Definition(name, textwrap.dedent(text), guarded))
    return tuple(found)


@lru_cache(maxsize=4096)
def names_used(definition: Definition) -> frozenset[str]:
    """Every name its text mentions, its own apart."""
    names = (n.id for n in ast.walk(ast.parse(definition.text)) if isinstance(n, ast.Name))
    return frozenset(names) - {definition.name}


@lru_cache(maxsize=256)
def imports(source: str) -> Mapping[str, str]:
    """Names that a module imports from outside this package, with the line that imports each."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                line = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                found[(alias.asname or alias.name).split(".")[0]] = line
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("miras_search"):
            for alias in node.names:
                found[alias.asname or alias.name] = f"from {node.module} import {alias.name}"
        elif isinstance(node, ast.Try):
            block = ast.get_source_segment(source, node) or ""
            names = [a.asname or a.name for n in node.body if isinstance(n, ast.Import) for a in n.names]
            found |= dict.fromkeys(names, block)
    return MappingProxyType(found)


class Linked(NamedTuple):
    """The parts of a linked module; the emitter arranges them."""

    imports: list[str]
    constants: dict[str, Any]
    definitions: list[Definition]


def link(
    sources: Iterable[str],
    entries: Iterable[str],
    constants: Mapping[str, Any],
    functions: Mapping[str, str],
) -> Linked:
    """Fold every source, add the lowered functions, keep what the entries reach.

    Args:
        sources: texts of the skeletons, in the order in which they should appear.
        entries: names to keep whatever uses them.
        constants: values of flags and numbers; those still used after folding are returned.
        functions: lowered formulas by name; they take the place of the slots.

    Raises:
        ValueError: if two sources define one name, or a used name is defined nowhere.
    """
    known: dict[str, Definition] = {}
    imported: dict[str, str] = {}
    for text in ["\n\n\n".join(functions.values()) + "\n", *sources]:
        imported |= imports(text)
        for definition in definitions(text):
            if definition.name in known:
                raise ValueError(f"{definition.name} is defined twice")
            known[definition.name] = definition
    reached: dict[str, Definition] = {}
    used: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        if name not in known:
            raise ValueError(f"{name} is used but defined nowhere")
        folded = known[name]._replace(text=fold(known[name].text, constants))
        reached[name] = folded
        mentioned = names_used(folded)
        used |= mentioned
        waiting += sorted(mentioned & set(known))
    return Linked(
        sorted({imported[u] for u in used if u in imported}),
        {name: value for name, value in constants.items() if name in used},
        [reached[name] for name in known if name in reached],
    )
