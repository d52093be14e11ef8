"""From marked YAML to domains: alternatives, ranges, variants and fields, each checked against the model's own field.

On a scalar or variant field a list means alternatives; a list-typed field takes its list literally and alternatives by
`{choice: [...]}`. `{int: [lo, hi]}`, `{float: [lo, hi]}` and `{log_float: [lo, hi]}` are ranges with both ends included
and an optional `step` (of `log_float`: the factor from one value to the next). A bare name is short for `{kind: name}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from miras_search.choice import Choice, variants
from miras_search.space.domain import Alternatives, Domain, Fixed, Range, Struct
from miras_search.space.fields import RESERVED, Spec, explain, known_fields, near, strict
from miras_search.space.marks import Node, Problems, nearest

_MANY = 1000


def parse_fields(model: type[BaseModel], node: Node, what: str, problems: Problems) -> Struct | None:
    """A mapping as a structure of domains; problems are noted, and give None.

    Args:
        model: whose fields they are.
        node: the mapping (without `kind`, or with it).
        what: for messages, `bias huber`.
        problems: where to note.
    """
    assert isinstance(node.value, dict)
    known = [name for name in model.model_fields if name != "kind"]
    fields: dict[str, Domain] = {}
    before = len(problems.found)
    for name, child in node.value.items():
        if name == "kind" and issubclass(model, Choice):
            continue
        if name not in known:
            hint = nearest(name, known) if known else f"{what} has no fields"
            problems.add(child.name_mark, f"unknown field {name} of {what}", hint)
            continue
        owner = model.variant() if issubclass(model, Choice) else what
        domain = parse_field(Spec(name, owner, model.model_fields[name]), child, problems)
        if domain is not None:
            fields[name] = domain
    missing = [name for name in known if model.model_fields[name].is_required() and name not in node.value]
    if not set(node.value) - {"kind", *known}:  # else a word that is unknown may be the one that is missing
        for name in missing:
            problems.add(node.name_mark, f"{what} lacks {name}", None)
    if len(problems.found) > before:
        return None
    struct = Struct(model, fields, node.mark)
    if issubclass(model, Choice) and all(isinstance(f, Fixed) for f in fields.values()):
        _, error = strict(TypeAdapter(model), struct.walk("", _NOTHING, {}))
        if error is not None:
            problems.add(node.mark, *explain(error, what, node.plain()))
            return None
    return struct


_NOTHING: Any = None


def parse_field(spec: Spec, node: Node, problems: Problems) -> Domain | None:
    """The domain of one field; problems are noted, and give None."""
    value = node.value
    if isinstance(value, dict):
        reserved = [word for word in value if word in RESERVED]
        if reserved and not (spec.literal and reserved[0] != "choice"):
            return _reserved(spec, node, reserved, problems)
    if isinstance(value, list) and not spec.literal:
        return _alternatives(spec, node, value, problems)
    if spec.role is not None:
        return _variant(spec, spec.role, node, problems)
    if spec.struct is not None:
        if value is None:
            return Struct(spec.struct, {}, node.mark)
        if isinstance(value, dict):
            return parse_fields(spec.struct, node, spec.name, problems)
        problems.add(node.mark, f"{spec.name} is {json.dumps(value)}, not a mapping", known_fields(spec.struct))
        return None
    checked, error = spec.check(node.plain())
    if error is None:
        return Fixed(checked, node.mark)
    message, hint = explain(error, spec.label, node.plain(), spec.interval)
    if isinstance(value, dict):
        message, hint = f"{spec.label} is a mapping, not a value", near(next(iter(value), ""), RESERVED)
        hint = hint or "a range is {int: [lo, hi]}, {float: [lo, hi]} or {log_float: [lo, hi]}"
    elif isinstance(value, str) and spec.options:
        message, hint = f"unknown {spec.label} {value}", nearest(value, spec.options)
    problems.add(node.mark, message, hint)
    return None


def _variant(spec: Spec, role: str, node: Node, problems: Problems) -> Struct | None:
    known = variants(role)
    value = node.value
    kind = Node(node.mark, value) if isinstance(value, str) else value.get("kind") if isinstance(value, dict) else None
    if kind is None:
        what = "lacks kind" if isinstance(value, dict) else f"is {json.dumps(value)}, not a variant"
        hint = f"write {spec.name}: NAME or {{kind: NAME, ...}}; {_one_of(known)}"
        problems.add(node.mark, f"{spec.name} {what}", hint)
    elif isinstance(kind.value, list | dict):
        problems.add(kind.mark, f"kind of {spec.name} takes one word", f"alternatives are a list: {spec.name}: [a, b]")
    elif str(kind.value) not in known:
        problems.add(kind.mark, f"unknown {role} {kind.value}", nearest(kind.value, known))
    else:
        model = known[str(kind.value)]
        mapping = node if isinstance(value, dict) else Node(node.mark, {}, node.key)
        return parse_fields(model, mapping, f"{role} {kind.value}", problems)
    return None


def _one_of(words: Iterable[str]) -> str:
    return f"one of {', '.join(words)}"


def _alternatives(spec: Spec, node: Node, items: list[Node], problems: Problems) -> Domain | None:
    if not items:
        problems.add(node.mark, f"{spec.label} has no alternatives", "an empty list allows nothing; name at least one")
        return None
    options: list[Domain] = []
    for item in items:
        inside = item.value
        nested = isinstance(inside, list) and not spec.literal
        if nested or (isinstance(inside, dict) and "choice" in inside):
            problems.add(item.mark, f"alternatives inside the alternatives of {spec.label}", "write one list")
            continue
        option = parse_field(spec, item, problems)
        if option is None:
            continue
        if isinstance(option, Alternatives):  # a log_float with a step, written out
            options += option.options
        elif any(_same(option, other) for other in options):
            problems.add(item.mark, f"{_text(option)} stands twice among the alternatives of {spec.label}", "keep one")
        else:
            options.append(option)
    if len(options) < len(items):
        return None
    return options[0] if len(options) == 1 else Alternatives(tuple(options), spec.literal, node.mark)


def _same(a: Domain, b: Domain) -> bool:
    return json.dumps(a.plain(), sort_keys=True) == json.dumps(b.plain(), sort_keys=True)


def _text(domain: Domain) -> str:
    plain = domain.plain()
    return plain if isinstance(plain, str) else json.dumps(plain)


def _reserved(spec: Spec, node: Node, words: list[str], problems: Problems) -> Domain | None:
    assert isinstance(node.value, dict)
    word = words[0]
    if len(words) > 1:
        mark = node.value[words[1]].name_mark
        hint = "a range is of one kind; two are two alternatives"
        problems.add(mark, f"{spec.label} is both {word} and {words[1]}", hint)
        return None
    allowed = (word,) if word == "choice" else (word, "step")
    for name, child in node.value.items():
        if name not in allowed:
            hint = nearest(name, allowed[1:]) if allowed[1:] else "leave it out"
            problems.add(child.name_mark, f"unknown key {name} beside {word}", hint)
            return None
    inner = node.value[word]
    if word == "choice":
        if not isinstance(inner.value, list):
            problems.add(inner.mark, f"choice of {spec.label} is not a list", "write {choice: [a, b]}")
            return None
        return _alternatives(spec, inner, inner.value, problems)
    return _range(spec, word, inner, node.value.get("step"), problems)


def _range(spec: Spec, word: str, node: Node, step: Node | None, problems: Problems) -> Domain | None:
    def refuse(at: Node, message: str, hint: str | None = None) -> Domain | None:
        problems.add(at.mark, message, hint)
        return None

    if spec.role is not None or spec.struct is not None:
        return refuse(node, f"{spec.name} is no number and has no range", "a list means alternatives")
    ends = node.value
    if not isinstance(ends, list) or len(ends) != 2:
        return refuse(node, f"{word} of {spec.label} takes two bounds", f"write {{{word}: [low, high]}}")
    for at in (*ends, *([step] if step else [])):
        if not isinstance(at.value, int | float) or isinstance(at.value, bool):
            return refuse(at, f"{json.dumps(at.plain())} is not a number")
        if word == "int" and at.value != int(at.value):
            return refuse(at, f"{at.value} is not a whole number", "use float:, or whole bounds and step")
    numbers = [int(n.value) if word == "int" else float(n.value) for n in ends]  # type: ignore[arg-type]
    low, high = numbers
    if low > high:
        hint = f"write [{high:g}, {low:g}]"
        return refuse(ends[0], f"bounds of {spec.label} are reversed: {low:g} > {high:g}", hint)
    if word == "log_float" and low <= 0:
        hint = "use float: for a range with 0"
        return refuse(ends[0], f"log_float of {spec.label} starts at {low:g}, must be > 0", hint)
    for at, number in zip(ends, numbers, strict=True):
        _, error = spec.check(number)
        if error is not None and error["type"] in ("literal_error", "bool_type", "string_type"):
            return refuse(node, f"{spec.label} is no number and has no range", "a list means alternatives")
        if error is not None:
            return refuse(at, *explain(error, spec.label, number, spec.interval))
    if word != "int":
        _, error = spec.check(low + (high - low) / math.pi)  # irrational: no whole number unless low is high
        if error is not None and error["type"] in ("int_type", "int_from_float"):
            hint = f"use {{int: [{low:g}, {high:g}]}}"
            return refuse(node, f"{spec.label} is a whole number, its range is not", hint)
    if low == high:
        return Fixed(low, node.mark)
    if step is None:
        return Range(_kind(word), low, high, 1 if word == "int" else None, node.mark)
    return _stepped(spec, word, low, high, step, node, problems)


def _kind(word: str) -> Literal["int", "float", "log_float"]:
    return "int" if word == "int" else "float" if word == "float" else "log_float"


def _stepped(
    spec: Spec, word: str, low: float, high: float, step: Node, node: Node, problems: Problems
) -> Domain | None:
    def refuse(message: str, hint: str | None = None) -> Domain | None:
        problems.add(step.mark, message, hint)
        return None

    size, log = float(step.value), word == "log_float"  # type: ignore[arg-type]
    if log and size <= 1:
        return refuse(f"step {size:g} of log_float must be > 1", "it is the factor from a value to the next")
    if size <= 0:
        return refuse(f"step {size:g} of {spec.label} must be > 0")
    steps = math.log(high / low) / math.log(size) if log else (high - low) / size
    if abs(steps - round(steps)) > 1e-6 * max(1.0, steps):
        last = low * size ** int(steps) if log else low + size * int(steps)
        return refuse(f"steps of {size:g} from {low:g} miss {high:g}", f"end at {last:g}, or choose another step")
    if not log:
        return Range(_kind(word), low, high, int(size) if word == "int" else size, node.mark)
    if steps > _MANY:
        hint = "leave step out for a continuous range"
        return refuse(f"more than {_MANY} steps from {low:g} to {high:g}", hint)
    values = [float(f"{low * size**i:.6g}") for i in range(round(steps) + 1)]
    return Alternatives(tuple(Fixed(v, node.mark) for v in values), spec.literal, node.mark)
