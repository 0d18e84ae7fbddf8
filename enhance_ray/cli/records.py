"""`enhance-ray records`: questions about what became of many recordings."""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from typing import TYPE_CHECKING, Any

from enhance_ray.cli.common import add_command, say, write_line

if TYPE_CHECKING:
    from enhance_ray.query import Answer

_SHOWN = 1000
"""Rows of a table for people; CSV and JSON have all."""


def add(commands: Any) -> None:
    """Add the command."""
    records = add_command(
        commands, "records", _records, "answer questions in SQL about what became of recordings", _EXAMPLES
    )
    records.add_argument("place", metavar="OUTPUT", help="of a bulk job; or a report (.jsonl), or Parquet")
    records.add_argument(
        "query", metavar="SQL", nargs="?", help="about the tables records and manifest (default: an overview)"
    )
    form = records.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="the answer as CSV")
    form.add_argument("--json", action="store_true", help="the answer as JSON lines")


def _records(parsed: argparse.Namespace) -> int:
    from enhance_ray.query import OVERVIEW, query

    answer = query(parsed.place, parsed.query or OVERVIEW)
    if parsed.json:
        for row in answer.rows:
            line = dict(zip(answer.columns, row, strict=True))
            write_line(json.dumps(line, ensure_ascii=False, default=str))
    elif parsed.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
    else:
        _show(answer)
    return 0


def _show(answer: Answer) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*answer.columns, box=box.SIMPLE_HEAD)
    for row in itertools.islice(answer.rows, _SHOWN):
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    Console().print(table)
    if more := sum(1 for _ in answer.rows):
        say(f"{more:,} more rows (--csv and --json have all)")


_EXAMPLES = """\
examples:
  enhance-ray records s3://restored/archive
  enhance-ray records s3://restored/archive "SELECT uri, reason FROM records WHERE status = 'failed'" --csv
  enhance-ray records restored/report.jsonl "SELECT input, loudness_in FROM records ORDER BY 2 LIMIT 10"

"""
