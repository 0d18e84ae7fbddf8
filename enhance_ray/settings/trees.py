"""YAML -> frozen dataclasses, strictly: at every depth an unknown key, a wrong type or a value out of range
is refused with the file, the key, what was found and what would do.

A dataclass is the schema: its fields are the keys, its defaults the defaults (YAML says only what
differs), its `__post_init__` the ranges. `--set a.b=value` changes one key.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from enhance_ray.errors import ConfigError

T = TypeVar("T")


def load(schema: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read ``path`` as ``schema``, with ``overrides`` of the form ``a.b=value`` on top.

    Raises:
        ConfigError: the file is absent, is not YAML, or does not fit the schema.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror or error}") from error
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(str(path), f"expected keys and values at the top, got {_show(tree)}")
    return from_tree(schema, with_overrides(tree, overrides), where=str(path))


def with_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``tree``, in which each of ``overrides``, of the form ``a.b=value``, has set a key.

    Raises:
        ConfigError: an override has not that form.
    """
    for override in overrides:
        _set(tree, override)
    return tree


def from_tree(schema: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """Build ``schema`` from nested dicts, lists and scalars.

    Raises:
        ConfigError: names ``where`` and the key at fault.
    """
    value = _convert(schema, tree, where)
    return typing.cast(T, value)


def to_tree(settings: Any) -> dict[str, Any]:
    """The plain dicts, lists and scalars that `from_tree` turns back into an equal ``settings``."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return str(value) if isinstance(value, Path) else value

    return typing.cast(dict[str, Any], plain(settings))


def save(settings: Any, path: str | Path) -> None:
    """Write the resolved ``settings``, defaults included."""
    Path(path).write_text(
        yaml.safe_dump(to_tree(settings), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def _set(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}", "expected key.subkey=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}", f"the value is not YAML: {error}") from error
    *parents, last = key.split(".")
    for parent in parents:
        node = tree.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}", f"'{parent}' is a value, not a group of settings")
        tree = node
    tree[last] = value


def _convert(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 - one branch a kind of type
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        # `1 == True` in Python, hence the comparison of types.
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise ConfigError(where, f"expected one of {', '.join(map(str, arguments))}, got {_show(value)}")
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(where, f"expected a list, got {_show(value)}")
        return [_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(where, f"expected keys and values, got {_show(value)}")
        return {
            _convert(arguments[0], k, where): _convert(arguments[1], v, _join(where, k))
            for k, v in value.items()
        }
    if kind is types.NoneType:
        if value is None:
            return None
        raise ConfigError(where, f"expected nothing, got {_show(value)}")
    return _convert_scalar(kind, value, where)


def _convert_dataclass(kind: type, value: Any, where: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(where, f"expected a group of settings ({kind.__name__}), got {_show(value)}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(str(key), list(fields), n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(fields)}"
            raise ConfigError(where, f"unknown key '{key}'; {advice}")
    missing = [
        name
        for name, field in fields.items()
        if name not in value
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(where, f"missing key '{missing[0]}'")
    converted = {key: _convert(hints[key], item, _join(where, key)) for key, item in value.items()}
    try:
        return kind(**converted)
    except ConfigError as error:  # raised by __post_init__, which cannot know where it stands
        raise ConfigError(_join(where, error.where), error.reason) from error


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    problems = []
    for choice in choices:
        try:
            return _convert(choice, value, where)
        except ConfigError as error:
            # What went wrong inside a group says more than that no alternative fits.
            if dataclasses.is_dataclass(choice) and isinstance(value, Mapping):
                raise
            problems.append(error.reason)
    raise ConfigError(where, "; or ".join(dict.fromkeys(problems)))


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(where, f"expected a list, got {_show(value)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(where, f"expected {len(arguments)} values, got {len(value)}")
    return tuple(
        _convert(kind, item, f"{where}[{i}]")
        for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text", Path: "a path"}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if (kind is bool and isinstance(value, bool)) or (kind is str and isinstance(value, str)):
        return value
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    hint = ""
    if kind in (float, int) and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            pass
        else:
            mantissa, letter, exponent = value.partition("e")
            dotted = value if "." in mantissa or not letter else f"{mantissa}.0e{exponent}"
            better = dotted if kind is float and letter else f"{number:g}"
            hint = f" (YAML takes that for text; write {better})"
    raise ConfigError(
        where, f"expected {names.get(kind, getattr(kind, '__name__', kind))}, got {_show(value)}{hint}"
    )


def _join(where: str, key: object) -> str:
    return f"{where}: {key}" if where else str(key)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
