"""`enhance-ray`: recordings, models, corpora and training on this machine, without Ray.

Standard output is for results, standard error for progress and problems. Exit status: 0 all went
well, 1 some inputs could not be used (they are listed), 2 wrong usage, 130 interrupted. A module a command.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence

from enhance_ray import __version__
from enhance_ray.cli import corpus, evaluate, info, models, recordings, records, recover, train
from enhance_ray.cli.common import say
from enhance_ray.cli.recordings import REPORT_NAME
from enhance_ray.errors import CheckpointError, ConfigError, EnhanceRayError

__all__ = ["REPORT_NAME", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if parsed.verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        return command(parsed)
    except (ConfigError, CheckpointError) as error:
        say(f"enhance-ray: {error}")
        return 2
    except EnhanceRayError as error:
        say(f"enhance-ray: {error}")
        return 1
    except KeyboardInterrupt:
        say("enhance-ray: interrupted; what is written is complete, --resume does the rest")
        return 130
    except BrokenPipeError:  # `enhance-ray ... | head`
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="enhance-ray", description="Restore speech recordings.")
    parser.add_argument("--version", action="version", version=f"enhance-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    recordings.add(commands)
    recover.add(commands)
    records.add(commands)
    info.add(commands)
    train.add(commands)
    models.add_resemble(commands)
    evaluate.add(commands)
    models.add_export(commands)
    corpus.add(commands)
    return parser
