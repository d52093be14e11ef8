"""Filter, sort and pick columns of a table of trials by an expression: a closed subset of Python, evaluated by column.

    query(frame, "bias == 'huber' and accuracy > 0.9", sort="-accuracy", columns=["label", "bias.p", "accuracy"])
    query(frame, "bias.p in (2, 3) and not label and optimiser.lr * backbone.width < 1")
    query(frame, "bias.p is not None")

Names are columns, dots included (`bias.p`); other spellings go in backticks. A comparison with an empty cell is false;
`is None` asks for empty cells. Nothing is executed: names, numbers, texts, lists, comparisons, `and or not` and
`+ - * / // % **` are all there is.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from miras_search.errors import RunError

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_QUOTED = re.compile(r"`([^`]*)`")


def query(
    frame: pd.DataFrame,
    expr: str | None = None,
    sort: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The rows for which `expr` holds, in the order of `sort`, with these columns.

    Args:
        frame: a table of trials or steps.
        expr: see the module; None: all rows.
        sort: column or columns; a leading `-` sorts downwards. Empty cells come last; equal rows keep their order.
        columns: which, in this order; None: all.

    Raises:
        RunError: for an expression that cannot be read, a column that there is not, or a comparison of text with a
            number; names the part and the nearest column.
    """
    rows = frame
    if expr is not None and expr.strip():
        rows = frame[_evaluate(frame, expr)]
    if sort:
        names = [sort] if isinstance(sort, str) else list(sort)
        keys = [column(frame, name.removeprefix("-")) for name in names]
        rows = rows.sort_values(
            keys, ascending=[not n.startswith("-") for n in names], kind="stable", na_position="last"
        )
    if columns is not None:
        rows = rows[[column(frame, name) for name in columns]]
    return rows.reset_index(drop=True)


def column(frame: pd.DataFrame, name: str) -> str:
    """The name itself, if the table has that column.

    Raises:
        RunError: if it has not; says which is nearest.
    """
    if name in frame.columns:
        return name
    known = list(frame.columns)
    near = difflib.get_close_matches(name, known, n=1) or [c for c in known if c.split(".")[-1] == name][:1]
    raise RunError(
        f"there is no column {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"the columns are {', '.join(known)}",
    )


def _evaluate(frame: pd.DataFrame, expr: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    quoted: dict[str, str] = {}

    def stand_in(match: re.Match[str]) -> str:
        quoted[f"_quoted{len(quoted)}_"] = match[1]
        return f"_quoted{len(quoted) - 1}_"

    where = f"query {expr!r}"
    try:
        tree = ast.parse(_QUOTED.sub(stand_in, expr.strip()), mode="eval").body
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        assigns = re.search(r"(?<![=!<>])=(?!=)", expr)
        hint = "equality is `==`" if assigns else "for example: bias == 'huber' and accuracy > 0.9"
        raise RunError(f"cannot be read: {reason}", where=where, hint=hint) from None
    try:
        return _Evaluator(frame, quoted).truth(tree)
    except RunError as error:
        raise RunError(error.message, where=where, hint=error.hint) from None


class _Evaluator:
    """One pass over the syntax tree; values are columns or constants."""

    def __init__(self, frame: pd.DataFrame, quoted: dict[str, str]) -> None:
        self.frame, self.quoted = frame, quoted

    def truth(self, node: ast.expr) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The rows for which the node holds; an empty cell, an empty text and 0 do not."""
        if isinstance(node, ast.BoolOp):
            parts = [self.truth(value) for value in node.values]
            together = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return np.asarray(together.reduce(parts))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.truth(node.operand)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            links = [self.compare(a, op, b) for a, op, b in zip(sides[:-1], node.ops, sides[1:], strict=True)]
            return np.asarray(np.logical_and.reduce(links))
        value = self.value(node)
        if not isinstance(value, pd.Series):
            return np.full(len(self.frame), bool(value))
        blank = 0 if _is_number(value) else ""
        return self.bare(value.fillna(blank) != blank)

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> np.ndarray[Any, np.dtype[np.bool_]]:
        a, b = self.value(left), self.value(right)
        if isinstance(op, (ast.In, ast.NotIn)):
            if not (isinstance(a, pd.Series) and isinstance(b, (list, tuple))):
                raise RunError(f"`{ast.unparse(right)}` is no list", hint="for example: bias in ('l2', 'huber')")
            inside = a.isin(list(b)).to_numpy(dtype=bool)
            return inside if isinstance(op, ast.In) else ~inside & a.notna().to_numpy(dtype=bool)
        if a is None or b is None:
            known = b if a is None else a
            if not isinstance(known, pd.Series):
                known = pd.Series([known] * len(self.frame), dtype=object)
            empty = known.isna().to_numpy(dtype=bool)
            return empty if isinstance(op, (ast.Is, ast.Eq)) else ~empty
        if type(op) not in _COMPARE:
            raise RunError("`is` asks for empty cells only", hint="use `is None`, `is not None`, or ==")
        for one, other in ((a, b), (b, a)):
            if isinstance(one, pd.Series) and not isinstance(other, pd.Series):
                self.same_type(one, other)
        try:
            result = _COMPARE[type(op)](a, b)
        except TypeError:
            raise RunError(
                f"`{ast.unparse(left)}` and `{ast.unparse(right)}` cannot be compared",
                hint="compare text with text, numbers with numbers",
            ) from None
        if not isinstance(result, pd.Series):
            return np.full(len(self.frame), bool(result))
        present = [side.notna().to_numpy(dtype=bool) for side in (a, b) if isinstance(side, pd.Series)]
        return np.asarray(np.logical_and.reduce([self.bare(result), *present]))

    def same_type(self, series: pd.Series[Any], constant: Any) -> None:
        """Raises RunError where text is held against a number, which would only ever be false."""
        text = not (_is_number(series) or pd.api.types.is_datetime64_any_dtype(series.dtype))
        number = isinstance(constant, (bool, int, float))
        if text == number and not (isinstance(constant, str) and pd.api.types.is_datetime64_any_dtype(series.dtype)):
            shown = ", ".join(map(repr, series.dropna().unique()[:4])) or "empty"
            raise RunError(
                f"column {series.name!r} holds {'text' if text else 'numbers'}, "
                f"{constant!r} is {'a number' if number else 'text'}",
                hint=f"its values are {shown}",
            )

    def value(self, node: ast.expr) -> Any:
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = ast.unparse(node)
            return self.frame[column(self.frame, self.quoted.get(name, name))]
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (bool, int, float, str))):
            return node.value
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return [self.value(item) for item in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self.arithmetic(operator.sub, ast.Constant(0), node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return self.arithmetic(_ARITHMETIC[type(node.op)], node.left, node.right)
        if isinstance(node, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
            return pd.Series(self.truth(node), index=self.frame.index)
        raise RunError(
            f"`{ast.unparse(node)}` is not understood",
            hint="columns, numbers, 'texts', comparisons, and, or, not, in (...), + - * /",
        )

    def arithmetic(self, operation: Callable[[Any, Any], Any], left: ast.expr, right: ast.expr) -> Any:
        a, b = self.value(left), self.value(right)
        for side, node in ((a, left), (b, right)):
            if not (isinstance(side, (int, float)) or (isinstance(side, pd.Series) and _is_number(side))):
                raise RunError(f"`{ast.unparse(node)}` is no number", hint="compare it with ==, or use it in a list")
        try:
            with np.errstate(all="ignore"):
                return operation(a, b)
        except (ArithmeticError, ValueError) as error:
            raise RunError(
                f"`{ast.unparse(left)}` and `{ast.unparse(right)}`: {error}", hint="check the arithmetic"
            ) from None

    @staticmethod
    def bare(series: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """A column of truths as a plain array, empty cells false."""
        return np.asarray(series.fillna(False).to_numpy(dtype=bool))


def _is_number(series: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(series.dtype))
