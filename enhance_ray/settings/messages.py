"""What is wrong with a setting: where it stands, what would do, what was found."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from enhance_ray.errors import ConfigError
from enhance_ray.settings.ranges import Within, Words

if TYPE_CHECKING:
    from pydantic import ValidationError

_WORDS = {
    Any: "anything",
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "text",
    Path: "a path",
    types.NoneType: "nothing",
}
_UNKNOWN = {"unexpected_keyword_argument", "invalid_key"}


def explained(error: ValidationError, kind: Any, value: Any, where: str = "") -> ConfigError:
    """The first thing that is wrong with ``value``, which was to be a ``kind``.

    Args:
        error: what pydantic found.
        kind: a settings class, or another type.
        value: what was given for it.
        where: what is said before the key: a file, say.
    """
    # A mistyped key goes before the missing one that it was meant to be.
    first = min(error.errors(include_url=False), key=lambda found: found["type"] not in _UNKNOWN)
    path, name = list(first["loc"]), None
    if first["type"] in {*_UNKNOWN, "missing"}:
        name = path.pop()
    if path[-1:] == ["[key]"]:  # of a mapping, of which it is said as a whole
        del path[-2:]
    for part in path:
        inner = _below(kind, part)
        if inner is None:  # what follows in the path are names of alternatives: all of them are said
            break
        kind, value = inner, value[part]
        where = f"{where}[{part}]" if isinstance(part, int) else join(where, part)
    if first["type"] in _UNKNOWN:
        group: Any = next(filter(dataclasses.is_dataclass, _alternatives(kind)))
        return ConfigError(where, f"unknown key '{name}'; {nearest(str(name), hints(group), 'known keys')}")
    if isinstance(name, str):
        return ConfigError(where, f"missing key '{name}'")
    if first["type"] == "value_error":
        told = first["ctx"]["error"]
        inner = next(iter(told.args), None)
        if isinstance(inner, ConfigError):  # a group's, about keys of its own
            return ConfigError(join(where, inner.where), inner.reason)
        return ConfigError(where, str(told))
    return ConfigError(where, f"expected {wanted(kind)}, got {shown(value)}{_hint(kind, value)}")


def wanted(kind: Any) -> str:  # noqa: PLR0911 - a line for each kind of type
    """What a value of this type is, in words, with its range."""
    plain, extras = _unwrapped(kind)
    if called := [str(extra) for extra in extras if isinstance(extra, Within | Words)]:
        return called[0]
    origin, arguments = typing.get_origin(plain), typing.get_args(plain)
    if origin in (Union, types.UnionType):
        return ", or ".join(map(wanted, arguments))
    if origin is Literal:
        return f"{'one of ' if len(arguments) > 1 else ''}{', '.join(map(str, arguments))}"
    if origin is dict:
        return f"keys ({wanted(arguments[0])}) and values"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if origin in (tuple, list):
        least = " of at least one" if _limit(extras, "min_length") else ""
        return f"a list{least}, each {wanted(arguments[0])}"
    if dataclasses.is_dataclass(plain):
        return f"a group of settings ({getattr(plain, '__name__', plain)})"
    return " ".join(filter(None, (_WORDS.get(plain, str(plain)), span(kind))))


def span(kind: Any) -> str:
    """The range of a number, such as "from 0 to 1"; of alternatives, that of the first which has one."""
    for choice in _alternatives(kind):
        extras = _unwrapped(choice)[1]
        least, above, most, below = (_limit(extras, name) for name in ("ge", "gt", "le", "lt"))
        ends = []
        if least is not None:
            ends.append(f"from {least:g}" if (most, below) != (None, None) else f"from {least:g} on")
        if above is not None:
            ends.append(f"above {above:g}")
        if most is not None:
            ends.append(f"to {most:g}")
        if below is not None:
            ends.append(f"to below {below:g}")
        if (step := _limit(extras, "multiple_of")) is not None:
            ends.append(f"in steps of {step:g}")
        if ends:
            return " ".join(ends)
    return ""


@functools.cache
def hints(cls: Any) -> dict[str, Any]:
    """Types of a dataclass's fields, with what `Annotated` says of them, by name."""
    found = typing.get_type_hints(cls, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(cls) if field.init}


def nearest(name: str, known: Iterable[str], title: str) -> str:
    """Advice for who wrote ``name``: the one of ``known`` that it is most like, or else all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"{title}: {', '.join(names)}"


def join(where: str, key: object) -> str:
    """The place of ``key`` in ``where``; either may be empty."""
    return ": ".join(filter(None, (where, str(key))))


def shown(value: Any) -> str:
    """A value as it stands in a message: not a page of it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _below(kind: Any, part: int | str) -> Any:
    """The type at ``part`` of a value of this type; None if there is no one such type."""
    for choice in _alternatives(kind):
        plain = _unwrapped(choice)[0]
        origin, arguments = typing.get_origin(plain), typing.get_args(plain)
        if dataclasses.is_dataclass(plain):
            return hints(plain).get(str(part))  # type: ignore[arg-type]
        if origin is dict:
            return arguments[1]
        if origin in (tuple, list) and isinstance(part, int):
            return arguments[0] if arguments[-1] is Ellipsis or origin is list else arguments[part]
    return None


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """What a union is made of; any other type alone."""
    return typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)


def _unwrapped(kind: Any) -> tuple[Any, list[Any]]:
    """A type without what `Annotated` says of it, and that."""
    if typing.get_origin(kind) is not Annotated:
        return kind, []
    plain, *extras = typing.get_args(kind)
    return plain, extras


def _limit(extras: list[Any], name: str) -> float | None:
    found = (getattr(extra, name, None) for extra in extras)
    return next((bound for bound in found if bound is not None), None)


def _hint(kind: Any, value: Any) -> str:
    """What to write for a number that YAML takes for text."""
    kinds = {_unwrapped(choice)[0] for choice in _alternatives(kind)}
    if not isinstance(value, str) or not kinds & {int, float}:
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    mantissa, letter, exponent = value.partition("e")
    dotted = value if "." in mantissa or not letter else f"{mantissa}.0e{exponent}"
    return f" (YAML takes that for text; write {dotted if float in kinds and letter else f'{number:g}'})"
