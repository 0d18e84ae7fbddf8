"""The reference pages of the site, as Markdown, from the code: commands, settings, HTTP, Python.

`tools/site_pages.py` asks for them while mkdocs builds. They are not stored, so they cannot differ from the
code. `python tools/reference.py FOLDER` writes them to look at.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib.util
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[str, str]:
    """All pages by their paths below the site's folder of documents."""
    found = {
        "reference/cli.md": cli_page(),
        "reference/http.md": http_page(),
        "reference/python.md": python_page(),
    }
    return found | settings_pages()


# ---------------------------------------------------------------- commands


def cli_page() -> str:
    """Every command, with its arguments as argparse knows them."""
    from enhance_ray import cli, compat
    from enhance_ray.cluster.bulk import command

    parts = [
        "# Command line\n",
        "This page is generated from the argument parsers: `COMMAND --help` says the same. Words in capital "
        "letters stand for values, and what stands after a slash is another name of the same argument.\n",
    ]
    commands = _parser_of(cli.main)
    parts += _command_sections(commands)
    parts += _command_sections(_parser_of(compat.main))
    parts.append(
        "## Jobs on a cluster { #jobs }\n\nThese are scripts of the repository. Run them on one machine, or "
        "submit them to a cluster with `ray job submit` (see [A whole archive](../archive.md)).\n"
    )
    for name in ("enhance_bulk", "train", "evaluate"):
        job = _module_at(ROOT / "jobs" / f"{name}.py")
        main = job.main if hasattr(job, "main") else functools.partial(command.main, description=job.__doc__)
        parser = _parser_of(main)
        parser.prog = f"python jobs/{name}.py"
        parts += _command_sections(parser, level=3)
    return "\n".join(parts)


class _ParserCaught(BaseException):
    """Carries a parser out of the function that made it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser_of(main: Callable[[], object]) -> argparse.ArgumentParser:
    """The parser that ``main`` makes: it runs as far as that, and no further."""

    def caught(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _ParserCaught(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", caught):
        try:
            main()
        except _ParserCaught as found:
            return found.parser
    raise RuntimeError(f"{main} parses no arguments")


def _module_at(path: Path) -> types.ModuleType:
    """A script as a module, without what it does when it is run."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _command_sections(parser: argparse.ArgumentParser, level: int = 2) -> Iterator[str]:
    """One section for ``parser``, or one for each of its commands."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for command in action.choices.values():
            yield from _command_sections(command, level)
    if below:
        return
    yield f"{'#' * level} {parser.prog} {{ #{_slug(parser.prog)} }}\n"
    description, _, calls = (parser.description or "").partition("\n\n")
    yield f"{_prose(description)}\n"
    yield _block(_usage(parser), "text")
    if calls.strip():
        yield _block(calls, "text")
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        shown = [action for action in shown if not isinstance(action, argparse._HelpAction)]
        if shown:
            title = (group.title or "").replace("positional arguments", "arguments")
            yield f"**{title.capitalize()}**\n"
            yield from (_argument(parser, action) for action in shown)
    examples = re.sub(r"^examples:\n", "", parser.epilog or "")
    if examples != (parser.epilog or ""):
        examples, _, status = examples.rpartition("\n\n")
        yield "**Examples**\n"
        yield _block(examples, "sh")
    else:
        status = examples
    if status:
        text = " ".join(status.split()).removeprefix("exit status: ")
        yield f"**Exit status**: {_prose(text)}{'' if text.endswith('.') else '.'}\n"


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog)
    words = [
        formatter._format_args(action, str(action.metavar or action.dest).upper())
        for action in parser._get_positional_actions()
    ]
    return " ".join([parser.prog, *words, "[OPTIONS]"])


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = argparse.HelpFormatter(parser.prog)
    names = [name for name in action.option_strings if not name.startswith("--no-")] or action.option_strings
    if not names:
        names = [str(action.metavar or action.dest)]
    term = " / ".join(f"`{name}`" for name in names)
    switched_off = [name for name in action.option_strings if name.startswith("--no-") and name not in names]
    if action.option_strings and action.nargs != 0:
        term += f" `{formatter._format_args(action, str(action.metavar or action.dest).upper())}`"
    elif switched_off:
        term += f" / `{switched_off[0]}`"
    return _definition(term, formatter._expand_help(action) if action.help else "")


# ---------------------------------------------------------------- settings


def settings_pages() -> dict[str, str]:
    """All settings: a page for each kind of work, a section for each group of keys.

    A group that several kinds of work share is on the first of their pages, and linked from the others.
    """
    where: dict[type, str] = {}
    for page, (_, _, roots) in _settings_roots().items():
        for root in roots:
            for schema in _groups(root):
                where.setdefault(schema, page)
    found = {}
    for page, (title, text, _) in _settings_roots().items():
        parts = [f"# {title}\n", f"{text} This page is generated from the code that reads them.\n"]
        for schema, home in where.items():
            if home == page:
                parts += _settings_section(schema, where)
        found[f"reference/settings/{page}.md"] = "\n".join(parts)
    return found


def _settings_roots() -> dict[str, tuple[str, str, list[type]]]:
    """Pages by name: title, a sentence, and the dataclasses at the top of the files that they describe."""
    from enhance_ray import EnhanceOptions
    from enhance_ray.checkpoint import ModelConfig
    from enhance_ray.cluster.bulk.settings import BulkConfig
    from enhance_ray.cluster.evaluate import EvaluateJobConfig
    from enhance_ray.cluster.serve.settings import ServeConfig
    from enhance_ray.cluster.train import ClusterTrainConfig
    from enhance_ray.evaluation import EvaluateConfig
    from enhance_ray.training.packing import PackConfig
    from enhance_ray.training.settings import TrainConfig

    return {
        "recording": (
            "Options of a recording",
            "What may be asked of one recording, by the same names everywhere: with `--` on the command "
            "line, in Python, under `options:` of a bulk job, and as query or form fields of a request.",
            [EnhanceOptions],
        ),
        "bulk": ("Settings of a bulk job", "Keys of `configs/bulk.yaml`.", [BulkConfig]),
        "endpoint": ("Settings of an endpoint", "Keys of `args` in `configs/serve.yaml`.", [ServeConfig]),
        "models": (
            "Settings of a model",
            "Keys of the `config.yaml` of a model folder; the sizes of the nets are also keys of a training.",
            [ModelConfig],
        ),
        "training": (
            "Settings of a training",
            "Keys of `configs/train_*.yaml` and of `configs/compact/`, and of `enhance-ray corpus pack`.",
            [TrainConfig, ClusterTrainConfig, PackConfig],
        ),
        "evaluation": (
            "Settings of an evaluation",
            "Keys of `configs/evaluate.yaml`.",
            [EvaluateConfig, EvaluateJobConfig],
        ),
    }


def _groups(schema: type) -> Iterator[type]:
    """``schema`` and the dataclasses that its keys hold, at any depth, each once and after its parent."""
    seen: dict[type, None] = {}

    def visit(kind: type) -> None:
        if kind in seen:
            return
        seen[kind] = None
        for hint in typing.get_type_hints(kind).values():
            for part in _parts(hint):
                if dataclasses.is_dataclass(part):
                    visit(typing.cast(type, part))

    visit(schema)
    return iter(seen)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for argument in typing.get_args(hint):
        yield from _parts(argument)


def _settings_section(schema: type, where: Mapping[type, str]) -> Iterator[str]:
    yield f"## {schema.__name__} {{ #{schema.__name__.lower()} }}\n"
    fields = [field for field in dataclasses.fields(schema) if field.init]
    text, _, _ = inspect.cleandoc(schema.__doc__ or "").partition("\nRaises:")
    yield f"{_prose(text.strip())}\n"
    [*parents] = [base for base in schema.__bases__ if dataclasses.is_dataclass(base) and base in where]
    for parent in parents:
        inherited = {field.name for field in dataclasses.fields(parent)}
        fields = [field for field in fields if field.name not in inherited]
        yield f"All keys of {_link(parent, where, where[schema])}, and:\n"
    yield f'<p class="defined">Defined by <code>{schema.__module__}.{schema.__qualname__}</code></p>\n'
    hints = typing.get_type_hints(schema)
    for field in fields:
        facts = _kind(hints[field.name], where, where[schema])
        default = _default(field)
        facts += f", default {default}" if default else ""
        text = explanation(schema, field)
        if not text and hints[field.name] in where:
            text = (hints[field.name].__doc__ or "").partition("\n\n")[0]
        yield _definition(f"`{field.name}` <small>{facts}</small>", inspect.cleandoc(text))


def explanation(schema: type, field: dataclasses.Field[Any]) -> str:
    """What the code says about a key: in its metadata, to pydantic, or in the text below the field."""
    if text := field.metadata.get("help"):
        return str(text)
    known = getattr(schema, "__pydantic_fields__", {}).get(field.name) or field.default
    if text := getattr(known, "description", None):
        return str(text)
    for owner in schema.__mro__:
        if text := _texts_below_fields(owner).get(field.name):
            return text
    return ""


@functools.cache
def _texts_below_fields(schema: type) -> dict[str, str]:
    """The strings that stand below the fields of a class, by the field's name."""
    if schema is object:
        return {}
    try:
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    except (OSError, TypeError):  # made while the program runs
        return {}
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for statement, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[statement.target.id] = inspect.cleandoc(str(after.value.value))
    return found


_SCALARS = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}


def _kind(hint: Any, where: Mapping[type, str], page: str) -> str:  # noqa: PLR0911 - one line for each form
    """A type in the words of YAML."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _kind(arguments[0], where, page)
    if origin is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(argument, where, page) for argument in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        kinds = [_kind(argument, where, page) for argument in arguments]
        return f"list of {len(kinds)} {kinds[0]}s" if len(set(kinds)) == 1 else f"list of {', '.join(kinds)}"
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0], where, page)}"
    if origin is dict:
        return f"keys with values: {_kind(arguments[1], where, page)}"
    if hint is types.NoneType:
        return "`null`"
    if hint in where:
        return f"group {_link(hint, where, page)}"
    return _SCALARS.get(hint, f"`{getattr(hint, '__name__', hint)}`")


def _link(schema: type, where: Mapping[type, str], page: str) -> str:
    file = "" if where[schema] == page else f"{where[schema]}.md"
    return f"[{schema.__name__}]({file}#{schema.__name__.lower()})"


def _default(field: dataclasses.Field[Any]) -> str:
    """The default as YAML would have it; nothing for a group, whose own keys tell, or where there is none."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    value = getattr(value, "default", value)  # pydantic's description of a field
    if value is dataclasses.MISSING or "PydanticUndefined" in repr(value):
        return "none: it must be given"
    if dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, tuple | list):
        if any(dataclasses.is_dataclass(item) for item in value):
            return f"{len(value)} of them"
        value = list(value)
    if isinstance(value, str | int | float | bool | list | dict | types.NoneType):
        return _yaml(value)
    return f"`{value}`"


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


# ---------------------------------------------------------------- HTTP


def http_page() -> str:
    """The endpoint, from the description that it gives out at `/openapi.json`."""
    from enhance_ray.cluster.serve.routes import create_api
    from enhance_ray.cluster.serve.settings import ServeConfig

    # Routes are made of the settings; only requests, of which there are none, need the models behind them.
    ingress: Any = types.SimpleNamespace(settings=ServeConfig())
    described = create_api(ingress).openapi()
    parts = [
        "# HTTP\n",
        "This page is generated from the description that a running endpoint gives out at `/openapi.json`. "
        "The [guide](../endpoint.md) says how to start an endpoint. It also describes the WebSocket "
        "`/v1/stream`, for which OpenAPI has no words.\n",
    ]
    shown: dict[str, str] = {}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parts += _operation(f"{method.upper()} {path}", operation, shown)
    parts.append("## Bodies { #bodies }\n")
    for name, schema in described["components"]["schemas"].items():
        if "properties" in schema:
            parts.append(f"### {name} {{ #{name.lower()} }}\n\n{_prose(schema.get('description', ''))}\n")
            parts += _properties(schema)
    return "\n".join(parts)


def _operation(title: str, operation: Mapping[str, Any], shown: dict[str, str]) -> Iterator[str]:
    yield f"## {title} {{ #{_slug(title)} }}\n\n{_prose(operation.get('description', ''))}\n"
    parameters = operation.get("parameters", [])
    if parameters:
        earlier = shown.setdefault(repr(parameters), title)
        yield "**Parameters**\n"
        if earlier != title:
            yield f"Those of [{earlier}](#{_slug(earlier)}).\n"
        else:
            for each in parameters:
                facts = f"{_schema(each['schema'])}, in the {each['in']}"
                yield _definition(f"`{each['name']}` <small>{facts}</small>", each.get("description", ""))
    if body := operation.get("requestBody"):
        yield "**Body**\n"
        for media, content in body["content"].items():
            schema = content.get("schema", content)
            is_form = media == "multipart/form-data"
            text = "the recording as `file`, and any of the parameters" if is_form else _schema(schema)
            yield f"- `{media}`: {text}"
        yield ""
    yield "**Answers**\n"
    for status, answer in operation["responses"].items():
        content = "; ".join(
            f"`{media}`" + ("" if _schema(c["schema"]) == "bytes" else f": {_schema(c['schema'])}")
            for media, c in answer.get("content", {}).items()
            if c.get("schema")
        )
        text = _prose(answer["description"]) + (f" ({content})" if content else "")
        headers = "".join(
            f"\n    - `{name}`: {_prose(header['description'])}"
            for name, header in answer.get("headers", {}).items()
        )
        yield f"- `{status}`: {text}{headers}"
    yield ""


def _properties(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, each in schema["properties"].items():
        facts = _schema(each)
        if name in schema.get("required", ()):
            facts += ", required"
        elif "default" in each:
            facts += f", default {_yaml(each['default'])}"
        yield _definition(f"`{name}` <small>{facts}</small>", each.get("description", ""))


def _schema(schema: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one line for each form
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_schema(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("format") == "binary":
        return "bytes"
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    if schema.get("type") == "null":
        return "`null`"
    bounds = [schema.get("minimum"), schema.get("maximum")]
    text = str(schema.get("type", "any JSON"))
    return f"{text} from {bounds[0]:g} to {bounds[1]:g}" if None not in bounds else text


# ---------------------------------------------------------------- Python


def python_page() -> str:
    """The public names of the package, for mkdocstrings to fill in."""
    import enhance_ray
    from enhance_ray import files

    names = [name for name in enhance_ray.__all__ if not name.startswith("__")]
    first = ["Enhancer", "EnhanceOptions", "enhance_files"]
    names = [name for name in first if name in names] + [name for name in names if name not in first]
    parts = ["# Python\n", f"{_prose(inspect.getdoc(enhance_ray) or '').splitlines()[0]}\n"]
    for name in names:
        if dataclasses.is_dataclass(getattr(enhance_ray, name)):
            text = inspect.getdoc(getattr(enhance_ray, name)) or ""
            parts.append(
                f"## {name} {{ #enhance_ray.{name} }}\n\n{_prose(text.partition('Raises:')[0].strip())}\n"
            )
            parts.append(
                f"Its fields are [the options of a recording](settings/recording.md#{name.lower()}).\n"
            )
        else:
            parts.append(f"::: enhance_ray.{name}\n")
    parts.append(f"::: enhance_ray.files.{files.plan_jobs.__name__}\n")
    return "\n".join(parts)


# ---------------------------------------------------------------- Markdown


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _block(text: str, language: str) -> str:
    return f"```{language}\n{textwrap.dedent(text.strip(chr(10)))}\n```\n"


def _definition(term: str, text: str) -> str:
    """A term of a list, and what it means as a sentence."""
    text = re.sub(r"(?:^| )\(default: (.*)\)$", r". Default: \1", text).removeprefix(". ")
    text = _prose(text[:1].upper() + text[1:])
    if not text:
        return f"{term}\n"
    end = "" if text.endswith((".", "?")) else "."
    return f"{term}\n:   {textwrap.indent(text, '    ').removeprefix('    ')}{end}\n"


def _prose(text: str) -> str:
    """Text of a docstring as Markdown: what is no code keeps its stars and angle brackets."""
    parts = re.split(r"(`+[^`]+`+)", text)
    for i in range(0, len(parts), 2):
        parts[i] = parts[i].replace("<", "&lt;").replace("*", r"\*")
    return "".join(parts)


def main() -> int:
    """Write all pages below a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, text in pages().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
