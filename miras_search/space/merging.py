"""How many different functions a space describes: its designs after equal ones are merged.

Up to `EXACT` designs all are put into canonical form and counted. Beyond, a sample is drawn, every valid design as likely
as another, and the share is estimated that stands for its function: of all descriptions of one function in the space
exactly one is the point that the canonical form leads to. (Where it leads out of the space, as from `lq` with q = 2 in a space
without `l2`, every description stands for itself, so that the estimate is too high.) The standard error is that of a share.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from miras_search.design import Design
from miras_search.space.counting import too_long
from miras_search.space.domain import Alternatives, Domain, Fixed, Range, Struct
from miras_search.space.near import toward
from miras_search.space.space import Space

EXACT = 10_000
"""Designs of which all are looked at (about two seconds)."""
SAMPLE = 10_000
"""Draws otherwise."""


class Merged(NamedTuple):
    """Different functions among the valid designs, continuous parameters at one value each.

    `designs`: how many; with a standard `error`, in designs, of a sampled estimate of `draws` draws; 0 and 0: exact.
    """

    designs: int
    error: float = 0.0
    draws: int = 0

    def __str__(self) -> str:
        if not self.draws:
            return f"{self.designs:,} different functions"
        about = f"estimated from {self.draws:,} draws, standard error {self.error / max(1, self.designs):.1%}"
        return f"about {_rounded(self.designs, self.error)} different functions ({about})"


def _rounded(value: float, error: float) -> str:
    digits = max(0, math.floor(math.log10(error))) if error >= 1 else 0
    return f"{round(value, -digits):,.0f}"


def merge(space: Space) -> Merged | None:
    """Of a space; none where its designs are named, and each is another function."""
    if not isinstance(space.design, Struct):
        return None
    return merged(space.design, space.size().valid_designs, space.context)


def merged(design: Struct, valid: int | None, context: int | None, seed: int = 0) -> Merged:
    """Count or estimate.

    Args:
        design: the four choices and the block.
        valid: designs that are models; none: not counted, and the share is taken of all.
        context: tokens a row of the shortest task; longer chunks are refused. None: none is.
        seed: of the draws.
    """
    total = design.points()
    if total <= EXACT:
        found = (model(plain, context) for plain in everything(design))
        return Merged(len({d.fingerprint for d in found if d is not None}))
    source = random.Random(seed)
    drawn = [d for d in (model(uniform(design, source), context) for _ in range(SAMPLE)) if d is not None]
    tried = len(drawn) if valid is not None else SAMPLE
    size = total if valid is None else valid
    share = sum(stands_for_its_function(design, d) for d in drawn) / max(1, tried)
    return Merged(round(size * share), size * math.sqrt(share * (1.0 - share) / max(1, tried)), SAMPLE)


def stands_for_its_function(space: Struct, design: Design) -> bool:
    """Whether a design is the point of the space that its canonical form leads to; true where that leads elsewhere."""
    canonical = design.canonical()
    first = model(toward(space, canonical.model_dump(mode="json"))[0])
    return first is None or first == design or first.canonical() != canonical


def model(plain: dict[str, Any], context: int | None = None) -> Design | None:
    """The design, or none if it is refused."""
    try:
        found = Design.model_validate(plain)
    except ValidationError:
        return None
    long = too_long(found.memory, found.bias, found.retention, found.algorithm, context)
    return found if long is None else None


def everything(domain: Domain) -> Iterator[Any]:
    """All points, a continuous range at one value that nothing else merges with."""
    if isinstance(domain, Fixed):
        yield domain.value
    elif isinstance(domain, Range):
        yield from ([_generic(domain)] if domain.continuous else (_value(domain, i) for i in range(domain.points())))
    elif isinstance(domain, Alternatives):
        for option in domain.options:
            yield from everything(option)
    else:
        kind = {"kind": domain.kind} if domain.kind else {}
        for values in itertools.product(*(list(everything(f)) for f in domain.fields.values())):
            yield kind | dict(zip(domain.fields, values, strict=True))


def _value(domain: Range, i: int) -> float:
    value = domain.value(i)
    return int(value) if domain.kind == "int" else value


def _generic(domain: Range) -> float:
    part = 0.41421
    if domain.kind == "log_float":
        return math.exp((1.0 - part) * math.log(domain.low) + part * math.log(domain.high))
    return domain.low + (domain.high - domain.low) * part


def uniform(domain: Domain, source: random.Random) -> Any:
    """A point, every discrete one as likely as another."""
    if isinstance(domain, Fixed):
        return domain.value
    if isinstance(domain, Range):
        if not domain.continuous:
            return _value(domain, source.randrange(domain.points()))
        if domain.kind == "log_float":
            return math.exp(source.uniform(math.log(domain.low), math.log(domain.high)))
        return source.uniform(domain.low, domain.high)
    if isinstance(domain, Alternatives):
        weights = [option.points() for option in domain.options]
        return uniform(source.choices(domain.options, weights)[0], source)
    kind = {"kind": domain.kind} if domain.kind else {}
    return kind | {name: uniform(field, source) for name, field in domain.fields.items()}
