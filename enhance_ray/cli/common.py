"""What all commands share: results to standard output, words to standard error, progress, help."""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from enhance_ray.errors import ConfigError

# torch and the audio libraries are imported by the commands that need them: `--help` answers at once.

EXIT_STATUS = "exit status: 0 all done, 1 some inputs could not be used (listed), 2 wrong usage"


def write_line(text: str) -> None:
    """A line of the result. What the terminal cannot show, such as a name that is no UTF-8, is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{text.encode(encoding, 'backslashreplace').decode(encoding)}\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for people."""
    sys.stderr.write(f"{text}\n")


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, examples: str = ""
) -> argparse.ArgumentParser:
    """Give ``commands`` one more: what it runs, what it does in a line, and examples for its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"{examples}{EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    parser.set_defaults(command=run)
    return parser


@contextlib.contextmanager
def counter(parsed: argparse.Namespace, what: str, total: int) -> Iterator[Callable[[], None]]:
    """To be called for each of ``total``: a bar on standard error where that is a terminal, else lines."""
    if parsed.quiet:
        yield lambda: None
    elif not sys.stderr.isatty():
        done = itertools.count(1)
        yield lambda: say(f"{what} {next(done)}/{total}")
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn(f"{what}s"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)


def model_folder(parsed: argparse.Namespace) -> Path:
    """The folder that a model is to be written to."""
    target = Path(parsed.model_dir)
    if target.exists() and not parsed.force:
        raise ConfigError(str(target), "exists (--force replaces it)")
    return target


def import_torch() -> None:
    """Import torch without garbage collection, in a process that has not done so yet.

    Its modules make more than a hundred thousand objects that live as long as the process, and collections
    walk over all of them, time and again: during the import, during the command and when the process ends.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
