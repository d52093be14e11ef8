"""Edits on source text, guided by its syntax tree: comments and layout survive.

`fold` decides every `if` whose test names only constants, keeps the branch that runs, and drops what follows a return.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any


class Edit:
    """Replace the text of a node; positions are bytes, as in `ast`."""

    def __init__(self, source: str) -> None:
        self.lines = [line.encode() for line in source.split("\n")]
        starts = [0]
        for line in self.lines:
            starts.append(starts[-1] + len(line) + 1)
        self.starts = starts
        self.data = source.encode()
        self.changes: list[tuple[int, int, bytes]] = []

    def text(self, node: ast.expr) -> str:
        """The node's own text."""
        return self.data[slice(*self.span(node))].decode()

    def span(self, node: ast.expr) -> tuple[int, int]:
        """First and last byte."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def replace(self, node: ast.expr, text: str) -> None:
        """Schedule a replacement; those of nested nodes must not overlap."""
        self.changes.append((*self.span(node), text.encode()))

    def done(self) -> str:
        """The text with all replacements."""
        data = self.data
        for start, end, text in sorted(self.changes, reverse=True):
            data = data[:start] + text + data[end:]
        return data.decode()


def static(test: ast.expr, constants: Mapping[str, Any]) -> bool | None:
    """The value of a test made of constants alone, or whose first part decides it; None if it is decided at run time."""
    if isinstance(test, ast.BoolOp):
        first = static(test.values[0], constants)
        if first is not None and first == isinstance(test.op, ast.Or):
            return first
    names = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
    if any(isinstance(n, (ast.Call, ast.Attribute, ast.Subscript)) for n in ast.walk(test)) or not names <= set(
        constants
    ):
        return None
    return bool(eval(compile(ast.Expression(test), "<fold>", "eval"), {"__builtins__": {}}, dict(constants)))


def fold(source: str, constants: Mapping[str, Any]) -> str:
    """Decide all static `if`s (statements and expressions) and drop what a return makes unreachable."""
    return _fold(source, tuple((name, constants[name]) for name in _names(source) if name in constants))


@lru_cache(maxsize=4096)
def _names(source: str) -> tuple[str, ...]:
    """What a text mentions: only these constants can change how it folds, so that designs share most folds."""
    return tuple(sorted({n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}))


@lru_cache(maxsize=4096)
def _fold(source: str, given: tuple[tuple[str, Any], ...]) -> str:
    constants = dict(given)
    while True:
        new = _fold_once(source, ast.parse(source), constants)
        if new is None:
            return source
        source = new


def _blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                yield block


def _fold_once(source: str, tree: ast.Module, constants: Mapping[str, Any]) -> str | None:
    lines = source.split("\n")
    for block in _blocks(tree):
        for i, node in enumerate(block):
            if isinstance(node, (ast.Return, ast.Raise)) and i + 1 < len(block):
                last = block[-1].end_lineno
                assert node.end_lineno is not None
                assert last is not None
                return "\n".join(lines[: node.end_lineno] + lines[last:])
            if isinstance(node, ast.If):
                value = static(node.test, constants)
                if value is not None:
                    return _fold_if(lines, node, value, alone=len(block) == 1)
    for choice in ast.walk(tree):
        if isinstance(choice, ast.IfExp):
            value = static(choice.test, constants)
            if value is not None:
                edit = Edit(source)
                branch = choice.body if value else choice.orelse
                text = edit.text(branch)
                edit.replace(choice, f"({text})" if isinstance(branch, (ast.BinOp, ast.BoolOp, ast.Compare)) else text)
                return edit.done()
    return None


def _fold_if(lines: list[str], node: ast.If, value: bool, alone: bool) -> str:
    assert node.end_lineno is not None
    start, end = node.lineno - 1, node.end_lineno
    indent = " " * node.col_offset
    body_end = node.body[-1].end_lineno
    assert body_end is not None
    if value:
        kept = lines[_after_header(lines, node) : body_end]
    elif not node.orelse:
        kept = []
    else:
        marker = body_end
        while not lines[marker].startswith((f"{indent}else:", f"{indent}elif ")):
            marker += 1
        if lines[marker].startswith(f"{indent}elif "):
            word = "elif" if lines[start].startswith(f"{indent}elif ") else "if"
            kept = [f"{indent}{word} {lines[marker][len(indent) + 5 :]}", *lines[marker + 1 : end]]
            return "\n".join(lines[:start] + kept + lines[end:])
        kept = lines[marker + 1 : end]
    if lines[start].startswith(f"{indent}elif ") and kept:
        # What is left of an `elif` after an `if` of run time: its `else`.
        return "\n".join([*lines[:start], f"{indent}else:", *kept, *lines[end:]])
    kept = [line[4:] if line.startswith(indent + "    ") else line for line in kept]
    if not kept and alone and not lines[start].startswith(f"{indent}elif "):
        kept = [f"{indent}pass"]
    return "\n".join(lines[:start] + kept + lines[end:])


def _after_header(lines: list[str], node: ast.If) -> int:
    """Index of the first line after `if ...:`, comments of the body included."""
    assert node.test.end_lineno is not None
    line = node.test.end_lineno - 1
    while not lines[line].split("#")[0].rstrip().endswith(":"):
        line += 1
    return line + 1
