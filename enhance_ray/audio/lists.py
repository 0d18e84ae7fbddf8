"""Lists of recordings as people have them: from scripts, editors and spreadsheets, here or at a URI."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import fsspec

from enhance_ray.audio.storage import FILE_ERRORS, is_remote
from enhance_ray.errors import ConfigError, explain

TABLES = (".csv", ".tsv", ".jsonl")
"""Extensions of what `read_rows` reads; other lists are for `read_lines`."""

_DELIMITERS = ",;\t"
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def read_lines(path: str) -> Iterator[str]:
    """The lines of a list that are not blank, without what surrounds them.

    Lines end at line feeds alone: a name may hold any other letter. Bytes that are no UTF-8 come as Python
    gives file names that are none, with surrogates, and so lead to the file.

    Raises:
        ConfigError: the list cannot be read.
    """
    with _reading(path, "\n") as text:
        yield from filter(None, (line.strip(" \t\r\n") for line in text))


def read_rows(path: str, known: Collection[str]) -> Iterator[dict[str, Any]]:
    """Rows of a CSV file (comma, semicolon or tab; quotes as spreadsheets use them) or of JSON lines.

    Args:
        path: a local path or fsspec URI that ends in one of `TABLES`.
        known: names of columns, by which they come whatever their case is in the list. Others come as they
            are there.

    Raises:
        ConfigError: the list cannot be read, or a line of it is no JSON object.
    """

    def called(name: str) -> str:
        plain = name.strip().lower()
        return plain if plain in known else name

    if path.lower().endswith(".jsonl"):
        with _reading(path, "\n") as text:
            for number, line in enumerate(text, 1):
                if line.strip(" \t\r\n"):
                    yield {
                        called(name): value for name, value in _object(line, f"{path}: line {number}").items()
                    }
        return
    with _reading(path, "") as text:
        header = next((line for line in text if line.strip()), "")
        reader = csv.reader([header], delimiter=(delimiter := _delimiter(header)))
        names = [called(name) for name in next(reader, [])]
        for cells in csv.reader(text, delimiter=delimiter):
            if any(cells):
                # Cells beyond the header's are nobody's; those that lack are empty.
                yield dict(zip(names, [*cells, *[""] * len(names)], strict=False))


@contextlib.contextmanager
def _reading(path: str, newline: str) -> Iterator[io.TextIOWrapper]:
    """The text of a file, whichever of Unicode's encodings its mark tells."""
    try:
        with fsspec.open(path, "rb") if is_remote(path) else Path(path).open("rb") as file:
            head = file.read(3)
            file.seek(0)
            encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
            yield io.TextIOWrapper(file, encoding, "surrogateescape", newline)
    except ConfigError:
        raise
    except (UnicodeError, csv.Error) as error:
        raise ConfigError(path, f"the list is damaged: {explain(error)}") from error
    except FILE_ERRORS as error:
        raise ConfigError(path, f"the list cannot be read: {explain(error)}") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(where, f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(where, 'expected a JSON object, such as {"uri": "talk.mp3"}')
    return row


def _delimiter(header: str) -> str:
    """The one that a header uses most; where it has but one column, what no name holds."""
    best = max(_DELIMITERS, key=header.count)
    return best if best in header else "\x1f"
