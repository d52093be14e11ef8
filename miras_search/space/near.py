"""How far a design, or a space, is from the published ones, field by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from miras_search.design import Design
from miras_search.errors import MirasError
from miras_search.named import NAMED
from miras_search.space.domain import Middle, Struct
from miras_search.space.space import Space

KIND = 4
"""A choice of another kind counts as much as so many fields: its fields cannot be compared."""


class Near(NamedTuple):
    """A published design and what is different there: field, value here, value of the published one."""

    name: str
    distance: int
    differences: tuple[tuple[str, Any, Any], ...]


def near(design: Design) -> list[Near]:
    """All published designs, the nearest first: the number of canonical fields that differ."""
    return _sorted(lambda wanted: design)


def near_space(space: Space) -> list[Near]:
    """The same for the point of a space that is nearest to each design, as far as one field after another finds it."""
    if not isinstance(space.design, Struct):
        return [Near(str(name), 0, ()) for name in space.start_with]

    def point(wanted: Design) -> Design | None:
        try:
            return Design.model_validate(space.design.walk("", _Toward(wanted), {}))
        except ValidationError:
            return None

    return _sorted(point)


def _sorted(point: Callable[[Design], Design | None]) -> list[Near]:
    found = []
    for name, entry in NAMED.items():
        here = point(entry.design)
        if here is not None:
            told = tuple(differences(here, entry.design))
            distance = sum(KIND if path.endswith(".kind") else 1 for path, _, _ in told)
            found.append(Near(name, distance, told))
    if not found:
        raise MirasError("no point of the space is a model", hint="see `miras-search validate`")
    return sorted(found, key=lambda entry: entry.distance)


def differences(here: Design, there: Design) -> list[tuple[str, Any, Any]]:
    """Fields of the canonical forms that differ; of a choice of another kind the kind alone."""
    a, b = here.canonical().flat(), there.canonical().flat()
    other = {path.partition(".")[0] for path in a if path.endswith(".kind") and a[path] != b[path]}
    return [
        (path, value, b.get(path))
        for path, value in a.items()
        if value != b.get(path) and (path.endswith(".kind") or path.partition(".")[0] not in other)
    ]


class _Toward(Middle):
    """Answers what is open with the fields of a design where they are allowed."""

    def __init__(self, wanted: Design) -> None:
        self.wanted = wanted.model_dump(mode="json")

    def _get(self, path: str) -> Any:
        head, *rest = re.sub(r"\[\d+\]", "", path).split(".")
        part = self.wanted.get(head, {})
        if head == "block":
            return part.get(rest[-1]) if rest else None
        if not rest:
            return part.get("kind")
        return part.get(rest[-1]) if part.get("kind") == rest[0] else None

    def choice(self, path: str, options: Sequence[Any]) -> int:
        """The wanted one, of two variants of its kind the first; else the first."""
        wanted = self._get(path)
        for i, option in enumerate(options):
            plain = re.sub(r"\[\d+\]$", "", option) if isinstance(option, str) else option
            if plain == wanted and isinstance(plain, bool) == isinstance(wanted, bool):
                return i
        return 0

    def int(self, path: str, low: int, high: int, step: int) -> int:
        """The nearest."""
        wanted = self._get(path)
        if wanted is None:
            return super().int(path, low, high, step)
        return low + round((min(max(int(wanted), low), high) - low) / step) * step

    def float(self, path: str, low: float, high: float, log: bool, step: float | None) -> float:
        """The nearest."""
        wanted = self._get(path)
        if wanted is None:
            return super().float(path, low, high, log, step)
        value = min(max(float(wanted), low), high)
        return value if step is None else low + round((value - low) / step) * step
