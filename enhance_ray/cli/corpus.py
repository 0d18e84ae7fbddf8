"""`enhance-ray corpus`: recordings made ready for training."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from enhance_ray.cli.common import add_command, say, write_line


def add(commands: Any) -> None:
    """Add the tools."""
    corpus_parser = commands.add_parser("corpus", help="prepare recordings for training")
    tools = corpus_parser.add_subparsers(required=True, metavar="TOOL")
    check = add_command(tools, "check", _corpus_check, "measure every file and say what is unusable")
    check.add_argument("folder", metavar="DIR")
    check.add_argument("--role", choices=["speech", "noise"], default="speech", help="what they are to be")
    check.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    check.add_argument("--json", action="store_true", help="one line of JSON a file")
    rirs = add_command(tools, "rirs", _corpus_rirs, "simulate room responses")
    rirs.add_argument("folder", metavar="DIR", help="folder to write")
    rirs.add_argument("--count", type=int, default=200, metavar="N", help="rooms (default: 200)")
    rirs.add_argument("--seed", type=int, default=0, metavar="N", help="decides all of them (default: 0)")
    rirs.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    pack = add_command(tools, "pack", _corpus_pack, "write recordings as shards, for training from storage")
    pack.add_argument(
        "input", metavar="IN", help="folder, .csv/.jsonl/.parquet list or shard; local or a URI"
    )
    pack.add_argument("output", metavar="OUT", help="folder of shards; a second run writes what is missing")
    pack.add_argument("--format", choices=["tar", "parquet"], default="tar", help="(default: tar)")
    pack.add_argument(
        "--shard-megabytes", type=float, default=256.0, metavar="X", help="size of a shard (default: 256)"
    )
    pack.add_argument(
        "--max-seconds",
        type=float,
        default=30.0,
        metavar="X",
        help="cut longer recordings into pieces (default: 30)",
    )
    pack.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")


def _corpus_check(parsed: argparse.Namespace) -> int:
    from enhance_ray.training import corpus

    found = corpus.check(parsed.folder, role=parsed.role, workers=parsed.workers)
    if parsed.json:
        for file in found.files:
            write_line(json.dumps(dataclasses.asdict(file), ensure_ascii=False))
    else:
        write_line(found.summary())
    return 1 if found.unusable else 0


def _corpus_rirs(parsed: argparse.Namespace) -> int:
    from enhance_ray.training import corpus

    rooms = corpus.rirs(parsed.folder, parsed.count, parsed.seed, workers=parsed.workers)
    write_line(f"{len(rooms)} rooms in {parsed.folder}")
    return 0


def _corpus_pack(parsed: argparse.Namespace) -> int:
    from enhance_ray.training import packing

    settings = packing.PackConfig(
        format=parsed.format, shard_megabytes=parsed.shard_megabytes, max_seconds=parsed.max_seconds
    )

    def show(done: int, shards: int) -> None:
        say(f"shard {done}/{shards}")

    report = packing.pack(
        parsed.input,
        parsed.output,
        settings,
        workers=parsed.workers,
        progress=None if parsed.quiet else show,
    )
    for name, reason in report.failed:
        say(f"failed: {name}: {reason}")
    write_line(
        f"{report.clips} clips, {report.seconds / 3600:.2f} h in {report.shards} shards "
        f"({report.written} written now); {len(report.failed)} recordings unusable"
    )
    return 1 if report.failed else 0
