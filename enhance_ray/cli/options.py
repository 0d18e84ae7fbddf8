"""Arguments of a command line for the options of a recording, made of `EnhanceOptions` itself."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from typing import Annotated, Any

import yaml

from enhance_ray.settings import messages, trees
from enhance_ray.settings.options import EnhanceOptions, explanation


def add_arguments(parser: Any, *, mode: bool = False, enhances: bool = True) -> None:
    """Give ``parser``, or a group of one, an argument for each option.

    Args:
        parser: of argparse.
        mode: with one for the mode, which is the command's name elsewhere.
        enhances: with those of the enhancer.
    """
    for field in dataclasses.fields(EnhanceOptions):
        if (field.name == "mode" and not mode) or (field.metadata["enhances"] and not enhances):
            continue
        text, alias = explanation(field).replace("%", "%%"), field.metadata["original"]
        flags = [f"--{field.name.replace('_', '-')}", *([f"--{alias}"] if alias else [])]
        if isinstance(field.default, bool):
            switch = argparse.BooleanOptionalAction
            parser.add_argument(*flags, dest=field.name, action=switch, default=None, help=text)
        else:
            metavar = _metavar(messages.hints(EnhanceOptions)[field.name])
            parser.add_argument(*flags, dest=field.name, type=yaml.safe_load, metavar=metavar, help=text)


def from_arguments(parsed: argparse.Namespace, base: EnhanceOptions | None = None) -> EnhanceOptions:
    """The options of a command line; what it does not say is as in ``base``, or by default.

    Raises:
        ConfigError: a value is of the wrong type or out of its range.
    """
    names = {option.name for option in dataclasses.fields(EnhanceOptions)}
    given = {name: value for name, value in vars(parsed).items() if name in names and value is not None}
    return trees.from_tree(EnhanceOptions, {**trees.to_tree(base or EnhanceOptions()), **given}, "options")


def _metavar(kind: Any) -> str:
    """The values of a type, as they are written in a command line."""
    words = {int: "N", float: "X", str: "WORD", type(None): ""}
    if kind in words:
        return words[kind]
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Annotated:
        return _metavar(parts[0])
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(parts)
    return "|".join(filter(None, map(_metavar, parts)))
