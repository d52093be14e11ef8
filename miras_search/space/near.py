"""How far a design, or a space, is from the published ones, field by field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from miras_search.design import Design
from miras_search.errors import MirasError
from miras_search.named import NAMED
from miras_search.space.domain import Alternatives, Domain, Fixed, Range, Struct
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
            return Design.model_validate(toward(space.design, wanted.model_dump(mode="json"))[0])
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


def toward(domain: Domain, wanted: Any) -> tuple[Any, int]:
    """The point of a domain that is nearest to a plain value, and how many fields of it differ.

    Where nothing is wanted (None), the first alternative or the lower end.
    """
    if isinstance(domain, Fixed):
        return domain.value, int(wanted is not None and domain.value != wanted)
    if isinstance(domain, Range):
        value = domain.low if wanted is None else min(max(wanted, domain.low), domain.high)
        if domain.step is not None:
            value = domain.value(round((value - domain.low) / domain.step))
        value = int(value) if domain.kind == "int" else float(value)
        return value, int(wanted is not None and value != wanted)
    if isinstance(domain, Alternatives):
        return min((toward(option, wanted) for option in domain.options), key=lambda found: found[1])
    kind = {"kind": domain.kind} if domain.kind else {}
    given = wanted if isinstance(wanted, dict) and wanted.get("kind", "") == domain.kind else None
    distance = KIND if wanted is not None and given is None else 0
    out: dict[str, Any] = dict(kind)
    for name, info in domain.model.model_fields.items():
        target = None if given is None else given.get(name)
        if name in domain.fields:
            out[name], missed = toward(domain.fields[name], target)
            distance += missed
        elif name != "kind" and target is not None and not isinstance(info.default, BaseModel):
            distance += int(info.default != target)
    return out, distance
