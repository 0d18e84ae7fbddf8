"""Settings from YAML and back, strictly: at every depth an unknown key, a wrong type or a value out of range
is refused with the file, the key, what was found and what would do.

A class is the schema: its fields are the keys, its types the ranges, its defaults the defaults (YAML says
only what differs). `--set a.b=value` changes one key.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from enhance_ray.errors import ConfigError
from enhance_ray.settings import messages
from enhance_ray.settings.schema import adapter

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
        raise ConfigError(str(path), f"expected keys and values at the top, got {messages.shown(tree)}")
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
    """Build ``schema``, which `settings` or `readable` made, from nested dicts, lists and scalars.

    Raises:
        ConfigError: names ``where`` and the key at fault.
    """
    from pydantic import ValidationError

    try:
        value = adapter(typing.cast(Any, schema)).validate_python(tree)
    except ValidationError as error:
        raise messages.explained(error, schema, tree, where) from None
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
