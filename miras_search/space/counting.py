"""How many points a space has, how many of them are models, and why the others are not.

The rules look at the four choices only, and at a number only through what it decides (`p > 2`). So each choice is
reduced to the distinct cases that the rules can tell apart, and the rest is multiplication. A rule is asked about the choices that
it takes, and once about all cases that are one to it; its answer is the set of the algorithm's cases that it refuses, as bits of a
whole number, so that only the combinations of the other three choices are walked through. Which fields the rules read is taken from
their code: a new rule needs no entry here.

Exact for discrete parameters. A continuous one counts as one point; if the rules refuse some of its values and not
others, the combination is valid and counted as `partial`. Above `LIMIT` cases in one variant, valid points are not
counted. A space of a million points takes milliseconds: time goes with the number of cases, not of points.
"""

from __future__ import annotations

import itertools
import math
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

from pydantic import ValidationError

from miras_search.choice import Choice
from miras_search.rules import RULES, Refusal, Rule
from miras_search.space.domain import Alternatives, Domain, Fixed, Range, Struct

LIMIT = 20_000
PARTS = ("memory", "bias", "retention", "algorithm")


class Exclusion(NamedTuple):
    """Discrete designs refused for one reason.

    `designs`: how many are refused at every value, each counted under its first reason. `partial`: how many are refused
    at some values of a continuous parameter. `message`, `remedy`: of one example.
    """

    code: str
    designs: int
    partial: int
    message: str
    remedy: str

    def __str__(self) -> str:
        some = f" and {self.partial} depending on a value" if self.partial else ""
        return f"{self.code}: {self.designs:,}{some}; {self.message}; {self.remedy}"


@dataclass(frozen=True)
class Size:
    """Discrete points of a space: all, and those that are models (none: too many cases to tell).

    `designs`, `valid_designs`: the same for the design alone. `partial`: valid designs of which a continuous parameter
    has values that are refused. `continuous`: names of the continuous parameters, each counted as one point.
    `unreachable`: alternatives that are in no valid design.
    """

    total: int
    valid: int | None
    designs: int
    valid_designs: int | None
    partial: int = 0
    continuous: tuple[str, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    unreachable: tuple[str, ...] = ()

    def __str__(self) -> str:
        valid = "not counted" if self.valid is None else f"{self.valid:,} valid"
        points = "1 point" if self.total == 1 else f"{self.total:,} points"
        open_ = f", times {len(self.continuous)} continuous: {', '.join(self.continuous)}" if self.continuous else ""
        return f"{points}, {valid}{open_}"


def reads(function: Callable[..., Any]) -> set[str]:
    """Names of all attributes that a function may read, through functions it calls in its module as well."""
    names: set[str] = set()
    seen: set[types.CodeType] = set()
    todo = [function.__code__]
    while todo:
        code = todo.pop()
        if code in seen:
            continue
        seen.add(code)
        names.update(code.co_names)
        todo += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        called = (function.__globals__.get(name) for name in code.co_names)
        todo += [f.__code__ for f in called if isinstance(f, types.FunctionType)]
    return names


def _fields_behind(model: type[Choice], names: set[str]) -> set[str]:
    """Fields on which these attributes of a class depend."""
    found: set[str] = set()
    seen: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop()
        seen.add(name)
        if name in model.model_fields:
            found.add(name)
            continue
        attribute = getattr(model, name, None)
        if isinstance(attribute, property):
            attribute = attribute.fget
        elif isinstance(attribute, cached_property):
            attribute = attribute.func
        attribute = getattr(attribute, "__func__", attribute)
        if isinstance(attribute, types.FunctionType):
            todo |= reads(attribute) - seen
    return found


def cases(domain: Domain) -> Iterator[tuple[list[Any], int]]:
    """The discrete points of a domain: values to try (several for a continuous range), and how many points they are."""
    if isinstance(domain, Fixed):
        yield [domain.value], 1
    elif isinstance(domain, Range):
        if domain.continuous:
            yield _probes(domain), 1
        else:
            yield from (([domain.value(i)], 1) for i in range(domain.points()))
    elif isinstance(domain, Alternatives):
        for option in domain.options:
            yield from cases(option)
    else:
        kind = {"kind": domain.kind} if domain.kind else {}
        for combination in itertools.product(*(cases(f) for f in domain.fields.values())):
            values = itertools.product(*(v for v, _ in combination))
            count = math.prod(n for _, n in combination)
            yield [kind | dict(zip(domain.fields, v, strict=True)) for v in values], count


def _probes(domain: Range) -> list[float]:
    low, high = domain.low, domain.high
    whole = [float(i) for i in range(math.ceil(low), min(math.floor(high), math.ceil(low) + 20) + 1)]
    if domain.kind == "log_float":
        inner = [low * (high / low) ** (i / 8) for i in range(9)]
    else:
        inner = [low + (high - low) * i / 8 for i in range(9)]
    return sorted({min(max(v, low), high) for v in inner + whole})


@dataclass(frozen=True)
class _Case:
    """What the rules see of one choice at given values: attributes and their values."""

    example: Choice | Refusal
    seen: tuple[tuple[str, Any], ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Case) and self.seen == other.seen

    def __hash__(self) -> int:
        return hash(self.seen)

    def told(self, names: set[str]) -> tuple[tuple[str, Any], ...]:
        """What a rule sees that reads these attributes."""
        return tuple(pair for pair in self.seen if pair[0] in names or isinstance(self.example, Refusal))


Group = frozenset[_Case]
"""The cases that one discrete point may be: one, or several where a continuous parameter decides."""


class TooMany(Exception):
    """More than `LIMIT` cases."""


def _groups(struct: Struct, context: int | None) -> Counter[Group]:
    """The discrete points of a variant by the cases that they may be."""
    model = struct.model
    assert issubclass(model, Choice)
    names = {"kind"}.union(reads(too_long), *(reads(rule.check) for rule in RULES))
    deciding = _fields_behind(model, names)
    decorators = model.__pydantic_decorators__
    checked = bool(decorators.model_validators or decorators.field_validators or decorators.validators)
    if checked:
        deciding = set(model.model_fields)
    relevant = {name: domain for name, domain in struct.fields.items() if name in deciding}
    others = math.prod(d.points() for name, d in struct.fields.items() if name not in deciding)
    if math.prod(d.points() for d in relevant.values()) > LIMIT:
        raise TooMany(struct.kind)
    # The rules print the kind of a bias, but decide by its properties alone: biases that agree in those are one case.
    printed = {"kind"} if model.role == "bias" else set()
    attributes = sorted(n for n in names - printed if hasattr(model, n) or n in model.model_fields)
    groups: Counter[Group] = Counter()
    for values, count in cases(Struct(model, relevant, struct.mark)):
        groups[frozenset(_case(model, v, attributes, checked, context) for v in values)] += count * others
    return groups


def _case(model: type[Choice], values: dict[str, Any], names: list[str], checked: bool, context: int | None) -> _Case:
    try:
        choice = model.model_validate(values) if checked else model.model_construct(**values)
    except ValidationError as error:
        refusal = Refusal("invalid-value", f"{model.variant()}: {error.errors()[0]['msg']}", "change the value")
        return _Case(refusal, (("", refusal),))
    return _Case(choice, tuple((name, _seen(choice, name, context)) for name in names))


def _seen(choice: Choice, name: str, context: int | None) -> Any:
    value = getattr(choice, name)
    if name == "chunk_" and context is not None:
        return value > context
    return repr(value) if callable(value) or isinstance(value, list | dict) else value


def too_long(memory: Any, bias: Any, retention: Any, algorithm: Any, context: int | None) -> Refusal | None:
    """Refuse a chunk longer than a row, whose gradients would never leave the first chunk; where the chunk matters.

    Args:
        memory: the four choices, which go together.
        bias: likewise.
        retention: likewise.
        algorithm: likewise.
        context: tokens a row of the shortest task; none: nothing is refused.
    """
    if context is None or not memory.parametric or algorithm.online or algorithm.chunk_ <= context:
        return None
    read = "exact" if retention.linear and algorithm.read_ == "lagged" else algorithm.read_
    if bias.state_free and memory.linear and read == "exact":
        return None
    message = f"a row of the shortest task has {context} tokens, the design's chunk {algorithm.chunk_}"
    return Refusal("chunk-longer-than-row", message, f"use chunk: {context} or less, or longer rows")


BOUNDS = Rule(lambda: None, PARTS)
"""Refuses what is no choice at all, for a value out of bounds; the rules that follow are not asked about it."""


class _Asked:
    """A rule and its answers so far, about cases by their places in `cases`."""

    def __init__(self, rule: Rule, cases: list[list[_Case]]) -> None:
        self.rule, self.cases = rule, cases
        names = reads(rule.check)
        self.classes: list[list[int]] = []
        for part, known in zip(PARTS, cases, strict=True):
            numbers: dict[Any, int] = {}
            told = [case.told(names) if part in rule.choices else () for case in known]
            self.classes.append([numbers.setdefault(key, len(numbers)) for key in told])
        self.answers: dict[tuple[int, int, int], int] = {}

    def reason(self, place: Sequence[int]) -> Refusal | None:
        """Why these do not go together."""
        four = {part: known[i].example for part, known, i in zip(PARTS, self.cases, place, strict=True)}
        invalid = next((choice for choice in four.values() if isinstance(choice, Refusal)), None)
        if self.rule is BOUNDS or invalid is not None:
            return invalid if self.rule is BOUNDS else None
        return self.rule(four)

    def refused(self, memory: int, bias: int, retention: int) -> int:
        """The cases of the algorithm that do not go with these, as bits."""
        key = self.classes[0][memory], self.classes[1][bias], self.classes[2][retention]
        if key not in self.answers:
            classes = self.classes[3]
            found = {
                own: self.reason((memory, bias, retention, classes.index(own))) is not None for own in set(classes)
            }
            self.answers[key] = sum(found[own] << i for i, own in enumerate(classes))
        return self.answers[key]


def count_designs(design: Struct, context: int | None) -> Size:
    """Points of the four choices and the block.

    Args:
        design: all four choices.
        context: tokens a row of the shortest task; none: chunks are not checked.
    """

    def length(memory: Any, bias: Any, retention: Any, algorithm: Any) -> Refusal | None:
        return too_long(memory, bias, retention, algorithm, context)

    total, block = design.points(), design.fields["block"].points() if "block" in design.fields else 1
    try:
        grouped = {part: [_groups(option, context) for option in options(design.fields[part])] for part in PARTS}
    except TooMany:
        return Size(total, None, total, None)
    merged = [sum(grouped[part], Counter[Group]()) for part in PARTS]
    cases = [list(dict.fromkeys(case for group in groups for case in group)) for groups in merged]
    places = [{case: i for i, case in enumerate(known)} for known in cases]
    asked = [_Asked(rule, cases) for rule in (BOUNDS, *RULES, Rule(length, PARTS))]
    everything = (1 << len(cases[3])) - 1
    algorithms = [(sum(1 << places[3][case] for case in group), count) for group, count in merged[3].items()]

    @cache
    def touched(bits: int) -> int:
        """The groups of the algorithm that may be one of these cases, as bits."""
        return sum(1 << i for i, (own, _) in enumerate(algorithms) if own & bits)

    @cache
    def points(groups: int) -> int:
        return sum(count for i, (_, count) in enumerate(algorithms) if groups >> i & 1)

    valid = partial = 0
    whole, some = [0] * len(asked), [0] * len(asked)
    examples: dict[int, Refusal] = {}
    alive: list[set[Group]] = [set() for _ in PARTS]
    reached = 0
    for groups in itertools.product(*merged[:3]):
        weight = math.prod(counts[group] for counts, group in zip(merged, groups, strict=False)) * block
        free, hits = 0, [0] * len(asked)
        for place in itertools.product(
            *([known[case] for case in group] for known, group in zip(places, groups, strict=False))
        ):
            left = everything
            for i, rule in enumerate(asked):
                hit = left & rule.refused(*place)
                if hit:
                    hits[i] |= hit
                    left ^= hit
                    if i not in examples:
                        reason = rule.reason((*place, (hit & -hit).bit_length() - 1))
                        assert reason is not None
                        examples[i] = reason
            free |= left
        accepted, seen = touched(free), 0
        for i, hit in enumerate(hits):
            refused = touched(hit) & ~seen
            seen |= refused
            whole[i] += weight * points(refused & ~accepted)
            some[i] += weight * points(refused & accepted)
        valid += weight * points(accepted)
        partial += weight * points(accepted & seen)
        reached |= accepted
        if accepted:
            for members, group in zip(alive, groups, strict=False):
                members.add(group)
    alive[3] = {group for i, group in enumerate(merged[3]) if reached >> i & 1}
    exclusions = [Exclusion(e.code, whole[i], some[i], *e[1:]) for i, e in examples.items() if whole[i] or some[i]]
    exclusions.sort(key=lambda e: (-e.designs, -e.partial, e.code))
    unreachable = tuple(
        f"{part}: {label}"
        for part, members in zip(PARTS, alive, strict=True)
        for label, groups_ in zip(_labels(design.fields[part]), grouped[part], strict=True)
        if not members & groups_.keys()
    )
    return Size(total, valid, total, valid, partial, (), tuple(exclusions), unreachable)


def options(domain: Domain) -> list[Struct]:
    """The structures of a domain: its alternatives, or itself."""
    found = domain.options if isinstance(domain, Alternatives) else (domain,)
    return [option for option in found if isinstance(option, Struct)]


def _labels(domain: Domain) -> list[str]:
    return [str(x) for x in domain.labels] if isinstance(domain, Alternatives) else [s.kind for s in options(domain)]


def count_backbones(backbone: Domain) -> tuple[int, int]:
    """Discrete points of the backbone, and those whose heads divide the width and whose layers have the design."""
    total = valid = 0
    for struct in options(backbone):
        names = ("width", "heads", "layers", "pattern")
        default = {name: struct.model.model_fields[name].default for name in names}
        rest = math.prod(d.points() for name, d in struct.fields.items() if name not in default)
        values = {
            name: [v for group, _ in cases(struct.fields[name]) for v in group] if name in struct.fields else [value]
            for name, value in default.items()
        }
        total += math.prod(len(v) for v in values.values()) * rest
        divides = sum(w % h == 0 for h in values["heads"] for w in values["width"])
        present = sum("design" in pattern[:n] for pattern in values["pattern"] for n in values["layers"])
        valid += divides * present * rest
    return total, valid
