"""`enhance-ray recover`: what can still be read of a damaged file."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from enhance_ray.cli.common import add_command, write_line
from enhance_ray.records import is_utf8

if TYPE_CHECKING:
    from enhance_ray.audio.recovery import Loss

_SHOWN = 20
"""Losses that are listed for people; --json has all."""


def add(commands: Any) -> None:
    """Add the command."""
    recover = add_command(
        commands,
        "recover",
        _recover,
        "write what can be read of a damaged file, and say what is lost",
        _EXAMPLES,
    )
    recover.add_argument("input", metavar="FILE", help="damaged or unfinished file")
    recover.add_argument(
        "output", metavar="OUTPUT", nargs="?", help=".wav or .flac (default: FILE with .recovered.wav)"
    )
    recover.add_argument(
        "--like",
        metavar="GOOD",
        help="a whole file of the same device: says how an mp4 without index or a wav without header is read",
    )
    recover.add_argument("-f", "--force", action="store_true", help="overwrite an existing output")
    recover.add_argument("--json", action="store_true", help="the report as one line of JSON")


def _recover(parsed: argparse.Namespace) -> int:
    from enhance_ray.files.recover import recover

    name = parsed.input
    output = parsed.output or f"{name.removesuffix(PurePosixPath(name).suffix)}.recovered.wav"
    recovery = recover(name, output, like=parsed.like, force=parsed.force)
    if parsed.json:
        tree = dataclasses.asdict(recovery)
        text = json.dumps(tree, ensure_ascii=False)
        write_line(text if is_utf8(text) else json.dumps(tree))
        return 0
    write_line(f"{recovery.seconds:.1f} s of {recovery.codec} recovered: {recovery.output}")
    for remark in recovery.remarks:
        write_line(f"note: {remark}")
    for loss in recovery.losses[:_SHOWN]:
        write_line(_describe(loss))
    if len(recovery.losses) > _SHOWN:
        write_line(f"and {len(recovery.losses) - _SHOWN} more losses (--json lists them)")
    if not recovery.losses:
        write_line("nothing is known to be lost")
    return 0


def _describe(loss: Loss) -> str:
    facts = [
        f"about {loss.seconds:.2f} s" if loss.seconds is not None else None,
        f"{loss.bytes:,} bytes" if loss.bytes is not None else None,
        "silence in its place" if loss.is_silence else None,
    ]
    known = ", ".join(filter(None, facts))
    return f"lost at {loss.at:.2f} s: {loss.reason}" + (f" ({known})" if known else "")


_EXAMPLES = """\
examples:
  enhance-ray recover broken.mp3 saved.wav
  enhance-ray recover unfinished.m4a saved.flac --like another_of_that_phone.m4a

"""
