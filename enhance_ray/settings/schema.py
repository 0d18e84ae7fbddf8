"""`settings`: a class of annotated fields becomes one that takes no wrong value.

It is a frozen dataclass with keywords alone. pydantic checks what it is built of: types are strict, unknown
keys refused, and `ConfigError` says what is wrong, whether it comes of a call, of YAML or within other
settings. pydantic takes a while to import, and is imported when there is something to check.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from enhance_ray.errors import ConfigError
from enhance_ray.settings import messages

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, TypeAdapter
    from pydantic_core import CoreSchema

T = TypeVar("T")


def option(*, default: Any, text: str, original: str | None = None, enhances: bool = False) -> Any:
    """A field that every user interface shows.

    Args:
        default: of the field.
        text: what it does; its range and its default are added to it where it is shown.
        original: its name in the original, which command lines and the endpoint take, too.
        enhances: it concerns the enhancer alone.
    """
    # pydantic puts the description into JSON schemas.
    known = {"description": text, "original": original, "enhances": enhances}
    return dataclasses.field(default=default, metadata=known)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, option))
def settings(cls: type[T]) -> type[T]:
    """Make ``cls``, with annotated fields and defaults for most, a group of settings.

    Its `__post_init__`, if it has one, checks fields against each other. A call raises `ConfigError` for an
    unknown field and for a value that is not of the field's type or out of its range.
    """
    if "__post_init__" in vars(cls):
        cls.__post_init__ = _told_to_pydantic(cls.__post_init__)  # type: ignore[attr-defined]
    made: Any = readable(dataclasses.dataclass(frozen=True, kw_only=True)(cls))
    made.__signature__ = inspect.signature(functools.partial(made.__init__, None))

    def __init__(self: Any, /, **values: Any) -> None:  # noqa: N807
        from pydantic import ValidationError
        from pydantic_core import ArgsKwargs

        try:
            adapter(made).validator.validate_python(ArgsKwargs((), values), self_instance=self)
        except ValidationError as error:
            raise messages.explained(error, made, values) from None

    made.__init__ = __init__
    return typing.cast(type[T], made)


def readable(cls: type[T]) -> type[T]:
    """Let `trees.from_tree` read ``cls``, a plain dataclass, as strictly as settings; calls check nothing."""
    # No text where a number is asked for, no number where it is true or false, no unknown key.
    cls.__pydantic_config__ = {"strict": True, "extra": "forbid"}  # type: ignore[attr-defined]
    cls.__get_pydantic_core_schema__ = classmethod(_core_schema)  # type: ignore[attr-defined]
    return cls


@functools.cache
def adapter(cls: Any) -> TypeAdapter[Any]:
    """What checks values for a class that `settings` or `readable` made."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _told_to_pydantic(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """``check``, whose error pydantic takes up: it knows in which group of settings this one is."""

    @functools.wraps(check)
    def __post_init__(self: Any) -> None:  # noqa: N807
        try:
            check(self)
        except ConfigError as error:
            raise ValueError(error) from error

    return __post_init__


def _core_schema(cls: type[Any], source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    schema = handler(source)
    _take_as_written(schema)
    return schema


def _take_as_written(node: Any) -> None:
    """Let pydantic's strict mode take YAML's words: mappings for groups, text for paths, lists for tuples."""
    if isinstance(node, list):
        for child in node:
            _take_as_written(child)
    if not isinstance(node, dict):
        return
    for key, child in node.items():
        if key not in ("metadata", "config"):
            _take_as_written(child)
    if node.get("type") in ("dataclass", "lax-or-strict"):  # a path is the latter
        node["strict"] = False
    elif node.get("type") == "tuple":
        from pydantic_core import core_schema

        strict: Any = node.copy()
        node.clear()  # its place is in another node
        node.update(core_schema.no_info_before_validator_function(_as_tuple, strict))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
