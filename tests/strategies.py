"""Draws of designs and grids of variants, made from the fields of whatever is registered: a new variant needs no edit here."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from miras_search.choice import Choice, variants
from miras_search.design import Block, Design, refusals

SMALL: dict[str, list[Any]] = {"chunk": [1, 3, 4], "window": [None, 1, 3, 7], "expansion": [1, 2, 4]}
"""Integers whose whole range would be slow or would never meet a boundary in a short sequence."""


def bounds(field: FieldInfo) -> tuple[float | None, float | None, bool]:
    """Lower bound, upper bound, and whether the lower one is allowed."""
    low = high = None
    closed = True
    for item in field.metadata:
        if isinstance(item, Ge):
            low = float(item.ge)  # type: ignore[arg-type]
        elif isinstance(item, Gt):
            low, closed = float(item.gt), False  # type: ignore[arg-type]
        elif isinstance(item, (Le, Lt)):
            high = float(item.le if isinstance(item, Le) else item.lt)  # type: ignore[arg-type]
    return low, high, closed


def plain(annotation: Any) -> Any:
    """The type behind `X | None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(a for a in get_args(annotation) if a is not type(None))
    return annotation


def values(name: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values of one field: all words, small whole numbers, floats about the default and the closed lower bound."""
    annotation = plain(field.annotation)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if annotation is bool:
        return st.booleans()
    if name in SMALL:
        return st.sampled_from(SMALL[name])
    low, high, closed = bounds(field)
    if annotation is int:
        start = int(low or 0)
        return st.integers(start, min(start + 2, int(high or start + 2)))
    assert annotation is float, f"no strategy for {name}: {annotation}"
    default = float(field.default)
    about = sorted((default / 2, default * 2)) if default else [0.0, 1.0]
    span = st.floats(max(about[0], low or about[0]), min(about[1], high or about[1]))
    return st.one_of(span, st.just(low)) if low is not None and closed else span


def choices(role: str) -> st.SearchStrategy[Choice]:
    """Any variant of a role with any of its options."""

    def fields(cls: type[Choice]) -> st.SearchStrategy[Choice]:
        drawn = {name: values(name, f) for name, f in cls.model_fields.items() if name != "kind"}
        return st.fixed_dictionaries(drawn).map(lambda given: cls(kind=cls.variant(), **given))

    return st.sampled_from(list(variants(role).values())).flatmap(fields)


@st.composite
def designs(draw: st.DrawFn, parametric: bool | None = None, block: Block | None = None) -> Design:
    """A valid design over all registered variants."""

    def fits(four: tuple[Any, ...]) -> bool:
        return not refusals(*four) and parametric in (None, four[0].parametric)

    # Memory and algorithm must both be parametric or both not: pairs, so that few draws are thrown away.
    pair = st.tuples(choices("memory"), choices("algorithm")).filter(lambda p: p[0].parametric == p[1].parametric)  # type: ignore[attr-defined]
    drawn = st.tuples(pair, choices("bias"), choices("retention"))
    memory, bias, retention, algorithm = draw(drawn.map(lambda d: (d[0][0], d[1], d[2], d[0][1])).filter(fits))
    return Design(memory=memory, bias=bias, retention=retention, algorithm=algorithm, block=block or Block())


def grid(cls: type[Choice]) -> Iterator[Choice]:
    """Every combination of a variant's words and flags, with its numbers at their default and their closed bounds."""
    axes: list[list[Any]] = []
    names = [name for name in cls.model_fields if name != "kind"]
    for name in names:
        field = cls.model_fields[name]
        annotation = plain(field.annotation)
        if get_origin(annotation) is Literal:
            axes.append(list(get_args(annotation)))
        elif annotation is bool:
            axes.append([False, True])
        else:
            low, high, closed = bounds(field)
            ends = [low] if closed and low is not None else []
            ends += [high] if high is not None else []
            axes.append(list(dict.fromkeys([field.default, *(annotation(e) for e in ends)])))
    for combination in itertools.product(*axes):
        yield cls(kind=cls.variant(), **dict(zip(names, combination, strict=True)))


def words(choice: Choice) -> str:
    """A test's name: the kind and what differs from the defaults."""
    given = choice.model_dump(exclude_defaults=True)
    return "-".join([choice.variant(), *(f"{k}={v}" for k, v in given.items() if k != "kind")])
