"""Questions about many records, in SQL: DuckDB reads them where they are, however many there are.

The table ``records`` is of a bulk job, of a report in JSON lines, or any Parquet file; ``manifest`` has the
inputs of a bulk job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec

from enhance_ray.errors import ConfigError, explain
from enhance_ray.records import JOB_FOLDER, covered

OVERVIEW = """\
SELECT status, code, count(*) AS files, round(sum(seconds) / 3600, 2) AS hours
FROM records GROUP BY ALL ORDER BY files DESC"""


class Answer(NamedTuple):
    """What a statement gives."""

    columns: list[str]
    rows: Iterator[tuple[Any, ...]]
    """A few are fetched at a time."""


def query(place: str, sql: str = OVERVIEW) -> Answer:
    """The answer to ``sql``, which may be large.

    Args:
        place: a bulk job's output; a report of `enhance_files` (.jsonl); or a Parquet file. A path or URI.
        sql: one statement of DuckDB's SQL. Other columns of a user's manifest are JSON in ``extra``:
            ``extra->>'show'``.

    Raises:
        ConfigError: DuckDB is absent, there are no records, or the statement is wrong.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise ConfigError("query", "needs DuckDB: pip install 'enhance-ray[query]'") from error
    database = duckdb.connect()
    try:
        filesystem, root = fsspec.url_to_fs(place.rstrip("/"))
        if "file" not in (protocol := filesystem.protocol):
            database.register_filesystem(filesystem)
            prefix = f"{protocol if isinstance(protocol, str) else protocol[0]}://"
        else:
            prefix = ""
        for name, source in _tables(filesystem, root, prefix).items():
            database.execute(f"CREATE VIEW {name} AS SELECT * FROM {source}")
        database.execute(sql)
    except (duckdb.IOException, OSError, ValueError) as error:
        raise ConfigError(place, f"holds no records: {explain(error)}") from error
    except duckdb.Error as error:
        raise ConfigError("query", explain(error)) from error
    return Answer([column[0] for column in database.description or ()], _rows(database))


def _rows(database: Any) -> Iterator[tuple[Any, ...]]:
    while page := database.fetchmany(1000):
        yield from page


def _tables(filesystem: Any, root: str, prefix: str) -> dict[str, str]:
    """What to read for each name."""
    if root.endswith(".jsonl"):
        return {"records": f"read_json({_listed([prefix + root])}, format = 'newline_delimited')"}
    if root.endswith(".parquet"):
        return {"records": f"read_parquet({_listed([prefix + root])})"}
    job = json.loads(filesystem.cat_file(f"{root}/{JOB_FOLDER}/job.json"))["job"]
    folder = f"{root}/{JOB_FOLDER}/{job}"
    merged = _parquet(filesystem, f"{folder}/merged")
    held = covered(PurePosixPath(name).name for name in merged)
    finished = {PurePosixPath(name).stem: name for name in _parquet(filesystem, f"{folder}/records")}
    # Of parts that are being worked on, what is written down so far.
    begun = [
        name
        for part in _names(filesystem, f"{folder}/progress")
        if PurePosixPath(part).name not in finished
        for name in _parquet(filesystem, part)
    ]
    records = [*merged, *(name for part, name in finished.items() if part not in held), *begun]
    if not records:
        raise ValueError("no part of the job has any yet")
    manifest = _parquet(filesystem, f"{folder}/manifest")
    return {
        "records": f"read_parquet({_listed([prefix + name for name in records])})",
        "manifest": f"read_parquet({_listed([prefix + name for name in manifest])})",
    }


def _parquet(filesystem: Any, folder: str) -> list[str]:
    return [name for name in _names(filesystem, folder) if name.endswith(".parquet")]


def _names(filesystem: Any, folder: str) -> list[str]:
    try:
        return sorted(filesystem.ls(folder, detail=False))
    except FileNotFoundError:
        return []


def _listed(names: list[str]) -> str:
    """As SQL has a list of texts."""
    return "[" + ", ".join("'" + name.replace("'", "''") + "'" for name in names) + "]"
