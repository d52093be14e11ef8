"""One field of a model as a space sees it: its type and bounds, its check, and pydantic's errors in our words."""

from __future__ import annotations

import collections.abc
import json
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from miras_search.choice import OneOf
from miras_search.space.marks import Node, Problems, nearest

RANGES = ("int", "float", "log_float")
RESERVED = ("choice", *RANGES)

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Spec:
    """A field as the grammar sees it: its name, whose it is, and its type."""

    name: str
    owner: str
    info: FieldInfo

    @property
    def label(self) -> str:
        """For messages: `p of lp`."""
        return f"{self.name} of {self.owner}" if self.owner else self.name

    @property
    def role(self) -> str | None:
        """The role whose variants the field takes; none for others."""
        return next((m.role for m in self.info.metadata if isinstance(m, OneOf)), None)

    @property
    def struct(self) -> type[BaseModel] | None:
        """The model of a field that is a structure."""
        kind = self.info.annotation
        return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None

    @property
    def literal(self) -> bool:
        """Takes a list (or mapping) as its value, so that alternatives need `{choice: [...]}`."""
        origins = [get_origin(t) or t for t in members(self.info.annotation)]
        return any(
            isinstance(o, type) and issubclass(o, collections.abc.Collection) and not issubclass(o, str | bytes)
            for o in origins
        )

    @property
    def interval(self) -> str:
        """The bounds of a number, `1 <= p <= 8`; empty without any."""
        low = high = ""
        for m in self.info.metadata:
            match m:
                case annotated_types.Ge(ge=bound):
                    low = f"{bound} <= "
                case annotated_types.Gt(gt=bound):
                    low = f"{bound} < "
                case annotated_types.Le(le=bound):
                    high = f" <= {bound}"
                case annotated_types.Lt(lt=bound):
                    high = f" < {bound}"
        return f"{low}{self.name}{high}" if low or high else ""

    def check(self, value: Any) -> tuple[Any, ErrorDetails | None]:
        """The value as the field takes it, and what is wrong with it."""
        return strict(self.adapter, value)

    @property
    def adapter(self) -> TypeAdapter[Any]:
        """Validates the field alone."""
        kind: Any = self.info.annotation
        if self.info.metadata:
            kind = Annotated[kind, *self.info.metadata]
        return TypeAdapter(kind)

    @property
    def options(self) -> list[str]:
        """The words of a Literal field."""
        return [str(a) for t in members(self.info.annotation) if get_origin(t) is Literal for a in get_args(t)]


def members(annotation: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for t in get_args(annotation) for m in members(t)]
    return [annotation]


def strict(adapter: TypeAdapter[Any], value: Any) -> tuple[Any, ErrorDetails | None]:
    """Validate as JSON, strictly: no words for numbers, no true for 1. Only 1e5 is taken for a whole number."""
    for attempt in (value, whole(value)):
        try:
            checked = adapter.validate_json(json.dumps(attempt), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] not in ("int_type", "int_from_float") or attempt is not value:
                return None, first
        else:
            return adapter.dump_python(checked, mode="json"), None
    return None, first


def whole(value: Any) -> Any:
    """Floats that are whole numbers as such (`1e5`)."""
    if isinstance(value, dict):
        return {k: whole(v) for k, v in value.items()}
    if isinstance(value, list):
        return [whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a word",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def explain(error: ErrorDetails, name: str, value: Any, interval: str = "") -> tuple[str, str | None]:
    """A pydantic error in our words: message and hint."""
    kind, ctx = error["type"], error.get("ctx", {})
    shown = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else json.dumps(value)
    signs = {"greater_than_equal": ">=", "greater_than": ">", "less_than_equal": "<=", "less_than": "<"}
    if kind in signs:
        bound = ctx.get({">=": "ge", ">": "gt", "<=": "le", "<": "lt"}[signs[kind]])
        return f"{name} is {shown}, must be {signs[kind]} {bound}", interval or None
    if kind == "literal_error":
        words = [w.strip().strip("'") for w in str(ctx["expected"]).replace(" or ", ", ").split(",")]
        return f"{name} is {shown}, not one of {', '.join(words)}", near(value, words)
    if kind == "value_error":
        return str(ctx["error"]), None
    if kind == "missing":
        return f"{name} is missing", None
    if kind in _WANTED:
        return f"{name} is {shown}, not {_WANTED[kind]}", None
    return f"{name} is {shown}: {error['msg'][0].lower()}{error['msg'][1:]}", None


def near(value: Any, words: Sequence[str]) -> str | None:
    """`did you mean ...?`, if one of the words is near."""
    hint = nearest(value, words)
    return hint if hint.startswith("did you mean") else None


def validate(model: type[M], node: Node, what: str, problems: Problems) -> M | None:
    """A mapping as a model, where nothing is searched (tasks, budget, settings); problems are noted, and give None."""
    if not isinstance(node.value, dict):
        problems.add(node.mark, f"{what} is {json.dumps(node.plain())}, not a mapping", known_fields(model))
        return None
    plain = node.plain()
    found: list[ErrorDetails] = []
    for attempt in (plain, whole(plain)):
        try:
            return model.model_validate_json(json.dumps(attempt), strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False)
            if all(e["type"] not in ("int_type", "int_from_float") for e in found):
                break
    misspelt = any(e["type"] == "extra_forbidden" for e in found)
    for details in found:
        loc = details["loc"]
        inside = any(len(e["loc"]) > len(loc) > 0 and e["loc"][: len(loc)] == loc for e in found)
        if not inside and not (misspelt and details["type"] == "missing"):
            _note(details, model, node, what, problems)
    return None


def _note(details: ErrorDetails, model: type[BaseModel], node: Node, what: str, problems: Problems) -> None:
    loc = details["loc"]
    at = node.at(loc)
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if details["type"] == "extra_forbidden":
        known = [f for f in model.model_fields if f != "kind"] if len(loc) == 1 else []
        problems.add(at.name_mark, f"unknown field {loc[-1]} of {what}", nearest(loc[-1], known) if known else None)
    elif details["type"] == "missing":
        problems.add(at.name_mark, f"{what} lacks {name}", known_fields(model))
    elif isinstance(at.value, dict) and at.value.keys() & set(RESERVED):
        problems.add(at.mark, f"{name} of {what} takes one value", "only design, backbone and optimiser are searched")
    else:
        field = model.model_fields.get(str(loc[0])) if len(loc) == 1 else None
        interval = Spec(str(loc[0]), what, field).interval if field is not None else ""
        problems.add(at.mark, *explain(details, f"{name} of {what}" if name else what, at.plain(), interval))


def known_fields(model: type[BaseModel]) -> str:
    """For hints."""
    return f"its fields: {', '.join(model.model_fields)}"
