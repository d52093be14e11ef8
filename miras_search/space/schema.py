"""The JSON Schema of a space, for completion and checks in an editor. Made from the models; imports no torch.

    # yaml-language-server: $schema=./space.schema.json

It allows more than the reader in two places: rules between choices and between keys are not expressed, and a range is
offered on any number whatever its bounds.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

import miras_search.tasks  # noqa: F401  (registers the tasks)
from miras_search.candidate import Backbone, Optimiser
from miras_search.choice import Choice, variants
from miras_search.design import Block
from miras_search.match import Bounds, Constraints, Match
from miras_search.named import MODELS
from miras_search.space.counting import PARTS
from miras_search.space.fields import Spec
from miras_search.space.settings import COSTS, Budget, Checkpoints, Finalists, Halving, LoggerName, LrSearch, Search

Schema = dict[str, Any]
_NUMBER = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_FIELD = re.compile(r"`(\w+)`(?: \(\w+\))?:\s(.+?)(?=\.\s|\.$|\n\n|\n`|\Z)", re.DOTALL)


def json_schema() -> Schema:
    """The schema, draft 2020-12, of every variant registered so far (plug-ins included)."""
    definitions: Schema = {
        "range": {
            "description": "Numbers from low to high, both included.",
            "oneOf": [
                _object({"int": _NUMBER, "step": {"type": "number"}}, ["int"]),
                _object({"float": _NUMBER, "step": {"type": "number"}}, ["float"]),
                _object({"log_float": _NUMBER, "step": {"type": "number", "exclusiveMinimum": 1}}, ["log_float"]),
            ],
        },
        "named": {"enum": list(MODELS)},
    }
    for role in (*PARTS, "task"):
        for kind, cls in variants(role).items():
            definitions[f"{role}.{kind}"] = _variant(cls, searched=role != "task")
        definitions[role] = _one_of(role)
    parts: Schema = {part: _open({"$ref": f"#/$defs/{part}"}) for part in PARTS}
    parts["block"] = _open(_struct(Block, searched=True))
    design = _object(parts, list(PARTS)) | {"description": "The four choices and the block around the memory."}
    target = _struct(Match, searched=False)
    limits = _struct(Constraints, searched=False)
    limits["properties"] = dict.fromkeys(limits["properties"], _struct(Bounds, searched=False))
    names = {"oneOf": [{"$ref": "#/$defs/named"}, _many({"$ref": "#/$defs/named"})]}
    task = {"$ref": "#/$defs/task"}
    objective = _object({"metric": {"type": "string"}, "goal": {"enum": ["max", "min"]}}, ["metric"])
    metric = {"type": "string", "description": f"TASK.METRIC, or one of {', '.join(COSTS)}"}
    logger = {"enum": list(get_args(LoggerName))}
    keys: Schema = {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "design": {"anyOf": [design, *names["oneOf"]]},
        "start_with": {"anyOf": names["oneOf"], "description": "Named designs that are tried first."},
        "backbone": _open(_struct(Backbone, searched=True)),
        "optimiser": _open(_struct(Optimiser, searched=True)),
        "match": {
            "anyOf": [target, _many(target)],
            "description": "What every candidate is brought to, in this order.",
        },
        "constraints": limits,
        "tasks": {"anyOf": [task, _many(task)], "description": "What trials train on."},
        "task": task | {"description": "Short for a list of one."},
        "budget": _struct(Budget, searched=False),
        "seeds": {"type": "integer", "minimum": 1, "description": "How many seeds each candidate is trained with."},
        "objectives": _many({"anyOf": [metric, objective]}),
        "search": _struct(Search, searched=False),
        "lr_search": _struct(LrSearch, searched=False),
        "halving": _struct(Halving, searched=False),
        "finalists": {"anyOf": [{"type": "integer", "minimum": 1}, _struct(Finalists, searched=False)]},
        "timeout_s": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds that a trial may take."},
        "checkpoints": _struct(Checkpoints, searched=False),
        "loggers": {"anyOf": [logger, _many(logger)], "description": "Where results go besides the ledger."},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "miras-search space",
        **_object(keys, ["budget"]),
        "$defs": definitions,
    }


def _object(properties: Schema, required: list[str]) -> Schema:
    out: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return out | {"required": required} if required else out


def _many(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "minItems": 1}


def _one_of(role: str) -> Schema:
    """A variant of a role: its bare name, or a mapping with its kind."""
    known = variants(role)
    names = [{"const": kind, "description": cls.summary()} for kind, cls in known.items()]
    return {"anyOf": [{"oneOf": names}, *({"$ref": f"#/$defs/{role}.{kind}"} for kind in known)]}


def _variant(cls: type[Choice], searched: bool) -> Schema:
    schema = _struct(cls, searched)
    schema["properties"] = {"kind": {"const": cls.variant()}, **schema["properties"]}
    return schema | {"required": ["kind", *schema.get("required", [])]}


def _struct(model: type[BaseModel], searched: bool) -> Schema:
    """A model's fields; where they are searched, with alternatives and ranges."""
    text = inspect.getdoc(model) or ""
    told = {name: " ".join(line.split()) for name, line in _FIELD.findall(text)}
    properties: Schema = {}
    for name, info in model.model_fields.items():
        if name == "kind":
            continue
        spec = Spec(name, "", info)
        schema = _plain(spec)
        if searched:
            schema = _open(schema, number=_is_number(schema), literal=spec.literal)
        described = info.description or told.get(name)
        if described:
            schema["description"] = described
        if not info.is_required():
            schema["default"] = TypeAdapter(Any).dump_python(info.default, mode="json")
        properties[name] = schema
    required = [name for name, info in model.model_fields.items() if info.is_required() and name != "kind"]
    return _object(properties, required) | {"description": text.split("\n\n")[0]}


def _plain(spec: Spec) -> Schema:
    """One value of a field."""
    if spec.role is not None:
        return {"$ref": f"#/$defs/{spec.role}"}
    schema = spec.adapter.json_schema()
    schema.pop("title", None)
    return schema


def _is_number(schema: Schema) -> bool:
    kinds = [schema, *schema.get("anyOf", [])]
    return any(kind.get("type") in ("integer", "number") for kind in kinds)


def _open(schema: Schema, *, number: bool = False, literal: bool = False) -> Schema:
    """A value, alternatives, or (of a number) a range."""
    one: list[Schema] = [schema, *([{"$ref": "#/$defs/range"}] if number else [])]
    many = _many(one[0] if len(one) == 1 else {"anyOf": one})
    return {"anyOf": [*one, *([] if literal else [many]), _object({"choice": many}, ["choice"])]}
