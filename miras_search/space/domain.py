"""What a field of a space may be: one value, a range, alternatives, or a structure of fields; and how a draw walks it.

A draw walks the domains in the order of the models' fields and asks a `Suggest` wherever something is open. What was
asked and answered is an assignment: a flat dict from parameter names to plain values. Replaying one walks the same way.

Names of parameters: the path of the field, with `[i]` (the position, from 0) where the field has alternatives and the
kind where it is a variant. Parts of the design stand without `design.`: `bias` (which alternative), `bias[1].lp.p`,
`block.conv`, `backbone.width`, `optimiser.lr`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel

from miras_search.choice import Choice
from miras_search.errors import SpaceError
from miras_search.space.marks import Mark

Assignment: TypeAlias = dict[str, Any]
"""Parameter names to plain JSON values."""
Int: TypeAlias = int
Float: TypeAlias = float
Condition: TypeAlias = tuple[tuple[str, Any], ...]


class Suggest(Protocol):
    """Who answers what a space leaves open: a sampler, a grid, a recorded assignment."""

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        """The index of one of the options; options are distinct JSON values."""
        ...

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        """A whole number in `low, low + step, ..., high`."""
        ...

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        """A number in [low, high]; in `low, low + step, ..., high` with a step, which never goes with `log`."""
        ...


@dataclass(frozen=True)
class Axis:
    """One open parameter: its name, what it may be, and when it exists.

    `condition`: pairs (parameter, option) that must all hold; empty: always. `values` are the options of a choice;
    `low`, `high` (inclusive) and `step` describe the others.
    """

    path: str
    kind: Literal["choice", "int", "float", "log_float"]
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    condition: Condition = ()

    @property
    def count(self) -> int | None:
        """Number of values; none for a continuous axis."""
        if self.kind == "choice":
            return len(self.values)
        if self.low is None or self.high is None or self.step is None:
            return None
        return round((self.high - self.low) / self.step) + 1

    def __str__(self) -> str:
        if self.kind == "choice":
            text = f"{self.path}: " + " | ".join(_show(v) for v in self.values)
        else:
            step = "" if self.step is None or (self.kind, self.step) == ("int", 1) else f" step {self.step:g}"
            text = f"{self.path}: {self.low:g} to {self.high:g} ({self.kind}{step})"
        when = " and ".join(f"{path} is {_show(value)}" for path, value in self.condition)
        return f"{text}  if {when}" if when else text


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Fixed:
    """One value, checked against its field."""

    value: Any
    mark: Mark = field(compare=False, repr=False)

    def walk(self, path: str, suggest: Suggest, out: Assignment) -> Any:
        """The value."""
        return self.value

    def axes(self, path: str, condition: Condition = ()) -> Iterator[Axis]:
        """None."""
        return iter(())

    def points(self) -> int:
        """Number of discrete points."""
        return 1

    def plain(self) -> Any:
        """As it stands in YAML."""
        return self.value


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    kind: Literal["int", "float", "log_float"]
    low: float
    high: float
    step: float | None
    mark: Mark = field(compare=False, repr=False)

    def walk(self, path: str, suggest: Suggest, out: Assignment) -> Any:
        """Ask for a number; puts it on its grid, and refuses one outside."""
        value: float
        if self.kind == "int":
            value = suggest.int(path, int(self.low), int(self.high), int(self.step or 1))
        else:
            value = suggest.float(path, self.low, self.high, self.kind == "log_float", self.step)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise SpaceError(f"{path} is {value!r}, not a number")
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        if not self.low - slack <= value <= self.high + slack:
            raise SpaceError(f"{path} is {value:g}, outside {self.low:g} to {self.high:g}")
        if self.step is not None:
            steps = round((value - self.low) / self.step)
            if abs(self.low + steps * self.step - value) > slack + 1e-9 * self.step:
                raise SpaceError(f"{path} is {value:g}, not on the grid of step {self.step:g} from {self.low:g}")
            value = self.value(steps)
        value = min(max(value, self.low), self.high)
        out[path] = int(value) if self.kind == "int" else float(value)
        return out[path]

    def value(self, steps: int) -> float:
        """The number so many steps above `low`, without the digits that binary addition leaves behind."""
        exact = self.low + steps * (self.step or 0.0)
        return float(f"{exact:.12g}") if self.kind != "int" else exact

    def axes(self, path: str, condition: Condition = ()) -> Iterator[Axis]:
        """Itself."""
        yield Axis(path, self.kind, (), self.low, self.high, self.step, condition)

    @property
    def continuous(self) -> bool:
        """Has no step, hence no number of points."""
        return self.step is None

    def points(self) -> int:
        """Number of values; a continuous range counts as one."""
        return 1 if self.step is None else round((self.high - self.low) / self.step) + 1

    def plain(self) -> Any:
        """As it stands in YAML."""
        out: dict[str, Any] = {self.kind: [self.low, self.high]}
        if self.step is not None and (self.kind, self.step) != ("int", 1):
            out["step"] = self.step
        return out


@dataclass(frozen=True)
class Alternatives:
    """One of several domains. `literal`: the field takes lists, so that YAML needs `{choice: [...]}`."""

    options: tuple[Domain, ...]
    literal: bool
    mark: Mark = field(compare=False, repr=False)

    @cached_property
    def labels(self) -> list[Any]:
        """A distinct JSON value for each option: its value, its kind (`lp[1]` where one stands twice), or its text."""
        kinds = [o.kind for o in self.options if isinstance(o, Struct)]
        labels: list[Any] = []
        for i, option in enumerate(self.options):
            if isinstance(option, Struct):
                labels.append(option.kind if option.kind and kinds.count(option.kind) == 1 else f"{option.kind}[{i}]")
            elif isinstance(option, Fixed) and not isinstance(option.value, list | dict):
                labels.append(option.value)
            else:
                labels.append(json.dumps(option.plain()))
        return labels

    def walk(self, path: str, suggest: Suggest, out: Assignment) -> Any:
        """Ask which, then walk it."""
        labels = self.labels
        index = suggest.choice(path, labels)
        out[path] = labels[index]
        return self.options[index].walk(f"{path}[{index}]", suggest, out)

    def axes(self, path: str, condition: Condition = ()) -> Iterator[Axis]:
        """Itself, then those of each option under the condition that it is taken."""
        labels = self.labels
        yield Axis(path, "choice", tuple(labels), condition=condition)
        for i, option in enumerate(self.options):
            yield from option.axes(f"{path}[{i}]", (*condition, (path, labels[i])))

    def points(self) -> int:
        """Number of discrete points."""
        return sum(option.points() for option in self.options)

    def plain(self) -> Any:
        """As it stands in YAML."""
        options = [option.plain() for option in self.options]
        return {"choice": options} if self.literal else options


@dataclass(frozen=True)
class Struct:
    """A variant, the block, the backbone, the optimiser: domains for some fields, defaults for the rest."""

    model: type[BaseModel]
    fields: Mapping[str, Domain]
    mark: Mark = field(compare=False, repr=False)

    @property
    def kind(self) -> str:
        """The variant's word; empty for other structures."""
        return self.model.variant() if issubclass(self.model, Choice) else ""

    def path(self, path: str) -> str:
        """What the names of its fields start with."""
        return ".".join(part for part in (path, self.kind) if part)

    def items(self, path: str) -> Iterator[tuple[str, str, Domain]]:
        """Field, parameter name and domain, in the order of the model."""
        head = self.path(path)
        for name in self.model.model_fields:
            if name in self.fields:
                yield name, f"{head}.{name}" if head else name, self.fields[name]

    def walk(self, path: str, suggest: Suggest, out: Assignment) -> Any:
        """Walk every field; returns what the model takes."""
        drawn = {name: domain.walk(where, suggest, out) for name, where, domain in self.items(path)}
        return {"kind": self.kind, **drawn} if self.kind else drawn

    def axes(self, path: str, condition: Condition = ()) -> Iterator[Axis]:
        """Those of the fields."""
        for _, where, domain in self.items(path):
            yield from domain.axes(where, condition)

    def points(self) -> int:
        """Number of discrete points."""
        return math.prod(domain.points() for domain in self.fields.values())

    def plain(self) -> Any:
        """As it stands in YAML."""
        inner = {name: domain.plain() for name, _, domain in self.items("")}
        if not self.kind:
            return inner
        return {"kind": self.kind, **inner} if inner else self.kind


Domain: TypeAlias = Fixed | Range | Alternatives | Struct


class Replay:
    """Answers from an assignment.

    Raises:
        SpaceError: where the assignment lacks a parameter, or names an option that is none.
    """

    def __init__(self, assignment: Mapping[str, Any]) -> None:
        self.assignment = assignment

    def _get(self, path: str) -> Any:
        if path not in self.assignment:
            raise SpaceError(f"the assignment lacks {path}")
        return self.assignment[path]

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        """The recorded option."""
        value = self._get(path)
        for i, option in enumerate(options):
            if option == value and isinstance(option, bool) == isinstance(value, bool):
                return i
        raise SpaceError(f"{path} is {value!r}, not one of {', '.join(map(_show, options))}")

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        """The recorded number."""
        value: Int = self._get(path)
        return value

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        """The recorded number."""
        value: Float = self._get(path)
        return value


class Middle:
    """Answers with the first alternative and the middle of every range, the geometric one of a logarithmic range."""

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        """The first."""
        return 0

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        """The middle of the grid, the lower one of two."""
        return low + (high - low) // step // 2 * step

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        """The middle."""
        if step is not None:
            return low + round((high - low) / step) // 2 * step
        return float(f"{math.sqrt(low * high) if log else (low + high) / 2:.6g}")


class Grid:
    """Answers that go through all points of a discrete space, one a walk, the last parameter fastest.

    >>> grid = Grid()
    >>> while grid.more:
    ...     walk(grid)
    ...     grid.next()
    """

    def __init__(self) -> None:
        self.more = True
        self._index: list[Int] = []
        self._size: list[Int] = []
        self._at = 0

    def _pick(self, size: Int) -> Int:
        if self._at == len(self._index):
            self._index.append(0)
            self._size.append(size)
        self._size[self._at] = size
        self._at += 1
        return self._index[self._at - 1]

    def next(self) -> None:
        """Go to the next point; `more` is false when there is none."""
        del self._index[self._at :], self._size[self._at :]
        while self._index and self._index[-1] + 1 >= self._size[-1]:
            self._index.pop()
            self._size.pop()
        self.more = bool(self._index)
        if self._index:
            self._index[-1] += 1
        self._at = 0

    def choice(self, path: str, options: Sequence[Any]) -> Int:
        """The next in turn."""
        return self._pick(len(options))

    def int(self, path: str, low: Int, high: Int, step: Int) -> Int:
        """The next in turn."""
        return low + self._pick((high - low) // step + 1) * step

    def float(self, path: str, low: Float, high: Float, log: bool, step: Float | None) -> Float:
        """The next in turn.

        Raises:
            SpaceError: for a continuous range.
        """
        if step is None:
            hint = "add step:, or use sampler: random or tpe"
            raise SpaceError(f"{path} is continuous: a grid needs a step", hint=hint)
        return low + self._pick(round((high - low) / step) + 1) * step
