"""What every variant of every choice is: a frozen value with bounds, found by its `kind`.

A variant is one class in one file. It is listed in the `VARIANTS` tuple at the file's foot, and from there validation,
JSON schema, sampling, the reference, the generated code, the contract tests and the docs table find it. A user's plug-in
file ends with the same line.

Formulas are methods `f(self, xp, ...)` over a closed dialect `xp` (see `miras_search.codegen.dialect`), so that one text
is run by the reference in float64 and lowered to torch and Triton. This module imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar, Union, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from miras_search.errors import DesignError


class Frozen(BaseModel):
    """A value: immutable, hashable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, without what the original has cached about itself (a fingerprint, say)."""
        copy = super().model_copy(update=update, deep=deep)
        for name in set(copy.__dict__) - set(type(self).model_fields):
            del copy.__dict__[name]
        return copy


class Choice(Frozen):
    """A variant of one of the four choices (or a task): `kind` names it."""

    role: ClassVar[str] = ""
    kind: str

    @classmethod
    def variant(cls) -> str:
        """The word that names this variant in YAML."""
        return str(get_args(cls.model_fields["kind"].annotation)[0])

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring, for tables and the JSON schema."""
        return (inspect.getdoc(cls) or "").splitlines()[0]


C = TypeVar("C", bound=type[Choice])
_REGISTRY: dict[str, dict[str, type[Choice]]] = {}


def register(*classes: C) -> tuple[C, ...]:
    """Make variants known; returns them, to be bound to the `VARIANTS` of a file.

    Raises:
        DesignError: if a kind of the same role is taken by another class.
    """
    for cls in classes:
        known = _REGISTRY.setdefault(cls.role, {})
        kind = cls.variant()
        taken = known.get(kind)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise DesignError(
                f"{cls.role} {kind!r} is already defined by {taken.__module__}.{taken.__qualname__}",
                hint="give the new class another `kind`",
            )
        known[kind] = cls
    return classes


def variants(role: str) -> dict[str, type[Choice]]:
    """All variants of a role (`memory`, `bias`, `retention`, `algorithm`, `task`), by kind, plug-ins included."""
    return dict(_REGISTRY.get(role, {}))


class OneOf:
    """Annotation `Annotated[Bias, OneOf("bias")]`: any registered variant, discriminated by `kind`.

    The schema is built when the model is built; `miras_search.plugin.load` rebuilds the models after adding variants.
    """

    def __init__(self, role: str) -> None:
        self.role = role

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        classes = tuple(variants(self.role).values())
        union: Any = classes[0] if len(classes) == 1 else Annotated[Union[classes], Field(discriminator="kind")]  # noqa: UP007
        return core_schema.no_info_before_validator_function(_named, handler.generate_schema(union))


def _named(value: Any) -> Any:
    """A bare name is short for `{kind: name}`."""
    return {"kind": value} if isinstance(value, str) else value
