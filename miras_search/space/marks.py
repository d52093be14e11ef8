"""YAML 1.2 with places: every value knows its file, line and column, so that an error can point at it.

Read with ruamel.yaml's composer, which marks every node: 1e-3 is a number, `yes` is a word, and a key that stands
twice is an error. Values from `--set` are parsed by the same rules and point into the option's own text.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from miras_search.errors import SpaceError

Scalar = str | int | float | bool | None
Step = str | int

SHOWN = 10
"""Problems listed before the rest is only counted: what fits on a screen."""
_WIDTH = 100
_NODES = 100_000
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Source:
    """A text and the name by which errors call it."""

    name: str
    text: str

    def line(self, number: int) -> str:
        """The line of that number, from 0; empty past the end."""
        lines = self.text.splitlines()
        return lines[number] if number < len(lines) else ""


@dataclass(frozen=True)
class Mark:
    """A place in a source; line and column count from 0, and are printed from 1."""

    source: Source
    line: int
    column: int

    @property
    def where(self) -> str:
        """`file:line:column`."""
        return f"{self.source.name}:{self.line + 1}:{self.column + 1}"

    def excerpt(self) -> str:
        """The line with a caret under the place; a long line is cut to a window around it."""
        text, column = self.source.line(self.line).replace("\t", " "), self.column
        if len(text) > _WIDTH:
            start = max(0, min(column - _WIDTH // 2, len(text) - _WIDTH))
            text, column = text[start : start + _WIDTH], column - start
        gutter = f"{self.line + 1:>5} | "
        return f"{gutter}{text}\n{' ' * (len(gutter) - 2)}| {' ' * column}^"


@dataclass
class Node:
    """A YAML value with the place where it starts and, inside a mapping, the place of its key."""

    mark: Mark
    value: Scalar | list[Node] | dict[str, Node]
    key: Mark | None = None

    @property
    def name_mark(self) -> Mark:
        """The place of the key, or of the value where there is none."""
        return self.key or self.mark

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {name: node.plain() for name, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, loc: Iterable[Step]) -> Node:
        """The deepest node on a path; parts that no node has (a union's tag, a missing key) are skipped."""
        node = self
        for part in loc:
            inside = node.value
            if isinstance(inside, dict) and part in inside:
                node = inside[str(part)]
            elif isinstance(inside, list) and isinstance(part, int) and part < len(inside):
                node = inside[part]
        return node


class Problems:
    """Errors gathered while a space is read, so that all are told at once."""

    def __init__(self) -> None:
        self.found: list[tuple[Mark, str, str | None]] = []

    def add(self, mark: Mark, message: str, hint: str | None = None) -> None:
        """Note a problem at a place; the same one twice counts once."""
        if (mark, message, hint) not in self.found:
            self.found.append((mark, message, hint))

    def check(self) -> None:
        """Raise what was gathered, in the order of the file.

        Raises:
            SpaceError: if there is any problem; the first `SHOWN` in full, the rest counted.
        """
        if not self.found:
            return
        found = sorted(self.found, key=lambda p: (p[0].source.name, p[0].line, p[0].column))
        (mark, message, hint), *more = found[:SHOWN]
        texts = [f"{message}\n{mark.excerpt()}" + (f"\n  {hint}" if hint else "")]
        texts += [f"{m.where}: {text}\n{m.excerpt()}" + (f"\n  {h}" if h else "") for m, text, h in more]
        if len(found) > SHOWN:
            texts.append(f"and {len(found) - SHOWN} more")
        raise SpaceError("\n".join(texts), where=mark.where)


def fail(mark: Mark, message: str, hint: str | None = None) -> SpaceError:
    """One problem as an error, to be raised at once."""
    problems = Problems()
    problems.add(mark, message, hint)
    try:
        problems.check()
    except SpaceError as error:
        return error
    raise AssertionError


def nearest(word: object, known: Iterable[str]) -> str:
    """`did you mean huber?`, or all the known words where none is near."""
    words = list(known)
    cutoff = 0.5 if len(str(word)) <= 3 else 0.6  # in a short word, two letters exchanged are half of it
    near = difflib.get_close_matches(str(word), words, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]}?"
    return f"one of {', '.join(words)}" if words else "none is known"


def read(source: Source, text: str | None = None) -> Node:
    """Parse a text.

    Args:
        source: what errors show.
        text: what is parsed, if that is not all of the source; its places must be those of the source.

    Raises:
        SpaceError: if it is not one YAML document of plain values with keys that are unique words.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(source.text if text is None else text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(source, mark.line, mark.column) if mark else Mark(source, 0, 0)
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise fail(place, f"not YAML: {what}", "indent with spaces" if "\\t" in what else None) from None
    except ReaderError as error:
        before = source.text[: error.position]
        place = Mark(source, before.count("\n"), len(before) - before.rfind("\n") - 1)
        raise fail(place, f"not text: control character {error.character:#04x}") from None
    except YAMLError as error:
        raise fail(Mark(source, 0, 0), f"not YAML: {error}") from None
    except RecursionError:
        raise fail(Mark(source, 0, 0), "nested too deeply to be a space") from None
    if root is None:
        hint = "a space has at least design:, tasks: and budget:"
        raise SpaceError("the file is empty", where=source.name, hint=hint)
    return _Converter(source, yaml).node(root)


class _Converter:
    def __init__(self, source: Source, yaml: YAML) -> None:
        self.source, self.yaml, self.open, self.count = source, yaml, set[int](), 0

    def mark(self, raw: Any) -> Mark:
        return Mark(self.source, raw.start_mark.line, raw.start_mark.column)

    def node(self, raw: Any, key: Mark | None = None) -> Node:
        mark = self.mark(raw)
        self.count += 1
        if id(raw) in self.open:
            raise fail(mark, "an alias that contains itself")
        if self.count > _NODES:
            raise fail(mark, f"more than {_NODES} values", "aliases of aliases grow fast")
        self.open.add(id(raw))
        try:
            if isinstance(raw, ScalarNode):
                return Node(mark, self.scalar(raw, mark), key)
            if raw.tag not in (_TAG + "map", _TAG + "seq"):
                raise fail(mark, f"tag {raw.tag} is not used in a space", "leave the tag out")
            if isinstance(raw, SequenceNode):
                return Node(mark, [self.node(item) for item in raw.value], key)
            return Node(mark, self.mapping(raw), key)
        finally:
            self.open.discard(id(raw))

    def mapping(self, raw: MappingNode) -> dict[str, Node]:
        fields: dict[str, Node] = {}
        for name, value in raw.value:
            place = self.mark(name)
            if not isinstance(name, ScalarNode):
                raise fail(place, "a key must be a word")
            if name.tag == _TAG + "merge":
                raise fail(place, "<< (merge) is not part of YAML 1.2", "write the keys out")
            if name.value in fields:
                first = fields[name.value].name_mark
                raise fail(place, f"key {name.value} stands twice, first in line {first.line + 1}", "keep one of them")
            fields[name.value] = self.node(value, place)
        return fields

    def scalar(self, raw: ScalarNode, mark: Mark) -> Scalar:
        kind = str(raw.tag).removeprefix(_TAG)
        if kind not in ("null", "bool", "int", "float"):
            if kind not in ("str", "timestamp", "value", "merge"):
                raise fail(mark, f"tag {raw.tag} is not used in a space", "leave the tag out")
            return str(raw.value)
        try:
            value: Scalar = self.yaml.constructor.construct_object(raw)
        except (ValueError, YAMLError):
            raise fail(mark, f"{raw.value!r} is no {kind}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise fail(mark, f"{raw.value} is not a finite number")
        return value


_PATH = re.compile(r"[A-Za-z_][\w-]*(?:\[\d+\])*(?:\.[A-Za-z_][\w-]*(?:\[\d+\])*)*")


def parse_override(text: str) -> tuple[list[Step], Node]:
    """Split `tasks[0].pairs=4` into its steps and its value.

    Raises:
        SpaceError: if there is no `=`, the path is none, or the value is not YAML.
    """
    source = Source("--set", text)
    start = Mark(source, 0, 0)
    path, equals, _ = text.partition("=")
    if not equals:
        raise fail(start, f"{text!r} sets nothing", "write --set PATH=VALUE, for example --set budget.tokens=1e5")
    if not _PATH.fullmatch(path.strip()):
        raise fail(start, f"{path!r} is no path", "a path looks like tasks[0].pairs or design.bias[1].p")
    steps: list[Step] = [int(i) if i else word for i, word in re.findall(r"\[(\d+)\]|([A-Za-z_][\w-]*)", path)]
    padded = " " * (len(path) + 1) + text[len(path) + 1 :]
    node = read(source, padded) if padded.strip() else Node(start, None)
    return steps, Node(node.mark, node.value, start)


def override(root: Node, steps: Sequence[Step], new: Node) -> None:
    """Put `new` at a path of the tree. Keys that are missing are made; whether they are known is checked later.

    A bare name becomes `{kind: name}` on the way, and the kind itself may stand in the path, as it does in the names of
    parameters (`bias[1].lp.p`).

    Raises:
        SpaceError: if the path leads into a number, or past the end of a list.
    """
    node, walked = root, ""
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        inside = node.value
        if isinstance(step, int):
            if isinstance(inside, dict) and set(inside) == {"choice"}:
                node = inside["choice"]
                inside = node.value
            if not isinstance(inside, list):
                raise fail(new.name_mark, f"{walked} is no list", f"write {walked} without [{step}]")
            if step >= len(inside):
                raise fail(new.name_mark, f"{walked} has {len(inside)} entries, counted from 0: there is no [{step}]")
            walked += f"[{step}]"
            if last:
                inside[step] = new
            node = inside[step]
            continue
        if inside is None:
            node.value = inside = {}
        elif isinstance(inside, str):
            node.value = inside = {"kind": Node(node.mark, inside, node.key)}
        if isinstance(inside, list):
            hint = f"write {walked}[0].{step}, up to {walked}[{len(inside) - 1}].{step}"
            raise fail(new.name_mark, f"{walked} is a list", hint)
        if not isinstance(inside, dict):
            raise fail(new.name_mark, f"{walked} is {inside!r} and has no {step}")
        kind = inside.get("kind")
        if not last and step not in inside and kind is not None and kind.value == step:
            continue
        walked += f".{step}" if walked else step
        if last:
            inside[step] = new
        node = inside.setdefault(step, Node(new.name_mark, {}, new.name_mark))
