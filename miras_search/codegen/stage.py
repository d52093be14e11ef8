"""A mirror map in two passes over the tiles of a matrix: the totals that it takes of the whole, and the map, from them.

What a formula takes of the whole matrix it says by `xp.total`, and tiles of whole rows can add that up one after another. The
formula is run once on symbols, which finds its totals and what is computed twice, and is written out in Triton again. One that
transposes, or takes a total of a total, has no such form.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from miras_search.choice import Choice

WIDTH = 8
"""Totals that a tile of one row holds, and so how many a map may take."""
LONG = 60
"""Characters above which an intermediate result gets a name."""


class Undivided(Exception):
    """The formula takes more of the whole matrix than sums over it."""


class _Node(NamedTuple):
    """An operation: its text, what it is done to, and the extent of its value: a number, one, a row's, or all entries."""

    text: str
    operands: tuple[int, ...]
    extent: int


NUMBER, ONE, ROW, FULL = range(4)
REDUCED = {"row_sum": ROW, "row_mean": ROW, "row_max": ROW, "total": ONE, "row_size": ONE, "total_size": ONE}


class _Graph:
    """Operations, each once."""

    def __init__(self, spelling: Mapping[str, str]) -> None:
        self.spelling, self.nodes, self.numbers = spelling, list[_Node](), dict[str, float]()
        self.known: dict[_Node, int] = {}
        self.totals: list[int] = []

    def add(self, text: str, operands: Sequence[Any] = (), extent: int | None = None) -> _Symbol:
        """The symbol of an operation."""
        symbols = [x if isinstance(x, _Symbol) else self.add(repr(x), extent=NUMBER) for x in operands]
        widest = max((self.nodes[x.index].extent for x in symbols), default=NUMBER)
        node = _Node(text, tuple(x.index for x in symbols), widest if extent is None else extent)
        if node not in self.known:
            self.known[node] = len(self.nodes)
            self.nodes.append(node)
        return _Symbol(self, self.known[node])

    def call(self, word: str, *arguments: Any) -> _Symbol:
        """A word of the dialect."""
        if word == "transpose":
            raise Undivided("it transposes")
        extents = [self.nodes[x.index].extent for x in arguments if isinstance(x, _Symbol)]
        if word in ("total", "total_size") and extents[0] < (ROW if word == "total" else FULL):
            raise Undivided(f"it takes a {word} of what is one number")
        if word == "total_size":
            return self.add("tl.full([1, 1], SIZE, tl.float32)", extent=ONE)
        found = self.add(self.spelling[word], arguments, REDUCED.get(word))
        if word == "total":
            if any(self._rests_on_totals(x.index) for x in arguments):
                raise Undivided("it takes a total of a total")
            if found.index not in self.totals:
                self.totals.append(found.index)
        return found

    def _rests_on_totals(self, index: int) -> bool:
        return index in self.totals or any(self._rests_on_totals(i) for i in self.nodes[index].operands)

    def body(self, roots: Sequence[int], picked: bool) -> tuple[list[str], list[str]]:
        """Lines of a function, and the texts of its results; `picked`: totals come as an argument."""
        uses: dict[int, int] = {}

        def visit(index: int, times: int = 1) -> None:
            seen = index in uses
            uses[index] = uses.get(index, 0) + times
            if not seen and not (picked and index in self.totals):
                node = self.nodes[index]
                for i, operand in enumerate(node.operands):
                    # A size is asked of a name.
                    visit(operand, node.text.count(f"{{{i}}}") + node.text.count(f"{{{i}}}.shape"))

        for root in roots:
            visit(root)
        lines, texts = list[str](), dict[int, str]()
        for index in sorted(uses):
            node = self.nodes[index]
            if picked and index in self.totals:
                text = f"pick_total(totals, {self.totals.index(index)})"
            else:
                text = _filled(node.text, [texts[i] for i in node.operands])
            if node.operands and index not in roots and (uses[index] > 1 or len(text) > LONG):
                name = f"x{len(lines)}"
                lines.append(f"    {name} = {_bare(text)}")
                text = name
            texts[index] = text
        return lines, [_bare(texts[i]) for i in roots]


def _filled(template: str, operands: list[str]) -> str:
    """The template with its operands, without parentheses where it has its own."""

    def fill(match: re.Match[str]) -> str:
        text = operands[int(match[1])]
        alone = template[match.start() - 1] in "( " and template[: match.start()].rstrip()[-1:] in ("(", ",")
        return _bare(text) if alone and template[match.end()] in ",)" else text

    filled = re.sub(r"\{(\d)\}", fill, template)
    return re.sub(r"(?<![\w)\]])\(([\w.]+)\)", r"\1", filled)


def _bare(text: str) -> str:
    """Without the parentheses around all of it."""
    if not text.startswith("("):
        return text
    depth = 0
    for i, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return text[1:-1] if i == len(text) - 1 else text
    return text


class _Symbol:
    """A value of the formula."""

    def __init__(self, graph: _Graph, index: int) -> None:
        self.graph, self.index = graph, index

    def __neg__(self) -> _Symbol:
        return self.graph.add("(-{0})", [self])

    def __eq__(self, other: object) -> bool:
        raise Undivided("it decides by a value")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise Undivided("it decides by a value")


def _operator(sign: str, swapped: bool = False) -> Callable[[_Symbol, Any], _Symbol]:
    def apply(self: _Symbol, other: Any) -> _Symbol:
        return self.graph.add(f"({{0}} {sign} {{1}})", [other, self] if swapped else [self, other])

    return apply


for _name, _sign in {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}.items():
    setattr(_Symbol, f"__{_name}__", _operator(_sign))
    setattr(_Symbol, f"__r{_name}__", _operator(_sign, swapped=True))
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    setattr(_Symbol, f"__{_name}__", _operator(_sign))


class _Words:
    """The dialect."""

    def __init__(self, graph: _Graph) -> None:
        self._graph = graph

    def __getattr__(self, word: str) -> Callable[..., _Symbol]:
        return lambda *arguments: self._graph.call(word, *arguments)


class _Self:
    """The variant; its numbers have names, its methods see it as it is here."""

    def __init__(self, choice: Choice, graph: _Graph) -> None:
        self._choice, self._graph = choice, graph

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._choice, name)
        if inspect.ismethod(value):
            return types.MethodType(value.__func__, self)
        if isinstance(value, float):
            number = f"{self._choice.role}_{name}".upper()
            self._graph.numbers[number] = value
            return self._graph.add(number, extent=NUMBER)
        return value


def staged(
    choice: Choice, spelling: Mapping[str, str], scaling: bool
) -> tuple[dict[str, str], dict[str, float]] | None:
    """Functions by name and the numbers they use, or None if the map has no such form or takes no totals.

    `retention_totals_tile` and `retention_totals_vjp_tile` give what a tile of rows adds to the totals of psi, and of psi and its
    pull-back; `retention_psi_part_tile`, `retention_psi_vjp_part_tile` and `retention_scale_part_tile` compute from them.
    """
    graph = _Graph(spelling)
    s, d = graph.add("s", extent=FULL), graph.add("d", extent=FULL)
    this, words = _Self(choice, graph), _Words(graph)
    try:
        roots = {"psi_part": this.psi(words, s).index}
        if scaling:
            roots["scale_part"] = this.scale(words, s).index
            if graph.nodes[roots["scale_part"]].extent > ONE:
                raise Undivided("its scale is not one number")
        forward = list(graph.totals)
        roots["psi_vjp_part"] = this.psi_vjp(words, s, d).index
    except (Undivided, TypeError):  # the second: Python's own functions, of numbers that are run-time arguments here
        return None
    if not 0 < len(graph.totals) <= WIDTH:
        return None
    out = {}
    for name, taken, wanted in (("totals", "s", forward), ("totals_vjp", "s, d", graph.totals)):
        header = f"def retention_{name}_tile({taken}, SIZE: tl.constexpr, numbers):"
        lines, results = graph.body(wanted, picked=False)
        adding = [f"    totals {'+' if i else ''}= place_total({text}, {i})" for i, text in enumerate(results)]
        out[f"retention_{name}_tile"] = "\n".join([header, *lines, *adding, "    return totals", ""])
    for name, root in roots.items():
        taken = {"psi_part": "s, ", "psi_vjp_part": "s, d, ", "scale_part": ""}[name]
        header = f"def retention_{name}_tile({taken}totals, SIZE: tl.constexpr, numbers):"
        lines, results = graph.body([root], picked=True)
        out[f"retention_{name}_tile"] = "\n".join([header, *lines, f"    return {results[0]}", ""])
    return out, graph.numbers
