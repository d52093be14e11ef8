"""Draws of designs and grids of variants, from the fields of all that is registered, new ones included."""

from __future__ import annotations

import itertools
import random
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from miras_search.bias import Bias
from miras_search.choice import Choice, variants
from miras_search.design import Block, Design
from miras_search.rules import refusals

SMALL: dict[str, list[Any]] = {"chunk": [1, 3, 4], "window": [None, 1, 3, 7], "expansion": [1, 2, 4]}
"""Integers whose whole range would be slow or would never meet a boundary in a short sequence."""

PARTS = ("memory", "bias", "retention", "algorithm")


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


def value(name: str, field: FieldInfo, source: random.Random) -> Any:
    """A value of one field: any word, a small whole number, a float about the default or the closed lower bound."""
    annotation = plain(field.annotation)
    if get_origin(annotation) is Literal:
        return source.choice(get_args(annotation))
    if annotation is bool:
        return source.random() < 0.5
    if name in SMALL:
        return source.choice([v for v in SMALL[name] if v is not None or annotation is not field.annotation])
    low, high, closed = bounds(field)
    if annotation is int:
        start = int(low or 0)
        return source.randint(start, min(start + 2, int(high or start + 2)))
    assert annotation is float, f"no draw for {name}: {annotation}"
    if low is not None and closed and source.random() < 0.25:
        return low
    default = float(field.default)
    about = sorted((default / 2, default * 2)) if default else [0.0, 1.0]
    return source.uniform(max(about[0], low or about[0]), min(about[1], high or about[1]))


def pick(cls: type[Choice], source: random.Random) -> Any:
    """A variant with any of its options."""
    fields = ((name, field) for name, field in cls.model_fields.items() if name != "kind")
    return cls(kind=cls.variant(), **{name: value(name, field, source) for name, field in fields})


def drawn(seed: int, memory: Callable[[Any], bool] = lambda cls: True, blocks: bool = False) -> Design:
    """A valid design: kinds first, so that one whose options are mostly refused is drawn as often as another."""
    source = random.Random(f"design {seed}")
    first, *rest = [list(variants(role).values()) for role in PARTS]
    kept = source.choice([cls for cls in first if memory(cls)])
    while True:
        kinds = [kept, *(source.choice(role) for role in rest)]
        for _ in range(8):
            four = [pick(cls, source) for cls in kinds]
            if not refusals(*four):
                block = (
                    {name: value(name, field, source) for name, field in Block.model_fields.items()} if blocks else {}
                )
                return Design(**dict(zip(PARTS, four, strict=True)), block=Block(**block))


def designs(memory: Callable[[Any], bool] = lambda cls: True, blocks: bool = False) -> st.SearchStrategy[Design]:
    """Valid designs over all registered variants. Uniform, where draws field by field would be near the defaults."""
    return st.integers(0, 2**48).map(lambda seed: drawn(seed, memory, blocks))


def grid(cls: type[Choice]) -> Iterator[Choice]:
    """Every combination of a variant's words and flags, with its numbers at their default and their closed bounds."""
    axes: list[list[Any]] = []
    # Which tokens and vectors a bias is of changes none of its formulas.
    names = [name for name in cls.model_fields if name != "kind" and name not in Bias.model_fields]
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
