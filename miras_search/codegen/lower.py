"""From a formula of a variant to a plain function of an emitted module.

`self.flag` is decided, `self.number` becomes a named constant, `self.helper(xp, x)` becomes a function of its own, `xp.f(...)` is spelled
by the dialect. The text is the method's own, comments included.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from miras_search.choice import Choice
from miras_search.codegen.dialect import TORCH
from miras_search.codegen.fold import Edit, fold
from miras_search.errors import DesignError


@dataclass
class Lowered:
    """Functions by name, and the numbers they use by name."""

    functions: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)


def lower(
    choice: Choice, method: str, spelling: dict[str, str] = TORCH, into: Lowered | None = None, numbers: str = ""
) -> Lowered:
    """Lower one method and the helpers it calls; functions are named `ROLE_METHOD`.

    Args:
        choice: the variant.
        method: its formula.
        spelling: the dialect.
        into: where to add the functions and numbers.
        numbers: for Triton, the name of a last argument through which the numbers come; the functions are then named
            `ROLE_METHOD_tile`.

    Raises:
        DesignError: if the formula calls a function outside the dialect.
    """
    out = into if into is not None else Lowered()
    name = _name(choice, method, numbers)
    if name in out.functions:
        return out
    source = textwrap.dedent(inspect.getsource(getattr(type(choice), method)))
    _closed(choice, source)
    source = fold(_constants(choice, source, out), {})
    tree = ast.parse(source)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    body_start = definition.body[0]
    is_doc = isinstance(body_start, ast.Expr) and isinstance(body_start.value, ast.Constant)
    first = definition.body[1] if is_doc else body_start
    lines = source.split("\n")
    begin = definition.body[0].end_lineno if is_doc else first.lineno - 1
    assert begin is not None
    arguments = [a.arg for a in definition.args.args if a.arg not in ("self", "xp")]
    header = f"def {name}({', '.join([*arguments, numbers] if numbers else arguments)}):"
    body = "\n".join(lines[begin:]).rstrip()
    out.functions[name] = ""
    text = _spell(choice, f"{header}\n{body}\n", spelling, out, numbers)
    del out.functions[name]
    out.functions[name] = text
    return out


def _name(choice: Choice, method: str, numbers: str) -> str:
    return f"{choice.role}_{method}{'_tile' if numbers else ''}"


def _constants(choice: Choice, source: str, out: Lowered) -> str:
    """Replace every `self.attribute` by its value (flags) or its name (numbers)."""
    edit = Edit(source)
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"):
            continue
        value = getattr(choice, node.attr)
        if callable(value):
            continue
        if isinstance(value, float):
            constant = f"{choice.role}_{node.attr}".upper()
            out.numbers[constant] = value
            edit.replace(node, constant)
        else:
            edit.replace(node, repr(value))
    return edit.done()


def _spell(choice: Choice, source: str, spelling: dict[str, str], out: Lowered, numbers: str) -> str:
    """Spell every dialect call, innermost first."""
    while True:
        edit = Edit(source)
        calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and _owner(n) in ("xp", "self")]
        inner = [n for n in calls if not any(m is not n and m in calls for m in ast.walk(n) if isinstance(m, ast.Call))]
        if not inner:
            return source
        for call in inner:
            assert isinstance(call.func, ast.Attribute)
            word = call.func.attr
            arguments = [edit.text(a) for a in call.args]
            if _owner(call) == "self":
                lower(choice, word, spelling, out, numbers)
                passed = [*arguments[1:], numbers] if numbers else arguments[1:]
                edit.replace(call, f"{_name(choice, word, numbers)}({', '.join(passed)})")
            elif word not in spelling:
                raise DesignError(
                    f"formula {type(choice).__name__} calls xp.{word}, which is not in the dialect",
                    hint=f"use one of: {', '.join(spelling)}",
                )
            else:
                edit.replace(call, _call(spelling, word, arguments, out.numbers))
        source = edit.done()


def _call(spelling: dict[str, str], word: str, arguments: list[str], constants: Mapping[str, float]) -> str:
    if word in ("minimum", "maximum") and spelling is TORCH:
        for number, tensor in (arguments, arguments[::-1]):
            if _is_number(number, constants):
                return f"torch.clamp({tensor}, {'max' if word == 'minimum' else 'min'}={number})"
    if word in ("row_size", "total_size") and not arguments[0].isidentifier():
        arguments = [f"({arguments[0]})"]
    text = spelling[word].format(*arguments)
    return re.sub(r"(?<![\w)\]])\(([\w.]+)\)", r"\1", text) if word == "power" else text


def _is_number(text: str, constants: Mapping[str, float]) -> bool:
    """Whether an argument is made of literals and lifted numbers alone; torch.minimum wants tensors."""
    nodes = list(ast.walk(ast.parse(text, mode="eval")))
    if any(isinstance(n, (ast.Call, ast.Attribute, ast.Subscript)) for n in nodes):
        return False
    return all(n.id in constants for n in nodes if isinstance(n, ast.Name))


def _closed(choice: Choice, source: str) -> None:
    """Refuse what the dialect's spellings could not carry over: `**` and keyword arguments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            raise DesignError(
                f"formula {type(choice).__name__} uses **", hint="use xp.power(x, p), for x > 0, or x * x"
            )
        if isinstance(node, ast.Call) and node.keywords:
            raise DesignError(
                f"formula {type(choice).__name__} passes {node.keywords[0].arg}= by name", hint="pass it by position"
            )


def _owner(call: ast.Call) -> str:
    func = call.func
    return func.value.id if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) else ""
